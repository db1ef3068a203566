"""Whether a file is whole, by its own format. Nothing is unpickled, and little is read of a large file."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import struct
import zlib
from typing import IO, Any, Callable, Dict, List, Optional, Tuple

from . import pickled
from .files import open_regular

ZIP_SUFFIXES = (".pt", ".pth", ".ckpt", ".npz", ".keras", ".zip", ".bin")
_ALWAYS_ZIP = (".npz", ".keras", ".zip")
_CHECKED_ZIP = (".npz", ".keras", ".zip")  # their readers look at the checksums, torch.load does not
_TORCH = (".pt", ".pth", ".ckpt")
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")
_HDF5 = (".h5", ".hdf5")

_LARGEST_HEADER = 100 * 1024 * 1024  # of safetensors; the format's own readers refuse more
_READ_WHOLE = 16 * 1024 * 1024
"""Bytes up to which a file is read to its end, where its format asks for that."""
_SLOWEST_TO_READ = 4 * 1024 * 1024
"""Bytes of what takes a second of CPU for each few of them."""
_MOST_VALUES = 200_000

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TABLE_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # tensorflow/core/lib/io/format.h


def verdict(path: str) -> Optional[bool]:
    """True or False where the format tells, None where it cannot. Raises OSError."""
    lower = os.path.basename(path).lower()
    suffix = os.path.splitext(lower)[1]
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(16)
        if suffix == ".safetensors":
            return _safetensors(file, size)
        if suffix == ".distcp":
            return None  # archives, one after the other: what is beside it tells
        if magic.startswith(b"PK\x03\x04"):
            return _zip(file, size, suffix)
        if suffix in _ALWAYS_ZIP or (suffix in ZIP_SUFFIXES and size < 4):
            return False
        for judge, is_its in _JUDGES:
            if is_its(lower, suffix, magic):
                return judge(file, size)
    return None


def _zip(file: IO[bytes], size: int, suffix: str) -> bool:
    """The central directory is there, and every entry that it names lies between the file's start and it.

    A torn archive may end with the directory of an archive inside it: that one does not begin at 0.
    """
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            end, entries = archive.start_dir, archive.infolist()
            lies = (
                bool(entries)
                and min(entry.header_offset for entry in entries) == 0
                and all(entry.header_offset + entry.compress_size <= end for entry in entries)
            )
            checked = suffix in _CHECKED_ZIP and size <= _READ_WHOLE
            return lies and not (checked and archive.testzip())
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, zlib.error, NotImplementedError):
        return False


def _safetensors(file: IO[bytes], size: int) -> bool:
    """8 bytes of header length, a JSON header, then exactly as many bytes as its last offset says."""
    file.seek(0)
    prefix = file.read(8)
    if len(prefix) < 8:
        return False
    length = struct.unpack("<Q", prefix)[0]
    if length > min(size - 8, _LARGEST_HEADER):
        return False
    try:
        header: Dict[str, Dict[str, List[int]]] = json.loads(file.read(length))
        ends = [int(tensor["data_offsets"][1]) for key, tensor in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False
    return size == 8 + length + max(ends, default=0)


def _hdf5(file: IO[bytes], size: int) -> Optional[bool]:
    """The superblock names the end of the file. Format specification 3.0, section II.A."""
    block = _superblock(file, size)
    if len(block) < 64:
        return False
    version = block[8]
    wide = block[13] if version < 2 else block[9]
    if version > 3 or wide != 8:
        return None
    at = {0: 40, 1: 44}.get(version, 28)
    end: int = struct.unpack("<Q", block[at : at + 8])[0]
    if size == end:
        return True
    return None if size > end > 0 and version >= 2 else False


def _superblock(file: IO[bytes], size: int) -> bytes:
    """At the file's beginning, or after a block of the user's: at 512 bytes, twice as far, and so on."""
    at = 0
    while at < min(size, _READ_WHOLE):
        file.seek(at)
        block = file.read(64)
        if block.startswith(_HDF5_MAGIC):
            return block
        at = 2 * at or 512
    return b""


def _npy(file: IO[bytes], size: int) -> Optional[bool]:
    """The header says how many bytes follow it. NumPy's NEP 1."""
    file.seek(0)
    start = file.read(12)
    if len(start) < 12 or not start.startswith(b"\x93NUMPY"):
        return False
    long = start[6] > 1
    length = struct.unpack("<I", start[8:12])[0] if long else struct.unpack("<H", start[8:10])[0]
    begin = (12 if long else 10) + length
    if length > _READ_WHOLE or begin > size:
        return False
    file.seek(begin - length)
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1").strip())
        each, count = _bytes_of(header["descr"]), math.prod(header["shape"])
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return False
    if each is None:
        end = pickled.end_of(file, size, begin)
        return None if end is None else end == size
    if size > begin + count * each:
        return None  # more than one array, one after the other
    return size == begin + count * each


