"""From what a script says to a dataset that can be read."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runctl import private_files
from runctl.clouds import home
from runctl.datasets.cache import LocalCache
from runctl.datasets.dataset import Dataset
from runctl.datasets.direct import DirectS3
from runctl.datasets.packed import Packed, found_at
from runctl.datasets.packs import INDEX, decode
from runctl.datasets.sources import Cached, Direct, Folder, Source
from runctl.errors import ConfigError, NotFound, ValidationError
from runctl.storage.entries import Entry
from runctl.storage.location import LocalPath, S3Location, parse

if TYPE_CHECKING:
    from runctl.storage.s3 import S3Access

STRATEGIES = {
    "auto": "auto",
    "existing": "existing",
    "existing-ebs": "existing",
    "prewarmed-ebs": "existing",
    "cache": "cache",
    "local-cache": "cache",
    "direct": "direct",
    "direct-s3": "direct",
}
"""What a script may say, and what `runctl data plan` calls the same."""

_SHARE = 0.8
_NOT_DATA = (".runctl", "lost+found")


def open_dataset(
    location: str | os.PathLike[str] | None,
    *,
    strategy: str,
    cache: LocalCache | str | os.PathLike[str] | None,
    cache_bytes: int | None,
    verify: bool,
    parallel: int,
    ahead_bytes: int,
    access: S3Access | None,
) -> Dataset:
    """See `runctl.datasets.open`."""
    wanted = STRATEGIES.get(strategy)
    if wanted is None:
        raise ValidationError(f"There is no strategy {strategy!r}", next=f"one of {', '.join(STRATEGIES)}")
    place = _place(os.fspath(location) if location is not None else None, wanted)
    if isinstance(place, LocalPath):
        return _of_folder(place.path, wanted, ahead_bytes)
    if not isinstance(place, S3Location):
        raise ValidationError(f"{place} lies on another machine", next="runctl transfer brings it here")
    remote = DirectS3(place.bucket, place.key.rstrip("/"), access or from_environment(), parallel=parallel)
    entries = tuple(sorted(remote.list(), key=lambda entry: entry.key.encode()))
    if not entries:
        raise NotFound(f"There is nothing below {place}", next="runctl s3 list shows what there is")
    index = next((entry for entry in entries if entry.key == INDEX), None)
    source: Source
    if wanted == "direct" or (wanted == "auto" and cache is None and index is None):
        wanted, source = "direct", Direct(remote)
    else:
        kept = cache if isinstance(cache, LocalCache) else open_cache(cache, cache_bytes)
        wanted, source = "cache", Cached(kept, remote, verify=verify)
    if index is not None:
        source, entries = _packed(source, remote.read_alone(index), entries, str(place))
    return Dataset(str(place), wanted, source, entries, ahead_bytes=ahead_bytes)


def open_cache(root: str | os.PathLike[str] | None = None, max_bytes: int | None = None) -> LocalCache:
    """A cache; by default where `RUNCTL_CACHE_DIR` says, and of four fifths of what its disk has for it.

    Raises ConfigError where the folder cannot be used.
    """
    folder = Path(root) if root is not None else default_root()
    try:
        if folder.is_relative_to(home()):
            private_files.make_folder(home())
        folder.mkdir(parents=True, exist_ok=True)
        if max_bytes is None:
            status = os.statvfs(folder)
            own = sum(holding.bytes for holding in LocalCache(folder, 1).holdings())
            max_bytes = max(1, int((status.f_bavail * status.f_frsize + own) * _SHARE))
        return LocalCache(folder, max_bytes)
    except OSError as error:
        raise ConfigError(
            f"There can be no cache in {folder}",
            why=error.strerror or str(error),
            next="set RUNCTL_CACHE_DIR to a folder that can be written",
        ) from error


def default_root() -> Path:
    """Where caches lie. The agent keeps whole datasets beside, in `datasets`."""
    chosen = os.environ.get("RUNCTL_CACHE_DIR")
    return (Path(chosen) if chosen else home() / "cache") / "objects"


def from_environment() -> S3Access:
    """S3 as on a machine: keys, region and endpoint of the environment, else the machine's role."""
    from runctl.storage import whereabouts
    from runctl.storage.s3 import S3Access

    environ = os.environ
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None
    names = ("RUNCTL_DATA_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
    region = next((environ[name] for name in names if environ.get(name)), None)
    locate = functools.partial(whereabouts.region_of, near=region) if region else None
    return S3Access(endpoint=endpoint, region=region, locate=locate)


def _place(location: str | None, wanted: str) -> object:
    """What the location names; the agent's folder where that is the same dataset."""
    environ = os.environ
    folder, told = environ.get("RUNCTL_DATA_DIR"), environ.get("RUNCTL_DATA_LOCATION")
    if location is None:
        location = folder if folder and wanted in {"auto", "existing"} else told or folder
        if location is None:
            raise ConfigError(
                "There is no dataset to open",
                why="the script names none, and RUNCTL_DATA_DIR and RUNCTL_DATA_LOCATION are not set",
                next="runctl train --data s3://bucket/prefix sets them",
            )
    place = parse(location)
    if not isinstance(place, S3Location):
        return place
    is_told = bool(told) and location.rstrip("/") == (told or "").rstrip("/")
    if folder and (wanted == "existing" or (wanted == "auto" and is_told)):
        return LocalPath(Path(folder))
    if wanted == "existing":
        raise ValidationError(
            f"{place} is not on this machine",
            why="RUNCTL_DATA_DIR names no folder",
            next="runctl train --data-strategy existing-ebs, or name the folder",
        )
    return place


def _of_folder(root: Path, wanted: str, ahead_bytes: int) -> Dataset:
    if wanted not in {"auto", "existing"}:
        raise ValidationError(f"{root} is a folder, and is read where it lies", next='strategy="existing"')
    if not root.is_dir():
        raise NotFound(f"There is no folder {root}")
    entries = sorted(_files(str(root), ""), key=lambda entry: entry.key.encode("utf-8", "surrogateescape"))
    source: Source = Folder(root)
    if (index := root / INDEX).is_file():
        source, entries = _packed(source, index.read_bytes(), entries, str(root))
    return Dataset(str(root), "existing", source, entries, ahead_bytes=ahead_bytes)


def _packed(
    inner: Source, index: bytes, there: Iterable[Entry], place: str
) -> tuple[Source, tuple[Entry, ...]]:
    """The files of the packs that lie there. Raises Torn where the set is not whole."""
    found = decode(index)
    return Packed(inner, found_at(found, there, place)), found.files


def _files(folder: str, above: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for item in found:
            if not above and item.name in _NOT_DATA:
                continue
            if item.is_dir():
                yield from _files(item.path, f"{above}{item.name}/")
            elif item.is_file():
                status = item.stat()
                yield Entry(f"{above}{item.name}", status.st_size, status.st_mtime_ns)
