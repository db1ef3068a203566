"""The other side of a transfer: from presigned URLs into files, each seen whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Dict, List, Optional, Set, Tuple

from .failures import PreconditionFailed
from .parcel import Opened, Slice, TornParcel, unseal
from .presigned import Courier, Missing, Pace, Stopped
from .report import Report
from .tree import (
    PARTIAL,
    PARTS,
    Refused,
    give_to_owner_of,
    make_folders,
    name_fault,
    partial_name,
    partial_of,
    place,
)

PATIENCE = 900.0  # seconds without any parcel
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
_DIFFERENT = 5
_MD5 = re.compile("[0-9a-f]{32}")


class SourceAway(Exception):
    """Nothing came any more."""


class Receiving:
    """Fetches every parcel of a spec, as soon as it is there, and writes what is in it."""

    def __init__(
        self, spec: Dict[str, Any], courier: Courier, report: Report, stopping: threading.Event
    ) -> None:
        self._root = str(spec["root"])
        self._files: List[Any] = spec["files"]
        self._parcels: List[Dict[str, Any]] = spec["parcels"]
        self._threads = max(1, int(spec.get("threads") or 4))
        self._pace = Pace(int(spec.get("rate") or 0))
        self._spec = spec
        self._courier = courier
        self._report = report
        self._stopping = stopping
        self._folders: Dict[str, str] = {}
        self._big: Dict[int, _Growing] = {}
        self._lock = threading.Lock()
        self._failed: Dict[int, str] = {}
        self._heard = time.monotonic()
        self._done = {int(number): pieces for number, pieces in spec.get("done") or []}
        self._left = self._pieces_of_files()
        umask = os.umask(0o022)
        os.umask(umask)
        self._rights = (0o666 & ~umask, 0o777 & ~umask)

    def run(self) -> None:
        """Raises what ends the whole: StoreAway, StoreRefused, Stopped, SourceAway, OSError (disk full)."""
        make_folders(self._root)
        for key in self._spec.get("stale") or []:
            self._drop(str(key))
        try:
            done = self._fetch_all()
        finally:
            for growing in self._big.values():
                growing.leave()
        self._finish_what_was_there()
        for one in done:
            if not isinstance(one.exception(), Stopped):
                one.result()
        if self._stopping.is_set():
            raise Stopped
        if not self._failed:
            for key in self._spec.get("delete") or []:
                self._delete(str(key))

    def _fetch_all(self) -> Set[Future[None]]:
        """Until the first failure; answers what had ended then."""
        with ThreadPoolExecutor(self._threads) as pool:
            fetched = [pool.submit(self._fetch, number) for number in range(len(self._parcels))]
            done, waiting = wait(fetched, return_when=FIRST_EXCEPTION)
            for one in waiting:
                one.cancel()
            if waiting:
                self._stopping.set()
        return done

    def _pieces_of_files(self) -> Dict[int, int]:
        left: Dict[int, int] = {}
        for parcel in self._parcels:
            for item in parcel["slices"]:
                left[item[0]] = left.get(item[0], 0) + 1
        return left

    def _fetch(self, number: int) -> None:
        parcel = self._parcels[number]
        planned = [Slice(*item) for item in parcel["slices"]]
        opened = self._raw(parcel, planned[0]) if parcel.get("raw") else self._await(parcel["url"], planned)
        for file, why in opened.faults.items():
            self._give_up(file, why)
        folders = set()
        moved = 0
        for item, data, checksum in opened.slices:
            try:
                target = place(self._root, self._files[item.file][0], self._folders)
                if self._is_whole(item):
                    self._write(target, item.file, data)
                    folders.add(os.path.dirname(target))
                else:
                    self._grow(target, item, data, checksum)
                moved += item.length
            except Refused as error:
                self._give_up(item.file, str(error))
            except OSError as error:
                if is_full(error):
                    raise
                self._give_up(item.file, str(error.strerror or error))
        for folder in folders:
            _sync(folder)
        for item, _, _ in opened.slices:
            if self._is_whole(item) and item.file not in self._failed:
                self._report.file(item.file)
        self._report.parcel(number, moved)

    def _raw(self, parcel: Dict[str, Any], item: Slice) -> Opened:
        """A piece of somebody's own object: its size and ETag are all that is known of it.

        The ETag of a whole object is its MD5, unless S3 encrypts it with keys of KMS: where they differ, the
        same bytes must come twice.
        """
        span = None if self._is_whole(item) else (item.offset, item.length)
        etag = str(parcel.get("etag") or "")
        proof: Set[str] = {etag} if span is None and _MD5.fullmatch(etag) else set()
        while True:
            self._pace.take(item.length)
            try:
                data = self._courier.get(parcel["url"], span, etag)
            except (Missing, PreconditionFailed):
                return Opened([], {item.file: "changed"})
            if len(data) != item.length:
                return Opened([], {item.file: "changed"})
            digest = hashlib.new("md5", data).hexdigest() if proof else ""  # noqa: S324 (S3's own)
            if not proof or digest in proof:
                return Opened([(item, memoryview(data), "")], {})
            proof.add(digest)
            if len(proof) > _DIFFERENT:
                raise TornParcel("an object came different each time")

    def _await(self, url: str, planned: List[Slice]) -> Opened:
        look = _FIRST_LOOK
        torn = 0
        while True:
            if self._stopping.is_set():
                raise Stopped
            try:
                data = self._courier.get(url)
            except Missing as error:
                if time.monotonic() - self._heard > PATIENCE:
                    raise SourceAway("nothing came for %d s" % PATIENCE) from error
                self._stopping.wait(look)
                look = min(look * 1.5, _LONGEST_LOOK)
                continue
            self._heard = time.monotonic()
            self._pace.take(len(data))
            try:
                return unseal(data, planned)
            except TornParcel:
                torn += 1
                if torn == 3:
                    raise

    def _is_whole(self, item: Slice) -> bool:
        return item.length == self._files[item.file][1]

    def _write(self, target: str, file: int, data: memoryview) -> None:
        """A file that came in one piece."""
        about = self._files[file]
        temporary = os.path.join(os.path.dirname(target), partial_name(about[0], about[1], about[2]))
        try:
            with open(temporary, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            _finish(temporary, target, about, self._rights)
        except BaseException:
            _unlink(temporary)
            raise

    def _grow(self, target: str, item: Slice, data: memoryview, checksum: str) -> None:
        with self._lock:
            if item.file not in self._big:
                done = self._done.get(item.file, [])
                self._big[item.file] = _Growing(target, self._files[item.file], done, self._rights)
            growing = self._big[item.file]
        if item.file in self._failed:
            return
        if growing.add(item, data, checksum):
            growing.finish()
            self._report.file(item.file)

    def _finish_what_was_there(self) -> None:
        """Files of which every piece had come before, and only the name was missing."""
        for file in self._done:
            if file not in self._left:
                try:
                    about = self._files[file]
                    target = place(self._root, about[0], self._folders)
                    _Growing(target, about, self._done[file], self._rights).finish()
                    self._report.file(file)
                except (Refused, OSError) as error:
                    self._give_up(file, str(error))

    def _give_up(self, file: int, why: str) -> None:
        with self._lock:
            self._failed[file] = why
            growing = self._big.get(file)
        if growing is not None:
            growing.drop()
        self._report.fault(file, why)

    def _drop(self, key: str) -> None:
        """A partial file of a state that its source no longer has."""
        name = os.path.basename(key)
        if name.startswith(PARTIAL) and not name_fault(key.replace(PARTIAL, "")):
            for path in (key, key + PARTS):
                _unlink(os.path.join(self._root, path))

    def _delete(self, key: str) -> None:
        try:
            path = place(self._root, key, self._folders)
            os.unlink(path)
            self._report.deleted(key)
            for _ in range(key.count("/")):
                path = os.path.dirname(path)
                os.rmdir(path)  # until one is not empty
        except FileNotFoundError:
            pass
        except (Refused, OSError):
            pass  # what is still there is in the next listing


class _Growing:
    """A file that comes in pieces, in any order. What has come is on the disk before it is noted."""

    def __init__(self, target: str, about: Any, done: List[Any], rights: Tuple[int, int]) -> None:
        folder = os.path.dirname(target)
        name = partial_name(about[0], about[1], about[2])
        self._target, self._about, self._rights = target, about, rights
        self._path = os.path.join(folder, name)
        self._lock = threading.Lock()
        self._dropped = False
        self._have = sum(int(piece[1]) for piece in done)
        if done:
            known = {piece for found in partial_of(folder, name + PARTS) for piece in found.done}
            if not {(int(piece[0]), int(piece[1])) for piece in done} <= known:
                raise OSError("what had come of it is gone")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | (0 if done else os.O_TRUNC), 0o600)
        self._notes: Optional[Any] = open(self._path + PARTS, "ab" if done else "wb")  # noqa: SIM115
        if not done:
            told = {"name": os.path.basename(about[0]), "size": about[1], "modified": about[2]}
            self._note(json.dumps(told))
        elif not _ends_in_line(self._path + PARTS):
            self._note("")

    def add(self, item: Slice, data: memoryview, checksum: str) -> bool:
        """Write a piece; True for the last."""
        with self._lock:
            if self._dropped:
                return False
        at = item.offset
        while data:
            count = os.pwrite(self._file, data, at)
            at, data = at + count, data[count:]
        os.fsync(self._file)
        with self._lock:
            if self._dropped:
                return False
            self._note(json.dumps([item.offset, item.length, checksum]))
            self._have += item.length
            return self._have == self._about[1]

    def finish(self) -> None:
        """Raises OSError where a piece is missing."""
        with self._lock:
            size = os.fstat(self._file).st_size
            if size != self._about[1] or self._have != size:
                raise OSError("%d of its %d bytes are there" % (self._have, self._about[1]))
            self._close()
            _finish(self._path, self._target, self._about, self._rights)
            _unlink(self._path + PARTS)
            _sync(os.path.dirname(self._target))

    def leave(self) -> None:
        """Keep what has come for the next time."""
        with self._lock:
            self._dropped = True
            self._close()

    def drop(self) -> None:
        """Keep nothing of it."""
        with self._lock:
            self._dropped = True
            self._close()
            _unlink(self._path)
            _unlink(self._path + PARTS)

    def _note(self, line: str) -> None:
        if self._notes is not None:
            self._notes.write(line.encode() + b"\n")
            self._notes.flush()
            os.fsync(self._notes.fileno())

    def _close(self) -> None:
        if self._notes is not None:
            self._notes.close()
            os.close(self._file)
            self._notes = None


def is_full(error: OSError) -> bool:
    """Whether nothing more can be written here at all."""
    import errno

    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _finish(temporary: str, target: str, about: Any, rights: Tuple[int, int]) -> None:
    """Rights, time, owner, name."""
    os.chmod(temporary, rights[1] if about[3] else rights[0])
    give_to_owner_of(os.path.dirname(target), temporary)
    os.utime(temporary, ns=(about[2], about[2]))
    os.replace(temporary, target)


def _ends_in_line(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read()[-1:] == b"\n"


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
