"""The other side of a transfer: from presigned URLs into files, each seen whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Dict, List, Set

from .failures import PreconditionFailed
from .growing import Growing, finish, sync, unlink
from .parcel import Opened, Slice, TornParcel, largest, unseal
from .presigned import Courier, Missing, Pace, Stopped, TooMuch
from .proof import Proof, proves
from .report import Report
from .tree import (
    PARTIAL,
    PARTS,
    Refused,
    name_fault,
    partial_name,
    place,
)

PATIENCE = 900.0  # seconds without any parcel
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0
_TRIES = 5
CHANGED, DAMAGED, FORGED = "changed", "damaged", "its seal is wrong"
"""Why a file did not arrive that may do so when it is sent anew."""

_MD5 = re.compile("[0-9a-f]{32}")


class SourceAway(Exception):
    """Nothing came any more."""


class Receiving:
    """Fetches every parcel of a spec, as soon as it is there, and writes what is in it."""

    def __init__(
        self,
        spec: Dict[str, Any],
        courier: Courier,
        report: Report,
        stopping: threading.Event,
        key: str,
    ) -> None:
        """`key` is the transfer's, in hex."""
        self._root = str(spec["root"])
        self._key = key
        self._files: List[Any] = spec["files"]
        self._parcels: List[Dict[str, Any]] = spec["parcels"]
        self._threads = max(1, int(spec.get("threads") or 4))
        self._pace = Pace(int(spec.get("rate") or 0))
        self._spec = spec
        self._courier = courier
        self._report = report
        self._stopping = stopping
        self._folders: Dict[str, str] = {}
        self._big: Dict[int, Growing] = {}
        self._lock = threading.Lock()
        self._failed: Dict[int, str] = {}
        self._heard = time.monotonic()
        self._done = {int(number): pieces for number, pieces in spec.get("done") or []}
        self._proofs = {int(number): Proof(*proof) for number, *proof in spec.get("proofs") or []}
        self._left = self._pieces_of_files()
        umask = os.umask(0o022)
        os.umask(umask)
        self._rights = (0o666 & ~umask, 0o777 & ~umask)

    def run(self) -> None:
        """Raises what ends the whole: StoreAway, StoreRefused, Stopped, SourceAway."""
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
        if all(item.file in self._failed for item in planned):
            self._report.parcel(number, 0)  # of files that cannot be written nothing more is fetched
            return
        opened = self._raw(parcel, planned[0]) if parcel.get("raw") else self._await(parcel, planned)
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
                self._give_up(item.file, str(error.strerror or error))
        for folder in folders:
            sync(folder)
        for item, _, _ in opened.slices:
            if self._is_whole(item) and item.file not in self._failed:
                self._report.file(item.file)
        self._report.parcel(number, moved)

    def _raw(self, parcel: Dict[str, Any], item: Slice) -> Opened:
        """A piece of somebody's own object: of the size and ETag that were listed, whole ones proven at once.

        Without a proof of S3's the ETag may be the MD5. With keys of KMS it only looks so: where they differ,
        the same bytes must come twice.
        """
        whole = self._is_whole(item)
        etag = str(parcel.get("etag") or "")
        proof = self._proofs.get(item.file) if whole else None
        likely = whole and proof is None and _MD5.fullmatch(etag) is not None
        came: Set[str] = {etag} if likely else set()
        for _ in range(_TRIES):
            self._pace.take(item.length)
            try:
                span = None if whole else (item.offset, item.length)
                data = self._courier.get(parcel["url"], span, etag, most=item.length)
            except (Missing, PreconditionFailed, TooMuch):
                return Opened([], {item.file: CHANGED})
            if len(data) != item.length:
                return Opened([], {item.file: CHANGED})
            digest = hashlib.new("md5", data).hexdigest() if likely else ""  # noqa: S324 (S3's own)
            if proves(proof, memoryview(data)) if proof else not likely or digest in came:
                return Opened([(item, memoryview(data), "")], {})
            came.add(digest)
        return Opened([], {item.file: DAMAGED})

    def _await(self, parcel: Dict[str, Any], planned: List[Slice]) -> Opened:
        """What lies there may be anybody's: it counts with the seal of the transfer and of this parcel."""
        look = _FIRST_LOOK
        torn = 0
        while True:
            if self._stopping.is_set():
                raise Stopped
            try:
                data = self._courier.get(parcel["url"], most=largest(planned))
            except Missing as error:
                if time.monotonic() - self._heard > PATIENCE:
                    raise SourceAway("nothing came for %d s" % PATIENCE) from error
                self._stopping.wait(look)
                look = min(look * 1.5, _LONGEST_LOOK)
                continue
            except TooMuch:
                data = b""
            self._heard = time.monotonic()
            self._pace.take(len(data))
            try:
                return unseal(data, planned, self._key, str(parcel["name"]))
            except TornParcel:
                self._stopping.wait(look)  # its sender may be about to put it there
                look = min(look * 1.5, _LONGEST_LOOK)
                torn += 1
                if torn == _TRIES:
                    return Opened([], dict.fromkeys((item.file for item in planned), FORGED))

    def _is_whole(self, item: Slice) -> bool:
        return item.length == self._files[item.file][1]

    def _write(self, target: str, file: int, data: memoryview) -> None:
        """A file that came in one piece."""
        about = self._files[file]
        temporary = os.path.join(os.path.dirname(target), partial_name(about[0], about[1], about[2]))
        try:
            # The name can be foretold: no link that lies there is followed.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o666), "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            finish(temporary, target, about, self._rights)
        except BaseException:
            unlink(temporary)
            raise

    def _grow(self, target: str, item: Slice, data: memoryview, checksum: str) -> None:
        with self._lock:
            if item.file in self._failed:
                return
            if item.file not in self._big:
                self._big[item.file] = self._growing(item.file, target)
            growing = self._big[item.file]
        if growing.add(item, data, checksum):
            self._end(item.file, growing)

    def _growing(self, file: int, target: str) -> Growing:
        return Growing(
            target, self._files[file], self._done.get(file, []), self._rights, self._proofs.get(file)
        )

    def _end(self, file: int, growing: Growing) -> None:
        """Every piece of it is there."""
        if growing.finish():
            self._report.file(file)
        else:
            self._give_up(file, DAMAGED)

    def _finish_what_was_there(self) -> None:
        """Files of which every piece had come before, and only the name was missing."""
        for file in self._done:
            if file not in self._left:
                try:
                    target = place(self._root, self._files[file][0], self._folders)
                    with self._lock:
                        growing = self._big[file] = self._growing(file, target)
                    self._end(file, growing)
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
                unlink(os.path.join(self._root, path))

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
