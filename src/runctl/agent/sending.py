"""One side of a transfer: slices of this machine's files to presigned URLs."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Dict, List, Optional, Tuple

from .parcel import Slice, seal
from .presigned import Courier, Pace
from .report import Report


class Changed(Exception):
    """A file is no longer what was listed."""


class Sending:
    """Sends every parcel of a spec. A file that changed or went is told of in it and in the report."""

    def __init__(self, spec: Dict[str, Any], courier: Courier, report: Report, key: str) -> None:
        """`key` is the transfer's, in hex."""
        self._root = str(spec["root"])
        self._key = key
        self._files: List[Any] = spec["files"]
        self._parcels: List[Dict[str, Any]] = spec["parcels"]
        self._pack = str(spec.get("pack") or "")
        self._threads = max(1, int(spec.get("threads") or 4))
        self._pace = Pace(int(spec.get("rate") or 0))
        self._courier = courier
        self._report = report
        self._faults: Dict[int, str] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Raises what ends the whole: StoreAway, StoreRefused, Expired, Stopped."""
        with ThreadPoolExecutor(self._threads) as pool:
            sent = [pool.submit(self._send, number) for number in range(len(self._parcels))]
            done, waiting = wait(sent, return_when=FIRST_EXCEPTION)
            for one in waiting:
                one.cancel()
        for one in done:
            one.result()

    def _send(self, number: int) -> None:
        parcel = self._parcels[number]
        pieces = [(item, *self._read(item)) for item in (Slice(*item) for item in parcel["slices"])]
        raw, name = bool(parcel.get("raw")), str(parcel["name"])
        data = pieces[0][1] if raw else seal(pieces, self._pack, self._key, name)
        if data is None:
            self._report.parcel(number, 0)  # an object that would be wrong is not written
            return
        self._pace.take(len(data))
        etag = self._courier.put(parcel["url"], data)
        if raw:
            self._report.staged(name, etag)  # what it is put together of must be this very state
        moved = sum(item.length for item, read, _ in pieces if read is not None)
        self._report.parcel(number, moved, len(data))

    def _read(self, item: Slice) -> Tuple[Optional[bytes], str]:
        """The bytes, or none and why: a file of which one piece cannot be sent is not sent at all."""
        with self._lock:
            fault = self._faults.get(item.file, "")
        if not fault:
            try:
                return self._slice(item), ""
            except Changed:
                fault = "changed"
            except OSError as error:
                fault = "changed" if isinstance(error, FileNotFoundError) else str(error.strerror)
        with self._lock:
            self._faults[item.file] = fault
        self._report.fault(item.file, fault)
        return None, fault

    def _slice(self, item: Slice) -> bytes:
        key, size, modified = self._files[item.file][:3]
        with open(os.path.join(self._root, key), "rb") as file:
            self._require(file.fileno(), size, modified)
            pieces: List[bytes] = []
            at, end = item.offset, item.offset + item.length
            while at < end:
                piece = os.pread(file.fileno(), end - at, at)
                if not piece:
                    raise Changed
                pieces.append(piece)
                at += len(piece)
            self._require(file.fileno(), size, modified)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @staticmethod
    def _require(descriptor: int, size: int, modified: int) -> None:
        about = os.fstat(descriptor)
        if about.st_size != size or about.st_mtime_ns != modified:
            raise Changed
