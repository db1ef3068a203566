"""The snapshots of a job, read from afar: only what the manifest of one vouches for."""

from __future__ import annotations

import contextlib
import hashlib

import msgspec

from runctl.agent import packs
from runctl.agent import seal as seals
from runctl.agent import snapshot as agents
from runctl.agent.sets import checkpoint_sets
from runctl.agent.walk import Found
from runctl.errors import NotFound, TrainctlError, ValidationError
from runctl.jobs import proven
from runctl.jobs.place import Place
from runctl.quoting import quoted
from runctl.storage import claims, manifests


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot; `sha256` is that of its manifest. `ours`: a machine of this job made it."""

    name: str
    sha256: str
    ours: bool
    manifest: agents.Manifest

    def files(self, *trees: str) -> list[agents.Entry]:
        """The files of these trees."""
        return [entry for entry in self.manifest.entries if entry.kind == "file" and entry.tree in trees]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.files(*agents.TREES))

    @property
    def brought(self) -> int:
        """Bytes that it brought itself: the others lay in the store already."""
        return sum(entry.size for entry in self.files(*agents.TREES) if entry.at.startswith(f"{self.name}/"))

    def checkpoint(self) -> list[agents.Entry]:
        """All that its newest complete checkpoint consists of: a file, a folder, or siblings."""
        if self.manifest.checkpoint is None:
            return []
        tree, path = self.manifest.checkpoint
        entries = [entry for entry in self.manifest.entries if entry.tree == tree]
        own = {one.path for one in entries if f"{one.path}/".startswith(f"{path}/")}
        found = [
            Found(one.path, one.kind, one.size, one.mtime, one.mtime, 0, 0, one.mode, one.link)
            for one in entries
        ]
        for one in checkpoint_sets(found):
            if own.intersection(one.paths):
                own.update(one.paths)
        return [entry for entry in entries if entry.path in own]


def commits(place: Place) -> list[str]:
    """The names of the snapshots, the oldest first; what no agent calls so is left out."""
    prefix = place.commits()
    found = (item.key.removeprefix(prefix).split("/") for item in place.store.list(prefix))
    names = {parts[0] for parts in found if len(parts) == 2 and parts[1] == "manifest.json"}
    return sorted(filter(agents.is_name, names), key=agents.sequence_of)


def newest(place: Place, seal: str) -> Snapshot | None:
    """The newest snapshot that a machine of this job made, by its manifest; without one, the newest of all.

    A number that somebody else chose brings nothing before ours. Whoever uses it checks the files.
    """
    others: Snapshot | None = None
    for name in reversed(commits(place)):
        try:
            found = read(place, name, seal)
        except (ValidationError, NotFound):
            continue  # so do machines
        if found.ours:
            return found
        others = others or found
    return others


def named(place: Place, name: str) -> str:
    """The whole name of the one snapshot whose name begins so. Raises NotFound."""
    known = commits(place)
    found = [commit for commit in known if commit == name or commit.startswith(name)]
    if len(found) != 1:
        raise NotFound(
            f"There is no committed checkpoint {name!r}",
            why=f"there are: {', '.join(known[-5:])}" if known else "none was committed",
        )
    return found[0]


def read(place: Place, name: str, seal: str) -> Snapshot:
    """What the manifest of this name says. `seal` is the job's key.

    Raises NotFound, Unbelievable, TooLarge.
    """
    key = f"{place.commits()}{name}/manifest.json"
    data = place.store.read(key, largest=manifests.LARGEST)
    manifest, told = manifests.read(data, key, name)
    ours = not seal or seals.holds(seal, told)
    return Snapshot(name=name, sha256=hashlib.sha256(data).hexdigest(), ours=ours, manifest=manifest)


def verify(place: Place, name: str, seal: str) -> Snapshot:
    """Check a snapshot byte by byte; its name may be given by its beginning. `seal` is the job's key.

    Raises NotFound for one that is not there, ValidationError for one that is corrupt.
    """
    name = named(place, name)
    try:
        found = read(place, name, seal)
    except claims.Unbelievable as error:
        raise _corrupt(place, name, f"its manifest cannot be read: {error.why}") from error
    for entry in found.files(*agents.TREES):
        key = proven.key_of(entry, place.commits())
        try:
            whole = place.store.info(key).size == packs.object_of(entry.at, entry.size)[1]
            if whole:
                proven.check(place.store, key, entry)
        except NotFound:
            raise _corrupt(place, name, f"{claims.spelled(entry.path)} is missing") from None
        except (proven.NotAsCommitted, ValidationError):
            whole = False
        if not whole:
            raise _corrupt(place, name, f"{claims.spelled(entry.path)} is not what was committed")
    return found


def _corrupt(place: Place, name: str, why: str) -> ValidationError:
    before: list[str] = []
    with contextlib.suppress(TrainctlError):  # what is corrupt is the thing to tell
        number = agents.sequence_of(name)
        before = [commit for commit in commits(place) if agents.sequence_of(commit) < number]
    return ValidationError(
        f"The checkpoint {name} is corrupt",
        why=why,
        next=f"resume from the one before it: --from {quoted(before[-1])}" if before else "leave --from out",
    )