def _bytes_of(kind: Any) -> Optional[int]:
    """Of one element, records too; None for objects, which are pickled."""
    if isinstance(kind, list):
        total = 0
        for field in kind:
            each = _bytes_of(field[1])
            if each is None:
                return None
            shape = field[2] if len(field) > 2 else ()
            total += each * math.prod(shape if isinstance(shape, tuple) else (shape,))
        return total
    told = re.fullmatch(r"[<>|=]?([a-zA-Z])(\d+)?(?:\[\w+\])?", str(kind))
    if told is None or told[2] is None:
        return None
    return int(told[2]) * (4 if told[1] == "U" else 1)


def _pickle(file: IO[bytes], size: int) -> Optional[bool]:
    return pickled.is_whole(file, size)


def _gzip(file: IO[bytes], size: int) -> Optional[bool]:
    return _inflated(file, size, 31)


def _zlib(file: IO[bytes], size: int) -> Optional[bool]:
    return _inflated(file, size, 15)


def _inflated(file: IO[bytes], size: int, bits: int) -> Optional[bool]:
    """One stream after another. Nobody reads what stands after a pickle's end, so that may be missing."""
    if size > _READ_WHOLE:
        return None
    file.seek(0)
    data, last = file.read(size), b""
    try:
        while data.strip(b"\0"):
            stream = zlib.decompressobj(bits)
            left = data
            while left and not stream.eof:
                last = stream.decompress(left, 1024 * 1024)[-1:] or last
                left = stream.unconsumed_tail
            if not stream.eof:
                return None if last == b"." else False
            data = stream.unused_data
    except zlib.error:
        return False
    return True


def _bz2(file: IO[bytes], size: int) -> Optional[bool]:
    import bz2

    return _unpacked(file, size, bz2.BZ2Decompressor)


def _xz(file: IO[bytes], size: int) -> Optional[bool]:
    import lzma

    return _unpacked(file, size, lzma.LZMADecompressor)


def _unpacked(file: IO[bytes], size: int, decompressor: Callable[[], Any]) -> Optional[bool]:
    if size > _SLOWEST_TO_READ:
        return None
    file.seek(0)
    stream, data, last = decompressor(), file.read(size), b""
    try:
        while not stream.eof:
            last = stream.decompress(data, 1024 * 1024)[-1:] or last
            data = b""
            if stream.needs_input and not stream.eof:
                return None if last == b"." else False
    except Exception as error:  # lzma.LZMAError is an Exception of its own
        if isinstance(error, MemoryError):
            raise
        return False
    return True


def _json(file: IO[bytes], size: int) -> Optional[bool]:
    if size > _READ_WHOLE:
        return None
    file.seek(0)
    try:
        json.loads(file.read(size))
    except (ValueError, RecursionError):
        return False
    return True


def _ubjson(file: IO[bytes], size: int) -> Optional[bool]:
    """XGBoost's model is one object."""
    return None if size > 1 and _last(file, 1) == b"}" else False


def _lightgbm(file: IO[bytes], size: int) -> Optional[bool]:
    """The parameters are written last, and by Python a line on categories after them; both may be missing."""
    tail = _last(file, min(size, 256 * 1024))
    if tail.endswith(b"\n") and (b"\nend of parameters\n" in tail or b"\npandas_categorical:" in tail):
        return True
    return None if b"\nend of trees\n" in tail else False


