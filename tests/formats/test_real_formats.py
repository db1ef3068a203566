"""Checkpoints of the real libraries: cut, damaged, caught while they are written, written over, rotated.

What a library cannot load is never called whole, and what it loads as it was saved is never refused. The
table tells how often what is open for writing and what the format says disagreed.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libraries
import pytest

from runctl.agent.sets import CheckpointSet, checkpoint_sets
from runctl.agent.vouching import state_of
from runctl.agent.walk import walk
from runctl.agent.writers import held_for_writing

PYTHON = os.environ.get("FORMATS_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not PYTHON, reason="the libraries live in an environment of their own: make test-formats"
    ),
]
PLACES = int(os.environ.get("PLACES", "50"))
CATCHES = int(os.environ.get("CATCHES", "25"))
SMALL, LARGE = 20_000, 1_000_000
SLOW = ("bz2", "xz", "lzma", "json", "pickle-0", "compressed", "zlib", "gzip", ".gz")
SINGLE = [name for name, kind in libraries.KINDS.items() if not kind.is_set]
SETS = [name for name, kind in libraries.KINDS.items() if kind.is_set]
CHECKED = (".npz", ".keras", ".zip", ".gz", ".bz2", ".xz")
"""What carries checksums, so that damage is known too; of the others only a save that ended early is."""
TOO_LONG = 120.0


class Library:
    """A process with the real libraries in it; one that dies of what it reads is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {
                **os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "torch",
                "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "", "HF_HUB_OFFLINE": "1",
            }  # fmt: skip
            self._process = subprocess.Popen(
                [PYTHON, str(Path(libraries.__file__))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
                bufsize=0,
            )  # fmt: skip
        return self._process

    def ask(self, **what: Any) -> dict[str, Any]:
        self.tell(**what)
        return self.answer()

    def tell(self, **what: Any) -> None:
        for _ in range(2):
            stdin = self.process.stdin
            assert stdin is not None
            try:
                stdin.write(json.dumps(what).encode() + b"\n")
                return
            except BrokenPipeError:  # it died of what it was given before
                self.close()

    def answer(self) -> dict[str, Any]:
        stdout = self.process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], TOO_LONG)[0]:
            self.close()
            return {"loads": "no", "why": f"nothing within {TOO_LONG:.0f} s"}
        line = stdout.readline()
        return json.loads(line) if line else {"loads": "no", "why": "the process ended"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Row(Counter[str]):
    """What came of one kind in one test."""


@pytest.fixture(scope="module")
def reader() -> Iterator[Library]:
    library = Library()
    yield library
    library.close()


@pytest.fixture(scope="module")
def writer() -> Iterator[Library]:
    library = Library()
    yield library
    library.close()


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], Row]]:
    rows: dict[tuple[str, str], Row] = {}
    yield rows
    columns = ("tried", "whole", "torn", "cannot tell", "loads", "loads with other content")
    print(f"\n{'':52}" + "".join(f"{column[:12]:>13}" for column in columns) + "   held/whole  free/torn")
    for (test, name), row in rows.items():
        caught = f"{row['held, yet whole']:13}{row['free, yet torn']:11}" if "caught" in test else ""
        print(f"{test + ': ' + name:52}" + "".join(f"{row[column]:13}" for column in columns) + caught)
    caught = sum((row for (test, _), row in rows.items() if "caught" in test), Counter())
    print(
        f"Of {caught['tried']} states that were caught, the format called {caught['held, yet whole']} whole"
        f" that were open for writing, and {caught['free, yet torn']} torn that were not."
    )


def judged(root: Path, names: set[str] | None = None) -> bool | None:
    """What is said of the only set below a folder; None if there is none."""
    found = walk(str(root))
    sets = [one for one in checkpoint_sets(found) if names is None or names & set(one.paths)]
    states = [state_of(str(root), one, {it.path: it for it in found}) for one in sets]
    assert len(states) <= 1, [one.paths for one in sets]
    return states[0] if states else None


