"""Objects on a local disk, by their content: bounded, shared by processes, never torn.

    objects/BUCKET/ab/HASH      whole, proven objects; the time of a file is when it was last used
    writers/NAME/               what a process is writing; it holds the lock inside for as long as it lives
    folders/HASH                datasets as folders: hard links to objects; HASH.lease is held by who uses one
    lock, total, boot           what the bound is kept with; when the machine was last started

Sizes are booked before a byte is written, and a file gets its size before its bytes: whatever is killed
anywhere, the files of the cache never add up to more than its bound.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from runctl.datasets.cache_folders import Folders, Lease, made_aside
from runctl.datasets.cache_locks import Writer, is_dead
from runctl.datasets.items import Item
from runctl.errors import TransferError, ValidationError

Fill = Callable[[int], int]
"""Writes an object into a descriptor and answers how many bytes it had."""

_SLACK = 20
"""When room is made, a 20th of the bound is made free beside, so that not every object looks for room."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What a cache has of one bucket; `used` is when it was last read, in seconds since 1970."""

    place: str
    files: int
    bytes: int
    used: float


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed from a cache, and what is left, in bytes."""

    files: int
    bytes: int
    left: int


class Damaged(TransferError):
    """What came is not what the store has."""


class LocalCache:
    """A cache in the folder `root` of at most `max_bytes`; any number of processes may share it.

    Every process that writes says how much the cache may hold. Safe to use after a fork, and from threads.
    Raises OSError where the folder cannot be used.
    """

    def __init__(self, root: Path, max_bytes: int, *, touch_after: float = 60.0) -> None:
        if max_bytes <= 0:
            raise ValidationError("A cache needs room", why=f"it may hold {max_bytes} bytes")
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 (resolve would follow links of the user's)
        self.max_bytes = max_bytes
        self._touch_after = touch_after
        self._objects = f"{self.root}/objects/"
        self._writer: Writer | None = None
        self._made: set[str] = set()
        for name in ("objects", "writers"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._folders = Folders(self.root / "folders")
        with self._locked():
            self._suspect = self._since_boot()

    def __reduce__(self) -> tuple[object, ...]:
        return (LocalCache, (self.root, self.max_bytes))

    def find(self, item: Item, *, verify: bool = False) -> int | None:
        """A descriptor of the object, None where it is not here. It stays readable whatever is evicted.

        `verify` reads it against its ETag first. What is damaged is removed and not found.
        """
        path = self._objects + item.name
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        status = os.fstat(file)
        doubtful = verify or status.st_mtime_ns <= self._suspect
        if status.st_size != item.size or (doubtful and not item.is_at(Path(path))):
            os.close(file)
            self._discard(path)
            return None
        if doubtful or time.time() - status.st_mtime >= self._touch_after:
            with contextlib.suppress(OSError):  # evicted meanwhile
                os.utime(path)
        return file

    def read(self, item: Item, *, verify: bool = False) -> bytes | None:
        """The whole object, None where it is not here."""
        file = self.find(item, verify=verify)
        if file is None:
            return None
        try:
            return read_at(file, 0, item.size)
        finally:
            os.close(file)

    def holds(self, item: Item) -> bool:
        """Whether it is here now; it may be gone when it is asked for."""
        return os.access(self._objects + item.name, os.F_OK)

    def add(
        self,
        item: Item,
        fill: Fill,
        *,
        known: Callable[[], bool] = lambda: False,
        proven: Callable[[Path], bool] = lambda _: False,
    ) -> int | None:
        """Have the object that `fill` writes under its name; a descriptor of it, None where there is no room.

        It is compared with its size and checksum, which `known` spares where what was written is known to be
        right; `proven` has the last word where the ETag does not fit, as it need not with encryption by KMS
        or odd parts. Raises Damaged, and what `fill` raises.
        """
        temporary = self._reserve(item.size)
        if temporary is None:
            return None
        try:
            file = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
            try:
                came = fill(file)
                if came != item.size or os.fstat(file).st_size != item.size:
                    raise Damaged(f"{item.key} came short", why=f"{came} of {item.size} bytes did")
                path = Path(temporary)
                if not (known() or item.is_at(path) or proven(path)):
                    raise Damaged(f"{item.key} came damaged", why="its bytes are not those of its checksum")
                self._give_name(temporary, item)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            self._release(temporary, item.size)
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return None
            raise
        except BaseException:
            self._release(temporary, item.size)
            raise
        return file

    @contextlib.contextmanager
    def alone(self, item: Item) -> Generator[None]:
        """One process or thread at a time fetches this object (and a few others that share its lock)."""
        path = self.root / "writers" / f"{blake2b(item.name.encode(), digest_size=1).hexdigest()}.fetch"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def folder(self, version: str, items: Iterable[tuple[str, Item]], fetch: Callable[[Item], None]) -> Lease:
        """The objects as a folder of read-only files by their names; it stays until the lease is closed.

        `fetch` has an object added. Raises ValidationError where the cache has no room for all of them.
        """
        name = blake2b(f"{version}\0{self._suspect}".encode(), digest_size=16).hexdigest()
        return self._folders.lease(name, lambda target: self._link_all(target, items, fetch))

    def holdings(self) -> list[Holding]:
        """What is here, by bucket."""
        found: dict[str, Holding] = {}
        for file in self._files():
            place = Path(file.path).relative_to(self._objects).parts[0]
            before = found.get(place, Holding(place=place, files=0, bytes=0, used=0.0))
            found[place] = Holding(
                place=place,
                files=before.files + 1,
                bytes=before.bytes + file.size,
                used=max(before.used, file.used / 1e9),
            )
        return [found[place] for place in sorted(found)]

    def prune(self, max_bytes: int, *, dry_run: bool = False) -> Freed:
        """Remove the longest unused until at most `max_bytes` are left, and what dead processes left.

        What a folder in use consists of stays.
        """
        with self._locked():
            return self._shrink(max_bytes, dry_run=dry_run)

    # Below: with the lock held, unless said otherwise.

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        file = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _since_boot(self) -> int:
        """Files not used since then may have lost their bytes with the machine's power; in nanoseconds."""
        path = self.root / "boot"
        try:
            boot = _BOOT.read_text().strip()
            before, _, suspect = path.read_text().partition(" ") if path.exists() else (boot, "", "0")
        except OSError:
            return 0
        if before != boot or not path.exists():
            suspect = str(time.time_ns()) if before != boot else "0"
            fresh = path.with_name(f"boot.{secrets.token_hex(4)}")
            fresh.write_text(f"{boot} {suspect}")
            fresh.replace(path)
        return int(suspect) if suspect.isdigit() else 0

    def _total(self) -> int:
        """Bytes booked: never less than there are."""
        try:
            data = (self.root / "total").read_bytes()
        except FileNotFoundError:
            data = b""
        return int.from_bytes(data) if len(data) == 8 else self.max_bytes + 1

    def _book(self, total: int) -> None:
        file = os.open(f"{self.root}/total", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(file, max(0, total).to_bytes(8), 0)
        finally:
            os.close(file)

    def _reserve(self, size: int) -> str | None:
        """An empty file of that size for this process alone, None where there is no room. Takes the lock."""
        if size > self.max_bytes:
            return None
        with self._locked():
            total = self._total()
            if total + size > self.max_bytes:
                slack = min(self.max_bytes // _SLACK, self.max_bytes - size)
                total = self._shrink(self.max_bytes - size - slack).left
                if total + size > self.max_bytes:
                    return None
            path = self._writing().next_path()
            self._book(total + size)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(file, size)
            finally:
                os.close(file)
            return path

    def _writing(self) -> Writer:
        if self._writer is None or self._writer.pid != os.getpid():
            self._writer = Writer(self.root / "writers")
        return self._writer

    def _give_name(self, temporary: str, item: Item) -> None:
        """Takes the lock where another process was first."""
        path = self._objects + item.name
        folder = path.rpartition("/")[0]
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (thousands of them)
            self._made.add(folder)
        os.chmod(temporary, 0o444)  # noqa: PTH101
        try:
            os.link(temporary, path)
        except FileExistsError:
            self._release(temporary, item.size)
            return
        os.unlink(temporary)  # noqa: PTH108

    def _release(self, temporary: str, size: int) -> None:
        """Give back what was booked. Takes the lock."""
        with self._locked():
            try:
                os.unlink(temporary)  # noqa: PTH108
            except FileNotFoundError:
                return
            self._book(self._total() - size)

    def _discard(self, path: str) -> None:
        """Remove a damaged object; the books are corrected when room is made."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108

    def _shrink(self, max_bytes: int, *, dry_run: bool = False) -> Freed:
        written = self._written(dry_run=dry_run)  # first: what gets its name meanwhile is counted twice
        found = list(self._files())
        total, files, freed = written + sum(file.size for file in found), 0, 0
        for linked in (False, True):
            if linked and total > max_bytes and not dry_run:
                self._folders.remove_unused()
                found = list(self._files())
            for file in sorted(found, key=lambda item: item.used) if total > max_bytes else []:
                if total <= max_bytes:
                    break
                if file.links > 1:
                    continue
                if not dry_run:
                    self._discard(file.path)
                total, files, freed = total - file.size, files + 1, freed + file.size
            if dry_run:
                break
        if not dry_run:
            self._book(total)
        return Freed(files=files, bytes=freed, left=total)

    def _written(self, *, dry_run: bool) -> int:
        """Bytes that living processes write; what the dead left is removed."""
        total = 0
        for folder in (self.root / "writers").iterdir():
            if not folder.is_dir():
                continue
            if is_dead(folder):
                if not dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = file.lstat()
                    # Two links: it has its name already, and is counted there.
                    total += status.st_size if file.is_file() and status.st_nlink == 1 else 0
        return total

    def _files(self) -> Generator[_File]:
        """All objects. What vanishes meanwhile is left out. Needs no lock."""
        for place in os.scandir(self._objects):
            for shelf in os.scandir(place.path) if place.is_dir() else ():
                with os.scandir(shelf.path) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            yield _File(entry.path, status.st_size, status.st_mtime_ns, status.st_nlink)

    def _link_all(
        self, target: Path, items: Iterable[tuple[str, Item]], fetch: Callable[[Item], None]
    ) -> None:
        """Takes the lock. Many may do it at once, and the first one's folder stays."""
        with self._locked():
            building = Path(self._writing().next_path() + ".folder")
        with made_aside(building, target):
            for name, item in items:
                self._link(building / name, item, fetch)

    def _link(self, path: Path, item: Item, fetch: Callable[[Item], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            file = self.find(item)
            if file is None:
                fetch(item)
                continue
            os.close(file)
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                path.hardlink_to(self._objects + item.name)
                return
        raise ValidationError(
            "The dataset does not fit into the cache",
            why=f"{self.root} may hold {self.max_bytes} bytes, and others use them",
            next="give the cache more room, or read the dataset without asking for a folder",
        )


class _File(msgspec.Struct, frozen=True, gc=False):
    path: str
    size: int
    used: int
    links: int


def read_at(file: int, start: int, length: int) -> bytes:
    """Bytes of a file. Raises OSError where it ends before."""
    data = os.pread(file, length, start)
    while len(data) < length:
        more = os.pread(file, length - len(data), start + len(data))
        if not more:
            raise OSError(errno.EIO, "the file ends too early")
        data += more
    return data