def _both_ends(file: IO[bytes], size: int) -> bool:
    """Parquet and Arrow files begin and end with their magic."""
    file.seek(0)
    begin = file.read(6)
    magic = b"ARROW1" if begin == b"ARROW1" else b"PAR1"
    return size >= 2 * len(magic) and begin.startswith(magic) and _last(file, len(magic)) == magic


def _table(file: IO[bytes], size: int) -> bool:
    """TensorFlow's index is a sorted table with a footer."""
    return size >= 48 and _last(file, 8) == _TABLE_MAGIC


def _msgpack(file: IO[bytes], size: int) -> Optional[bool]:
    """One value from the file's start to its end, as flax writes it; payloads are passed over."""
    file.seek(0)
    left = 1
    for _ in range(_MOST_VALUES):
        if left == 0:
            return file.tell() == size
        head = file.read(1)
        if not head:
            return False
        payload, inner = _msgpack_head(file, head[0])
        if payload < 0 or file.tell() + payload > size:
            return False
        file.seek(payload, os.SEEK_CUR)
        left += inner - 1
    return None


_MSGPACK_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
_MSGPACK_FIXED = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
_MSGPACK_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def _msgpack_head(file: IO[bytes], head: int) -> Tuple[int, int]:
    """Bytes of payload, and how many values follow inside; -1 for what is no head."""
    if head in _MSGPACK_FIXED:
        return _MSGPACK_FIXED[head], 0
    if head in _MSGPACK_SIZED:
        length = int.from_bytes(file.read(_MSGPACK_SIZED[head]), "big")
        return length + (1 if 0xC7 <= head <= 0xC9 else 0), 0
    if head in _MSGPACK_COUNTED:
        wide, each = _MSGPACK_COUNTED[head]
        return 0, each * int.from_bytes(file.read(wide), "big")
    return _msgpack_small(head)


def _msgpack_small(head: int) -> Tuple[int, int]:
    """Those whose length is in the head itself."""
    if head < 0x80 or head >= 0xE0:
        return 0, 0
    if head < 0xA0:
        return 0, (head & 0x0F) * (2 if head < 0x90 else 1)
    return (head & 0x1F, 0) if head < 0xC0 else (-1, 0)


def _never(_file: IO[bytes], _size: int) -> bool:
    return False


def _last(file: IO[bytes], count: int) -> bytes:
    file.seek(-count, os.SEEK_END)
    return file.read(count)


_Judge = Callable[[IO[bytes], int], Optional[bool]]
_IsIts = Callable[[str, str, bytes], bool]
_JUDGES: Tuple[Tuple[_Judge, _IsIts], ...] = (
    (_hdf5, lambda _, suffix, magic: magic.startswith(_HDF5_MAGIC) or suffix in _HDF5),
    (_npy, lambda _, suffix, magic: magic.startswith(b"\x93NUMPY") or suffix == ".npy"),
    (_gzip, lambda _, __, magic: magic.startswith(b"\x1f\x8b")),
    (_zlib, lambda _, suffix, magic: suffix in _PICKLES and magic[:1] == b"\x78"),
    (_bz2, lambda _, __, magic: magic.startswith(b"BZh")),
    (_xz, lambda _, __, magic: magic.startswith((b"\xfd7zXZ\0", b"]\0\0"))),
    (_pickle, lambda _, suffix, magic: suffix in _PICKLES or (suffix in _TORCH and magic[:1] == b"\x80")),
    (_never, lambda _, suffix, magic: suffix in _TORCH and not magic.strip(b"\0")),
    (_json, lambda _, suffix, __: suffix == ".json"),
    (_ubjson, lambda _, suffix, __: suffix == ".ubj"),
    (_lightgbm, lambda _, __, magic: magic.startswith(b"tree\nversion=")),
    (_both_ends, lambda _, suffix, __: suffix in (".parquet", ".feather", ".arrow")),
    (_table, lambda name, suffix, _: suffix == ".index" and not name.startswith(".")),
    (_msgpack, lambda _, suffix, __: suffix == ".msgpack"),
)