def note(row: Row, state: bool | None, told: dict[str, Any], what: str, step: int | None = None) -> list[str]:
    """Count one outcome; what must not be is returned in words."""
    loads = told["loads"]
    if loads == "right" and step is not None and told["step"] != step:
        loads = "wrong"
    row["tried"] += 1
    row[{True: "whole", False: "torn", None: "cannot tell"}[state]] += 1
    row["loads"] += loads == "right"
    row["loads with other content"] += loads == "wrong"
    if state is True and loads == "no":
        return [f"{what}: called whole; the library: {told.get('why')}"]
    if state is False and loads == "right":
        return [f"{what}: refused; the library loads it as it was saved"]
    return []


def places(size: int, count: int) -> list[int]:
    """Where to cut: at both ends, and evenly between."""
    ends = {
        0,
        1,
        2,
        3,
        4,
        8,
        12,
        64,
        size - 1,
        size - 2,
        size - 3,
        size - 4,
        size - 8,
        size - 22,
        size - 64,
        size - 150,
    }
    found = {place for place in ends if 0 <= place < size}
    found.update(size * number // count for number in range(1, count))
    return sorted(found)


@pytest.mark.parametrize("name", SINGLE)
def test_a_file_that_is_cut_or_damaged(tmp_path, reader, table, name):
    path = tmp_path / name
    assert "failed" not in reader.ask(do="save", kind=name, path=str(path), step=3, size=SMALL)
    whole, row, wrong = path.read_bytes(), Row(), []
    table["cut", name] = row
    told = reader.ask(do="load", kind=name, path=str(path))
    assert told == {"loads": "right", "step": 3}
    state = judged(tmp_path)
    wrong += note(row, state, told, "whole", 3)
    for place in places(len(whole), PLACES):
        path.write_bytes(whole[:place])
        state = judged(tmp_path)
        told = reader.ask(do="load", kind=name, path=str(path))
        wrong += note(row, state, told, f"cut at {place} of {len(whole)}", 3)
        if state is True and told["loads"] != "right":
            wrong.append(f"cut at {place} of {len(whole)}: called whole; {told}")
    row = table["damaged", name] = Row()
    dice = random.Random(name)
    for number in range(12):
        at = dice.randrange(len(whole))
        damaged = bytearray(whole)
        if number % 2:
            damaged[at] ^= 1 << dice.randrange(8)
        else:
            damaged[at : at + 512] = bytes(len(damaged[at : at + 512]))
        path.write_bytes(damaged)
        told = reader.ask(do="load", kind=name, path=str(path))
        found = note(
            row, judged(tmp_path), told, f"{'a bit' if number % 2 else 'zeros'} at {at} of {len(whole)}", 3
        )
        wrong += found if name.endswith(CHECKED) else [one for one in found if "refused" in one]
    path.write_bytes(bytes(len(whole)))
    wrong += note(row, judged(tmp_path), reader.ask(do="load", kind=name, path=str(path)), "all zeros", 3)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("over", [False, True], ids=["new", "written over"])
@pytest.mark.parametrize("name", [name for name in SETS if libraries.KINDS[name].cuts])
def test_a_set_of_which_a_save_was_cut(tmp_path, reader, table, name, over):
    """The files of the new save in the order in which they were written, the last of them in part."""
    first, second, root = tmp_path / "first", tmp_path / "second", tmp_path / "root"
    for folder, step in ((first, 3), (second, 3 if "Trainer" in name else 4)):
        folder.mkdir()
        assert "failed" not in reader.ask(do="save", kind=name, path=str(folder), step=step, size=SMALL)
    newest = {one.path for one in walk(str(second))} - {"checkpoint-1", "checkpoint-2"}
    newest = {path for path in newest if "Trainer" not in name or path.startswith("checkpoint-3/")}
    order = sorted((second / path for path in newest), key=lambda path: (path.stat().st_mtime_ns, path.name))
    total = sum(path.stat().st_size for path in order)
    row, wrong = Row(), []
    table["cut, written over" if over else "cut", name] = row
    for place in [*places(total, PLACES), total]:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        if over:
            shutil.copytree(first, root, dirs_exist_ok=True)
        left = place
        for path in order:
            if left == 0 and place != total:
                break
            target = root / path.relative_to(second)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes()[:left])
            os.utime(target, ns=(path.stat().st_mtime_ns,) * 2)
            left -= target.stat().st_size
        state = judged(root, {str(path.relative_to(second)) for path in order})
        told = reader.ask(do="load", kind=name, path=str(root))
        what = f"{place} of {total} bytes written"
        wrong += note(row, state, told, what)
        if state is True and told["loads"] != "right":
            wrong.append(f"{what}: called whole; {told}")
    assert not wrong, "\n".join(wrong)


