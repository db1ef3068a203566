"""Shuffling a packed dataset by blocks: packs come in shuffled order, and the samples of some packs at a time
are mixed. A global shuffle would need nearly every pack before the first samples could be handed out.

Arithmetic alone, as `order`: any place of any epoch is found again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate

from runctl.datasets.order import Permutation
from runctl.datasets.packs import PackedFile, spans
from runctl.datasets.samples import Samples
from runctl.storage.entries import Entry


class Blocks:
    """Which samples lie in which pack; `mixed` packs are mixed at a time."""

    def __init__(
        self, samples: Samples, files: Sequence[PackedFile], packs: Sequence[Entry], *, mixed: int
    ) -> None:
        self.mixed = max(1, mixed)
        self.packs = max(1, len(packs))
        runs = sorted(_runs(samples, files, packs))
        self._firsts = array("Q", (first for _, _, first, _ in runs))
        counts = [0] * self.packs
        for pack, _, _, count in runs:
            counts[pack] += count
        self._counts = array("Q", counts)
        self._ends = array("Q", accumulate(count for *_, count in runs))
        self._begins = array("Q", [0, *accumulate(counts)])
        packed = "".join(pack.key for pack in packs)
        self.name = f"{blake2b(packed.encode(), digest_size=8).hexdigest()}/{self.mixed}"
        """What the order rests on beside the samples: the packs, and how many are mixed."""

    def count(self, pack: int) -> int:
        """The samples of a pack."""
        return self._counts[pack]

    def sample(self, pack: int, place: int) -> int:
        """The number of the sample at this place in a pack."""
        place += self._begins[pack]
        run = bisect_right(self._ends, place)
        return self._firsts[run] + place - (self._ends[run - 1] if run else 0)


class BlockOrder:
    """The order of one epoch: a number of a sample for each position."""

    def __init__(self, blocks: Blocks, seed: int, epoch: int) -> None:
        self._blocks, self._seed, self._epoch = blocks, seed, epoch
        self.mixed = blocks.mixed
        order = Permutation(blocks.packs, seed, epoch)
        self.packs = [order[place] for place in range(blocks.packs)]
        self._ends = list(accumulate(blocks.count(pack) for pack in self.packs))
        self._block = -1
        self._first = 0
        self._mix = Permutation(0, 0, 0)

    def __getitem__(self, position: int) -> int:
        block = self.turn(position) // self.mixed
        if block != self._block:
            self._enter(block)
        place = self._first + self._mix[position - self._first]
        turn = self.turn(place)
        return self._blocks.sample(self.packs[turn], place - self._begin(turn))

    def turn(self, position: int) -> int:
        """How many packs the samples before this position make."""
        return bisect_right(self._ends, position)

    def wanted(self, position: int) -> range:
        """The turns of the packs that are needed at this position, and of those that will be next."""
        turn, mixed = self.turn(position), self.mixed
        return range(turn // mixed * mixed, min(len(self.packs), turn + mixed + 1))

    def _begin(self, turn: int) -> int:
        return self._ends[turn - 1] if turn else 0

    def _enter(self, block: int) -> None:
        mixed = self.mixed
        self._block, self._first = block, self._begin(block * mixed)
        end = self._ends[min(len(self.packs), (block + 1) * mixed) - 1]
        self._mix = Permutation(end - self._first, self._seed, self._epoch, part=block + 1)


def _runs(
    samples: Samples, files: Sequence[PackedFile], packs: Sequence[Entry]
) -> Iterator[tuple[int, int, int, int]]:
    """Pack, offset there, first sample, samples: neighbours in one pack are one run."""
    open_run: tuple[int, int, int, int] | None = None
    for file, first, count, step in samples.of_files():
        for pack, offset, begin, some in _of_file(files[file], packs, first, count, step):
            if (
                open_run
                and (open_run[0], open_run[2] + open_run[3]) == (pack, begin)
                and offset >= open_run[1]
            ):
                open_run = (*open_run[:3], open_run[3] + some)
                continue
            if open_run:
                yield open_run
            open_run = (pack, offset, begin, some)
    if open_run:
        yield open_run


def _of_file(
    file: PackedFile, packs: Sequence[Entry], first: int, count: int, step: int
) -> Iterator[tuple[int, int, int, int]]:
    """A file's samples by the pack in which each begins."""
    if count == 1 or file.offset + file.size <= packs[file.pack].size:
        yield file.pack, file.offset, first, count
        return
    at = given = 0
    for pack, offset, length in spans(packs, file, 0, file.size):
        at += length
        until = min(count, -(-at // step))
        if until > given:
            yield pack, offset, first + given, until - given
        given = until
