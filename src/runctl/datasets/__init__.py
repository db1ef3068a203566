"""Datasets: how training reads them, and which way is worth its money."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from runctl.datasets.cache import LocalCache
    from runctl.datasets.dataset import Dataset
    from runctl.storage.s3 import S3Access


def open(  # noqa: A001 (datasets.open reads as what it does)
    location: str | os.PathLike[str] | None = None,
    *,
    strategy: str = "auto",
    cache: LocalCache | str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    verify: bool = False,
    parallel: int = 16,
    ahead_bytes: int = 64 << 20,
    access: S3Access | None = None,
) -> Dataset:
    """The dataset at a folder or an S3 prefix; without a location the one that the job was started with.

    `strategy`: `existing` reads a folder of this machine (a volume, or what the agent brought), `cache` keeps
    each object on a local disk from its first reading on, `direct` reads S3 each time. `auto` takes the
    folder that the agent has of this location, a cache where `cache` names one, and S3 otherwise. What
    `runctl data pack` wrote is read as the files that it was made of; for it `auto` takes a cache.
    `cache` is its folder or itself, `cache_bytes` how much it may hold (by default four fifths of the disk).
    `verify` compares what the cache holds with its checksum at each reading. `parallel` requests run at once,
    and at most `ahead_bytes` are read before they are asked for; both hold for one process.
    Credentials, region and endpoint come from the environment (AWS_*) or the machine's role, or `access`.

    Raises ValidationError, NotFound, ConfigError, CloudError.
    """
    from runctl.datasets.opening import open_dataset

    return open_dataset(
        location,
        strategy=strategy,
        cache=cache,
        cache_bytes=cache_bytes,
        verify=verify,
        parallel=parallel,
        ahead_bytes=ahead_bytes,
        access=access,
    )
