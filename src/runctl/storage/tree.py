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
