"""What every command owes: light help, data on stdout, talk on stderr, JSON where asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from runctl.cli.main import COMMANDS

Run = Callable[..., CompletedProcess[str]]
HEAVY = (
    "boto3",
    "botocore",
    "moto",
    "obstore",
    "rich",
    "textual",
    "sqlite3",
    "stamina",
    "tenacity",
    "psutil",
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from runctl.cli.main import run\n"
        f"run({arguments!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_train_help_imports_neither_boto3_nor_moto_nor_rich() -> None:
    code = (
        "import sys\n"
        "from runctl.cli.main import run\n"
        "run(['train', '--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in {"jobs", "sandbox", "config"}])
def test_every_command_has_help_with_two_examples(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    _, _, examples = done.stdout.partition("Examples:")
    assert examples.count("runctl ") >= 2, done.stdout


@pytest.mark.parametrize(
    ("group", "commands"),
    [
        ("jobs", ("list", "show", "logs", "wait", "stop", "resume")),
        ("sandbox", ("up", "status", "down", "interrupt", "clock")),
        ("config", ("show", "set", "validate")),
    ],
)
def test_every_subcommand_has_help_with_two_examples(run: Run, group: str, commands: tuple[str, ...]) -> None:
    for command in commands:
        done = run(group, command, "--help")
        assert done.returncode == 0
        assert done.stdout.partition("Examples:")[2].count("runctl ") >= 2, done.stdout


def test_a_local_run_gives_the_scripts_output_alone_on_stdout(run: Run, project: Path) -> None:
    done = run("train", "train.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello from the script\n"
    assert "succeeded" in done.stderr


def test_arguments_after_the_dashes_reach_the_script_and_commands_run_without_one(
    run: Run, project: Path
) -> None:
    (project / "train.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert run("train", "train.py", "--", "--epochs", "3").stdout == "['--epochs', '3']\n"
    assert run("train", "--", "echo", "one", "two").stdout == "one two\n"


def test_json_lines_tell_the_whole_story(run: Run, project: Path) -> None:
    done = run("train", "train.py", "--output", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    states = [row["state"] for row in rows if row.get("event") == "Transition"]
    assert states[0] == "planned"
    assert states[-1] == "succeeded"
    assert (
        "".join(row["data"] for row in rows if row.get("event") == "LogOutput") == "hello from the script\n"
    )
    assert rows[-1]["report"]["state"] == "succeeded"


def test_jobs_are_listed_shown_and_their_log_is_kept(run: Run, project: Path) -> None:
    assert run("train", "train.py", "--name", "greeting").returncode == 0
    (row,) = json.loads(run("jobs", "list", "--output", "json").stdout)
    assert row["id"].startswith("greeting-")
    assert run("jobs", "list", "--quiet").stdout == row["id"] + "\n"
    assert run("jobs", "logs", "last").stdout == "hello from the script\n"
    shown = json.loads(run("jobs", "show", row["id"][:10], "--output", "json").stdout)
    assert shown["report"]["attempts"][0]["cause"] == "finished"


def test_quiet_and_detached_runs_write_the_id_alone(run: Run, project: Path) -> None:
    quiet = run("train", "train.py", "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    detached = run("train", "train.py", "--detach")
    assert detached.returncode == 0
    assert run("jobs", "list", "--quiet").stdout == detached.stdout + quiet.stdout


def test_everything_on_stdout_is_json_where_asked(run: Run, project: Path) -> None:
    (project / "train.py").write_text("import sys\nprint('hello')\nsys.exit('--fail' in sys.argv)\n")

    def said(*arguments: str, code: int = 0) -> list[Any]:
        done = run(*arguments)
        assert done.returncode == code, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert found
        return found

    assert said("train", "train.py", "-o", "json", "--detach", "--quiet")[-1]["job"]["state"] != "planned"
    (job,) = [row["id"] for row in said("jobs", "list", "-o", "json")[0]]
    assert said("jobs", "wait", "-o", "json")[-1]["report"]["state"] == "succeeded"
    assert said("jobs", "logs", "-f", "-o", "json") == [
        {"event": "LogOutput", "job": job, "attempt": 1, "data": "hello\n"}
    ]
    said("train", "-o", "json", "train.py", "--", "--fail", code=4)
    assert said("jobs", "resume", "last", "-o", "json", code=4)[-1]["report"]["state"] == "failed"
    assert said("jobs", "resume", "last", "--detach", "-o", "json")[-1]["job"]["state"] != "planned"
    said("jobs", "show", "last", "-o", "json")


def test_a_dry_run_makes_no_job(run: Run, project: Path) -> None:
    done = run("train", "train.py", "--dry-run", "--output", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["plan"]["spec"]["on"] == "local"
    assert json.loads(run("jobs", "list", "--output", "json").stdout) == []


def test_settings_say_where_they_came_from(run: Run, project: Path) -> None:
    (project / ".runctl.toml").write_text('# ours\n[aws]\nregion = "eu-west-1"\n')
    assert run("config", "trust").returncode == 0
    assert run("config", "set", "aws.bucket", "my-bucket").returncode == 0
    assert (project / ".runctl.toml").read_text().startswith("# ours\n")
    shown = json.loads(run("config", "show", "--output", "json", RUNCTL_AWS_LEASE_MINUTES="7").stdout)
    assert shown["aws.region"]["value"] == "eu-west-1"
    assert shown["aws.region"]["origin"].endswith(".runctl.toml:3")
    assert shown["aws.bucket"]["value"] == "my-bucket"
    assert shown["aws.lease_minutes"] == {"value": 7, "origin": "env RUNCTL_AWS_LEASE_MINUTES"}
    assert shown["train.on"] == {"value": "local", "origin": "default"}


def test_completion_knows_our_shells(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "runctl" in run("completion", shell).stdout


def test_ctrl_c_while_a_library_is_read_ends_with_the_code_of_an_interruption(tmp_path: Path) -> None:
    """Python ended such a command by SIGINT, though it had handled the interrupt and said so."""
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT); [None for _ in range(1000)]"
    (tmp_path / "sqlite3.py").write_text(f"import runctl.cli.failures\nexec({interrupt!r})\n")
    environment = {**os.environ, "RUNCTL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "runctl", "jobs", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
