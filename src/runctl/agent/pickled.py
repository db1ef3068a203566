"""Where a pickle ends: its operations are passed over, nothing is unpickled, and no payload is read."""

from __future__ import annotations

import os
from typing import IO, Dict, Optional, Tuple

TORN = -1
_MOST_OPERATIONS = 100_000
_LONGEST_LINE = 1 << 16
_WITH_TWO_LINES = b"ci"  # GLOBAL, INST
_STOP = b"."
_MARKER = b"numpy_pickle"  # the module of what stands before an array that joblib writes as it is
_BEGINNING = 1 << 16
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the first pickle of torch's old format
_PICKLES_OF_TORCH = 5

_sizes: Dict[bytes, Tuple[int, int]] = {}


def is_whole(file: IO[bytes], size: int) -> Optional[bool]:
    """Of a file of pickles, one after the other."""
    file.seek(0)
    beginning = file.read(_BEGINNING)
    if not beginning or not beginning.strip(b"\0"):
        return False
    if beginning.startswith(_LEGACY_TORCH):
        return _legacy_torch(file, size)
    if _MARKER in beginning:  # arrays stand between the operations
        return None if _ends_with_stop(file) else False
    at = 0
    while at < size:
        end = end_of(file, size, at)
        if end is None:
            return None if _ends_with_stop(file) else False
        if end == TORN:
            # Of another kind; or the next one is torn; or what follows is no pickle.
            file.seek(at)
            return False if file.read(1) == b"\x80" else None
        at = end
    return True


def end_of(file: IO[bytes], size: int, begin: int) -> Optional[int]:
    """Where the pickle that begins there ends; TORN if it does not, None if it has too many operations."""
    sizes = _operations()
    file.seek(begin)
    for _ in range(_MOST_OPERATIONS):
        code = file.read(1)
        if code == _STOP:
            return file.tell()
        if code not in sizes:
            return TORN
        wide, length = sizes[code]
        for _ in range(2 if code in _WITH_TWO_LINES else 1 if wide < 0 else 0):
            if not file.readline(_LONGEST_LINE).endswith(b"\n"):
                return TORN
        if wide > 0:
            told = file.read(wide)
            if len(told) < wide:
                return TORN
            length = int.from_bytes(told, "little")
        if file.tell() + length > size:
            return TORN
        if length:
            file.seek(length, os.SEEK_CUR)
    return None


def _legacy_torch(file: IO[bytes], size: int) -> Optional[bool]:
    """The tensors lie after its pickles, and how large they are only unpickling tells."""
    at = 0
    for _ in range(_PICKLES_OF_TORCH):
        end = end_of(file, size, at)
        if end is None:
            return None
        if end == TORN:
            return False
        at = end
    return None


def _ends_with_stop(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == _STOP


def _operations() -> Dict[bytes, Tuple[int, int]]:
    """Of each operation how many bytes tell its payload's length, -1 for lines; else the payload's length."""
    if not _sizes:
        import pickletools

        wides = {
            pickletools.TAKEN_FROM_ARGUMENT1: 1,
            pickletools.TAKEN_FROM_ARGUMENT4: 4,
            pickletools.TAKEN_FROM_ARGUMENT4U: 4,
            pickletools.TAKEN_FROM_ARGUMENT8U: 8,
            pickletools.UP_TO_NEWLINE: -1,
        }
        for operation in pickletools.opcodes:
            told = 0 if operation.arg is None else operation.arg.n
            _sizes[operation.code.encode("latin-1")] = (wides[told], 0) if told < 0 else (0, told)
    return _sizes
