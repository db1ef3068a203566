"""Help and errors, word for word: a change is read in the diff of `golden/`.

`GOLDEN=write pytest tests/unit/cli/test_golden.py` writes the files anew.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runctl.cli.main import run
from runctl.cli.root import root

GOLDEN = Path(__file__).parent / "golden"
MISTAKES = [
    "jbos",
    "jobs",
    "jobs lst",
    "jobs list --limt 3",
    "jobs list --limit many",
    "jobs list --output yaml",
    "jobs show nothing",
    "jobs show last",
    "train trian.py",
    "train --instnce-type g5.xlarge train.py",
    "train train.py --on mars",
    "train train.py --budget much",
    "train train.py --budget 0",
    "train train.py --data gs://bucket/set",
    "train train.py --on sandbox",
    "train train.py --on sandbox --instance-type g5.xlarge",
    "drill nothing.py",
    "sandbox status",
    "sandbox fault add --service ec2 --kind bogus",
    "config set train.instnce_type g5.xlarge",
    "config set train.max_attempts many",
    "config show --config nothing.toml",
    "completion powershell",
    "--output json jobs show nothing",
    "--output json jbos",
    "config validate --config unknown-key.toml",
    "config validate --config wrong-type.toml",
    "config validate --config broken.toml",
]


def compare(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "GOLDEN=write writes it anew"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".runctl.toml").touch()
    (folder / "train.py").write_text("print('hello')\n")
    (folder / "unknown-key.toml").write_text('[aws]\n\nregoin = "us-east-1"\n')
    (folder / "wrong-type.toml").write_text('[train]\nmax_hours = "long"\n')
    (folder / "broken.toml").write_text('[train]\non = "local\n')
    for name in [name for name in os.environ if name.startswith("RUNCTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CONFIG", str(tmp_path / "user.toml"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(folder)
    return folder


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    pages: list[str] = []
    for path in commands(root):
        assert run([*path, "--help"]) == 0
        pages.append(f"$ {' '.join(('runctl', *path, '--help'))}\n{capsys.readouterr().out}")
    compare("help.txt", "\n".join(pages))


def test_errors(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    pages: list[str] = []
    for line in MISTAKES:
        code = run(shlex.split(line))
        written = capsys.readouterr()
        assert written.out == "", line
        text = written.err.replace(str(project), "PROJECT").replace(str(project.parent), "TMP")
        pages.append(f"$ runctl {line}\n{text}exit code {code}\n")
    compare("errors.txt", "\n".join(pages))
