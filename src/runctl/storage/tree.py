"""Whole folders to and from a store, with a few transfers at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.storage.objects import PARTIAL_PREFIX, ObjectInfo, Store, checked_prefix, inside

T = TypeVar("T")
TRANSFERS_AT_ONCE = 16


class Transferred(msgspec.Struct, frozen=True):
    """What went over; size in bytes."""

    files: int
    size: int


def download_prefix(store: Store, prefix: str, folder: Path) -> Transferred:
    """Fetch every object under `prefix` into `folder`.

    Nothing is fetched when one key would leave the folder (ValidationError). Raises as `Store.download`.
    """
    inner = checked_prefix(prefix)
    objects = _without_folder_marks(store.list(prefix))
    targets = [
        (item.key, inside(folder, item.key.removeprefix(inner + "/") if inner else item.key))
        for item in objects
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _each(lambda pair: store.download(*pair), targets)
    return Transferred(files=len(objects), size=sum(item.size for item in objects))


def upload_folder(folder: Path, store: Store, prefix: str) -> Transferred:
    """Send every file in `folder` to a key under `prefix`; links are followed only inside the folder.

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
    size = sum(path.stat().st_size for path in files)
    _each(lambda pair: store.upload(*pair), pairs)
    return Transferred(files=len(files), size=size)


def _files(folder: Path) -> list[Path]:
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if path.is_file())


def _without_folder_marks(objects: list[ObjectInfo]) -> list[ObjectInfo]:
    """Consoles make a folder by an empty object of its name: no file can have that name."""
    folders = {item.key[:end] for item in objects for end, letter in enumerate(item.key) if letter == "/"}
    return [item for item in objects if item.size or item.key not in folders]


def _each(transfer: Callable[[T], None], items: Iterable[T]) -> None:
    """Transfer all; the first failure ends what has not begun and is raised."""
    with ThreadPoolExecutor(TRANSFERS_AT_ONCE, thread_name_prefix="transfer") as pool:
        running = [pool.submit(transfer, item) for item in items]
        try:
            for one in running:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
