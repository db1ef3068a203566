"""The folders of a cache: each stays for as long as somebody uses it, however that one ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path


class Lease:
    """Holds a folder of a cache until it is closed or the process ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock

    def close(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class Folders:
    """The folders below `root`, which is made: NAME, and NAME.lease that its users hold."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def lease(self, name: str, make: Callable[[Path], None]) -> Lease:
        """A folder that stays until the lease is closed; `make` puts it there where it is not."""
        target = self._root / name
        lease = Lease(target, os.open(f"{target}.lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            fcntl.flock(lease.lock, fcntl.LOCK_SH)
            os.utime(lease.lock)
            if not target.is_dir():
                make(target)
        except BaseException:
            lease.close()
            raise
        return lease

    def remove_unused(self) -> None:
        """Those that nobody holds, the longest unused first."""
        for lease in sorted(self._root.glob("*.lease"), key=_modified):
            file = os.open(lease, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lease.with_suffix(""), ignore_errors=True)
            except BlockingIOError:  # somebody holds it
                continue
            finally:
                os.close(file)


@contextlib.contextmanager
def made_aside(building: Path, target: Path) -> Generator[None]:
    """Make the folder `building`, which becomes `target` when it is filled, unless another one did before."""
    building.mkdir()
    try:
        yield
        try:
            building.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it went meanwhile
        return 0.0
