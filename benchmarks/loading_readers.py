"""One epoch through one loader, in a process of its own: `python loading_readers.py JOB.json`.

Every loader is a PyTorch DataLoader with the same number of workers, used as its documentation says. Workers
hand over lengths alone, so that reading is measured and not the copying between processes. Prints one line
of JSON: samples, bytes, seconds from the start of the workers to the last sample, processor seconds, and the
most bytes of memory that one of its processes held.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import types
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

BATCH = 32


def length(_name: str, data: bytes) -> int:
    return len(data)


def runctl(job: dict[str, Any], strategy: str, prefix: str = "prefix") -> Iterable[Any]:
    from runctl import datasets
    from runctl.datasets.torch import Loader

    dataset = datasets.open(
        f"s3://{job['bucket']}/{job[prefix]}", strategy=strategy, cache=job["local"], cache_bytes=64 << 30
    )
    if job["window"] and strategy == "direct":
        return loader(Shards(dataset.names, job, opened=dataset.open))
    how = {"shuffle": not job["window"], "batch_size": BATCH, "num_workers": WORKERS}
    return Loader(dataset, length, window=job["window"] or None, **how)


def runctl_direct(job: dict[str, Any]) -> Iterable[Any]:
    return runctl(job, "direct")


def runctl_cache(job: dict[str, Any]) -> Iterable[Any]:
    return runctl(job, "cache")


def runctl_packed(job: dict[str, Any]) -> Iterable[Any]:
    return runctl(job, "cache", "packed")


class Shards(IterableDataset):
    """Windows of shards that are opened as files, each worker its own shards."""

    def __init__(self, names: list[str], job: dict[str, Any], *, opened: Any) -> None:
        self.names, self.window, self.opened = names, job["window"], opened

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        for name in self.names[info.id :: info.num_workers]:
            with self.opened(name) as file:
                while data := file.read(self.window):
                    yield len(data)


class Objects(Dataset):
    """Whole files by number; a batch at once where the library reads several at once."""

    def __init__(self, names: list[str], read: Any) -> None:
        self.names, self.read = names, read

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, numbers: list[int]) -> list[int]:
        return [len(data) for data in self.read([self.names[number] for number in numbers])]


def s3torchconnector(job: dict[str, Any]) -> Iterable[Any]:
    from s3torchconnector import S3ClientConfig, S3IterableDataset, S3MapDataset

    uri = f"s3://{job['bucket']}/{job['prefix']}/"
    config = S3ClientConfig(force_path_style=True)
    reach = {"region": "us-east-1", "endpoint": os.environ["AWS_ENDPOINT_URL"], "s3client_config": config}
    if not job["window"]:
        return loader(S3MapDataset.from_prefix(uri, transform=_whole, **reach), shuffle=True)
    shards = S3IterableDataset.from_prefix(uri, enable_sharding=True, **reach)
    return loader(_Windows(shards, job["window"]))


def _whole(file: Any) -> int:
    return len(file.read())


class _Windows(IterableDataset):
    def __init__(self, files: Any, window: int) -> None:
        self.files, self.window = files, window

    def __iter__(self) -> Iterator[int]:
        for file in self.files:
            while data := file.read(self.window):
                yield len(data)


class S3fs:
    """A file system that is made where it is used: its threads do not survive a fork."""

    def __init__(self, job: dict[str, Any], *, cached: bool) -> None:
        self.job, self.cached, self.made = job, cached, None

    def system(self) -> Any:
        if self.made is None:
            import fsspec

            if self.cached:
                self.made = fsspec.filesystem(
                    "filecache", target_protocol="s3", cache_storage=self.job["local"]
                )
            else:
                self.made = fsspec.filesystem("s3")
        return self.made

    def read(self, names: list[str]) -> Iterable[bytes]:
        return self.system().cat(names).values()

    def opened(self, name: str) -> Any:
        options = {} if self.cached else {"block_size": 8 << 20, "cache_type": "readahead"}
        return self.system().open(name, "rb", **options)


def s3fs(job: dict[str, Any], *, cached: bool = False) -> Iterable[Any]:
    names = [f"{job['bucket']}/{job['prefix']}/{name}" for name in job["names"]]
    system = S3fs(job, cached=cached)
    if job["window"]:
        return loader(Shards(names, job, opened=system.opened))
    return loader(Objects(names, system.read), shuffle=True)


def fsspec_filecache(job: dict[str, Any]) -> Iterable[Any]:
    return s3fs(job, cached=True)


def mosaicml_streaming(job: dict[str, Any]) -> Iterable[Any]:
    _without_vision()
    import streaming

    class Lengths(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return len(super().__getitem__(at)["data"])

    streaming.base.util.clean_stale_shared_memory()
    remote = f"s3://{job['bucket']}/{job['mds']}"
    shuffle = not job["window"]
    dataset = Lengths(remote=remote, local=job["local"], shuffle=shuffle, batch_size=BATCH)
    return loader(dataset)


def _without_vision() -> None:
    """torchvision from a registry is made for GPUs and does not load beside a torch for processors alone.

    The classes of mosaicml-streaming that derive from it are not used here.
    """
    try:
        import torchvision.datasets  # noqa: F401
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            made = sys.modules["torchvision" + name] = types.ModuleType("torchvision" + name)
            made.__spec__ = ModuleSpec(made.__name__, None)
            made.VisionDataset, made.CIFAR10, made.to_tensor = Dataset, Dataset, None


def write_mds(job: dict[str, Any]) -> None:
    """The same samples in the form that mosaicml-streaming reads."""
    _without_vision()
    from streaming import MDSWriter

    with MDSWriter(out=job["out"], columns={"data": "bytes"}, size_limit=32 << 20) as out:
        for name in job["names"]:
            data = (Path(job["source"]) / name).read_bytes()
            for start in range(0, len(data), job["window"] or len(data)):
                out.write({"data": data[start : start + (job["window"] or len(data))]})


def loader(dataset: Any, **options: Any) -> Any:
    return DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS, **options)


ENGINES = {
    "runctl direct": runctl_direct,
    "runctl cache": runctl_cache,
    "runctl packed": runctl_packed,
    "s3torchconnector": s3torchconnector,
    "s3fs": s3fs,
    "fsspec filecache": fsspec_filecache,
    "mosaicml-streaming": mosaicml_streaming,
}
WORKERS = 4


def main() -> None:
    global WORKERS  # noqa: PLW0603 (one job a process)
    job = json.loads(Path(sys.argv[1]).read_text())
    if "out" in job:
        write_mds(job)
        return
    WORKERS = job["workers"]
    batches = ENGINES[job["engine"]](job)
    began, samples, total = time.monotonic(), 0, 0
    for batch in batches:
        samples += len(batch)
        total += int(batch.sum())
    seconds = time.monotonic() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in used)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = max(one.ru_maxrss for one in used) * unit
    figures = {
        "samples": samples,
        "bytes": total,
        "seconds": seconds,
        "processor": processor,
        "memory": memory,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
