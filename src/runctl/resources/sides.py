"""The sides of a transfer, this computer, a machine, a prefix of a bucket: each lists itself and works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec

from runctl.agent import parcel, tree
from runctl.agent.carry import perform
from runctl.agent.presigned import Courier
from runctl.agent.report import Report, TornWord, unsealed
from runctl.errors import Interrupted, NotFound, TransferError, ValidationError
from runctl.links import refuse_brought
from runctl.resources.leg_plan import Partial, Side, SideFile
from runctl.resources.machine_side import MachineSide
from runctl.storage import claims
from runctl.storage.claims import MiB, claim
from runctl.storage.listing import LeftOut
from runctl.storage.objects import ObjectInfo
from runctl.storage.staging import SigningStore, Staging

SILENCE = 60.0
"""Real seconds without a word of a worker on a machine, after which the machine itself is looked at."""

LOST = 600.0
_FIRST_LOOK, _LONGEST_LOOK = 0.1, 1.0
_LAST_TRIES = 8


_LARGEST_WORD = 256 * MiB
_Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Key = Annotated[str, msgspec.Meta(max_length=4096)]
"""Of a file: whoever writes it checks where it leads."""
_Piece = tuple[claims.Bytes, claims.Bytes]


@claim("listing of a side", largest=_LARGEST_WORD)
class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of a path, as `agent.tree.Listing`."""

    kind: Literal["folder", "file", "none", "other"]
    files: tuple[tuple[_Key, claims.Bytes, _Nanoseconds, bool, str], ...]
    left_out: tuple[tuple[_Key, claims.Text], ...]
    partials: tuple[tuple[_Key, _Key, claims.Bytes, _Nanoseconds, tuple[_Piece, ...]], ...]
    packers: tuple[claims.Name, ...] = ()


@claim("record of an upload", largest=64 * 1024)
class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload in parts that was begun, and is aborted where its transfer is."""

    bucket: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9.-]{3,63}\Z")]
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    upload: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._~=/+-]{1,1024}\Z")]


@claim("word of a worker", largest=_LARGEST_WORD)
class Worked(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself: `state` is working, done, stopped, expired or failed; sizes in bytes.

    `parcels` that are dealt with and `files` that are whole come as the first and last number of each run,
    `faults` as numbers of files and why. `staged` are pieces of objects by name, with their ETags.
    """

    state: Literal["working", "done", "stopped", "expired", "failed"] = "working"
    why: str = ""
    beat: claims.Count = 0
    moved: claims.Count = 0
    wire: claims.Count = 0
    parcels: tuple[tuple[claims.Count, claims.Count], ...] = ()
    faults: tuple[tuple[claims.Count, str], ...] = ()
    files: tuple[tuple[claims.Count, claims.Count], ...] = ()
    deleted: tuple[_Key, ...] = ()
    staged: tuple[tuple[claims.Name, claims.Name], ...] = ()


def word_of(staging: Staging, name: str, key: str, *, tries: int = 1) -> Any | None:
    """What was said through the object `name`, None where nothing was; `key` is the transfer's, in hex.

    Raises TornWord where it came each time without the seal that it should have.
    """
    for left in reversed(range(tries)):
        data = staging.read_if_exists(name, largest=_LARGEST_WORD)
        if data is None:
            return None
        try:
            return unsealed(data, key, name)
        except TornWord:
            if not left:
                raise
    return None


def _word_so_far(staging: Staging, name: str, key: str, who: object, *, last: bool) -> Any | None:
    """The same while its writer may still write: then one that is torn is looked at later, as none.

    Raises TransferError for the `last` one, for which nobody comes back.
    """
    try:
        return word_of(staging, name, key, tries=_LAST_TRIES if last else 1)
    except TornWord as error:
        if not last:
            return None
        raise TransferError(
            f"What lies in the place of the word of {who} is not what was sent",
            why=f"{name}: {error}",
            next="look at who may write to the bucket, and run the same command again",
        ) from error


def staged_before(staging: Staging, found: Iterable[ObjectInfo], key: str) -> dict[str, str]:
    """The ETags of pieces by name, as senders of this transfer told them that may have ended since."""
    staged: dict[str, str] = {}
    for info in found:
        if info.key.startswith("status-send-"):
            try:
                told = word_of(staging, info.key, key, tries=_LAST_TRIES)
            except TornWord:  # what it told of is sent again
                continue
            staged.update(claims.converted(told or {}, Worked, info.key).staged)
    return staged


