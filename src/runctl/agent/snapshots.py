"""Taking snapshots: when, of which files, and how one is committed; `restoring` brings them back.

A snapshot is its files, then a manifest that names each with size and SHA-256 and carries the job's seal,
then `latest.json`, which moves by a conditional write and never back.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from . import clock, seal
from .choosing import Known, Part, newest_checkpoint, part_of
from .failures import StoreAway, StoreRefused
from .files import to_json
from .holding import Held, hold, send
from .looking import Looking, View
from .restoring import snapshot_names
from .sets import CheckpointSet, resume_path
from .snapshot import NO_CHECKPOINT, Entry, Manifest, can_be_named, key_of, sequence_of, to_dict
from .trees import stamp_of

POLL_SECONDS = 2.0
SHORTEST_POLL = 0.2
LOOKING = 0.05
"""The share of the time that may be spent on looks: trees with very many files are looked at less often."""
LONGEST_POLL = 60.0
TOO_HIGH = 10**8
"""No job has as many snapshots; names have room for nine times as many above it."""
_HURRY = 0.2
"""Real seconds until the watch hears that it should look at once."""
_MOST_TOLD = 20
_TRIES = 3


class Commit(NamedTuple):
    """A committed snapshot: `checkpoint` is the newest one in it, by tree and path.

    `at` is on the cloud's clock; `size` in bytes, of all its files, wherever they lie.
    """

    name: str
    checkpoint: Optional[Tuple[str, str]]
    step: Optional[int]
    at: float
    files: int
    size: int


class _Newest(NamedTuple):
    """The newest checkpoint so far: its tree and path, its step, and what snapshots are named after."""

    checkpoint: Optional[Tuple[str, str]] = None
    step: Optional[int] = None
    source: str = NO_CHECKPOINT


class Snapshots:
    """Watches the trees in a thread, and commits a snapshot when there is a new checkpoint in them."""

    def __init__(
        self,
        store: Any,
        looking: Looking,
        attempt: int,
        folder: str,
        on_commit: Callable[[Commit], None],
        note: Callable[[str], None],
        key: Optional[str] = None,
        leave_out: Callable[[str, str], None] = lambda _path, _reason: None,
        code: str = "",
    ) -> None:
        """`folder` is ours: copies lie there. `key` is the job's seal, None where nobody else writes.

        `code` is the digest of the code that runs.
        """
        self._store = store
        self._looking = looking
        self._attempt = attempt
        self._folder = folder
        self._on_commit = on_commit
        self._note = note
        self._key = key
        self._leave_out = leave_out
        self._code = code
        self._known: Dict[str, Dict[str, Known]] = {tree.name: {} for tree in looking.trees}
        looking.known = self._known
        self._before: Dict[str, Dict[str, Entry]] = {tree.name: {} for tree in looking.trees}
        self._newest = _Newest()
        self._sequence: Optional[int] = None
        self._claimed: Optional[Tuple[str, str]] = None  # a source, the name that is ours
        self._told: Set[str] = set()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._unsent = 0
        self.seconds_per_byte = 0.0
        self.newest: Optional[Commit] = None

    def begin_with(
        self, manifest: Optional[Manifest], lying: Iterable[Entry] = (), since: Optional[float] = None
    ) -> None:
        """The snapshot that the trees were brought back from; `lying` are its files that lie here unchanged.

        In a folder of the user's own nothing else that lies there is this attempt's work; with `since`,
        nothing that is older (seconds since 1970).
        """
        lie = {(entry.tree, entry.path): entry for entry in lying}
        for tree in self._looking.trees:
            known = self._known[tree.name] = {}
            for found in tree.look():
                entry = lie.get((tree.name, found.path))
                if entry is not None and found.kind == "file" and found.size == entry.size:
                    known[found.path] = Known(stamp_of(found), entry)
            if self._store.links:
                tree.leave_what_lies_there(since, but=known)
        if manifest is not None:
            for tree in self._looking.trees:
                own = [entry for entry in manifest.entries if entry.tree == tree.name]
                self._before[tree.name] = {entry.path: entry for entry in own}
            self._newest = _Newest(manifest.checkpoint, manifest.step, manifest.name.split("-", 1)[1])
        self._looking.begin()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="snapshots", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Look at once."""
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing any more; what is being committed goes on to its end."""
        self._stop.set()
        self._wake.set()

    def upload_seconds(self) -> float:
        """What the next snapshot's upload will take: by the rate of earlier ones, else at 50 MB/s."""
        if self._looking.is_quick:
            self._unsent = self._not_sent(self._looking.look())
        return self._unsent * (self.seconds_per_byte or 1 / 50e6)

    def take(
        self, final: bool, whole: bool = False, suspect: FrozenSet[Tuple[int, int]] = frozenset()
    ) -> Optional[Commit]:
        """Commit a snapshot where something in the trees is worth it.

        `final` says that nobody writes any more, `whole` that whoever wrote was not cut off: then what stands
        there is complete although its format cannot tell. `suspect` are device and inode of files that were
        being written by who was cut off. Raises StoreAway, StoreRefused, OSError.
        """
        with self._one_at_a_time:
            view = self._looking.look()
            self._unsent = self._not_sent(view)
            chosen = self._looking.choose(view, final, whole, suspect)
            if not chosen.worth:
                return None
            return self._take(view, {name: set(paths) for name, paths in chosen.take.items()}, final)

    def _take(self, view: View, take: Dict[str, Set[str]], final: bool) -> Optional[Commit]:
        began = time.monotonic()
        parts = self._parts(view, take)
        newest = newest_checkpoint(parts)
        if newest is None and not final and not any(part.to_send for _, part in parts):
            return None
        items = [
            Held(tree, one, self._looking.is_plain(tree, one.found.path))
            for tree in self._looking.trees
            for named, part in parts
            if named == tree.name
            for one in part.to_send
        ]
        # Where nothing is to be sent, there may be nothing to commit.
        name = self._claim(self._newest.source if newest is None else newest[1].name) if items else ""
        try:
            hold(items, self._folder)
            sent = send(self._store, name, items, self._folder)
        finally:
            for item in items:
                item.close()
        for (tree, path), known in sent.known.items():
            self._known[tree][path] = known
        for (tree, path), why in sent.failed.items():
            take[tree] -= _set_of(view.sets[tree], path)
            if final:
                self._tell(tree, path, why)
        moved = sum(known.entry.size for known in sent.known.values())
        if moved:
            self.seconds_per_byte = (time.monotonic() - began) / moved
        return self._commit(name, view, take, final)

    def _parts(self, view: View, take: Mapping[str, Set[str]]) -> List[Tuple[str, Part]]:
        return [
            (
                tree.name,
                part_of(
                    tree.name,
                    view.found[tree.name],
                    view.sets[tree.name],
                    take[tree.name],
                    self._known[tree.name],
                    self._before[tree.name],
                ),
            )
            for tree in self._looking.trees
        ]

    def _commit(self, name: str, view: View, take: Mapping[str, Set[str]], final: bool) -> Optional[Commit]:
        parts = self._parts(view, take)
        entries = {(entry.tree, entry.path): entry for _, part in parts for entry in part.entries}
        newest = newest_checkpoint(parts)
        if newest is None and self._checkpoint is not None:
            if not final:
                return None
            # What a resume needs stays, also where the script removed it and has no other yet.
            for entry in self._before[self._checkpoint[0]].values():
                entries.setdefault((entry.tree, entry.path), entry)
        if newest is not None:
            tree, one = newest
            by_path = {found.path: found for found in view.found[tree]}
            self._newest = _Newest((tree, resume_path(one, by_path)), self._looking.step_of(one), one.name)
        was = [entry for before in self._before.values() for entry in before.values()]
        if set(map(_content, entries.values())) == set(map(_content, was)):
            return None
        name = self._named(name)
        kept = self._placed(name, list(entries.values()))
        manifest = Manifest(
            name,
            self._checkpoint,
            self._newest.step,
            self._attempt,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.now())),
            final,
            sorted(kept),
            self._code,
        )
        self._write(manifest)
        self._claimed = None
        for tree_ in self._looking.trees:
            self._before[tree_.name] = {entry.path: entry for entry in kept if entry.tree == tree_.name}
        self._looking.committed(view, take)
        self._tell_left(view, kept, final)
        files = [entry for entry in kept if entry.kind == "file"]
        size = sum(entry.size for entry in files)
        commit = Commit(name, self._checkpoint, self._newest.step, clock.now(), len(files), size)
        self.newest = commit
        self._prune()
        self._on_commit(commit)
        return commit

    @property
    def _checkpoint(self) -> Optional[Tuple[str, str]]:
        return self._newest.checkpoint

    def _tell_left(self, view: View, kept: Sequence[Entry], final: bool) -> None:
        for tree, found in view.others:
            self._tell(tree, found.path, found.fault)
        for tree, beyond in self._looking.beyond.items():
            for found in beyond:
                self._tell(tree, found.path, "%d bytes, beyond what --keep-written keeps" % found.size)
        if final:
            for tree, path in self._left(view, kept):
                self._tell(tree, path, "it was still being written")

    def _left(self, view: View, kept: Iterable[Entry]) -> Iterable[Tuple[str, str]]:
        """Files that lie there at the end and are in no snapshot in any state."""
        there = {(entry.tree, entry.path) for entry in kept}
        beyond = {(tree, one.path) for tree, files in self._looking.beyond.items() for one in files}
        accounted = there | beyond
        for tree, found in view.found.items():
            for one in found:
                if one.kind == "file" and (tree, one.path) not in accounted:
                    yield tree, one.path

    def _placed(self, name: str, entries: List[Entry]) -> List[Entry]:
        """In a folder each snapshot has all its files; in a bucket they lie where they were sent first."""
        if not self._store.links:
            return entries
        kept = []
        for entry in entries:
            at = key_of(name, entry.tree, entry.path)
            if entry.kind == "file" and entry.at != at:
                self._store.link(entry.at, at)
                entry = entry._replace(at=at)  # noqa: PLW2901 (as the new snapshot has it)
            kept.append(entry)
            have = self._known[entry.tree].get(entry.path)
            if have is not None and have.entry.sha256 == entry.sha256:
                self._known[entry.tree][entry.path] = Known(have.stamp, entry)
        return kept

    def _write(self, manifest: Manifest) -> None:
        told = to_dict(manifest)
        if self._key:
            told["seal"] = seal.of(self._key, told)
        self._store.put(self._store.checkpoints + manifest.name + "/manifest.json", to_json(told))
        self._move_latest(told)

    def _watch(self) -> None:
        wait = 1.0
        while not self._stop.is_set():
            pause = max(SHORTEST_POLL, clock.real(POLL_SECONDS))
            longest = max(pause, min(self._looking.took / LOOKING, LONGEST_POLL))
            clock.wait(self._wake.is_set, longest, every=_HURRY)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.take(final=False)
                wait = 1.0
            except StoreRefused as error:
                self._note("the store refuses a snapshot: %s" % error)
                clock.wait(self._stop.is_set, clock.real(30.0), every=_HURRY)
            except Exception as error:  # the watch goes on whatever a script left in its folders
                kind = "" if isinstance(error, (StoreAway, OSError)) else "%s: " % type(error).__name__
                self._note("a snapshot waits for the store: %s%s" % (kind, error))
                clock.wait(self._stop.is_set, clock.real(wait), every=_HURRY)
                wait = min(wait * 2, 15.0)

    def _claim(self, source: str) -> str:
        """A name that is ours alone: an agent that was given up for lost may still be writing."""
        if not can_be_named(source):
            source = "checkpoint"
        if self._claimed is not None and self._claimed[0] == source:
            return self._claimed[1]  # an upload that was broken off goes on under its name
        if self._sequence is None:
            found = (sequence_of(name) for name in snapshot_names(self._store))
            # Others can write there: a number from which none could be counted on is not counted on from.
            self._sequence = max((number for number in found if number < TOO_HIGH), default=0)
        while True:
            self._sequence += 1
            name = "%06d-%s" % (self._sequence, source)
            if self._store.create(self._store.checkpoints + name + "/.claim", to_json(self._attempt)):
                self._claimed = (source, name)
                return name

    def _named(self, name: str) -> str:
        """What could not be sent may have been the newest checkpoint: the snapshot is named after another."""
        source = self._newest.source
        if name and (name.split("-", 1)[1] == source or not can_be_named(source)):
            return name
        return self._claim(source)

    def _tell(self, tree: str, path: str, why: str) -> None:
        whole = tree + "/" + path
        if len(self._told) < _MOST_TOLD and whole not in self._told:
            self._told.add(whole)
            self._leave_out(whole, why)

    def _not_sent(self, view: View) -> int:
        """Bytes of what the store does not have as it is now."""
        total = 0
        for tree in self._looking.trees:
            known = self._known[tree.name]
            for found in view.found[tree.name]:
                have = known.get(found.path)
                if found.kind == "file" and (have is None or have.stamp != stamp_of(found)):
                    total += found.size
        return total

    def _move_latest(self, told: Dict[str, Any]) -> None:
        key, name = self._store.checkpoints + "latest.json", str(told["name"])
        digest = hashlib.sha256(to_json(told)).hexdigest()
        latest = to_json({"name": name, "step": told["step"], "manifest_sha256": digest})
        for _ in range(5):
            current = self._store.get(key)
            if current is not None and _sequence_in(current) >= sequence_of(name):
                return
            if self._store.replace(key, latest, current):
                return

    def _prune(self) -> None:
        """A folder keeps the newest few, and the newest of another checkpoint than the newest has."""
        if not self._store.keeps:
            return
        names = snapshot_names(self._store)
        keep = names[-self._store.keeps :]
        others = [name for name in names if name.split("-", 1)[1] != self._newest.source]
        self._store.keep_only([*others[-1:], *keep])


def _set_of(sets: Iterable[CheckpointSet], path: str) -> Set[str]:
    found = {path}
    for one in sets:
        if path in one.paths:
            found.update(one.paths)
    return found


def _content(entry: Entry) -> Tuple[str, str, str, int, str, str]:
    return entry.tree, entry.path, entry.kind, entry.size, entry.sha256, entry.link


def _sequence_in(latest: bytes) -> int:
    """Of the snapshot that `latest.json` names; 0 for one that cannot be read, which is replaced."""
    try:
        return sequence_of(str(json.loads(latest)["name"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
