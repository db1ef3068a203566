"""What a dataset is cut into for training: whole files, or windows of a fixed length in big files."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from runctl.errors import ValidationError
from runctl.storage.entries import Entry


class Sample(NamedTuple):
    """`length` bytes from `start` on of the dataset's file number `file`."""

    file: int
    start: int
    length: int


class Samples(Protocol):
    """Samples by number, from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...

    def of_files(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each file that has samples: its number, its first sample, how many, and bytes between two."""
        ...


class WholeFiles:
    """Every file is a sample."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._sizes = array("Q", (entry.size for entry in entries))

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, number: int) -> Sample:
        return Sample(number, 0, self._sizes[number])

    def of_files(self) -> Iterator[tuple[int, int, int, int]]:
        return ((number, number, 1, size) for number, size in enumerate(self._sizes))


class Windows:
    """Every file is cut into windows of `length` bytes; what is left over at its end is no sample."""

    def __init__(self, entries: Sequence[Entry], length: int) -> None:
        if length <= 0:
            raise ValidationError("A window needs a length", why=f"{length} bytes are none")
        self.length = length
        self._ends = array("Q", accumulate(entry.size // length for entry in entries))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(number)
        file = bisect_right(self._ends, number)
        before = self._ends[file - 1] if file else 0
        return Sample(file, (number - before) * self.length, self.length)

    def of_files(self) -> Iterator[tuple[int, int, int, int]]:
        first = 0
        for file, end in enumerate(self._ends):
            if end > first:
                yield file, first, end - first, self.length
            first = end
