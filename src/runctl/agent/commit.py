"""Committing checkpoints to the store: `restoring` brings them back.

A commit is its files, then a manifest that names each with size and SHA-256 and carries the job's seal, then
`latest.json`, which moves by a conditional write and never back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from . import clock, seal
from .checkpoints import Checkpoint, completeness, scan, step_of
from .failures import SourceChanged, StoreAway, StoreRefused
from .files import to_json
from .restoring import CorruptCheckpoint, can_be_named, commit_names, lies_in, read_manifest, sequence_of

POLL_SECONDS = 2.0
SHORTEST_POLL = 0.2
STILL_POLLS = 2
LOOKING = 0.05
"""The share of the time that may be spent on looks: a folder with very many files is looked at less often."""
LONGEST_POLL = 60.0
QUICK_SCAN = 0.02
"""Seconds of CPU; a folder that takes longer is not looked through only to know what is in it."""
TOO_HIGH = 10**8
"""No job commits as often; names have room for nine times as many above it."""
_HURRY = 0.2
"""Real seconds until the watch hears that it should look at once."""
_MOST_TOLD = 20


class Commit(NamedTuple):
    """A committed checkpoint; `at` on the cloud's clock."""

    name: str
    step: Optional[int]
    at: float
    manifest: Dict[str, Any]


class Changed(Exception):
    """A checkpoint was written to while it was read."""


