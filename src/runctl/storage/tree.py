"""Whole folders to and from a store, with a few transfers at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.events import Emit, Notice, Progress, ignore
from runctl.storage.objects import PARTIAL_PREFIX, ObjectInfo, Store, checked_prefix, inside, no_file

T = TypeVar("T")
TRANSFERS_AT_ONCE = 16
_TELL_SECONDS = 0.5


class Transferred(msgspec.Struct, frozen=True):
    """What went over; size in bytes."""

    files: int
    size: int


def download_prefix(
    store: Store,
    prefix: str,
    folder: Path,
    *,
    task: str = "download",
    emit: Emit = ignore,
    fetch: Callable[[str, Path], None] | None = None,
) -> Transferred:
    """Fetch every object under `prefix` into `folder`, and tell how far `task` is.

    `fetch` brings one object to its path, for whoever does not replace what lies there. A key that cannot be
    a file of the folder, or that a link would lead out of it, is named in a warning and stays where it is.
    Raises as `Store.download`.
    """
    inner = checked_prefix(prefix)
    fit: dict[str, ObjectInfo] = {}
    for item in store.list(prefix):
        name = item.key.removeprefix(inner + "/") if inner else item.key
        if why := no_file(name):
            emit(_left(item.key, why))
        else:
            fit[name] = item
    folders = {name[:end] for name in fit for end, letter in enumerate(name) if letter == "/"}
    sizes: list[int] = []
    targets: list[tuple[str, Path]] = []
    for name, item in fit.items():
        if name in folders:
            emit(_left(item.key, "other keys make a folder of its name"))
            continue
        try:
            targets.append((item.key, inside(folder, name)))
        except ValidationError as error:
            emit(_left(item.key, error.why))
        else:
            sizes.append(item.size)
    folder.mkdir(parents=True, exist_ok=True)
    size = _each(lambda pair: (fetch or store.download)(*pair), targets, sizes, task=task, emit=emit)
    return Transferred(files=len(targets), size=size)


def _left(key: str, why: str) -> Notice:
    return Notice(text=f"{key!r} was left where it is: {why}", warning=True)


def upload_folder(
    folder: Path, store: Store, prefix: str, *, task: str = "upload", emit: Emit = ignore
) -> Transferred:
    """Send every file in `folder` to a key under `prefix`, and tell how far `task` is.

    Links are followed only inside the folder.

    Raises NotFound where there is no folder, ValidationError for a link out of it, else as `Store.upload`.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}")
    inner = checked_prefix(prefix)
    files = [path for path in _files(folder) if not path.name.startswith(PARTIAL_PREFIX)]
    for path in files:
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ValidationError(
                f"{path} leads out of {folder}",
                why=f"it is a link to {path.resolve()}",
                next="replace the link by what it points to",
            )
    pairs = [
        (path, "/".join(part for part in (inner, path.relative_to(folder).as_posix()) if part))
        for path in files
    ]
    sizes = [path.stat().st_size for path in files]
    size = _each(lambda pair: store.upload(*pair), pairs, sizes, task=task, emit=emit)
    return Transferred(files=len(files), size=size)


def _files(folder: Path) -> list[Path]:
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.is_file())


def _each(
    transfer: Callable[[T], None], items: Sequence[T], sizes: Sequence[int], *, task: str, emit: Emit
) -> int:
    """Transfer all and answer their bytes; the first failure ends what has not begun and is raised."""
    done, total, told = 0, sum(sizes), time.monotonic()
    with ThreadPoolExecutor(TRANSFERS_AT_ONCE, thread_name_prefix="transfer") as pool:
        running = {pool.submit(transfer, item): size for item, size in zip(items, sizes, strict=True)}
        try:
            for one in as_completed(running):
                one.result()
                done += running[one]
                if done == total or time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    emit(Progress(task=task, done=done, total=total, unit="B"))
            return total
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
