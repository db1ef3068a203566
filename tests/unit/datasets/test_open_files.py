"""A file of a dataset, read and sought in: always its bytes, and who reads on does not wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runctl.datasets import dataset as datasets
from runctl.datasets.dataset import Dataset
from runctl.storage.entries import Entry

MIB = 1 << 20
DATA = random.Random(1).randbytes(9 * MIB + 77)


class Noting:
    """A source of one file that notes which bytes it was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        assert 0 < length <= entry.size - start
        self.asked.append((start, length))
        return lambda: self.data[start : start + length]


def opened(data: bytes) -> tuple[Noting, Any]:
    source: Any = Noting(data)
    return source, Dataset("here", "direct", source, [Entry("file", len(data), 0)]).open("file")


@given(st.lists(st.tuples(st.integers(0, 9 * MIB + 200), st.integers(-1, 3 * MIB)), max_size=6))
def test_whatever_is_sought_and_read_is_what_the_file_holds(turns: list[tuple[int, int]]) -> None:
    _, file = opened(DATA)
    for at, length in turns:
        file.seek(at)
        assert file.read(length) == (DATA[at:] if length < 0 else DATA[at : at + length])
        assert file.tell() == at + len(DATA[at:] if length < 0 else DATA[at : at + length])


def test_who_reads_on_has_the_next_pieces_on_their_way_and_none_comes_twice() -> None:
    source, file = opened(DATA)
    assert file.read(10) == DATA[:10]
    first = sum(length for _, length in source.asked)
    assert first > datasets._BUFFER  # more than was needed
    assert first + datasets._PIECE < len(DATA)  # and not all of it: perhaps nobody reads on
    assert file.read() == DATA[10:]
    asked = sorted(source.asked)
    assert [start for start, _ in asked] == [0, *(start + length for start, length in asked[:-1])]
    assert sum(length for _, length in asked) == len(DATA)


def test_who_jumps_about_gets_what_is_there_and_nothing_more() -> None:
    source, file = opened(DATA)
    for at in (8 * MIB, 3 * MIB, 6 * MIB):
        file.seek(at)
        file.read(10)
    assert source.asked == [(8 * MIB, MIB), (3 * MIB, MIB), (6 * MIB, MIB)]


def test_an_empty_file_asks_for_nothing() -> None:
    source, file = opened(b"")
    assert file.read() == b""
    assert source.asked == []
