"""Taking snapshots: when, of which files, and how one is committed; `restoring` brings them back.

A snapshot is its files, then a manifest that names each with size and SHA-256 and carries the job's seal,
then `latest.json`, which moves by a conditional write and never back.
"""

from __future__ import annotations

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

from . import clock
from .choosing import Known, Part, newest_checkpoint, part_of
from .failures import StoreAway, StoreDenied, StoreRefused
from .holding import Held, Sent, hold, send
from .latest import commit
from .left_out import BEING_WRITTEN, NO_TIME, Left, never_kept, not_kept
from .looking import Looking, View
from .naming import Naming
from .restoring import snapshot_names
from .sets import CheckpointSet, resume_path
from .snapshot import NO_CHECKPOINT, Entry, Manifest, key_of
from .trees import stamp_of
from .turns import Turns

POLL_SECONDS = 2.0
SHORTEST_POLL = 0.2
LOOKING = 0.05
"""The share of the time that may be spent on looks: trees with very many files are looked at less often."""
LONGEST_POLL = 60.0
_HURRY = 0.2
"""Real seconds until the watch hears that it should look at once."""
COMMIT_SECONDS = 5.0
"""The cloud's seconds that a commit is given, once there is no time left for files."""
LARGE = 256 * 1024**2
"""Bytes of a file that a new checkpoint does not wait for while the script runs."""
_TWICE = 2


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
    """The newest checkpoint so far: its tree and path, its step, and what snapshots are named after.

    `paths` are its files, if they were seen here; `written` is the newest of their modification times (ns).
    """

    checkpoint: Optional[Tuple[str, str]] = None
    step: Optional[int] = None
    source: str = NO_CHECKPOINT
    paths: Tuple[str, ...] = ()
    written: int = 0


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
        left: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        """`folder` is ours: copies lie there. `key` is the job's seal, None where nobody else writes.

        `code` is the digest of the code that runs. `left` are the real seconds until all must be sent.
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
        self._left = left
        self._known: Dict[str, Dict[str, Known]] = {tree.name: {} for tree in looking.trees}
        looking.known = self._known
        self._before: Dict[str, Dict[str, Entry]] = {tree.name: {} for tree in looking.trees}
        self._newest = _Newest()
        self._naming = Naming(store, attempt)
        self._gone = 0  # looks at which the newest checkpoint was gone and no newer one there
        self._told: Set[str] = set()
        self._turns = Turns()
        self._fates: Dict[Tuple[str, str], str] = {}  # why files were given up in the last snapshot
        self._last: Optional[View] = None
        self._is_final = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._unsent = 0
        self.seconds_per_byte = 0.0
        self.newest: Optional[Commit] = None

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being taken."""
        return self._one_at_a_time.locked()

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
        view = self._looking.begin()
        if self._checkpoint is not None:
            tree_name, path = self._checkpoint
            by_path = {found.path: found for found in view.found.get(tree_name, [])}
            for one in view.sets.get(tree_name, []):
                if resume_path(one, by_path) == path:
                    self._newest = self._newest._replace(paths=one.paths, written=one.newest)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="snapshots", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Look at once: what is being sent beside the newest checkpoint is broken off for that."""
        self._turns.hurry()
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing any more; a checkpoint that is being sent comes to its end."""
        self._stop.set()
        self.hurry()

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
        being written by who was cut off. When the time is over, what has come until then is committed.
        Raises StoreAway, OSError, StoreRefused; StoreDenied also where a part was committed.
        """
        with self._one_at_a_time:
            view = self._last = self._looking.look()
            self._is_final = False
            self._unsent = self._not_sent(view)
            chosen = self._looking.choose(view, final, whole, suspect)
            done, denied = None, ""
            if chosen.worth:
                take = {name: set(paths) for name, paths in chosen.take.items()}
                late = False if final else self._leave_for_later(view, take)
                done, denied = self._take(view, take, final)
                if late and not self._stop.is_set():  # a checkpoint does not wait for what is large beside it
                    take = {name: set(paths) for name, paths in chosen.take.items()}
                    self._leave_for_later(view, take, large=True)
                    done = self._take(view, take, final)[0] or done
            self._is_final = final
            if denied and final:
                raise StoreDenied(denied)
            return done

    def tell_left(self) -> None:
        """Name what lies there at the end and is not kept as it is. For when nothing is sent any more."""
        view = self._last
        if view is None:
            return
        usual = BEING_WRITTEN if self._is_final else NO_TIME
        beyond = self._looking.beyond
        self._tell(never_kept(view, beyond))
        self._tell(not_kept(view, beyond, self._known, self._before, self._fates, usual))

    def _take(self, view: View, take: Dict[str, Set[str]], final: bool) -> Tuple[Optional[Commit], str]:
        """The snapshot, and why the store does not take some of it."""
        began = time.monotonic()
        parts = self._parts(view, take)
        newest = newest_checkpoint(parts)
        if newest is None and not final and not any(part.to_send for _, part in parts):
            return None, ""
        first, rest = self._to_send(parts)
        items = [*first, *rest]
        # Where nothing is to be sent, there may be nothing to commit.
        name = self._naming.claim(self._newest.source if newest is None else newest[1].name) if items else ""
        try:
            hold(items, self._folder)
            sent = self._send(name, first, rest, final)
        finally:
            for item in items:
                item.close()
        self._fates = sent.failed
        came = [(item.tree.name, item.path) for item in items]
        view = view.as_sent({at: self._known[at[0]][at[1]].stamp for at in came if at not in sent.failed})
        for tree, path in sent.failed:
            take[tree] -= _set_of(view.sets[tree], path)
        if sent.size:
            self.seconds_per_byte = (time.monotonic() - began) / sent.size
        return self._commit(name, view, take, final), sent.denied

    def _leave_for_later(self, view: View, take: Dict[str, Set[str]], large: bool = False) -> bool:
        """Files that took too long before are not taken, nor, without `large`, large ones beside a checkpoint
        that is new, unless it needs them. Whether some large ones were left.
        """
        parts = self._parts(view, take)
        newest = newest_checkpoint(parts)
        is_new = any(_is_in(newest, tree, one.found.path) for tree, part in parts for one in part.to_send)
        left = False
        for tree, part in parts:
            for one in part.to_send:
                path = one.found.path
                if _is_in(newest, tree, path):
                    continue
                has_turn = self._turns.has((tree, path))
                waits = has_turn and is_new and not large and one.found.size > LARGE
                if waits or not has_turn:
                    take[tree] -= _set_of(view.sets[tree], path)
                left = left or waits
        return left

    def _to_send(self, parts: Sequence[Tuple[str, Part]]) -> Tuple[List[Held], List[Held]]:
        """The files of the newest checkpoint; and the others, the small ones first."""
        newest = newest_checkpoint(parts)
        first: List[Held] = []
        rest: List[Held] = []
        for tree in self._looking.trees:
            for one in dict(parts)[tree.name].to_send:
                path = one.found.path
                item = Held(tree, one, self._looking.is_plain(tree, path))
                (first if _is_in(newest, tree.name, path) else rest).append(item)
        return first, sorted(rest, key=lambda item: item.chosen.found.size)

    def _send(self, name: str, first: List[Held], rest: List[Held], final: bool) -> Sent:
        def came(tree: str, known: Known) -> None:
            self._known[tree][known.entry.path] = known

        def is_over() -> bool:
            return self._left() < clock.real(COMMIT_SECONDS)

        sent = send(self._store, name, first, self._folder, came, is_over)
        if not rest:
            return sent
        is_turn_over = self._turns.begin((item.tree.name, item.path) for item in rest)
        more = send(
            self._store,
            name,
            rest,
            self._folder,
            came,
            is_over if final else lambda: is_over() or is_turn_over(),
        )
        self._turns.broken_off(more.late)
        failed = {**sent.failed, **more.failed}
        return Sent(sent.size + more.size, failed, sent.denied or more.denied, more.late)

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
                    self._looking.mates(tree),
                ),
            )
            for tree in self._looking.trees
        ]

    def _commit(self, name: str, view: View, take: Mapping[str, Set[str]], final: bool) -> Optional[Commit]:
        parts = self._parts(view, take)
        entries = {(entry.tree, entry.path): entry for _, part in parts for entry in part.entries}
        newest = newest_checkpoint(parts)
        if self._checkpoint is not None and self._is_step_back(newest, view, take, final):
            if not final:
                return None
            # What a resume needs stays, also where the script removed it and has no other yet.
            for entry in self._before[self._checkpoint[0]].values():
                if not self._newest.paths or entry.path in self._newest.paths:
                    entries.setdefault((entry.tree, entry.path), entry)
            newest = None
        if newest is not None:
            tree, one = newest
            by_path = {found.path: found for found in view.found[tree]}
            path, step = resume_path(one, by_path), self._looking.step_of(one)
            self._newest = _Newest((tree, path), step, one.name, one.paths, one.newest)
        was = [entry for before in self._before.values() for entry in before.values()]
        if set(map(_content, entries.values())) == set(map(_content, was)):
            return None
        name = self._naming.named(name, self._newest.source)
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
        commit(self._store, manifest, self._key)
        self._naming.used()
        for tree_ in self._looking.trees:
            self._before[tree_.name] = {entry.path: entry for entry in kept if entry.tree == tree_.name}
        self._forget(name, kept)
        self._looking.committed(view, take)
        self._tell(never_kept(view, self._looking.beyond))
        files = [entry for entry in kept if entry.kind == "file"]
        size = sum(entry.size for entry in files)
        done = Commit(name, self._checkpoint, self._newest.step, clock.now(), len(files), size)
        self.newest = done
        self._prune()
        self._on_commit(done)
        return done

    def _forget(self, name: str, kept: Sequence[Entry]) -> None:
        """Older snapshots may be removed from now on: their files count only where the new one needs them."""
        there = {entry.at for entry in kept}
        for tree, known in self._known.items():
            self._known[tree] = {
                path: have
                for path, have in known.items()
                if have.entry.at in there or have.entry.at.startswith(name + "/")
            }
        self._looking.known = self._known

    def _is_step_back(
        self,
        newest: Optional[Tuple[str, CheckpointSet]],
        view: View,
        take: Mapping[str, Set[str]],
        final: bool,
    ) -> bool:
        """Whether the newest whole checkpoint is older than that of the snapshot before, which is gone, and a
        newer one is not whole yet. Of a name that changes while the folder is read neither may be seen.
        """
        if newest is None:
            return True
        tree, one = newest
        if self._checkpoint is None or tree != self._checkpoint[0] or one.newest >= self._newest.written:
            self._gone = 0
            return False
        self._gone += 1
        is_gone = final or self._gone >= _TWICE
        return not is_gone or any(not take[tree].issuperset(other.paths) for other in view.sets[tree])

    @property
    def _checkpoint(self) -> Optional[Tuple[str, str]]:
        return self._newest.checkpoint

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

    def _tell(self, left: Iterable[Left]) -> None:
        for tree, path, why in left:
            whole = tree + "/" + path
            if whole not in self._told:
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


def _is_in(newest: Optional[Tuple[str, CheckpointSet]], tree: str, path: str) -> bool:
    return newest is not None and newest[0] == tree and path in newest[1].paths


def _content(entry: Entry) -> Tuple[str, str, str, int, str, str]:
    return entry.tree, entry.path, entry.kind, entry.size, entry.sha256, entry.link