class Committer:
    """Watches the checkpoint folder in a thread and commits the newest complete version it sees."""

    def __init__(
        self,
        store: Any,
        folder: str,
        attempt: int,
        on_commit: Callable[[Commit], None],
        note: Callable[[str], None],
        key: Optional[str] = None,
        leave_out: Callable[[str, str], None] = lambda _path, _reason: None,
    ) -> None:
        """`key` is the job's seal, None for a job whose folder nobody else writes to."""
        self._store = store
        self._key = key
        self._folder = folder
        self._attempt = attempt
        self._on_commit = on_commit
        self._note = note
        self._leave_out = leave_out
        self._known: Set[Checkpoint] = set()
        self._seen: Dict[Checkpoint, int] = {}
        self._sequence: Optional[int] = None
        self._claimed: Optional[Tuple[str, str]] = None  # a checkpoint's name, its commit's name
        self._newest_committed = 0  # its mtime: what is older is never committed after it
        self._told: Set[str] = set()
        self._scan_took = 0.0
        self._newest_size = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self.seconds_per_byte = 0.0
        self.newest: Optional[Commit] = None

    def forget_what_lies_there(self) -> None:
        """What is in the folder now is not this attempt's work: it is not committed again."""
        self._known.update(scan(self._folder))

    def forget_what_is_committed(self, since: float) -> None:
        """Not new: what the newest commit holds, and what lay there before the job began."""
        self._known.update(found for found in scan(self._folder) if found.newest < since * 1e9)
        for name in commit_names(self._store)[-1:]:
            try:
                manifest = read_manifest(self._store, name, self._key)
            except CorruptCheckpoint:
                continue
            if lies_in(self._folder, manifest.files):
                self._known.update(found for found in scan(self._folder) if found.name == manifest.source)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="checkpoints", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Look at once."""
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing any more; what is being committed goes on to its end."""
        self._stop.set()
        self._wake.set()

    def upload_seconds(self) -> float:
        """What the newest checkpoint's upload will take: by the rate of earlier ones, else at 50 MB/s."""
        if self._scan_took < QUICK_SCAN:
            self._scan()
        return self._newest_size * (self.seconds_per_byte or 1 / 50e6)

    def _scan(self) -> List[Checkpoint]:
        begun = time.thread_time()
        found = scan(self._folder)
        self._scan_took = time.thread_time() - begun
        self._newest_size = found[-1].size if found else 0
        return found

    def commit_newest(
        self, final: bool, whole: bool = False, last_step: Optional[int] = None
    ) -> Optional[Commit]:
        """Commit the newest complete checkpoint that is not committed yet.

        `final` says that nobody writes any more, `whole` that whoever wrote was not cut off: then what
        stands there is complete although its format cannot tell. Raises StoreAway, StoreRefused.
        """
        with self._one_at_a_time:
            for checkpoint in reversed(self._scan()):
                if checkpoint in self._known or checkpoint.newest < self._newest_committed:
                    return None
                if not can_be_named(checkpoint.name):
                    self._known.add(checkpoint)
                    self._note(
                        "%r is not committed: there are control characters in its name" % checkpoint.name
                    )
                    continue
                if not self._is_complete(checkpoint, whole):
                    continue
                step = step_of(self._folder, checkpoint)
                try:
                    return self._commit(checkpoint, final, last_step if step is None and final else step)
                except Changed:
                    continue
        return None

    def _watch(self) -> None:
        wait = 1.0
        while not self._stop.is_set():
            pause = max(SHORTEST_POLL, clock.real(POLL_SECONDS))
            longest = max(pause, min(self._scan_took / LOOKING, LONGEST_POLL))
            clock.wait(self._wake.is_set, longest, every=_HURRY)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.commit_newest(final=False)
                wait = 1.0
            except StoreRefused as error:
                self._note("the store refuses a checkpoint: %s" % error)
                clock.wait(self._stop.is_set, clock.real(30.0), every=_HURRY)
            except Exception as error:  # the watch goes on whatever a script left in its folder
                kind = "" if isinstance(error, (StoreAway, OSError)) else "%s: " % type(error).__name__
                self._note("a checkpoint waits for the store: %s%s" % (kind, error))
                clock.wait(self._stop.is_set, clock.real(wait), every=_HURRY)
                wait = min(wait * 2, 15.0)

    def _is_complete(self, checkpoint: Checkpoint, whole: bool) -> bool:
        verdict = completeness(self._folder, checkpoint)
        if verdict is not None:
            return verdict
        if whole:
            return True
        polls = self._seen.get(checkpoint, 0) + 1
        self._seen = {known: count for known, count in self._seen.items() if known.name != checkpoint.name}
        self._seen[checkpoint] = polls
        return polls > STILL_POLLS

    def _commit(self, checkpoint: Checkpoint, final: bool, step: Optional[int]) -> Commit:
        name = self._claim(checkpoint)
        prefix = self._store.checkpoints + name + "/"
        begun = time.monotonic()
        files = self._send(checkpoint, prefix)
        if not self._is_unchanged(checkpoint):
            raise Changed(checkpoint.name)
        manifest = {
            "format": 1,
            "name": name,
            "source": checkpoint.name,
            "kind": "folder" if checkpoint.is_folder else "file",
            "step": step,
            "attempt": self._attempt,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.now())),
            "final": final,
            "files": files,
        }
        if self._key:
            manifest["seal"] = seal.of(self._key, manifest)
        self._store.put(prefix + "manifest.json", to_json(manifest))
        self._claimed = None
        self._known.add(checkpoint)
        self._newest_committed = checkpoint.newest
        self._move_latest(manifest)
        if checkpoint.size:
            self.seconds_per_byte = (time.monotonic() - begun) / checkpoint.size
        commit = Commit(name, step, clock.now(), manifest)
        self.newest = commit
        for path, kind in checkpoint.left_out:
            if len(self._told) < _MOST_TOLD and path not in self._told:
                self._told.add(path)
                self._leave_out(path, kind)
        self._prune()
        self._on_commit(commit)
        return commit

    def _claim(self, checkpoint: Checkpoint) -> str:
        """A name that is ours alone: an agent that was given up for lost may still be writing."""
        if self._claimed is not None and self._claimed[0] == checkpoint.name:
            return self._claimed[1]  # an upload that was broken off goes on under its name
        if self._sequence is None:
            found = (sequence_of(name) for name in commit_names(self._store))
            # Others can write there: a number from which none could be counted on is not counted on from.
            self._sequence = max((number for number in found if number < TOO_HIGH), default=0)
        while True:
            self._sequence += 1
            name = "%06d-%s" % (self._sequence, checkpoint.name)
            if self._store.create(self._store.checkpoints + name + "/.claim", to_json(self._attempt)):
                self._claimed = (checkpoint.name, name)
                return name

    def _send(self, checkpoint: Checkpoint, prefix: str) -> List[Dict[str, Any]]:
        files: List[Dict[str, Any]] = []
        for file in checkpoint.files:
            path = os.path.join(self._folder, file.path)
            try:
                digest = self._store.put_file(prefix + file.path, path, file.size)
            except (FileNotFoundError, SourceChanged) as error:
                raise Changed(str(error)) from error
            except StoreRefused as error:  # a checksum that differs is the store's word for it
                if not self._is_unchanged(checkpoint):
                    raise Changed(str(error)) from error
                raise
            files.append({"path": file.path, "size": file.size, **digest.entry()})
        return files

    def _is_unchanged(self, checkpoint: Checkpoint) -> bool:
        """A script that keeps only its newest files may have removed it by now: what was read was whole."""
        now = [found for found in self._scan() if found.name == checkpoint.name]
        return not now or now[0] == checkpoint

    def _move_latest(self, manifest: Dict[str, Any]) -> None:
        key, name = self._store.checkpoints + "latest.json", str(manifest["name"])
        import hashlib

        digest = hashlib.sha256(to_json(manifest)).hexdigest()
        latest = to_json({"name": name, "step": manifest["step"], "manifest_sha256": digest})
        for _ in range(5):
            current = self._store.get(key)
            if current is not None and _sequence_in(current) >= sequence_of(name):
                return
            if self._store.replace(key, latest, current):
                return

    def _prune(self) -> None:
        if self._store.keeps:
            self._store.keep_only(commit_names(self._store)[-self._store.keeps :])


def _sequence_in(latest: bytes) -> int:
    """Of the commit that `latest.json` names; 0 for one that cannot be read, which is replaced."""
    try:
        return sequence_of(str(json.loads(latest)["name"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
