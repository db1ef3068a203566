"""A folder as a store: objects are its files."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from runctl.errors import Conflict, NotFound, TransferError
from runctl.storage.objects import (
    PARTIAL_PREFIX,
    ObjectInfo,
    checked_key,
    checked_prefix,
    inside,
    not_found,
    partial_file,
    remove_unfinished,
    rename_durably,
    too_large,
)


class FolderStore:
    """Objects as files under `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str, *, largest: int | None = None) -> bytes:
        with self._errors("read", key), self._path(key).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if largest is not None and size > largest:
                raise too_large(key, size, largest)
            return file.read()

    def read_if_exists(self, key: str, *, largest: int | None = None) -> bytes | None:
        try:
            return self.read(key, largest=largest)
        except NotFound:
            return None

    def read_from(self, key: str, offset: int, limit: int) -> bytes:
        with self._errors("read", key), self._path(key).open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors("read", key), self._path(key).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise TransferError(f"{key} is too short", why=f"{len(data)} of {length} bytes are there")
        return data

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        target = self._path(key)
        with self._errors("write", key), partial_file(target, private=True) as partial:
            partial.write_bytes(data)
            with _only_writer(target.parent):
                if if_absent and target.exists():
                    raise Conflict(f"{key} exists already", why=f"in {self.root}")
                if if_match is not None and self._etag_if_exists(target) != if_match:
                    raise Conflict(f"{key} was changed by somebody else", why=f"in {self.root}")
                rename_durably(partial, target)
                remove_unfinished(target.parent)
                return _etag(target.stat())

    def upload(self, path: Path, key: str) -> None:
        target = self._path(key)
        with self._errors("write", key), partial_file(target, private=True) as partial:
            _copy(path, partial)
            with _only_writer(target.parent):
                rename_durably(partial, target)

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        if not source.is_file():
            raise not_found(key, str(self.root))
        with self._errors("copy", key), partial_file(path) as partial:
            _copy(source, partial)
            rename_durably(partial, path)

    def list(self, prefix: str = "", *, after: str | None = None) -> list[ObjectInfo]:
        folder = self.root / checked_prefix(prefix)
        found: list[ObjectInfo] = []
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self.root).as_posix()
                if name.startswith(PARTIAL_PREFIX) or (after is not None and key <= after):
                    continue
                try:
                    found.append(_info(key, path))
                except FileNotFoundError:
                    continue  # it was removed while the folder was walked
        return sorted(found, key=lambda item: item.key)

    def info(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with self._errors("read", key):
            if not path.is_file():
                raise FileNotFoundError
            return _info(key, path)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return inside(self.root, checked_key(key))

    def _etag_if_exists(self, path: Path) -> str | None:
        return _etag(path.stat()) if path.is_file() else None

    @contextmanager
    def _errors(self, verb: str, key: str) -> Generator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if verb == "delete":
                return
            if verb == "read":
                raise not_found(key, str(self.root)) from None
            raise self._failed(verb, key, error) from error
        except OSError as error:
            raise self._failed(verb, key, error) from error

    def _failed(self, verb: str, key: str, error: OSError) -> TransferError:
        return TransferError(f"Cannot {verb} {key} in {self.root}", why=str(error))


@contextmanager
def _only_writer(folder: Path) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    if (arrived := target.stat().st_size) != (size := source.stat().st_size):
        raise TransferError(f"{source} changed while it was copied", why=f"{arrived} of {size} bytes came")


def _info(key: str, path: Path) -> ObjectInfo:
    status = path.stat()
    return ObjectInfo(
        key=key,
        size=status.st_size,
        etag=_etag(status),
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"
