"""A hundred damaged ledgers, each beside a sound copy: one sentence with the way out, and nothing lost."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from damages import DAMAGES, Damage, contents, fill, settled

from runctl.cli.main import run
from runctl.ledger.store import FILE_NAME

SEEDS_OF_EACH = 6
NAMES = [damage.__name__ for damage in DAMAGES]
COMMANDS = (("jobs", "list"), ("jobs", "show", "last"), ("tx", "list", "--all", "--output", "json"))


class Called(NamedTuple):
    code: int
    out: str
    err: str


class Home(NamedTuple):
    """A home in which jobs really ran; `sound` is kept beside it, and what commands say of it."""

    path: Path
    sound: Path
    rows: dict[str, Counter[tuple[object, ...]]]
    said: dict[tuple[str, ...], Called]

    @property
    def ledger(self) -> Path:
        return self.path / FILE_NAME

    def renew(self) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(self.sound, self.path)


def call(*arguments: str) -> Called:
    """A command as the process would run it, without the time that a process takes to start."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return Called(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("damaged")
    project = folder / "project"
    project.mkdir()
    (project / ".runctl.toml").touch()
    (project / "train.py").write_text("print('hello')\n")
    path = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("RUNCTL_", "AWS_"))]:
            patch.delenv(name)
        patch.setenv("RUNCTL_HOME", str(path))
        patch.setenv("RUNCTL_CONFIG", str(folder / "user.toml"))
        patch.chdir(project)
        fill(path)
        assert call("train", "train.py").code == 0
        assert call("train", "train.py").code == 0
        shutil.rmtree(path / "ledger-copies")  # the first command's: it has no jobs yet
        assert call("jobs", "list").code == 0
        settled(path / FILE_NAME)
        shutil.copytree(path, folder / "sound")
        said = {command: call(*command) for command in COMMANDS}
        yield Home(path, folder / "sound", contents(path / FILE_NAME), said)


def restored(home: Home) -> Called:
    """As the message says; a damaged version number needs the user's word for it that no newer runctl ran."""
    done = call("ledger", "restore")
    if done.code == 3 and "newer runctl" in done.err:
        assert "runctl ledger restore --copy" in done.err
        day = call("ledger", "copies", "--quiet").out.split()[0]
        done = call("ledger", "restore", "--copy", day)
    return done


def check(home: Home, damage: Damage, seed: int) -> None:
    home.renew()
    damage(home.ledger, random.Random(seed))
    where = f"{damage.__name__} by seed {seed}"
    for command in COMMANDS:
        found = call(*command)
        text = found.out + found.err
        assert "internal error" not in text, (where, command, text)
        assert "Traceback" not in text, (where, command, text)
        if found.code == 0:  # what was damaged is not among what it says
            assert found.out == home.said[command].out, (where, command)
            continue
        assert found.code == 3, (where, command, text)
        assert not found.out, (where, command, text)
        assert "runctl ledger restore" in found.err, (where, command, text)
    done = restored(home)
    assert done.code == 0, (where, done)
    now = contents(home.ledger)
    for table, rows in home.rows.items():
        assert now[table] == rows, (where, table, done)
    for command in COMMANDS:
        assert call(*command)[:2] == home.said[command][:2], (where, command)


@pytest.mark.parametrize("number", range(len(DAMAGES)), ids=NAMES)
def test_a_damaged_ledger_is_one_sentence_and_nothing_that_its_copy_holds_is_lost(
    home: Home, number: int
) -> None:
    for seed in range(SEEDS_OF_EACH):
        check(home, DAMAGES[number], 1000 * number + seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(len(DAMAGES)), ids=NAMES)
def test_a_thousand_more_damaged_ledgers(home: Home, number: int) -> None:
    for seed in range(SEEDS_OF_EACH, 60):
        check(home, DAMAGES[number], 1000 * number + seed)


def test_what_came_after_the_copy_is_read_from_the_damaged_file(home: Home) -> None:
    """A table is gone; jobs, operations and states that no copy holds are still there after restoring."""
    home.renew()
    assert call("train", "train.py").code == 0
    newest = call("jobs", "list", "--quiet").out.split()[0]
    rows = contents(home.ledger)
    settled(home.ledger)
    with contextlib.closing(sqlite3.connect(home.ledger)) as connection:
        connection.execute("DROP TABLE verdicts")
        connection.commit()
    assert call("jobs", "show", newest).code == 3
    done = call("ledger", "restore")
    assert done.code == 0
    assert "not all could be read of: verdicts" in done.out
    assert call("jobs", "show", newest).code == 0
    assert contents(home.ledger) == rows  # no verdict was given since


def test_commands_that_need_no_ledger_work_with_a_damaged_one(home: Home) -> None:
    home.renew()
    home.ledger.write_bytes(b"no ledger" * 1000)
    for command in (("--help",), ("config", "show"), ("ledger", "--help"), ("ledger", "copies")):
        assert call(*command).code == 0, command


def test_an_error_is_one_object_for_scripts(home: Home) -> None:
    import json

    home.renew()
    home.ledger.write_bytes(b"no ledger" * 1000)
    found = call("jobs", "list", "--output", "json")
    error = json.loads(found.err)["error"]
    assert (found.code, error["kind"], error["exit_code"]) == (3, "LedgerDamaged", 3)
    assert error["next"].startswith("runctl ledger restore")
    assert "runctl resources adopt" in error["next"]


def test_the_way_out_can_be_looked_at_first(home: Home) -> None:
    home.renew()
    damaged = b"no ledger" * 1000
    home.ledger.write_bytes(damaged)
    found = call("ledger", "restore", "--dry-run")
    assert found.code == 0
    assert "would restore: 2 jobs" in found.out
    assert home.ledger.read_bytes() == damaged
    assert not (home.path / "ledger-damaged").exists()


def test_the_damaged_file_is_kept(home: Home) -> None:
    home.renew()
    damaged = b"no ledger" * 1000
    home.ledger.write_bytes(damaged)
    assert call("ledger", "restore").code == 0
    [kept] = (home.path / "ledger-damaged").glob("*/ledger.sqlite3")
    assert kept.read_bytes() == damaged
    private = [home.ledger, kept.parent, kept.parent.parent]
    assert [path.stat().st_mode & 0o077 for path in private] == [0] * len(private)


@pytest.mark.parametrize("what", ["a folder", "a link to nothing", "a link to itself"])
def test_something_else_in_the_ledgers_place_is_named_with_the_way_out(home: Home, what: str) -> None:
    home.renew()
    path = home.ledger
    path.unlink()
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path if what == "a link to itself" else home.path / "unmounted" / FILE_NAME)
    for command in (*COMMANDS, ("ledger", "check")):
        called = call(*command)
        assert called.code == 3
        assert "a new one begins" not in called.err
        assert "runctl ledger restore" in called.err or "runctl ledger restore" in called.out
        assert (
            "is a folder" in called.err + called.out
            or "is a link to a file that is not there" in called.err + called.out
        )
