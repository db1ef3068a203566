"""The committed checkpoints of a job, read from afar: only what its manifest vouches for."""

from __future__ import annotations

import hashlib

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.jobs.place import Place
from runctl.quoting import quoted
from runctl.storage.objects import Store

_CHUNK = 8 * 1024 * 1024


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a commit; size in bytes, path relative to the commit.

    With a `part` above 0, `sha256` is that of the SHA-256 of each so many bytes, one after another.
    """

    path: str
    size: int
    sha256: str
    part: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit consists of, written last."""

    name: str
    source: str
    step: int | None
    files: tuple[ManifestFile, ...]


def commits(place: Place) -> list[str]:
    """The names of the committed checkpoints, the oldest first."""
    prefix = place.commits()
    keys = [item.key for item in place.store.list(prefix)]
    return sorted(
        key.removeprefix(prefix).split("/")[0]
        for key in keys
        if key.endswith("/manifest.json") and key.count("/") == prefix.count("/") + 1
    )


def verify(place: Place, name: str) -> str:
    """Check a commit byte by byte; answers its name, which may be given by its beginning.

    Raises NotFound for one that is not there, ValidationError for one that is corrupt.
    """
    known = commits(place)
    found = [commit for commit in known if commit == name or commit.startswith(name)]
    if len(found) != 1:
        raise NotFound(
            f"There is no committed checkpoint {name!r}",
            why=f"there are: {', '.join(known[-5:])}" if known else "none was committed",
        )
    prefix = place.commits() + found[0] + "/"
    try:
        manifest = msgspec.json.decode(place.store.read(prefix + "manifest.json"), type=Manifest)
    except msgspec.MsgspecError as error:
        raise _corrupt(found[0], f"its manifest cannot be read: {error}", known) from error
    for file in manifest.files:
        try:
            size = place.store.info(prefix + file.path).size
        except NotFound:
            raise _corrupt(found[0], f"{file.path} is missing", known) from None
        if size != file.size or _digest(place.store, prefix + file.path, file) != file.sha256:
            raise _corrupt(found[0], f"{file.path} is not what was committed", known)
    return found[0]


def _digest(store: Store, key: str, file: ManifestFile) -> str:
    """Read piece by piece: a checkpoint may be larger than this computer's memory."""
    whole = hashlib.sha256()
    for start, length in _stretches(file.size, file.part or file.size):
        part = hashlib.sha256() if file.part else whole
        for at, size in _stretches(length, _CHUNK):
            part.update(store.read_range(key, start + at, size))
        if file.part:
            whole.update(part.digest())
    return whole.hexdigest()


def _stretches(size: int, most: int) -> list[tuple[int, int]]:
    """Where each piece of at most `most` bytes begins, and its length."""
    return [(start, min(most, size - start)) for start in range(0, size, max(1, most))]


def _corrupt(name: str, why: str, known: list[str]) -> ValidationError:
    before = [commit for commit in known if commit < name]
    return ValidationError(
        f"The checkpoint {name} is corrupt",
        why=why,
        next=f"resume from the one before it: --from {quoted(before[-1])}" if before else "leave --from out",
    )
