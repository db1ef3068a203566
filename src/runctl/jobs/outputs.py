"""Bringing home what a job's script wrote: the files of its newest snapshot, to the user's folder or bucket.

Others can write to the bucket. So only a snapshot that a machine of the job made is fetched; an adopted job's
has no seal that this ledger knows, and the user is told.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import msgspec

from runctl.agent.digest import file_digest
from runctl.agent.snapshot import CHECKPOINTS, OUTPUTS, TREES, WORK, Entry, Manifest
from runctl.agent.walk import Found, walk
from runctl.errors import NotFound, ValidationError
from runctl.events import Emit, Notice, ignore
from runctl.jobs import arriving, checkpoints, folders, proven
from runctl.jobs.arriving import Arrived, Wanted
from runctl.jobs.checkpoints import Snapshot
from runctl.jobs.place import Place
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord
from runctl.links import refuse_brought
from runctl.quoting import quoted
from runctl.resources.reaching import access_of
from runctl.storage.location import LocalPath, S3Location, parse
from runctl.storage.store import FolderStore, S3Store, upload_folder

USUAL = (OUTPUTS, WORK)
"""What a user wants to see: results, and what the script wrote in its working folder."""
_ORDER = (OUTPUTS, WORK, CHECKPOINTS)
_TRIES = 3
"""A local job keeps few snapshots: the one that is read may go meanwhile."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched of which snapshot; `not_asked` counts the files of the other trees by tree.

    `created` in UTC as the manifest has it; both are empty for a local job that kept none. The rest as
    `arriving.Arrived`.
    """

    job: str
    snapshot: str
    created: str
    folder: str
    files: int
    bytes: int
    same: int
    aside: dict[str, str]
    left: dict[str, str]
    not_asked: dict[str, int]


def deliver(place: Place, spec: JobSpec, job: JobRecord, *, emit: Emit = ignore) -> str:
    """Bring results to `--output` if it is elsewhere; returns where they are. Idempotent.

    Raises CloudError, TransferError.
    """
    if spec.output is None:
        return job.store
    if place.session is None:
        return spec.output  # the script wrote there itself
    location = parse(spec.output)
    if isinstance(location, LocalPath):
        folders.check(spec)
        _tell(_bring(place, spec, job, location.path, emit=emit), emit)
    elif isinstance(location, S3Location):
        target = S3Store(location.bucket, location.key, access_of(place.session))
        with tempfile.TemporaryDirectory(prefix="runctl-outputs-") as folder:
            _tell(_bring(place, spec, job, Path(folder), emit=emit), emit)
            upload_folder(Path(folder), target, "", task="sending the outputs", emit=emit)
    return spec.output


def fetch(
    place: Place,
    spec: JobSpec,
    job: JobRecord,
    folder: Path,
    *,
    trees: Collection[str] = USUAL,
    name: str | None = None,
    emit: Emit = ignore,
) -> Fetched:
    """Bring these trees of the newest snapshot, or of the one that is `name`d, below `folder`.

    Raises NotFound if nothing was kept, ValidationError if none of it is the job's own; as `arriving.arrive`.
    """
    refuse_brought(folder)
    found = _snapshot(place, spec, job, name, emit)
    fetched = _fetched(place, spec, job, found, folder, trees, emit)
    for _ in range(_TRIES):
        if not fetched.left or name is not None or place.session is not None:
            break
        newer = _snapshot(place, spec, job, None, ignore)
        if newer.name == found.name:
            break
        found, fetched = newer, _fetched(place, spec, job, newer, folder, trees, emit)
    return fetched


def pull(
    place: Place, job: JobRecord, folder: Path, *, name: str | None = None, emit: Emit = ignore
) -> Fetched:
    """Bring the newest complete checkpoint, or that of the snapshot that is `name`d, into `folder`.

    Raises NotFound if there is none, else as `fetch`.
    """
    refuse_brought(folder)
    found = _named_or_newest(place, job, name, emit)
    entries = found.checkpoint() if found else []
    if found is None or not entries:
        raise NotFound(
            f"No checkpoint of job {job.id} was kept",
            why=f"{found.name} has none" if found else "nothing of it was kept",
            next=f"runctl jobs fetch {quoted(job.id)} {quoted(folder)} --tree all",
        )
    above = os.path.commonpath([str(PurePosixPath(one.path).parent) for one in entries])
    own = PurePosixPath(found.manifest.checkpoint[1] if found.manifest.checkpoint else "")
    if PurePosixPath(above).is_relative_to(own):
        above = str(own.parent)  # a folder comes with its name
    wanted = [
        Wanted(one, os.path.relpath(one.path, above or "."), proven.key_of(one, place.commits()))
        for one in entries
    ]
    arrived = arriving.arrive(place.store, folder, wanted, executable=found.ours, emit=emit)
    return _report(job, found, folder, arrived, {}, {})


def _snapshot(place: Place, spec: JobSpec, job: JobRecord, name: str | None, emit: Emit) -> Snapshot:
    found = _named_or_newest(place, job, name, emit)
    if place.session is None and name is None:
        found = _with_own_outputs(place, spec, found)
    if found is None:
        raise NotFound(
            f"Nothing of job {job.id} was kept",
            why="its script wrote nothing that is kept, or no machine could send it",
            next=f"runctl jobs show {quoted(job.id)}",
        )
    return found


def _named_or_newest(place: Place, job: JobRecord, name: str | None, emit: Emit) -> Snapshot | None:
    """None if there is none. Raises ValidationError if it is not the job's own."""
    if name is not None:
        found = checkpoints.read(place, checkpoints.named(place, name), job.seal)
    else:
        found = checkpoints.newest(place, job.seal)
    if found is None or found.ours:
        return found
    if job.adopted_at is None:
        raise ValidationError(
            f"No machine of job {job.id} made {found.name}",
            why="its seal is missing or wrong: whoever can write to the bucket may have put it there",
            next=f"look at who may write to {job.store}",
        )
    emit(
        Notice(
            text=f"{found.name} has no seal that this ledger knows, for the job was adopted:"
            " whoever can write to the bucket may have written what is fetched",
            warning=True,
        )
    )
    return found


