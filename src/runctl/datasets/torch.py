"""Datasets for PyTorch: map-style, iterable, and a loader that goes on where it was stopped.

Needs `pip install 'runctl[torch]'`.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import distributed
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchIterableDataset

from runctl.datasets.blocks import BlockOrder, Blocks
from runctl.datasets.dataset import Dataset
from runctl.datasets.order import Order, Tail
from runctl.datasets.packed import Packed
from runctl.datasets.packs import PackedFile
from runctl.datasets.samples import Samples, WholeFiles, Windows
from runctl.errors import ValidationError

Transform = Callable[[str, bytes], Any]
"""Makes a sample of a file's name and bytes; runs in the worker."""

MIX = 256 << 20
"""Bytes of a packed dataset that are mixed at a time."""
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

    def blocks(self, mix_bytes: int) -> Blocks | None:
        """How a packed dataset is shuffled, None for one that is not packed."""
        source = self.dataset.source
        if not isinstance(source, Packed):
            return None
        largest = max((pack.size for pack in source.packs), default=1)
        files = cast("tuple[PackedFile, ...]", self.dataset.entries)
        return Blocks(self.samples, files, source.packs, mixed=mix_bytes // largest)

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
    at `epoch` and `position`, which `Loader` keeps. A packed dataset is shuffled by blocks: packs come in
    shuffled order, and the samples of about `mix_bytes` of them are mixed at a time.
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
        mix_bytes: int = MIX,
    ) -> None:
        own_rank, all_ranks = _place_among_ranks()
        self.samples = MapDataset(dataset, transform, window=window)
        self.batch_size = batch_size
        self.shuffle, self.seed = shuffle, seed
        self.tail: Tail = tail
        self.rank = own_rank if rank is None else rank
        self.ranks = all_ranks if ranks is None else ranks
        self.epoch = self.position = 0
        self.blocks = self.samples.blocks(mix_bytes) if shuffle else None

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
        if self.blocks is None:
            numbers = self.order.numbers(self.rank, batch=self.batch_size, worker=worker, workers=workers)
            return self.samples.read(numbers)
        arranged = BlockOrder(self.blocks, self.seed, self.epoch)
        places = self.order.places(self.rank, self.batch_size, worker, workers, arranged)
        return self.samples.read(self._with_packs(places, arranged, worker, workers))

    def _with_packs(
        self, places: Iterator[tuple[int, int]], arranged: BlockOrder, worker: int, workers: int
    ) -> Iterator[int]:
        """The samples' numbers; the next packs are fetched meanwhile, each by one of the workers."""
        source = self.samples.dataset.source
        assert isinstance(source, Packed)  # noqa: S101
        roomy = source.has_room(2 * arranged.mixed + 1)  # else the next packs would drive out the present
        begun = -1
        for position, number in places:
            wanted = arranged.wanted(position)
            for turn in range(max(begun, wanted.start), wanted.stop):
                if turn % workers == worker and roomy:
                    source.ahead(arranged.packs[turn])
            begun = wanted.stop
            yield number


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
        mix_bytes: int = MIX,
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
            mix_bytes=mix_bytes,
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
            "blocks": self.dataset.blocks.name if self.dataset.blocks else "",
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there with the next iteration. Raises ValidationError where the samples are other ones."""
        for name, now in self.state_dict().items():
            if name not in {"epoch", "position"} and state.get(name, "") != now:
                raise ValidationError(
                    "The dataset or its order is not that of the checkpoint",
                    why=f"{name} is {now}, and was {state.get(name, '')}",
                    next="open what the checkpoint was trained on, or begin the epoch anew with set_epoch",
                )
        self.set_epoch(state["epoch"])
        self._position = self.dataset.position = state["position"]


def _place_among_ranks() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