CAUGHT = [
    (name, keep) for name in libraries.KINDS for keep in (0, 2) if not (keep and libraries.KINDS[name].is_set)
]


@pytest.mark.parametrize(
    ("name", "keep"), CAUGHT, ids=[f"{name}-{'rotated' if keep else 'in place'}" for name, keep in CAUGHT]
)
def test_what_is_caught_while_a_library_writes(tmp_path, reader, writer, table, name, keep):
    root, copy = tmp_path / "root", tmp_path / "copy"
    root.mkdir()
    kind = libraries.KINDS[name]
    size = LARGE // 10 if any(word in name for word in SLOW) else LARGE
    path = root if kind.is_set else root / name
    writer.tell(do="go on", kind=name, path=str(path), size=size, keep=keep)
    row, wrong, dice = Row(), [], random.Random(f"{name} {keep}")
    table[f"caught, {'rotated' if keep else 'in place'}", name] = row
    first = writer.answer()
    assert "saved" in first, first
    begun = time.monotonic()
    for _ in range(3):
        assert "saved" in writer.answer()
    usual = (time.monotonic() - begun) / 3
    for number in range(CATCHES):
        if number == CATCHES - 1:
            wrong += at_rest(writer, root)
            writer.tell(do="go on", kind=name, path=str(path), size=size, keep=keep)
            assert "saved" in writer.answer()
        time.sleep(dice.uniform(0, 1.5 * usual))
        process = writer.process
        process.send_signal(signal.SIGKILL if number == CATCHES - 1 else signal.SIGSTOP)
        wait_until_stopped(process.pid)
        held = held_for_writing([process.pid], [str(root)]) or set()
        found = {one.path: one for one in walk(str(root))}
        for one in checkpoint_sets(list(found.values())):
            state = state_of(str(root), one, found)
            is_held = any((found[path].device, found[path].inode) in held for path in one.paths)
            told = reader.ask(do="load", kind=name, path=str(copied(root, copy, one, kind.is_set)))
            what = f"catch {number} of {one.name}{', held' if is_held else ''}"
            found_wrong = note(row, state, told, what, one.step if keep else None)
            # A save in progress over several files may be refused though it loads just then.
            wrong += [said for said in found_wrong if not (kind.is_set and "refused" in said)]
            row["held, yet whole"] += is_held and state is True
            row["free, yet torn"] += not is_held and state is False
            if state is True and told["loads"] != "right":
                wrong.append(f"{what}: called whole; {told}")
        if number < CATCHES - 1:
            process.send_signal(signal.SIGCONT)
            while select.select([process.stdout], [], [], 0)[0]:
                assert "saved" in writer.answer()
    writer.close()
    assert not wrong, "\n".join(wrong)


def at_rest(writer: Library, root: Path) -> list[str]:
    """Let the writer end its save: then nothing that lies there is refused."""
    writer.tell(do="load", kind="state.json", path=str(root / "none"))
    while "saved" in writer.answer():
        pass
    assert writer.answer()["loads"] == "no"
    found = {one.path: one for one in walk(str(root))}
    sets = checkpoint_sets(list(found.values()))
    assert sets
    return [f"at rest, refused: {one.paths}" for one in sets if state_of(str(root), one, found) is False]


def copied(root: Path, copy: Path, one: CheckpointSet, is_set: bool) -> Path:
    """The files of a set, with their times, where nobody writes."""
    shutil.rmtree(copy, ignore_errors=True)
    for path in one.paths:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, copy / path)
    return copy if is_set else copy / one.paths[0]


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] in "TtZX":
            return
        time.sleep(0.001)
    raise AssertionError("the writer does not stop")
