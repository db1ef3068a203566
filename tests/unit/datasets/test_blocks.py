"""Shuffling by blocks of packs: no sample twice, none missed, and few packs at a time."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from runctl.datasets.blocks import BlockOrder, Blocks
from runctl.datasets.order import Order
from runctl.datasets.packs import Pack, PackedFile, Planned, lay_out, spans
from runctl.datasets.samples import Samples, WholeFiles, Windows
from runctl.storage.entries import Entry


def packed(sizes: list[int], pack_size: int, mix: int | None = None) -> tuple[list[PackedFile], list[Pack]]:
    """Files of these sizes in packs, as the index tells of them."""
    files = [Entry(f"{number:03}", size, 0) for number, size in enumerate(sizes)]
    order = list(range(len(files)))
    if mix is not None:
        random.Random(mix).shuffle(order)
    planned = lay_out(files, order, pack_size)
    places: dict[int, tuple[int, int]] = {}
    for pack in planned:
        at = 0
        for piece in pack.pieces:
            places.setdefault(piece.file, (pack.number, at))
            at += piece.length
    found = [
        PackedFile(file.key, file.size, 0, "", *places.get(number, (0, 0)))
        for number, file in enumerate(files)
    ]
    return found, [_pack(one) for one in planned]


def _pack(planned: Planned) -> Pack:
    return Pack(f"{planned.number:06}", planned.size, 0)


def cut(files: list[PackedFile], window: int | None) -> Samples:
    return WholeFiles(files) if window is None else Windows(files, window)


SETS = {
    "sizes": st.lists(st.integers(0, 40), min_size=1, max_size=80),
    "pack_size": st.integers(1, 60),
    "mix": st.none() | st.integers(0, 3),
    "window": st.none() | st.integers(1, 9),
    "mixed": st.integers(1, 6),
}


@given(**SETS, seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_has_every_sample_once(
    sizes: list[int], pack_size: int, mix: int | None, window: int | None, mixed: int, seed: int, epoch: int
) -> None:
    files, packs = packed(sizes, pack_size, mix)
    samples = cut(files, window)
    blocks = Blocks(samples, files, packs, mixed=mixed)
    order = BlockOrder(blocks, seed, epoch)
    numbers = [order[position] for position in range(len(samples))]
    assert sorted(numbers) == list(range(len(samples)))
    again = BlockOrder(blocks, seed, epoch)
    assert [again[position] for position in reversed(range(len(samples)))] == numbers[::-1]


@given(**SETS, data=st.data())
def test_a_stopped_epoch_goes_on_at_any_position_with_other_ranks_and_workers(
    sizes: list[int], pack_size: int, mix: int | None, window: int | None, mixed: int, data: st.DataObject
) -> None:
    files, packs = packed(sizes, pack_size, mix)
    samples = cut(files, window)
    arranged = BlockOrder(Blocks(samples, files, packs, mixed=mixed), 5, 1)
    stop = data.draw(st.integers(0, len(samples)), "position")
    seen = [arranged[position] for position in range(stop)]
    ranks, workers, batch = (data.draw(st.integers(1, 4)) for _ in range(3))
    order = Order(samples=len(samples), seed=5, epoch=1, position=stop, ranks=ranks)
    for rank in range(ranks):
        for worker in range(workers):
            seen += [number for _, number in order.places(rank, batch, worker, workers, arranged)]
    assert sorted(seen) == list(range(len(samples)))


@given(**SETS)
def test_a_block_needs_its_own_packs_alone_and_they_are_asked_for_before(
    sizes: list[int], pack_size: int, mix: int | None, window: int | None, mixed: int
) -> None:
    files, packs = packed(sizes, pack_size, mix)
    samples = cut(files, window)
    order = BlockOrder(Blocks(samples, files, packs, mixed=mixed), 1, 2)
    asked: set[int] = set()
    for position in range(len(samples)):
        file, start, _ = samples[order[position]]
        length = 0 if window is None else 1  # a whole file counts for the pack in which it begins
        first = next(spans(packs, files[file], start, length), (files[file].pack, 0, 0))[0]
        turn = order.packs.index(first)
        block = order.turn(position) // mixed
        assert turn // mixed == block
        wanted = order.wanted(position)
        asked.update(wanted)
        assert turn in asked
        assert len(wanted) <= 2 * mixed + 1


def test_epochs_differ_and_packs_are_mixed() -> None:
    files, packs = packed([10] * 1000, 100)
    samples = WholeFiles(files)
    blocks = Blocks(samples, files, packs, mixed=5)
    epochs = [[BlockOrder(blocks, 0, epoch)[place] for place in range(1000)] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({number // 10 for number in epochs[0][:50]}) == 5  # a block of five packs
    assert len({number // 10 for number in epochs[0][:10]}) > 2
    assert blocks.name != Blocks(samples, files, packs, mixed=6).name