def _with_own_outputs(place: Place, spec: JobSpec, found: Snapshot | None) -> Snapshot | None:
    """A local job's outputs are in no snapshot: they lie in its folder, or where its user named one."""
    root = _own_root(place)
    entries = [one for item in _own_outputs(place, spec) if (one := _entry(root, item))]
    if found is None and not entries:
        return None
    manifest = found.manifest if found else Manifest("", None, None, 0, "", True, [])
    manifest = manifest._replace(entries=[*manifest.entries, *entries])
    return Snapshot(name=manifest.name, sha256="", ours=found.ours if found else True, manifest=manifest)


def _own_outputs(place: Place, spec: JobSpec) -> list[Found]:
    return [] if spec.output else walk(str(_own_root(place)))


def _own_root(place: Place) -> Path:
    assert isinstance(place.store, FolderStore)  # noqa: S101 (this machine)
    return place.store.root / OUTPUTS


def _entry(root: Path, found: Found) -> Entry | None:
    """What lies in a local job's output folder, as a snapshot would name it."""
    if found.kind == "link":
        return Entry(OUTPUTS, found.path, "link", link=found.target)
    if found.kind == "folder":
        return Entry(OUTPUTS, found.path, "folder")
    if found.kind != "file":
        return None
    digest = file_digest(str(root / found.path))
    return Entry(OUTPUTS, found.path, "file", found.size, found.mode, found.mtime_ns, digest)


def _bring(place: Place, spec: JobSpec, job: JobRecord, folder: Path, *, emit: Emit) -> Fetched | None:
    try:
        return fetch(place, spec, job, folder, emit=emit)
    except NotFound as error:
        emit(Notice(text=f"{error.what}: {error.why}", warning=True))
        return None


