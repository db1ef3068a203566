"""Small files of one object come in few requests, each with its own bytes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from runctl.agent import packs
from runctl.agent.snapshot import Entry
from runctl.errors import CloudError
from runctl.jobs import spans

LAID = st.lists(st.tuples(st.integers(0, 3), st.integers(0, packs.LARGEST + 9), st.booleans()), max_size=40)


def entries_of(laid: list[tuple[int, int, bool]], far: int) -> list[Entry]:
    """Files one after the other in a few packs, some of them objects of their own."""
    ends = [0, 0, 0, 0]
    found: list[Entry] = []
    for number, (pack, size, is_alone) in enumerate(laid):
        at = f"000001-a/.packs/{pack:016x}-{1 << 31}/{ends[pack]}"
        ends[pack] += size + far
        alone = f"000001-a/work/{number}"
        found.append(Entry("work", str(number), "file", size, at=alone if is_alone else at))
    return found


@given(LAID, st.sampled_from([0, 1, 1 << 20]))
def test_each_file_is_read_once_and_no_request_is_larger_than_a_pack(
    laid: list[tuple[int, int, bool]], far: int
) -> None:
    entries = entries_of(laid, far)
    groups = spans.spans(entries)
    assert sorted(number for group in groups for number in group) == list(range(len(entries)))
    for group in groups:
        if len(group) > 1:
            places = [packs.inside(entries[number].at) for number in group]
            assert len({place.pack for place in places if place}) == 1
            starts = [place.offset for place in places if place]
            ends = [start + entries[number].size for start, number in zip(starts, group, strict=True)]
            assert max(ends) - min(starts) <= packs.LARGEST


class Object:
    """One object, that counts what is asked of it."""

    def __init__(self, data: bytes, *, refuses: int = 0) -> None:
        self.data = data
        self.refuses = refuses
        self.asked: list[tuple[int, int]] = []

    def read_range(self, _key: str, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        if length > 100 and self.refuses:
            raise CloudError("away", service="s3", operation="GetObject", code="SlowDown")
        return self.data[start : start + length]


def files_in(data: bytes) -> list[Entry]:
    places = range(0, len(data), 10)
    return [
        Entry("work", str(at), "file", 10, at=f"000001-a/.packs/{7:016x}-{len(data)}/{at}") for at in places
    ]


def test_files_beside_each_other_come_with_one_request() -> None:
    data = random.Random(1).randbytes(1000)
    for refuses, requests in ((0, 1), (1, 101)):
        store = Object(data, refuses=refuses)
        entries = files_in(data)
        span = spans.span(store, "pack", entries)  # type: ignore[arg-type]
        for number, _ in enumerate(entries):
            assert span.read_range("pack", number * 10, 10) == data[number * 10 :][:10]
        assert len(store.asked) == requests