def numbers(runs: Iterable[tuple[int, int]], most: int) -> set[int]:
    """Every number below `most` of some runs: what a worker says it did is a claim."""
    return {number for first, last in runs for number in range(first, min(last + 1, most))}


class Worker(Protocol):
    """Somebody who carries out a spec."""

    def look(self) -> Worked:
        """The latest word; the last one once `is_over`. Raises TrainctlError where there is none."""
        ...

    @property
    def is_over(self) -> bool: ...

    def stop(self) -> None:
        """Ask it to end, and wait a while until it has."""
        ...


class LocalSide:
    """A path on this computer."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key

    def __str__(self) -> str:
        return str(self.path)

    def look(self, *, only: str | None = None, checksum: bool = False) -> Side:
        try:
            return side_of(
                {**tree.listing(str(self.path), only, checksum)._asdict(), "packers": parcel.packers()}
            )
        except OSError as error:
            raise TransferError(f"Cannot read {self.path}", why=str(error)) from error

    def work(self, spec: dict[str, Any], name: str) -> Worker:  # noqa: ARG002 (a machine's needs a name)
        """Raises ValidationError where files would go through a link that a repository brought."""
        if spec["role"] == "receive":
            root = Path(spec["root"])
            for folder in {(root / file[0]).parent for file in spec["files"]}:
                refuse_brought(folder)
        return _LocalWorker(spec, self._key)


class InstanceSide:
    """A path on a machine."""

    def __init__(
        self,
        machine: MachineSide,
        path: str,
        staging: Staging,
        *,
        run: str,
        stopping: threading.Event,
    ) -> None:
        self._run = run
        self._stopping = stopping
        self.machine = machine
        self.path = path
        self.staging = staging
        self._looks = 0

    def __str__(self) -> str:
        return f"{self.machine.instance}:{self.path}"

    def look(self, *, only: str | None = None, checksum: bool = False) -> Side:
        self._looks += 1
        name = f"list-{self._run}-{self.machine.instance}-{self._looks}"
        answer = self.staging.sign("PUT", [name])[0]
        asked = {"path": self.path, "only": only, "checksum": checksum}
        task = self.machine.start({"role": "list", **asked, "answer": answer, "word": name}, name)
        wait, looked = _FIRST_LOOK, time.monotonic()
        # The answer is there before SSM tells that the command has ended.
        while (found := _word_so_far(self.staging, name, self.machine.key, self, last=task.is_over)) is None:
            if task.is_over and self.staging.read_if_exists(name) is None:
                raise task.failure or TransferError(f"{self} was not listed")
            if self._stopping.wait(wait):
                raise Interrupted("The transfer was stopped", next="run the same command again: it goes on")
            wait = min(wait * 1.3, _LONGEST_LOOK)
            if time.monotonic() - looked > SILENCE:
                looked = time.monotonic()
                self.machine.require_life()
        self.staging.remove([name, f"spec-{name}"])
        return side_of(found, name)

    def work(self, spec: dict[str, Any], name: str) -> Worker:
        return _MachineWorker(self.machine, self.staging, spec, name)


class S3Side:
    """A prefix or an object of a bucket; `key` is empty for the whole bucket."""

    def __init__(self, store: Callable[[str], SigningStore], key: str, text: str) -> None:
        self._store = store
        self.key = key
        self._text = text

    def __str__(self) -> str:
        return self._text

    def store(self, folder: str) -> SigningStore:
        """The objects under a folder of the bucket."""
        return self._store(folder)

    def look(self, *, only: str | None = None, checksum: bool = False) -> Side:  # noqa: ARG002 (no checksums)
        """With `only`, an object of this name in the folder `key/`, or the object `key` itself."""
        folder, _, name = self.key.rpartition("/")
        if only is not None and not name:
            return Side(kind="folder", files=self._object(folder, only))
        if name and (found := self._object(folder, name)):
            return Side(kind="file", files=found)
        if only is not None:
            return Side(kind="none")
        entries = self._store(self.key.rstrip("/")).entries()
        files = tuple(SideFile(entry.key, entry.size, entry.modified, etag=entry.etag) for entry in entries)
        return Side(kind="folder" if files else "none", files=files)

    def _object(self, folder: str, name: str) -> tuple[SideFile, ...]:
        try:
            found = self._store(folder).info(name)
        except NotFound:
            return ()
        modified = round(found.modified.timestamp() * 1e6) * 1000
        return (SideFile(name, found.size, modified, etag=found.etag.strip('"')),)


def side_of(told: Any, where: str = "the listing") -> Side:
    """A listing of the agent. Raises Unbelievable for one that is none."""
    found = claims.converted(told, Listed, where)
    return Side(
        kind=found.kind,
        files=tuple(SideFile(*row) for row in found.files),
        left_out=tuple(LeftOut(*row) for row in found.left_out),
        partials=tuple(Partial(*row) for row in found.partials),
        packers=found.packers,
    )


def names(source: Side, source_text: str, wanted: str, destination: Side) -> str | None:
    """What a single file is to be called in the destination's folder; None for a folder's files.

    Raises NotFound, ValidationError.
    """
    if source.kind == "none":
        raise NotFound(f"There is nothing at {source_text}")
    if source.kind == "other":
        raise ValidationError(f"{source_text} is neither a file nor a folder")
    if source.kind == "folder":
        if destination.kind == "file":
            raise ValidationError(
                f"{wanted} is a file", why=f"{source_text} is a folder", next="name a folder to copy into"
            )
        return None
    own = source.files[0].key if source.files else Path(source_text).name
    if wanted.endswith("/") or destination.kind == "folder":
        return own
    return wanted.rpartition("/")[2] or own


def folder_of(side: LocalSide | InstanceSide | S3Side, *, parent: bool) -> str:
    """Where keys begin; with `parent`, the side names a single file."""
    if isinstance(side, S3Side):
        return side.key.rpartition("/")[0] if parent else side.key.rstrip("/")
    path = str(side.path.absolute() if isinstance(side, LocalSide) else side.path).rstrip("/") or "/"
    return (path.rpartition("/")[0] or "/") if parent else path


class _LocalWorker:
    def __init__(self, spec: dict[str, Any], key: str) -> None:
        self._key = key
        self._stopping = threading.Event()
        self._told = Worked()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(spec,), name=f"leg-{spec['role']}", daemon=True
        )
        self._thread.start()

    def look(self) -> Worked:
        if self._failure is not None:
            raise TransferError("This side of the transfer failed", why=str(self._failure)) from self._failure
        return self._told

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _run(self, spec: dict[str, Any]) -> None:
        def publish(told: dict[str, Any]) -> None:
            self._told = msgspec.convert(told, Worked)

        courier = Courier(self._stopping)
        try:
            perform(spec, courier, self._stopping, self._key, report=Report(publish))
        except Exception as error:
            self._failure = error
        finally:
            courier.close()


class _MachineWorker:
    def __init__(self, machine: MachineSide, staging: Staging, spec: dict[str, Any], name: str) -> None:
        self._machine = machine
        self._staging = staging
        self._status = f"status-{name}"
        self._told = Worked()
        self._heard = self._looked = time.monotonic()
        told = {"status": staging.sign("PUT", [self._status])[0], "word": self._status}
        self._task = machine.start({**spec, **told}, name)

    def look(self) -> Worked:
        over = self._task.is_over
        if self._task.failure is not None:
            raise self._task.failure
        # Nobody comes back for the last word.
        machine = self._machine
        found = _word_so_far(self._staging, self._status, machine.key, machine.instance, last=over)
        if found is not None:
            told = claims.converted(found, Worked, self._status)
            if told.beat != self._told.beat:
                self._heard = time.monotonic()
            self._told = told
        if over and self._told.state == "working":
            raise TransferError(f"The agent on {self._machine.instance} ended without a word")
        if not over:
            self._require_life()
        return self._told

    @property
    def is_over(self) -> bool:
        """Its last word is out before SSM tells that the command has ended."""
        return self._told.state != "working" or self._task.is_over

    def stop(self) -> None:
        if not self.is_over and self._machine.stop():
            self._task.join(60)

    def _require_life(self) -> None:
        """SSM calls a command in progress for two days, whatever became of its machine."""
        now = time.monotonic()
        if now - max(self._heard, self._looked) < SILENCE:
            return
        self._looked = now
        self._machine.require_life()
        if now - self._heard > LOST:
            raise TransferError(
                f"{self._machine.instance} is silent",
                why=f"for {LOST:g} s",
                next="run the same command again",
            )
