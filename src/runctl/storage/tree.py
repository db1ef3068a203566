"""Whole folders to a store, with a few transfers at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.events import Emit, Progress, ignore
from runctl.storage.objects import PARTIAL_PREFIX, Store, checked_prefix

T = TypeVar("T")
TRANSFERS_AT_ONCE = 16
_TELL_SECONDS = 0.5


class Transferred(msgspec.Struct, frozen=True):
    """What went over; size in bytes."""

    files: int
    size: int


def upload_folder(
    folder: Path,
    store: Store,
    prefix: str,
    *,
    task: str = "upload",
    emit: Emit = ignore,
    follows: Callable[[Path], object] | None = None,
) -> Transferred:
    """Send every file in `folder` to a key under `prefix`, and tell how far `task` is.

    Links to files are followed only inside the folder. With `follows` all are, also those to folders
    (datasets are often made of links into a cache); it is called with each that leads out, and raises for
    one that is not wanted.

    Raises NotFound if there is no folder, ValidationError for a link out of it, else as `Store.upload`.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}")
    inner = checked_prefix(prefix)
    found = _files(folder, through_links=follows is not None)
    files = [path for path in found if not path.name.startswith(PARTIAL_PREFIX)]
    bounds = folder.resolve()
    for path in files:
        if not path.resolve().is_relative_to(bounds):
            (follows or _refuse)(path)
    pairs = [
        (path, "/".join(part for part in (inner, path.relative_to(folder).as_posix()) if part))
        for path in files
    ]
    sizes = [path.stat().st_size for path in files]
    size = _each(lambda pair: store.upload(*pair), pairs, sizes, task=task, emit=emit)
    return Transferred(files=len(files), size=size)


def _refuse(link: Path) -> None:
    raise ValidationError(
        f"{link} leads out of its folder",
        why=f"it is a link to {link.resolve()}",
        next="replace the link by what it points to",
    )


def _files(folder: Path, *, through_links: bool) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=through_links):
        found.extend(path for name in names if (path := Path(parent, name)).is_file())
        if through_links:
            folders[:] = [name for name in folders if not _leads_back(Path(parent, name))]
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder that it is in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


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