def _fetched(
    place: Place,
    spec: JobSpec,
    job: JobRecord,
    found: Snapshot,
    folder: Path,
    trees: Collection[str],
    emit: Emit,
) -> Fetched:
    wanted, left = _wanted(place, spec, found, trees)
    if OUTPUTS in trees and place.session is None:
        left |= {
            f"{OUTPUTS}/{one.path}": one.fault for one in _own_outputs(place, spec) if one.kind == "other"
        }
    arrived = arriving.arrive(place.store, folder, wanted, executable=found.ours, emit=emit)
    not_asked = {tree: len(files) for tree in TREES if tree not in trees and (files := found.files(tree))}
    return _report(job, found, folder, arrived, left, not_asked)


def _report(
    job: JobRecord,
    found: Snapshot,
    folder: Path,
    arrived: Arrived,
    left: dict[str, str],
    not_asked: dict[str, int],
) -> Fetched:
    return Fetched(
        job=job.id,
        snapshot=found.name,
        created=found.manifest.created,
        folder=str(folder),
        files=arrived.files,
        bytes=arrived.bytes,
        same=arrived.same,
        aside=arrived.aside,
        left={**left, **arrived.left},
        not_asked=not_asked,
    )


def _wanted(
    place: Place, spec: JobSpec, found: Snapshot, trees: Collection[str]
) -> tuple[list[Wanted], dict[str, str]]:
    """Where each entry goes, and why one does not: two trees may have a file of one name."""
    wanted: list[Wanted] = []
    taken: dict[str, Entry] = {}
    folders: set[str] = set()
    left: dict[str, str] = {}
    entries = (
        entry for tree in _ORDER if tree in trees for entry in found.manifest.entries if entry.tree == tree
    )
    for entry in entries:
        path = place_of(spec, entry)
        above = [str(parent) for parent in PurePosixPath(path).parents]
        before = next((taken[one] for one in (path, *above) if one in taken), None)
        if before is None and (entry.kind == "folder" or path not in folders):
            key = proven.key_of(entry, place.commits()) if entry.at else f"{entry.tree}/{entry.path}"
            wanted.append(Wanted(entry, path, key))
            folders.update(above)
            if entry.kind == "folder":
                folders.add(path)
            else:
                taken[path] = entry
        elif path not in taken or not _is_same(taken[path], entry):
            left[arriving.shown(f"{entry.tree}/{path}")] = (
                f"another tree has this name; --tree {entry.tree} fetches it elsewhere"
            )
    return wanted, left


def place_of(spec: JobSpec, entry: Entry) -> str:
    """Where an entry goes below the folder: as the script had it in the code's folder.

    Outputs go into the folder itself, checkpoints where `--checkpoints` says, or to `checkpoints/`.
    """
    if entry.tree != CHECKPOINTS:
        return entry.path
    own = (
        os.path.normpath(PurePosixPath(spec.workdir) / spec.checkpoints) if spec.checkpoints else CHECKPOINTS
    )
    if own.startswith(("/", "..")):
        own = CHECKPOINTS
    return entry.path if own == "." else f"{own}/{entry.path}"


def _is_same(one: Entry, other: Entry) -> bool:
    same = ("kind", "size", "sha256", "part", "link")
    return all(getattr(one, field) == getattr(other, field) for field in same)


def _tell(fetched: Fetched | None, emit: Emit) -> None:
    if fetched is None:
        return
    emit(Notice(text=f"{fetched.files + fetched.same} files of {fetched.snapshot} are in {fetched.folder}"))
    for path, aside in fetched.aside.items():
        emit(Notice(text=f"another {path} lay there: it is {aside} now", warning=True))
    for path, why in fetched.left.items():
        emit(Notice(text=f"{path!r} was left where it is: {why}", warning=True))
