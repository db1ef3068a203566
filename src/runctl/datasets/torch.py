"""Datasets for PyTorch: map-style, iterable, and a loader that goes on where it was stopped.

Needs `pip install 'runctl[torch]'`.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch import distributed
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchIterableDataset

from runctl.datasets.dataset import Dataset
from runctl.datasets.order import Order, Tail
from runctl.datasets.samples import Samples, WholeFiles, Windows
from runctl.errors import ValidationError

Transform = Callable[[str, bytes], Any]
"""Makes a sample of a file's name and bytes; runs in the worker."""

_OURS = {"sampler", "batch_sampler", "drop_last", "persistent_workers", "in_order"}
"""Arguments of a DataLoader that a Loader sets itself."""


class MapDataset(TorchDataset):
    """Samples by number: whole files, or windows of `window` bytes. A batch is read at once.

    Without `transform` a sample is the name and the bytes.
    """

    def __init__(
        self, dataset: Dataset, transform: Transform | None = None, *, window: int | None = None
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.samples: Samples = (
            WholeFiles(dataset.entries) if window is None else Windows(dataset.entries, window)
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return list(self.read(iter(numbers)))

    def read(self, numbers: Iterator[int]) -> Iterator[Any]:
        """The samples of these numbers in this order; the next ones are read meanwhile."""
        entries, transform, names = self.dataset.entries, self.transform, deque[str]()

        def wanted() -> Iterator[Any]:
            for number in numbers:
                sample = self.samples[number]
                names.append(entries[sample.file].key)
                yield sample

        for data in self.dataset.fetch(wanted()):
            name = names.popleft()
            yield transform(name, data) if transform else (name, data)


class IterableDataset(TorchIterableDataset):
    """The samples of one rank, dealt to its workers in batches, as a DataLoader with `batch_size` takes them.

    `rank` and `ranks` are those of `torch.distributed` where it is initialised. Every `Loader` of it begins
    at `epoch` and `position`, which `Loader` keeps.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform | None = None,
        *,
        batch_size: int = 1,
        window: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        tail: Tail = "keep",
    ) -> None:
        own_rank, all_ranks = _place_among_ranks()
        self.samples = MapDataset(dataset, transform, window=window)
        self.batch_size = batch_size
        self.shuffle, self.seed = shuffle, seed
        self.tail: Tail = tail
        self.rank = own_rank if rank is None else rank
        self.ranks = all_ranks if ranks is None else ranks
        self.epoch = self.position = 0

    @property
    def order(self) -> Order:
        """What is left of the epoch."""
        return Order(
            samples=len(self.samples),
            seed=self.seed,
            epoch=self.epoch,
            position=self.position,
            shuffle=self.shuffle,
            ranks=self.ranks,
            tail=self.tail,
        )

    def __len__(self) -> int:
        return self.order.share(self.rank)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        numbers = self.order.numbers(self.rank, batch=self.batch_size, worker=worker, workers=workers)
        return self.samples.read(numbers)


class Loader:
    """A DataLoader whose place in mid-epoch can be saved: no sample comes twice, none is missed.

    Iterating gives what is left of the epoch; after its end, it gives the next one. `state_dict` says what
    was handed out, not what workers have read ahead. It is the same number on every rank after the same
    step, and may be loaded by any number of ranks and workers. With more than one rank use `tail="drop"`
    where all of them must take equally many steps. Other arguments are the DataLoader's own.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform | None = None,
        *,
        batch_size: int = 1,
        window: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        tail: Tail = "keep",
        **options: Any,
    ) -> None:
        if refused := _OURS & set(options):
            raise ValidationError(
                f"Loader takes no {min(refused)}", why="it deals the samples itself, anew each epoch"
            )
        self.dataset = IterableDataset(
            dataset,
            transform,
            batch_size=batch_size,
            window=window,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            ranks=ranks,
            tail=tail,
        )
        self._loader: Any = DataLoader(self.dataset, batch_size=batch_size, **options)
        self._position = 0

    def __len__(self) -> int:
        """Batches that are left of the epoch."""
        return (len(self.dataset) + self.dataset.batch_size - 1) // self.dataset.batch_size

    def __iter__(self) -> Iterator[Any]:
        self.dataset.position = self._position
        order = self.dataset.order
        share, consumed = order.share(self.dataset.rank), 0
        for batch in self._loader:
            consumed = min(share, consumed + self.dataset.batch_size)
            self._position = order.after(consumed)
            yield batch
        self.set_epoch(self.dataset.epoch + 1)

    @property
    def epoch(self) -> int:
        return self.dataset.epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch at its first sample with the next iteration."""
        self.dataset.epoch, self.dataset.position, self._position = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where training is, for a checkpoint."""
        return {
            "epoch": self.dataset.epoch,
            "position": self._position,
            "seed": self.dataset.seed,
            "shuffle": self.dataset.shuffle,
            "samples": len(self.dataset.samples),
            "layout": self.dataset.samples.dataset.layout,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there with the next iteration. Raises ValidationError where the samples are other ones."""
        for name, now in self.state_dict().items():
            if name not in {"epoch", "position"} and state[name] != now:
                raise ValidationError(
                    "The dataset or its order is not that of the checkpoint",
                    why=f"{name} is {now}, and was {state[name]}",
                    next="open what the checkpoint was trained on, or begin the epoch anew with set_epoch",
                )
        self.set_epoch(state["epoch"])
        self._position = self.dataset.position = state["position"]


def _place_among_ranks() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
