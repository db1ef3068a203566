"""Packed datasets on disk and in S3: many files in few objects, and an index that says where each lies.

    packs/NUMBER-STATE-CRC.pack     the bytes of files, one after the other
    runctl-packs.index              names, places and checksums; written last, so that half a set is none

The index is one line, `runctl packs 1 CRC`, with the CRC-64/NVME of what follows: a map in MessagePack
(`Body`). A file that is longer than what is left of its pack goes on at the beginning of the next one; only
files that are longer than a pack do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from runctl.datasets.samples import Sample
from runctl.errors import TransferError, ValidationError
from runctl.storage import digests
from runctl.storage.entries import Entry
from runctl.storage.objects import checked_key

INDEX = "runctl-packs.index"
"""The index's name below the dataset's prefix or folder."""
FORMAT = 1
CRC = "crc64nvme"
_HEAD = re.compile(rb"runctl packs ([0-9]+) ([0-9a-f]{16})\n")
_NAME = re.compile(r"packs/([0-9]{6})-([0-9a-f]{16})-([0-9a-f]{16})\.pack")


class Torn(TransferError):
    """A packed dataset is not whole: its bytes are not those of its checksums."""


class Pack(Entry, frozen=True, gc=False):
    """A pack: an entry whose bytes have this CRC-64/NVME, in hex."""

    crc: str = ""


class PackedFile(Entry, frozen=True, gc=False):
    """A file: it begins at byte `offset` of the pack number `pack`, and its bytes have this CRC-32."""

    pack: int = 0
    offset: int = 0
    crc: int = 0


class Body(msgspec.Struct, frozen=True):
    """What the index holds.

    `packs`: name, bytes, CRC-64/NVME in hex. `files`, in order of their names' bytes: name, number of its
    pack, offset there, bytes, CRC-32, and the ETag that it had in S3, empty for a file of a folder.
    """

    packs: list[tuple[str, int, str]]
    files: list[tuple[str, int, int, int, int, str]]


class Index(NamedTuple):
    """A packed dataset's files and packs."""

    packs: tuple[Pack, ...]
    files: tuple[PackedFile, ...]


class Planned(NamedTuple):
    """A pack that is to be: the pieces of files that it consists of, and what tells it from others."""

    number: int
    pieces: tuple[Sample, ...]
    size: int
    state: str

    def name(self, crc: str) -> str:
        return f"packs/{self.number:06}-{self.state}-{crc}.pack"


def name_parts(name: str) -> tuple[int, str, str] | None:
    """Number, state and CRC of a pack by its name, None for what is none."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2], found[3]) if found else None


def lay_out(files: Sequence[Entry], order: Iterable[int], pack_size: int) -> list[Planned]:
    """The files of these numbers in this order, cut into packs of at most `pack_size` bytes.

    The same files, order and size give the same packs. Empty files need none.
    """
    runs: list[list[Sample]] = []
    used = pack_size
    for number in order:
        left = files[number].size
        if left > pack_size - used:
            used = pack_size
        while left:
            if used == pack_size:
                runs.append([])
                used = 0
            length = min(left, pack_size - used)
            runs[-1].append(Sample(number, files[number].size - left, length))
            used, left = used + length, left - length
    return [
        Planned(at, tuple(run), sum(piece.length for piece in run), _state(files, run))
        for at, run in enumerate(runs)
    ]


def spans(
    packs: Sequence[Entry], file: PackedFile, start: int, length: int
) -> Iterator[tuple[int, int, int]]:
    """Where `length` bytes of a file from `start` on lie: number of a pack, offset, length."""
    pack, at = file.pack, file.offset + start
    while length:
        size = packs[pack].size
        if at < size:
            here = min(length, size - at)
            yield pack, at, here
            length, at = length - here, at + here
        pack, at = pack + 1, at - size


def encode(index: Index) -> bytes:
    """The index's bytes: the same for the same files in the same packs."""
    body = msgspec.msgpack.encode(
        Body(
            packs=[(pack.key, pack.size, pack.crc) for pack in index.packs],
            files=[
                (file.key, file.pack, file.offset, file.size, file.crc, file.etag) for file in index.files
            ],
        )
    )
    return f"runctl packs {FORMAT} {crc_of(body)}\n".encode() + body


def decode(data: bytes) -> Index:
    """Read an index. Raises Torn where it is damaged, ValidationError where it is of a later version."""
    head = _HEAD.match(data)
    if head is None:
        raise Torn("The index of the packed dataset is damaged", why="it does not begin as one", next=_AGAIN)
    if int(head[1]) != FORMAT:
        raise ValidationError(
            f"The packed dataset has format {int(head[1])}",
            why=f"this runctl reads format {FORMAT}",
            next="use a newer runctl",
        )
    rest = data[head.end() :]
    if crc_of(rest) != head[2].decode():
        raise Torn("The index of the packed dataset is damaged", why="its checksum is another", next=_AGAIN)
    try:
        body = msgspec.msgpack.decode(rest, type=Body)
    except msgspec.DecodeError as error:
        raise Torn("The index of the packed dataset cannot be read", why=str(error), next=_AGAIN) from error
    packs = tuple(Pack(checked_key(name), size, 0, crc=crc) for name, size, crc in body.packs)
    files = tuple(
        PackedFile(name, size, 0, etag, pack, offset, crc)
        for name, pack, offset, size, crc, etag in body.files
    )
    _check(packs, files)
    return Index(packs, files)


_AGAIN = "write it anew: runctl data pack SRC DST"


def crc_of(data: bytes) -> str:
    """The CRC-64/NVME of bytes, in hex."""
    digest = digests.new(CRC)
    digest.update(data)
    return digest.digest().hex()


def _check(packs: tuple[Pack, ...], files: tuple[PackedFile, ...]) -> None:
    ends = [0]
    for pack in packs:
        ends.append(ends[-1] + pack.size)
    for file in files:
        inside = 0 <= file.pack < len(packs) and 0 <= file.offset <= packs[file.pack].size
        if file.size < 0 or (
            file.size and not (inside and ends[file.pack] + file.offset + file.size <= ends[-1])
        ):
            raise Torn(f"{file.key} lies in no pack", why="the index is wrong", next=_AGAIN)


def _state(files: Sequence[Entry], run: Iterable[Sample]) -> str:
    """Names, sizes, ETags and pieces: what is known of a pack's bytes before they are read."""
    total = blake2b(digest_size=8)
    for number, start, length in run:
        file = files[number]
        text = f"{file.key}\0{file.size}\0{file.etag}\0{start}\0{length}\n"
        total.update(text.encode())
    return total.hexdigest()
