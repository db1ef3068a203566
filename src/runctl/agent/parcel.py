"""What travels through the staging prefix: slices of files with their checksums, packed where it helps.

A header names the checksums of all that is behind it, and it alone is under the transfer's HMAC: no byte of a
file is hashed for that once more.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zlib
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from . import mac

_MAGIC = b"runctl parcel 2\n"
_LEVEL = 3
_WORTH_IT = 0.95
ZSTD, GZIP, NONE = "zstd", "gzip", ""


class TornParcel(Exception):
    """What came is not what was sent."""


class Slice(NamedTuple):
    """`length` bytes from `offset` on of the file of this number."""

    file: int
    offset: int
    length: int


class Opened(NamedTuple):
    """A parcel's slices with their bytes and checksums (hex), and the files that could not be sent: why."""

    slices: List[Tuple[Slice, memoryview, str]]
    faults: Dict[int, str]


def largest(planned: List[Slice]) -> int:
    """Bytes that a parcel of these slices may have: more of them were not sent by us."""
    return sum(item.length for item in planned) + 1024 * (len(planned) + 1024)


def seal(pieces: List[Tuple[Slice, Optional[bytes], str]], pack: str, key: str, name: str) -> bytes:
    """The bytes of a parcel: each planned slice with its bytes, or with none and why they cannot be sent.

    `key` is the transfer's, in hex; `name` is what the plan calls the parcel.

    Content that does not shrink is not packed. The parcel does not know the files' numbers, which change from
    one try to the next.
    """
    listed: List[Any] = []
    for item, data, why in pieces:
        checksum = None if data is None else hashlib.sha256(data).hexdigest()
        listed.append([item.offset, item.length, checksum, why])
    content = b"".join(data for _, data, _ in pieces if data is not None)
    packed = squeeze(pack, content) if pack and content else content
    if len(packed) > len(content) * _WORTH_IT:
        pack, packed = NONE, content
    told = {"packed": pack, "size": len(content), "slices": listed}
    if pack != NONE:
        told["sha256"] = hashlib.sha256(packed).hexdigest()  # nothing is unpacked that was not sent
    header = json.dumps(told).encode()
    sealed = mac.of(key, "parcel/" + name, header)
    return b"".join((_MAGIC, sealed, len(header).to_bytes(8, "big"), header, packed))


def unseal(data: bytes, planned: List[Slice], key: str, name: str) -> Opened:
    """Every slice, verified. Raises TornParcel, also where it holds anything that was not `planned`."""
    begin, start = len(_MAGIC) + mac.LENGTH, len(_MAGIC) + mac.LENGTH + 8
    if data[: len(_MAGIC)] != _MAGIC:
        raise TornParcel("this is no parcel")
    end = start + int.from_bytes(data[begin:start], "big")
    told = data[start:end]
    if end > len(data):
        raise TornParcel("its header is cut short")
    if not mac.holds(key, "parcel/" + name, told, data[len(_MAGIC) : begin]):
        raise TornParcel("the parcel's seal is wrong")
    try:
        header = json.loads(told)
        size, pack = int(header["size"]), str(header["packed"])
        listed = [(int(row[0]), int(row[1]), row[2], str(row[3])) for row in header["slices"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise TornParcel("the parcel's header cannot be read: %s" % error) from error
    here = sum(length for _, length, checksum, _ in listed if checksum is not None)
    if [row[:2] for row in listed] != [(item.offset, item.length) for item in planned] or size != here:
        raise TornParcel("the parcel holds something else than was planned")
    if pack != NONE and hashlib.sha256(memoryview(data)[end:]).hexdigest() != header.get("sha256"):
        raise TornParcel("the checksum of what was packed is wrong")
    content = memoryview(expand(pack, data[end:], size))
    if len(content) != size:
        raise TornParcel("%d of %d bytes came" % (len(content), size))
    return _opened(content, planned, [(checksum, why) for _, _, checksum, why in listed])


def _opened(content: memoryview, planned: List[Slice], told: List[Tuple[Any, str]]) -> Opened:
    found: List[Tuple[Slice, memoryview, str]] = []
    faults: Dict[int, str] = {}
    at = 0
    for number, (checksum, why) in enumerate(told):
        item = planned[number]
        if checksum is None:
            faults[item.file] = why
            continue
        piece = content[at : at + item.length]
        at += item.length
        if hashlib.sha256(piece).hexdigest() != checksum:
            raise TornParcel("the checksum of a piece is wrong")
        found.append((item, piece, str(checksum)))
    return Opened(found, faults)


def packers() -> List[str]:
    """The ways to pack that this machine knows, the best first."""
    return [ZSTD, GZIP] if _zstd_module() is not None or shutil.which("zstd") else [GZIP]


def squeeze(pack: str, data: bytes) -> bytes:
    if pack == GZIP:
        return zlib.compress(data, _LEVEL)
    module = _zstd_module()
    if module is not None:
        return bytes(module.compress(data, level=_LEVEL))
    return _run(["zstd", "-q", "-c", "-%d" % _LEVEL], data)


def expand(pack: str, data: bytes, size: int) -> bytes:
    """At most one byte more than `size`, however much a bomb would make of it. Raises TornParcel."""
    if pack == NONE:
        return data
    try:
        if pack == GZIP:
            return zlib.decompressobj().decompress(data, size + 1) if size else b""
        if pack == ZSTD:
            module = _zstd_module()
            if module is not None:
                return bytes(module.ZstdDecompressor().decompress(data, max_length=size + 1))
            return _run(["zstd", "-q", "-d", "-c"], data, limit=size + 1)
    except Exception as error:  # each library has an error of its own
        raise TornParcel("the parcel cannot be unpacked: %s" % error) from error
    raise TornParcel("the parcel is packed by %r, which is unknown here" % pack)


def _zstd_module() -> Any:
    """The standard library has it from Python 3.14 on."""
    try:
        from importlib import import_module

        return import_module("compression.zstd")
    except ImportError:
        return None


def _run(command: List[str], data: bytes, limit: int = -1) -> bytes:
    import threading

    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101 (pipes were asked for)
    entry = process.stdin

    def feed() -> None:
        try:
            entry.write(data)
            entry.close()
        except OSError:
            pass  # it has ended: its exit code says why

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    found = process.stdout.read(limit)
    if limit >= 0 and len(found) >= limit:
        process.kill()
    process.stdout.close()
    code = process.wait()
    feeder.join()
    if code and not (limit >= 0 and len(found) >= limit):
        raise TornParcel("%s ended with %d" % (command[0], code))
    return found
