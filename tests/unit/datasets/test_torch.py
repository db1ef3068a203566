"""The same samples through PyTorch's DataLoader: with workers, ranks, and a stop in mid-epoch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from runctl import datasets
from runctl.datasets import packing
from runctl.datasets.dataset import Dataset
from runctl.datasets.packs import lay_out
from runctl.errors import ValidationError
from runctl.storage.access import S3Access
from runctl.storage.location import LocalPath

pytest.importorskip("torch", reason="torch is not installed: pip install 'runctl[torch]'")

from runctl.datasets.torch import IterableDataset, Loader, MapDataset

FILES = {f"{number:03}": random.Random(number).randbytes(300 + number) for number in range(50)}


def number_of(name: str, data: bytes) -> int:
    assert FILES[name] == data
    return int(name)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    return datasets.open(tmp_path)


def numbers(batches: Any) -> list[int]:
    return [int(number) for batch in batches for number in batch]


def test_map_style(dataset: Dataset) -> None:
    from torch.utils.data import DataLoader

    samples = MapDataset(dataset, number_of)
    assert (len(samples), samples[7]) == (50, 7)
    assert MapDataset(dataset)[3] == ("003", FILES["003"])
    assert numbers(DataLoader(samples, batch_size=7, num_workers=2)) == list(range(50))
    windows = MapDataset(dataset, window=100)
    assert [windows[number][1] for number in range(4)] == [
        FILES["000"][:100],
        FILES["000"][100:200],
        FILES["000"][200:300],
        FILES["001"][:100],
    ]


def test_iterable_with_a_data_loader_of_its_own(dataset: Dataset) -> None:
    from torch.utils.data import DataLoader

    found = [
        numbers(
            DataLoader(
                IterableDataset(dataset, number_of, batch_size=4, rank=rank, ranks=3),
                batch_size=4,
                num_workers=2,
            )
        )
        for rank in range(3)
    ]
    assert sorted(number for of_rank in found for number in of_rank) == list(range(50))
    assert {len(of_rank) for of_rank in found} == {16, 17}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_epoch_goes_on_with_other_workers_and_ranks(dataset: Dataset, workers: int) -> None:
    seen: list[int] = []
    states: list[dict[str, Any]] = []
    for rank in range(2):
        loader = Loader(dataset, number_of, batch_size=3, seed=5, rank=rank, ranks=2, num_workers=workers)
        assert len(loader) == 9
        for step, batch in enumerate(loader, 1):
            seen += numbers([batch])
            if step == 4:
                break
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert states[0]["position"] == 24
    for rank in range(3):
        loader = Loader(dataset, number_of, batch_size=2, seed=5, rank=rank, ranks=3, num_workers=2 - workers)
        loader.load_state_dict(states[0])
        assert loader.epoch == 0
        seen += numbers(loader)
        assert loader.epoch == 1
    assert sorted(seen) == list(range(50))


def test_epochs_follow_each_other_in_other_orders(dataset: Dataset) -> None:
    loader = Loader(dataset, number_of, batch_size=8)
    epochs = [numbers(loader) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = Loader(dataset, number_of, batch_size=8)
    again.set_epoch(2)
    assert numbers(again) == epochs[2]


def test_an_epoch_goes_on_after_a_break(dataset: Dataset) -> None:
    loader = Loader(dataset, number_of, batch_size=8)
    first = numbers([next(iter(loader))])
    assert sorted(first + numbers(loader)) == list(range(50))


def test_another_dataset_or_order_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    loader = Loader(dataset, number_of, seed=1)
    state = loader.state_dict()
    with pytest.raises(ValidationError, match="checkpoint"):
        Loader(dataset, number_of, seed=2).load_state_dict(state)
    (tmp_path / "000").write_bytes(b"grown")
    with pytest.raises(ValidationError, match="checkpoint"):
        Loader(datasets.open(tmp_path), number_of, seed=1).load_state_dict(state)
    with pytest.raises(ValidationError, match="drop_last"):
        Loader(dataset, drop_last=True)


@pytest.fixture
def packed(tmp_path: Path) -> Dataset:
    source = tmp_path / "set"
    source.mkdir()
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    plan = packing.plan(LocalPath(source), LocalPath(tmp_path / "packed"), packing.PackOptions(), S3Access())
    plan.packs = lay_out(plan.source.entries, range(50), 2000)
    packing.carry_out(plan)
    return datasets.open(tmp_path / "packed")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_packed_dataset_is_shuffled_by_blocks_and_gone_on_with(packed: Dataset, workers: int) -> None:
    loader = Loader(packed, number_of, batch_size=4, seed=3, mix_bytes=6000, num_workers=workers)
    seen: list[int] = []
    for step, batch in enumerate(loader, 1):
        seen += numbers([batch])
        if step == 3:
            break
    assert len({number // 6 for number in seen}) < 6, "of more packs than are mixed at a time"
    state = loader.state_dict()
    for rank in range(2):
        other = Loader(packed, number_of, seed=3, mix_bytes=6000, rank=rank, ranks=2, num_workers=2 - workers)
        other.load_state_dict(state)
        seen += numbers(other)
    assert sorted(seen) == list(range(50))


def test_another_packing_or_mixing_is_another_order(packed: Dataset, tmp_path: Path) -> None:
    state = Loader(packed, number_of, mix_bytes=6000).state_dict()
    Loader(packed, number_of, mix_bytes=6000).load_state_dict(state)
    for other in (packed, datasets.open(tmp_path / "set")):
        with pytest.raises(ValidationError, match="checkpoint"):
            Loader(other, number_of).load_state_dict(state)
    plain = Loader(datasets.open(tmp_path / "set"), number_of)
    before = {name: value for name, value in plain.state_dict().items() if name != "blocks"}
    plain.load_state_dict(before)  # of a version that knew no packs
    in_order = Loader(packed, number_of, shuffle=False).state_dict()
    Loader(datasets.open(tmp_path / "set"), number_of, shuffle=False).load_state_dict(in_order)
