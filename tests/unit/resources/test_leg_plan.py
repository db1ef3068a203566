"""What a transfer with an instance decides to move, from two listings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.errors import NotFound, ValidationError
from runctl.resources import leg_plan
from runctl.resources.leg_plan import LegOptions, Pair, Partial, Side, SideFile, decide
from runctl.resources.sides import names
from runctl.storage.listing import LeftOut

MIB = leg_plan.MIB
DAY = 86_400 * 10**9


def file(key: str, size: int = 5, modified: int = DAY, **more: object) -> SideFile:
    return SideFile(key, size, modified, **more)  # type: ignore[arg-type]


def folder(*files: SideFile, **more: object) -> Side:
    return Side(kind="folder", files=files, **more)  # type: ignore[arg-type]


def moved(plan: leg_plan.LegPlan) -> list[str]:
    return sorted(pair.source.key for pair in plan.pairs)


def test_what_is_equal_by_size_and_time_stays() -> None:
    source = folder(file("same"), file("longer", 6), file("later", modified=DAY + 10**9), file("new"))
    there = folder(file("same"), file("longer"), file("later"))
    plan = decide(source, there, LegOptions())
    assert moved(plan) == ["later", "longer", "new"]
    assert plan.equal == 1


def test_an_object_is_equal_that_was_written_after_its_file() -> None:
    source = folder(file("old"), file("changed", modified=3 * DAY))
    there = folder(file("old", modified=2 * DAY), file("changed", modified=2 * DAY))
    assert moved(decide(source, there, LegOptions(), to_s3=True)) == ["changed"]


def test_a_checksum_beats_the_time() -> None:
    source = folder(file("touched", sha256="a"), file("forged", sha256="b"))
    there = folder(file("touched", modified=9 * DAY, sha256="a"), file("forged", sha256="c"))
    assert moved(decide(source, there, LegOptions(checksum=True))) == ["forged"]


def test_patterns_bound_what_moves_and_what_is_deleted() -> None:
    source = folder(file("a.txt"), file("b.bin"), file("raw/c.txt"))
    there = folder(file("x.txt"), file("x.bin"))
    plan = decide(source, there, LegOptions(include=("*.txt",), exclude=("raw/",), delete=True))
    assert moved(plan) == ["a.txt"]
    assert plan.delete == ("x.txt",)


def test_what_the_source_could_not_read_is_not_deleted() -> None:
    source = folder(file("a"), left_out=(LeftOut("locked", "it cannot be read"),))
    plan = decide(source, folder(file("locked"), file("gone")), LegOptions(delete=True))
    assert plan.delete == ("gone",)


def test_a_single_file_deletes_nothing() -> None:
    source = Side(kind="file", files=(file("a", 6),))
    plan = decide(source, folder(file("b"), file("c")), LegOptions(delete=True), rename="b")
    assert (plan.pairs[0].target, plan.delete) == ("b", ())


def test_credentials_stay_unless_they_are_named() -> None:
    source = folder(file(".env"), file("sub/id_rsa"), file("data.csv"))
    plan = decide(source, folder(), LegOptions(secrets=("id_rsa",)), from_here=True)
    assert moved(plan) == ["data.csv", "sub/id_rsa"]
    assert [item.name for item in plan.left_out] == [".env"]
    assert moved(decide(source, folder(), LegOptions())) == [".env", "data.csv", "sub/id_rsa"]


@pytest.mark.parametrize("key", ["../up", "/root", "a//b", "a/./b", "tab\there", "x" * 256])
def test_hostile_keys_are_left_out(key: str) -> None:
    plan = decide(folder(file(key), file("good")), folder(), LegOptions())
    assert moved(plan) == ["good"]
    assert [item.name for item in plan.left_out] == [key]


def test_only_what_is_missing_of_a_file_is_sent() -> None:
    big = file("big", 40 * MIB)
    partial = Partial(".p", "big", 40 * MIB, DAY, ((16 * MIB, 16 * MIB),))
    plan = decide(folder(big), Side(kind="none", partials=(partial,)), LegOptions())
    assert leg_plan.slices(plan.pairs[0]) == [(0, 16 * MIB), (32 * MIB, 8 * MIB)]
    assert (plan.size, plan.stale) == (24 * MIB, ())


def test_parts_of_another_state_are_thrown_away() -> None:
    partials = (
        Partial(".old", "big", 39 * MIB, DAY, ((0, 16 * MIB),)),
        Partial(".forgotten", "", 0, 0, ()),
        Partial(".others", "else", 7, DAY, ()),
    )
    plan = decide(folder(file("big", 40 * MIB)), folder(partials=partials), LegOptions())
    assert (plan.pairs[0].done, plan.stale) == ((), (".old", ".forgotten"))


@given(
    st.lists(st.integers(0, 60 * MIB) | st.sampled_from([0, 16 * MIB, 16 * MIB + 1]), max_size=40),
    st.booleans(),
)
def test_every_byte_travels_once_and_pieces_stay_small(sizes: list[int], packed: bool) -> None:
    pairs = [Pair(file(f"f{number}", size), f"f{number}") for number, size in enumerate(sizes)]
    found = leg_plan.parcels(pairs, packed=packed)
    reached = [0] * len(sizes)
    seen: set[int] = set()
    for parcel in found:
        assert sum(length for _, _, length in parcel.slices) <= leg_plan.PIECE
        assert packed or len(parcel.slices) == 1
        for number, offset, length in parcel.slices:
            assert offset == reached[number]
            reached[number] += length
            seen.add(number)
    assert reached == sizes
    assert seen == set(range(len(sizes)))
    assert len({parcel.name for parcel in found}) == len(found)


@given(st.integers(1, 50 * 1024**4))
def test_no_file_has_more_parts_than_s3_takes(size: int) -> None:
    piece = leg_plan.piece_of(size)
    assert -(-size // piece) <= 10_000
    assert 5 * MIB <= piece <= 5 * 1024**3 or size > 40 * 1024**4


def test_a_parcels_name_does_not_depend_on_what_else_moves() -> None:
    """What was staged before a crash is found again when fewer files are left to move."""
    big, other = Pair(file("big", 40 * MIB), "big"), Pair(file("other", 20 * MIB), "other")
    alone = {parcel.name for parcel in leg_plan.parcels([big], packed=True)}
    assert alone < {parcel.name for parcel in leg_plan.parcels([other, big], packed=True)}
    changed = Pair(file("big", 40 * MIB, DAY + 1), "big")
    assert not alone & {parcel.name for parcel in leg_plan.parcels([changed], packed=True)}


def test_both_sides_must_know_how_to_pack() -> None:
    assert leg_plan.most_shared((["zstd", "gzip"], ["zstd", "gzip"])) == "zstd"
    assert leg_plan.most_shared((["zstd", "gzip"], ["gzip"])) == "gzip"
    assert leg_plan.most_shared((["zstd"], [])) == ""


ONE = Side(kind="file", files=(file("one"),))


@pytest.mark.parametrize(
    ("source", "wanted", "kind", "name"),
    [
        (ONE, "i-1:/there", "none", "there"),
        (ONE, "i-1:/there", "file", "there"),
        (ONE, "i-1:/there", "folder", "one"),
        (ONE, "i-1:/there/", "none", "one"),
        (ONE, "s3://bucket/", "none", "one"),
        (folder(file("one")), "i-1:/there", "folder", None),
        (folder(), "i-1:/there", "none", None),
    ],
)
def test_what_a_single_file_is_called(source: Side, wanted: str, kind: str, name: str | None) -> None:
    assert names(source, "/from/one", wanted, Side(kind=kind)) == name


@pytest.mark.parametrize(
    ("source", "there", "error"),
    [
        (Side(kind="none"), "none", NotFound),
        (Side(kind="other"), "none", ValidationError),
        (folder(file("one")), "file", ValidationError),
    ],
)
def test_what_cannot_be_copied(source: Side, there: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        names(source, "/from", "i-1:/there", Side(kind=there))


def test_many_files_go_in_turns_and_deletions_wait_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_plan, "MOST_AT_ONCE", 3)
    pairs = tuple(Pair(file(f"{number}"), f"{number}") for number in range(7))
    whole = leg_plan.LegPlan(pairs=pairs, equal=1, delete=("old",), stale=("torn",), left_out=())
    turns = list(leg_plan.turns(whole))
    assert [len(turn.pairs) for turn in turns] == [3, 3, 1]
    assert [pair for turn in turns for pair in turn.pairs] == list(pairs)
    assert [turn.delete for turn in turns] == [(), (), ("old",)]
    assert [turn.stale for turn in turns] == [("torn",), (), ()]
    (only,) = leg_plan.turns(leg_plan.LegPlan(pairs=(), equal=0, delete=("old",), stale=(), left_out=()))
    assert only.delete == ("old",)
