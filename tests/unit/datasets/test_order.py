"""No sample twice, none missed: over ranks, workers, epochs and stops in mid-epoch."""

from __future__ import annotations

from itertools import pairwise, zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.datasets.order import Order, Permutation
from runctl.datasets.samples import Windows
from runctl.errors import ValidationError
from runctl.storage.entries import Entry


@given(length=st.integers(0, 2000), seed=st.integers(), epoch=st.integers(0, 1000))
def test_a_permutation_has_every_number_once(length: int, seed: int, epoch: int) -> None:
    order = Permutation(length, seed, epoch)
    assert sorted(order[place] for place in range(length)) == list(range(length))


def test_epochs_and_seeds_differ_and_are_the_same_again() -> None:
    def first(seed: int, epoch: int) -> list[int]:
        order = Permutation(10_000, seed, epoch)
        return [order[place] for place in range(100)]

    assert first(1, 0) == first(1, 0)
    assert len({tuple(first(seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_a_permutation_mixes() -> None:
    """Neighbours go far apart, and each tenth of the order holds samples of each tenth of the dataset."""
    order = Permutation(10_000, 3, 1)
    numbers = [order[place] for place in range(10_000)]
    distance = sum(abs(one - other) for one, other in pairwise(numbers)) / 9_999
    assert 3_100 < distance < 3_560  # a third of the length
    tenths = [[0] * 10 for _ in range(10)]
    for place, number in enumerate(numbers):
        tenths[place // 1000][number // 1000] += 1
    assert all(60 <= count <= 145 for row in tenths for count in row)


def loaded(order: Order, rank: int, batch: int, workers: int) -> list[list[int]]:
    """The batches of a rank in the order in which PyTorch's DataLoader hands them out."""
    lanes: list[list[list[int]]] = []
    for worker in range(workers):
        numbers = list(order.numbers(rank, batch=batch, worker=worker, workers=workers))
        lanes.append([numbers[at : at + batch] for at in range(0, len(numbers), batch)])
    return [one for turn in zip_longest(*lanes) for one in turn if one is not None]


@given(st.data())
def test_an_epoch_that_is_stopped_and_dealt_anew_has_every_sample_once(data: st.DataObject) -> None:
    samples = data.draw(st.integers(0, 400), "samples")
    seed, shuffle = data.draw(st.integers(0, 9), "seed"), data.draw(st.booleans(), "shuffle")
    position, seen = 0, list[int]()
    for _ in range(data.draw(st.integers(0, 3), "stops")):
        ranks, batch, workers = (data.draw(st.integers(1, 5)) for _ in range(3))
        order = Order(samples=samples, seed=seed, shuffle=shuffle, position=position, ranks=ranks)
        batches = [loaded(order, rank, batch, workers) for rank in range(ranks)]
        # All ranks stop after the same step, as they do in training; only full steps are common to all.
        full = min(sum(len(one) == batch for one in of_rank) for of_rank in batches)
        steps = data.draw(st.integers(0, full), "steps")
        seen += [number for of_rank in batches for one in of_rank[:steps] for number in one]
        position = order.after(steps * batch)
    ranks, batch, workers = (data.draw(st.integers(1, 5)) for _ in range(3))
    order = Order(samples=samples, seed=seed, shuffle=shuffle, position=position, ranks=ranks)
    for rank in range(ranks):
        assert order.share(rank) == sum(len(one) for one in loaded(order, rank, batch, workers))
        seen += [number for one in loaded(order, rank, batch, workers) for number in one]
    assert sorted(seen) == list(range(samples))


@given(
    samples=st.integers(0, 200), ranks=st.integers(1, 6), workers=st.integers(1, 4), other=st.integers(1, 4)
)
def test_the_order_of_a_rank_does_not_depend_on_its_workers(
    samples: int, ranks: int, workers: int, other: int
) -> None:
    order = Order(samples=samples, seed=7, ranks=ranks)
    for rank in range(ranks):
        assert loaded(order, rank, 4, workers) == loaded(order, rank, 4, other)


@given(samples=st.integers(0, 200), position=st.integers(0, 200), ranks=st.integers(1, 6))
def test_with_drop_all_ranks_have_equally_many(samples: int, position: int, ranks: int) -> None:
    order = Order(samples=samples, position=min(position, samples), ranks=ranks, tail="drop")
    found = [list(order.numbers(rank)) for rank in range(ranks)]
    assert len({len(numbers) for numbers in found}) == 1
    left_out = samples - order.position - sum(map(len, found))
    assert 0 <= left_out < ranks
    flat = [number for numbers in found for number in numbers]
    assert len(set(flat)) == len(flat)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError):
        Order(samples=3, position=4)
    with pytest.raises(ValidationError):
        list(Order(samples=3, ranks=2).numbers(2))
    with pytest.raises(ValidationError):
        list(Order(samples=3).numbers(0, worker=1, workers=1))
    with pytest.raises(ValidationError):
        Windows([], 0)


@given(sizes=st.lists(st.integers(0, 50)), length=st.integers(1, 20))
def test_windows_cover_each_file_up_to_its_rest(sizes: list[int], length: int) -> None:
    windows = Windows([Entry(str(number), size, 0) for number, size in enumerate(sizes)], length)
    expected = [
        (number, start, length)
        for number, size in enumerate(sizes)
        for start in range(0, size - length + 1, length)
    ]
    assert [tuple(windows[number]) for number in range(len(windows))] == expected
    with pytest.raises(IndexError):
        windows[len(windows)]
