"""What the whole tree of commands keeps: common options, examples that parse, errors that are rendered."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from runctl.cli import main
from runctl.cli.main import COMMANDS
from runctl.cli.root import root
from runctl.errors import CloudError, ExitCode, JobFailed, NotFound, Protected

Runctl = Callable[..., subprocess.CompletedProcess[str]]
WITHOUT_COMMON_OPTIONS = {"completion"}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, (*path, name))


LEAVES = dict(leaves(root))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RUNCTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CONFIG", str(tmp_path / "user.toml"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `runctl fail` a command that raises."""

    def register(error: BaseException) -> None:
        def body() -> None:
            raise error

        module = types.ModuleType("failing_command")
        module.__dict__["command"] = click.Command("fail", callback=body)
        monkeypatch.setitem(sys.modules, "failing_command", module)
        monkeypatch.setitem(COMMANDS, "fail", ("failing_command:command", "Fail."))

    return register


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in WITHOUT_COMMON_OPTIONS])
def test_every_command_takes_the_common_options(name: str) -> None:
    spelled = {option for parameter in LEAVES[name].params for option in parameter.opts}
    assert {"--output", "-o", "--quiet", "-q", "--config", "--profile", "--region"} <= spelled


@pytest.mark.parametrize("name", LEAVES)
def test_every_example_in_help_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for path, command in LEAVES.items():
        monkeypatch.setattr(command, "callback", lambda _path=path, **_: called.append(_path))
    examples = re.findall(r"runctl [^>)\n]+", (LEAVES[name].help or "").partition("Examples:")[2])
    assert len(examples) >= 2
    for example in examples:
        assert main.run(shlex.split(example)[1:]) == 0, example
    assert called == [name] * len(examples)


def test_every_command_in_the_table_has_its_one_line() -> None:
    for name, (place, text) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        assert module.startswith("runctl.cli."), name
        assert attribute
        assert text.endswith(".")
        assert len(text) < 66


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "json", "config", "show", "--region", "eu-west-3"],
        ["-o", "json", "--region", "eu-west-3", "config", "show"],
        ["--region=eu-west-3", "config", "show", "--output=json"],
        ["-o", "text", "--region", "us-east-1", "config", "show", "-o", "json", "--region", "eu-west-3"],
    ],
)
def test_common_options_stand_before_or_behind_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["aws.region"] == {"value": "eu-west-3", "origin": "flag --region"}


def test_a_configuration_file_may_be_named_before_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ci.toml").write_text('user = "ci"\n')
    assert main.run(["--config", "ci.toml", "-o", "json", "config", "show"]) == 0
    assert json.loads(capsys.readouterr().out)["user"] == {"value": "ci", "origin": "ci.toml:1"}


