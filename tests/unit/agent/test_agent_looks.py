"""What the agent sees of a folder, who writes there, and when a save is over."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.rest import FIRST_SECONDS, QUIET_SECONDS, Choice, Moment, Rest
from runctl.agent.sets import CheckpointSet
from runctl.agent.walk import Found
from runctl.agent.writers import held_for_writing


@pytest.mark.parametrize(
    ("do", "is_held"),
    [
        ("file = open(path, 'wb')", True),
        ("file = open(path, 'ab')", True),
        ("file = open(path, 'r+b')", True),
        ("file = open(path, 'rb')", False),
        ("open(path, 'ab').close()", False),
        ("file = open(path, 'r+b'); held = mmap.mmap(file.fileno(), 0); file.close()", True),
        (
            "file = open(path, 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); file.close()",
            False,
        ),
        ("file = open(path, 'ab'); child = os.fork(); child or file.close()", True),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="without /proc nobody tells")
def test_who_holds_a_file_open_for_writing_is_known(tmp_path, do, is_held):
    path = tmp_path / "file"
    path.write_bytes(bytes(mmap.PAGESIZE))
    lines = [
        "import mmap, os, sys, time",
        f"path = {str(path)!r}",
        do,
        "print('up', flush=True)",
        "time.sleep(60)",
    ]
    process = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        entries = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
        below = [int(pid) for pid in entries if _parent(pid) == process.pid]
        held = held_for_writing([process.pid, *below, 2**22], [str(tmp_path)])
        about = path.stat()
        assert held == ({(about.st_dev, about.st_ino)} if is_held else set())
        assert held_for_writing([process.pid], [str(tmp_path / "elsewhere")]) == set()
    finally:
        for pid in [*below, process.pid]:
            os.kill(pid, 9)
        process.communicate()


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# When a save is over


def found(path: str, at: int = 1, size: int = 10) -> Found:
    return Found(path, "file", size, at * 10**9, 0, abs(hash(path)) % 1000, 1, 0o644)


def of(*files: Found, name: str = "") -> CheckpointSet:
    newest = max(one.mtime_ns for one in files)
    return CheckpointSet(name or files[0].path, tuple(one.path for one in files), None, newest, 0)


class Looks:
    """One look after another at sets that the test names."""

    def __init__(self) -> None:
        self.rest = Rest()
        self.now = 0.0

    def __call__(
        self,
        *sets: tuple[Found, ...],
        told: bool | None = None,
        progressed: float | None = None,
        held: set[tuple[int, int]] | None = None,
        after: float = 2.0,
    ) -> Choice:
        self.now += after
        files = [one for group in sets for one in group]
        chosen = [of(*group) for group in sets]
        moment = Moment(self.now, self.now, progressed)
        choice = self.rest.look(moment, files, held or set(), chosen, lambda _: told, set())
        self.rest.committed([one for one in chosen if set(one.paths) <= set(choice.take)])
        return choice


def test_what_is_held_or_torn_is_never_taken():
    looks, file = Looks(), found("step_1.pt")
    for _ in range(50):
        assert looks((file,), told=True, held={(file.device, file.inode)}, progressed=99.0).take == []
        assert looks((file,), told=False, progressed=99.0).take == []


def test_a_set_of_unknown_kind_is_taken_when_the_log_went_on_or_it_was_quiet_for_long():
    looks, pair = Looks(), (found("a", 1), found("b", 2))
    assert looks(pair).take == []
    assert looks(pair, progressed=2.1).take == [], "it was named before the save and read after it"
    assert looks(pair, progressed=3.0).take == [], "a thread may save while the steps go on"
    assert looks(pair, progressed=3.0, after=FIRST_SECONDS).take == ["a", "b"]
    assert looks((found("a", 30), found("b", 31))).take == []
    assert looks((found("a", 30), found("b", 31)), progressed=32.0).take == ["a", "b"], "it is no longer new"
    looks = Looks()
    taken = [bool(looks(pair, progressed=1.0).take) for _ in range(20)]
    assert taken.index(True) == QUIET_SECONDS / 2
    changing = Looks()
    assert not any(changing((found("a", at),), progressed=0.5).take for at in range(1, 40))


def test_a_newer_one_of_its_series_shows_that_one_is_whole():
    first, second = (found("state_1.bin", 1),), (found("state_2.bin", 2),)
    assert Looks()(first, second).take == ["state_1.bin"]


def test_one_with_fewer_files_than_those_before_waits():
    looks = Looks()
    assert looks((found("G_1.pt", 1), found("D_1.pt", 1)), progressed=5.0, told=None).take == []
    assert looks((found("G_1.pt", 1), found("D_1.pt", 1)), progressed=5.0, after=FIRST_SECONDS).worth
    assert looks((found("G_2.pt", 6),), told=True, progressed=9.0).take == []
    assert looks((found("G_2.pt", 6), found("D_2.pt", 7)), told=True).take == ["G_2.pt", "D_2.pt"]


def test_the_ranks_of_a_step_are_counted():
    looks, ranks = Looks(), [found(f"step_1_rank{rank}.pt", 1) for rank in range(3)]
    assert looks((*ranks,), progressed=0.5).take == []
    assert looks((*ranks,), progressed=0.5, after=QUIET_SECONDS).worth
    later = [found(f"step_2_rank{rank}.pt", 60) for rank in range(3)]
    for _ in range(10):
        assert looks((*later[:2],), told=True, progressed=62.0).take == []
    assert looks((*later,), told=True, progressed=62.0).worth


def test_what_is_being_removed_is_no_checkpoint_though_its_files_are_kept():
    looks = Looks()
    files = found("G_1.pt", 1), found("D_1.pt", 1)
    assert looks(files, told=True).worth
    gone = looks.rest.look(
        Moment(4.0, 4.0, 9.0), files[1:], set(), [of(files[1])], lambda _: None, {"D_1.pt", "G_1.pt"}
    )
    assert (gone.take, gone.wait) == ([], ["D_1.pt"])
    assert set(looks.rest.mates["D_1.pt"]) == {"G_1.pt", "D_1.pt"}


def test_where_steps_go_on_during_a_save_they_do_not_prove_that_it_is_over():
    looks = Looks()

    def pair(step: int, first: int, second: int) -> tuple[CheckpointSet, list[Found]]:
        files = [found(f"G_{step}.bin", first), found(f"D_{step}.bin", second)]
        return of(*files)._replace(step=step), files

    def look(one: tuple[CheckpointSet, list[Found]], progressed: float) -> bool:
        looks.now += 2.0
        moment = Moment(looks.now, looks.now, progressed)
        choice = looks.rest.look(moment, one[1], set(), [one[0]], lambda _: None, set())
        looks.rest.committed([one[0]] if choice.take else [])
        return bool(choice.take)

    assert not look((pair(1, 10, 10)[0], pair(1, 10, 10)[1]), 15.0)
    taken = [look(pair(1, 10, 20), 25.0) for _ in range(16)]
    assert taken.index(True) == QUIET_SECONDS / 2, "15 was named between its files"
    taken = [look(pair(2, 50, 51), 60.0) for _ in range(16)]
    assert taken.index(True) == QUIET_SECONDS / 2


def test_who_was_cut_off_leaves_what_was_open_and_what_cannot_tell():
    one, other = found("a.bin"), found("b.bin")
    sets, moment = [of(one), of(other)], Moment(0.0, 0.0, 50.0)

    def end(whole: bool, told: bool | None, suspect: frozenset[tuple[int, int]] = frozenset()) -> list[str]:
        return Rest().final(moment, [one, other], sets, lambda _: told, set(), whole, suspect).take

    assert end(True, None) == ["a.bin", "b.bin"]
    assert end(True, False) == end(False, False) == []
    assert end(False, None) == ["a.bin", "b.bin"], "the log went on after them"
    assert end(False, None, frozenset([(one.device, one.inode)])) == ["b.bin"]
    assert end(False, True, frozenset([(one.device, one.inode)])) == ["a.bin", "b.bin"]


def test_what_names_the_newest_checkpoint_waits_for_it():
    rest, sets = Rest(), [of(found("ckpt-2.index", 5))]
    files = [found("ckpt-2.index", 5), found("checkpoint", 5), found("log.csv", 5), found("x.tmp")]
    choice = rest.look(Moment(1.0, 6.0), files, set(), sets, lambda _: None, set())
    assert (choice.take, choice.wait) == (["log.csv"], ["ckpt-2.index", "checkpoint"])
    choice = rest.final(Moment(1.0, 6.0), files, sets, lambda _: None, set(), True, frozenset())
    assert choice.take == ["ckpt-2.index", "checkpoint", "log.csv"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([None, True, False]),
            st.booleans(),
            st.booleans(),
            st.integers(1, 40),
        ),
        max_size=12,
    )
)
def test_whatever_is_seen_nothing_held_or_torn_is_taken_and_in_the_end_all_that_is_whole(
    looked: list,
) -> None:
    looks = Looks()
    for at, told, is_held, went_on, after in looked:
        file = found("m.bin", at + 1)
        held = {(file.device, file.inode)} if is_held else set()
        choice = looks(
            (file,), told=told, held=held, progressed=99.0 if went_on else None, after=float(after)
        )
        assert not (choice.take and (is_held or told is False))
        assert set(choice.take) | set(choice.wait) == {"m.bin"}
    file = found("m.bin", 9)
    end = looks.rest.final(Moment(0, 0), [file], [of(file)], lambda _: None, set(), True, frozenset())
    assert end.take == ["m.bin"]
