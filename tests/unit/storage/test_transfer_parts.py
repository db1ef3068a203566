"""The pieces that transfers are made of, each against something simple that must agree with it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.errors import CloudError, ConfigError, Conflict, Interrupted, ValidationError
from runctl.events import ignore
from runctl.storage import etags, partial
from runctl.storage.compare import compare, in_order
from runctl.storage.crew import Crew
from runctl.storage.entries import Entry, dataset_version
from runctl.storage.filters import Filters
from runctl.storage.listing import Walk
from runctl.storage.memory import Memory, memory_file
from runctl.storage.partial import Header, PartialFile
from runctl.storage.requests import of_one_object

NAMES = st.text(st.sampled_from("ab-/.é😀 Z~"), min_size=1, max_size=6).filter(
    lambda text: all(part not in {"", ".", ".."} for part in text.split("/"))
)
SIDES = st.dictionaries(NAMES, st.integers(0, 2), max_size=12)


def side(sizes: dict[str, int]) -> list[Entry]:
    return in_order(Entry(key, size, 7, f"etag {key}") for key, size in sizes.items())


@given(SIDES, SIDES, st.booleans(), st.booleans())
def test_a_comparison_is_what_sets_say(
    here: dict[str, int], there: dict[str, int], equal: bool, extra: bool
) -> None:
    found = compare(side(here), side(there), lambda one, other: equal and one.key == other.key, extra=extra)
    same = {key for key in here if there.get(key) == here[key]}
    assert [entry.key for entry in found.missing] == sorted(set(here) - same)
    assert [entry.key for entry in found.doubtful] == ([] if equal else sorted(same))
    assert [entry.key for entry in found.extra] == (sorted(set(there) - set(here)) if extra else [])
    assert found.equal_files == (len(same) if equal else 0)
    assert found.equal_bytes == (sum(here[key] for key in same) if equal else 0)


@given(SIDES)
def test_a_version_names_one_state(sizes: dict[str, int]) -> None:
    entries = side(sizes)
    version = dataset_version(entries)
    assert version == dataset_version(reversed(entries))
    assert len(
        {version, *(dataset_version(entries[:at] + entries[at + 1 :]) for at in range(len(entries)))}
    ) > (1 if entries else 0)


@settings(max_examples=40)
@given(
    st.sets(
        st.lists(st.sampled_from(["a", "b-", "b", "é", "😀", "B", "c.d"]), min_size=1, max_size=3).map(tuple)
    )
)
def test_a_walk_gives_keys_in_the_order_of_s3(paths: set[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for path in paths:
            place = root.joinpath(*path)
            if not any(parent.is_file() for parent in place.parents) and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"x")
        keys = [entry.key for entry in Walk(root, Filters())]
        assert keys == sorted(keys, key=str.encode)
        assert set(keys) == {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


@given(st.binary(max_size=400), st.integers(1, 90))
def test_the_etag_of_parts_is_known_by_any_usual_part_size(data: bytes, part: int) -> None:
    parts = [data[at : at + part] for at in range(0, len(data), part)] or [b""]
    etag = etags.of_parts(hashlib.md5(piece).digest() for piece in parts)
    assert etags.parts_of(etag) == len(parts)
    if data:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "file")
            path.write_bytes(data)
            assert etags.of_parts(etags.digests(path, len(data), part, "md5")) == etag
            usual = part in set(etags.possible_parts(len(data), len(parts)))
            assert etags.matches(path, len(data), etag) or not usual
            assert etags.matches(path, len(data), hashlib.md5(data).hexdigest()) is True
            assert etags.matches(path, len(data), hashlib.md5(data + b"x").hexdigest()) is False
            assert etags.matches(path, len(data), "no md5 at all") is None


@pytest.mark.parametrize("mib", [5, 8, 16, 50])
def test_the_part_sizes_of_every_usual_sender_are_tried(mib: int) -> None:
    for size in (200 * etags.MIB + 1, 1 << 30, 123_456_789):
        assert mib * etags.MIB in set(etags.possible_parts(size, -(-size // (mib * etags.MIB))))


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        ([], [], {"a.txt", "raw/a.txt", "raw/deep/b.bin", "top.bin"}),
        (["*.txt"], [], {"a.txt", "raw/a.txt"}),
        (["raw/"], [], {"raw/a.txt", "raw/deep/b.bin"}),
        ([], ["raw/"], {"a.txt", "top.bin"}),
        (["raw/"], ["deep"], {"raw/a.txt"}),
        (["/top.bin", "/raw/*.txt"], [], {"top.bin", "raw/a.txt"}),
        (["**/deep/**"], [], {"raw/deep/b.bin"}),
        ([], ["*.bin", "!top.bin"], {"a.txt", "raw/a.txt", "top.bin"}),
        ([], ["!top.bin", "*.bin"], {"a.txt", "raw/a.txt"}),
        ([], ["raw/", "!raw/a.txt"], {"a.txt", "top.bin"}),
        ([], ["raw/*", "!raw/a.txt"], {"a.txt", "raw/a.txt", "top.bin"}),
        (["raw/", "!raw/deep/"], [], {"raw/a.txt"}),
        (["raw/", "!*.txt", "/a.txt"], [], {"raw/deep/b.bin", "a.txt"}),
    ],
)
def test_patterns_choose_as_git_reads_them(include: list[str], exclude: list[str], wanted: set[str]) -> None:
    filters = Filters(include, exclude)
    assert {
        key for key in ("a.txt", "raw/a.txt", "raw/deep/b.bin", "top.bin") if filters.wants(key)
    } == wanted


@pytest.mark.parametrize("pattern", ["", "#comment", "!", "!not", "/"])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Filters([pattern])


def test_a_memory_knows_what_was_equal_and_forgets_the_rest(tmp_path: Path) -> None:
    path = memory_file(tmp_path / "state", tmp_path, "s3/bucket/prefix")
    first = Memory(path)
    first.note("a", 1, 10, "etag-a")
    first.note("b", 2, 20, "etag-b")
    first.close(complete=True)
    second = Memory(path)
    assert second.knows_file("a", 1, 10)
    assert second.knows_object("a", "etag-a")
    assert not second.knows_file("a", 1, 11)
    assert not second.knows_object("a", "etag-b")
    assert not second.knows_object("b", "etag-a")
    second.note("b", 2, 20, "etag-b")
    second.close(complete=True)
    third = Memory(path)
    assert not third.knows_file("a", 1, 10)
    assert third.knows_file("b", 2, 20)
    third.note("c", 3, 30, "etag-c")
    third.close(complete=False)
    fourth = Memory(path)
    assert fourth.knows_file("b", 2, 20)
    assert fourth.knows_file("c", 3, 30)
    fourth.close(complete=False)


def test_a_memory_that_was_torn_by_a_kill_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "x.known"
    memory = Memory(path)
    memory.note("a", 1, 10, "etag")
    memory.note("b", 1, 10, "etag")
    memory.save()
    os.truncate(path, 8 * 3 + 5)
    torn = Memory(path)
    assert torn.knows_file("a", 1, 10)
    assert torn.knows_object("a", "etag")
    assert not torn.knows_object("b", "etag")


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 1)), max_size=400))
def test_a_memory_knows_the_same_in_whatever_order_it_is_asked(asked: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        first = Memory(Path(name, "x.known"))
        for number in range(200):
            first.note(str(number), 0, 0, "etag")
        first.close(complete=True)
        memory = Memory(Path(name, "x.known"))
        for number, modified in [*asked, *sorted(asked)]:
            assert memory.knows_file(str(number), 0, modified) is (number < 200 and modified == 0)
            assert memory.knows_object(str(number), "etag") is (number < 200)
        memory.close(complete=False)


def test_a_memory_is_small(tmp_path: Path) -> None:
    """48 bytes a pair: what was known, the same in order, and what was seen; with objects it were 200."""
    import tracemalloc

    pairs = 50_000
    numbers = array("Q", (number * 7919 % 2**64 for number in range(2 * pairs)))
    path = tmp_path / "x.known"
    path.write_bytes(numbers.tobytes())
    tracemalloc.start()
    try:
        memory = Memory(path)
        assert not memory.knows_file("none", 0, 0)
        for number in range(pairs):
            memory.note(str(number), 0, 0, "etag")
        held, _ = tracemalloc.get_traced_memory()
        memory.close(complete=True)
    finally:
        tracemalloc.stop()
    assert held < 64 * pairs
    assert path.stat().st_size == 16 * pairs


HEADER = Header("etag", 100, 40, "sha256")


def test_parts_are_there_again_after_a_kill(tmp_path: Path) -> None:
    target = tmp_path / "big"
    first = PartialFile(target, HEADER)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(3)]
    for number in (2, 0):
        os.pwrite(first.file, b"x" * 20, number * 40)
        first.note(number, digests[number])
    first.close()  # what the end of a process does
    record = next(tmp_path.glob("*.parts"))
    with record.open("ab") as file:
        file.write(b"\0\0\0\1torn")
    second = PartialFile(target, HEADER)
    assert second.digests == {0: digests[0], 2: digests[2]}
    assert not second.began_anew
    second.note(1, digests[1])
    second.close()
    third = PartialFile(target, HEADER)
    assert third.digests == dict(enumerate(digests))
    third.finish(5_000_000_000)
    assert os.listdir(tmp_path) == ["big"]  # noqa: PTH208
    assert target.stat().st_size == 100
    assert target.stat().st_mtime_ns == 5_000_000_000


@pytest.mark.parametrize(
    "change", [{"etag": "other"}, {"size": 101}, {"part_size": 41}, {"algorithm": "md5"}]
)
def test_parts_of_another_object_are_not_gone_on_with(tmp_path: Path, change: dict[str, Any]) -> None:
    import msgspec

    first = PartialFile(tmp_path / "big", HEADER)
    first.note(0, b"d" * 32)
    first.close()
    second = PartialFile(tmp_path / "big", msgspec.structs.replace(HEADER, **change))
    assert second.began_anew
    assert not second.digests
    second.discard()
    assert not os.listdir(tmp_path)  # noqa: PTH208


def test_two_processes_do_not_fetch_one_file(tmp_path: Path) -> None:
    first = PartialFile(tmp_path / "big", HEADER)
    with pytest.raises(Conflict):
        partial.PartialFile(tmp_path / "big", HEADER)
    first.discard()


def crew(workers: int = 4) -> Crew:
    return Crew(workers, emit=ignore, task="test", total=0)


def test_a_crew_does_every_piece_once_and_keeps_what_failed() -> None:
    done: list[int] = []
    works = crew()

    def piece(number: int) -> None:
        if number % 10 == 3:
            works.fail(f"file {number}", OSError(28, "No space left on device"))
        else:
            done.append(number)

    works.run((lambda number=number: piece(number)) for number in range(100))  # type: ignore[misc]
    assert sorted(done) == [number for number in range(100) if number % 10 != 3]
    assert sorted(item.name for item in works.failed) == sorted(
        f"file {number}" for number in range(3, 100, 10)
    )
    assert {item.why for item in works.failed} == {"No space left on device"}


def test_what_every_file_will_meet_ends_a_crew() -> None:
    works = crew()
    with pytest.raises(ConfigError, match="no keys"):
        works.run(iter([lambda: works.fail("a", ConfigError("no keys"))] * 10_000))


def denied(key: str) -> Exception:
    found = of_one_object("GetObject", key, "HTTP 403 AccessDenied")
    assert found is not None
    return found


def test_one_object_that_may_not_be_read_is_its_own_trouble() -> None:
    works = crew()

    def piece(number: int) -> None:
        if number % 10 == 3:
            works.fail(f"file {number}", denied(f"file {number}"))
        else:
            works.done()

    works.run((lambda number=number: piece(number)) for number in range(1000))  # type: ignore[misc]
    assert works.moved_files == 900
    assert len(works.failed) == 100


def test_a_crew_ends_if_nothing_may_be_read() -> None:
    works = crew()
    with pytest.raises(CloudError, match="GetObject of a"):
        works.run(iter([lambda: works.fail("a", denied("a"))] * 10_000))


def test_a_fault_of_ours_is_no_finished_transfer() -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        crew().run(iter([broken]))


def test_ctrl_c_ends_a_crew_with_the_next_step() -> None:
    import signal
    import threading

    works = crew()
    begun = threading.Event()

    def piece() -> None:
        if not begun.is_set():
            begun.set()
            os.kill(os.getpid(), signal.SIGINT)
        works.moved(0)

    def endless() -> Any:
        while True:
            yield piece

    with pytest.raises(Interrupted) as caught:
        works.run(endless())
    assert "same command" in caught.value.next
