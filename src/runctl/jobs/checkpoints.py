"""The committed checkpoints of a job, read from afar: only what its manifest vouches for."""

from __future__ import annotations

import hashlib
import json

import msgspec

from runctl.agent import restoring
from runctl.agent import seal as seals
from runctl.errors import NotFound, ValidationError
from runctl.jobs.place import Place
from runctl.quoting import quoted
from runctl.storage import claims
from runctl.storage.claims import MiB, claim
from runctl.storage.objects import Store

_CHUNK = 8 * 1024 * 1024


_MOST_PARTS = 10_000


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a commit; size in bytes, path relative to the commit.

    With a `part` above 0, `sha256` is that of the SHA-256 of each so many bytes, one after another.
    """

    path: claims.RelativePath
    size: claims.Bytes
    sha256: claims.Sha256
    part: claims.Bytes = 0

    def __post_init__(self) -> None:
        if self.part and self.size > self.part * _MOST_PARTS:
            raise ValueError(f"more than {_MOST_PARTS} parts")


@claim("manifest of a checkpoint", largest=64 * MiB)
class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit consists of, written last."""

    name: claims.CommitName
    source: claims.Name
    step: claims.Count | None
    files: tuple[ManifestFile, ...]


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A whole commit; `sha256` is that of its manifest. `ours`: a machine of this job committed it."""

    name: str
    sha256: str
    ours: bool


def commits(place: Place) -> list[str]:
    """The names of the committed checkpoints, the oldest first; what no agent calls so is left out."""
    return restoring.commit_names(_Listing(place))


def newest(place: Place, seal: str) -> Verified | None:
    """The newest commit that a machine of this job made, by its manifest; without one, the newest of all.

    A number that somebody else chose brings nothing before ours. Whoever resumes checks the files.
    """
    others: Verified | None = None
    for name in reversed(commits(place)):
        try:
            found = _told(place, name, seal)[1]
        except (ValidationError, NotFound):
            continue  # so do machines
        if found.ours:
            return found
        others = others or found
    return others


def verify(place: Place, name: str, seal: str) -> Verified:
    """Check a commit byte by byte; its name may be given by its beginning. `seal` is the job's key.

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
        manifest, verified = _told(place, found[0], seal)
    except claims.Unbelievable as error:
        raise _corrupt(found[0], f"its manifest cannot be read: {error.why}", known) from error
    if manifest.name != found[0]:
        raise _corrupt(found[0], "its manifest is that of another commit", known)
    for file in manifest.files:
        try:
            size = place.store.info(prefix + file.path).size
        except NotFound:
            raise _corrupt(found[0], f"{file.path} is missing", known) from None
        if size != file.size or _digest(place.store, prefix + file.path, file) != file.sha256:
            raise _corrupt(found[0], f"{file.path} is not what was committed", known)
    return verified


def _told(place: Place, name: str, seal: str) -> tuple[Manifest, Verified]:
    """Raises NotFound, Unbelievable, TooLarge."""
    key = f"{place.commits()}{name}/manifest.json"
    data = place.store.read(key, largest=restoring.LARGEST_MANIFEST)
    manifest = claims.decode(data, Manifest, key)
    ours = not seal or _holds(seal, data)
    return manifest, Verified(name=name, sha256=hashlib.sha256(data).hexdigest(), ours=ours)


def _holds(seal: str, manifest: bytes) -> bool:
    """Fields that no manifest has were not decoded yet: anything may stand in them."""
    try:
        return seals.holds(seal, json.loads(manifest))
    except (ValueError, RecursionError):
        return False


class _Listing:
    """The store of a place, as the agent's own reading of commits asks for it."""

    def __init__(self, place: Place) -> None:
        self._store = place.store
        self.checkpoints = place.commits()

    def list(self, prefix: str) -> list[tuple[str, int]]:
        return [(item.key, item.size) for item in self._store.list(prefix)]


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