def test_train_tells_its_own_format_from_where_outputs_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("print('hello')\n")
    assert main.run(["train", "train.py", "--output", "results", "-o", "json", "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["spec"]["output"] == str(tmp_path / "results")
    assert main.run(["--output", "json", "train", "train.py", "--output", "results", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["spec"]["output"] == str(tmp_path / "results")


CLOUD = CloudError("EC2 refused", service="ec2", operation="RunInstances", code="Bad", why="a", next="b")


@pytest.mark.parametrize(
    ("error", "code", "fields"),
    [
        (NotFound("There is no job"), ExitCode.INPUT, {}),
        (Protected("No", reasons=("attached volume",)), ExitCode.INPUT, {"reasons": ["attached volume"]}),
        (CLOUD, ExitCode.CLOUD, {"service": "ec2", "operation": "RunInstances", "code": "Bad"}),
        (JobFailed("Failed", script_exit_code=7), ExitCode.JOB_FAILED, {"script_exit_code": 7}),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, {"kind": "Interrupted"}),
        (click.UsageError("no"), ExitCode.INPUT, {"kind": "UsageError", "what": "no"}),
        (OSError(errno.ENOSPC, "No space left", "/x"), ExitCode.INPUT, {"what": "/x: No space left"}),
        (PermissionError(errno.EACCES, "Denied"), ExitCode.INPUT, {"what": "Denied"}),
        (SystemExit(3), ExitCode.CONFIG, None),
        (BrokenPipeError(), ExitCode.SUCCESS, None),
    ],
)
def test_each_error_has_its_exit_code_and_fields(
    failing: Callable[[BaseException], None],
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    code: ExitCode,
    fields: dict[str, Any] | None,
) -> None:
    failing(error)
    if isinstance(error, BrokenPipeError):
        saved = os.dup(1)
    assert main.run(["-o", "json", "fail"]) == code
    if isinstance(error, BrokenPipeError):
        os.dup2(saved, 1)
        os.close(saved)
    written = capfd.readouterr()
    assert written.out == ""
    if fields is None:
        assert written.err == ""
        return
    found = json.loads(written.err)["error"]
    assert {"kind", "what", "why", "next", "exit_code"} <= set(found)
    assert found["exit_code"] == code
    assert fields.items() <= found.items()


def test_an_error_is_three_short_lines(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(CLOUD)
    assert main.run(["fail"]) == 2
    assert capsys.readouterr().err == "error: EC2 refused\n  why:  a\n  next: b\n"


def test_a_fault_of_ours_is_one_message_and_its_trace_a_file(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(ZeroDivisionError("oops"))
    assert main.run(["fail"]) == 1
    written = capsys.readouterr().err
    assert written.startswith("error: internal error: ")
    assert "ZeroDivisionError: oops" in written
    assert "Traceback" not in written
    (trace,) = (tmp_path / "home" / "crashes").iterdir()
    assert str(trace) in written
    assert "Traceback" in trace.read_text()
    assert "raise error\nZeroDivisionError: oops" in trace.read_text()


def test_the_trace_of_a_fault_is_shown_where_asked(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNCTL_DEBUG", "1")
    failing(ZeroDivisionError("oops"))
    assert main.run(["fail"]) == 1
    assert capsys.readouterr().err.startswith("debug: Traceback")


def test_a_fault_without_a_home_is_told_all_the_same(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "file"))
    failing(ZeroDivisionError("oops"))
    assert main.run(["fail"]) == 1
    assert "RUNCTL_DEBUG=1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["config", "show"], ["--help"], ["jobs", "list", "-o", "json"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [sys.executable, "-m", "runctl", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version_does_not_even_import_click() -> None:
    code = "import sys\nsys.argv = ['runctl', '--version']\nfrom runctl.cli.main import main\n"
    code += "try:\n    main()\nfinally:\n    print(sorted({'click', 'typing', 'json'} & set(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    version, loaded = done.stdout.splitlines()
    assert version.startswith("runctl ")
    assert loaded == "[]"


def complete(words: str, runctl: Runctl) -> list[str]:
    parts = words.split(" ")
    done = runctl(_RUNCTL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(parts) - 1))
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_completion_knows_commands_options_and_jobs(run: Runctl, project: Path, tmp_path: Path) -> None:
    assert complete("runctl jo", run) == ["jobs"]
    assert complete("runctl train --inst", run) == ["--instance-type"]
    assert complete("runctl jobs show ", run) == []
    assert not (tmp_path / "home").exists()
    assert run("train", "train.py", "--name", "greeting").returncode == 0
    (job,) = complete("runctl jobs show ", run)
    assert job.startswith("greeting-")
    assert complete("runctl jobs stop gree", run) == [job]
    assert complete("runctl jobs stop x", run) == []


def test_completion_never_fails(run: Runctl, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ledger.sqlite3").write_bytes(b"this is no ledger" * 100)
    assert complete("runctl jobs show ", run) == []


def test_the_shell_is_given_no_id_that_it_would_read_as_more_than_a_word(tmp_path: Path) -> None:
    from runctl.cli.options import complete_jobs
    from runctl.ledger import JobRecord, Ledger
    from runctl.model import JobId, JobState

    now = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patch, Ledger.open(tmp_path) as ledger:
        patch.setenv("RUNCTL_HOME", str(tmp_path))
        for name in ("fine-1", "f;rm -rf ~", "f$(x)", "f\x1b]0;t\x07", "f\nforged", "f\u202e"):
            row = {
                "name": "n",
                "spec": b"{}",
                "target": "aws",
                "cloud": "aws",
                "folder": None,
                "store": "s3://b/p",
            }
            ledger.jobs.add(
                JobRecord(
                    id=JobId(name),
                    state=JobState.PLANNED,
                    project="p",
                    user="u",
                    created=now,
                    updated=now,
                    **row,
                ),
                "made",
            )
        option = click.Argument(["job"])
        assert complete_jobs(click.Context(click.Command("x")), option, "f") == ["fine-1"]
