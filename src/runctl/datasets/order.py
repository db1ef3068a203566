"""In which order samples come, and who gets which: arithmetic alone, so that any place is found again.

An epoch is a permutation of all samples. From a position on, its samples go to the ranks in turn, and each
rank's share is cut into batches that go to its workers in turn, as PyTorch's DataLoader collects them. So
what was consumed is one number, and the rest can be dealt to any number of ranks and workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, Protocol

import msgspec

from runctl.errors import ValidationError

Tail = Literal["keep", "drop"]
_ROUNDS = 6


class Permutation:
    """A shuffled order of `0 .. length-1` that needs no memory: a Feistel network that walks its cycles.

    The same `seed`, `epoch` and `part` give the same order everywhere.
    """

    def __init__(self, length: int, seed: int, epoch: int, *, part: int = 0) -> None:
        self.length = length
        bits = max(2, (length - 1).bit_length())
        self._half = (bits + 1) // 2
        self._mask = (1 << self._half) - 1
        text = f"{seed}\0{epoch}\0{length}" + (f"\0{part}" if part else "")
        digest = blake2b(text.encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[at : at + 8]) | 1 for at in range(0, len(digest), 8)]

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.length:
            raise IndexError(position)
        half, mask, keys = self._half, self._mask, self._keys
        while True:  # at most four tries on average: the network is up to four times as wide as the length
            left, right = position >> half, position & mask
            for key in keys:
                mixed = (right + key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
                mixed = (mixed ^ mixed >> 29) * (key | 1) & 0xFFFFFFFFFFFFFFFF
                left, right = right, left ^ (mixed >> 32 & mask)
            position = left << half | right
            if position < self.length:
                return position


class Arrangement(Protocol):
    """An order of all samples: the number of the one at each position."""

    def __getitem__(self, position: int, /) -> int: ...


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch of `samples` samples from `position` on, for `ranks` processes with `workers` workers each.

    `tail` says what becomes of the last samples where the ranks cannot have equally many: `keep` gives some
    ranks one more, `drop` leaves them out.
    """

    samples: int
    seed: int = 0
    epoch: int = 0
    position: int = 0
    shuffle: bool = True
    ranks: int = 1
    tail: Tail = "keep"

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.samples < 0 or not 0 <= self.position <= self.samples:
            raise ValidationError(
                "This is no place in a dataset",
                why=f"position {self.position} of {self.samples} samples for {self.ranks} ranks",
            )

    def share(self, rank: int) -> int:
        """How many samples a rank gets."""
        left = self.samples - self.position
        if self.tail == "drop":
            return left // self.ranks
        return (left - rank + self.ranks - 1) // self.ranks

    def after(self, consumed: int) -> int:
        """The position when every rank has consumed so many samples of its share."""
        return min(self.samples, self.position + consumed * self.ranks)

    def numbers(
        self,
        rank: int,
        *,
        batch: int = 1,
        worker: int = 0,
        workers: int = 1,
        arranged: Arrangement | None = None,
    ) -> Iterator[int]:
        """The samples of one worker of a rank, in order: every `workers`th batch of the rank's share.

        `arranged` is the epoch's order, where it is not a shuffle of all samples.
        """
        return (number for _, number in self.places(rank, batch, worker, workers, arranged))

    def places(
        self, rank: int, batch: int, worker: int, workers: int, arranged: Arrangement | None = None
    ) -> Iterator[tuple[int, int]]:
        """The same, each with its position in the epoch."""
        if not (0 <= rank < self.ranks and 0 <= worker < workers and batch > 0):
            raise ValidationError(
                "This is no worker", why=f"rank {rank} of {self.ranks}, worker {worker} of {workers}"
            )
        order = arranged or (
            Permutation(self.samples, self.seed, self.epoch) if self.shuffle else range(self.samples)
        )
        share = self.share(rank)
        for first in range(worker * batch, share, workers * batch):
            for place in range(first, min(first + batch, share)):
                position = self.position + rank + place * self.ranks
                yield position, order[position]
