"""Staging: the files of a volume made equal to a dataset in S3, verified, and gone on with after any loss."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from . import engines, objects
from .credentials import Credentials
from .engines import Fetched, Fetcher, Stopped
from .failures import StoreAway, StoreRefused
from .files import read_json
from .imds import Metadata
from .machine import DeadMan, NoticeWatch
from .manifest import Known, Manifest, sync
from .objects import Entry
from .s3 import Bucket
from .stage_state import StagingState

UNUSABLE, RUNS_ALREADY = 2, 3
BEAT_SECONDS = 0.5
BATCH_FILES, BATCH_BYTES = 1000, 1 << 30
PASSES = 4
TRIES = 3
OUTAGE_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Real seconds between two tries while the store is away: an outage of a minute is waited for."""

FINAL = ("done", "failed", "interrupted", "stopped")


class Refused(Exception):
    """This cannot be staged here; `code` is for scripts."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def stage(path: str) -> int:
    """Stage as a spec says; its folder gets `state.json`. One at a time, and once: a final state stays."""
    spec = read_json(path)
    folder = os.path.dirname(os.path.abspath(path))
    if spec is None or not {"bucket", "prefix", "folder"} <= spec.keys():
        sys.stderr.write("agent: the spec cannot be used\n")
        return UNUSABLE
    with open(os.path.join(folder, "lock"), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNS_ALREADY
        before = read_json(os.path.join(folder, "state.json")) or {}
        if before.get("phase") in FINAL:
            return RUNS_ALREADY
        return Staging(spec, folder, starts=int(before.get("starts") or 0) + 1).run()


class Staging:
    """One staging; `folder` has its spec and state, the volume has the files."""

    def __init__(self, spec: Dict[str, Any], folder: str, starts: int = 1) -> None:
        self._spec = spec
        self._run_folder = folder
        # A sandbox machine has its disks in a folder of its own.
        self.root = os.path.realpath(os.environ.get("RUNCTL_ROOT", "") + str(spec["folder"]))
        self.prefix = str(spec["prefix"]).strip("/") + "/" if str(spec["prefix"]).strip("/") else ""
        self.location = "s3://%s/%s" % (spec["bucket"], self.prefix.rstrip("/"))
        self.stopping = threading.Event()
        self._ended_by = ""
        self._over = threading.Event()
        self.state = StagingState(folder, starts)
        region = str(spec.get("region") or os.environ.get("AWS_REGION", "us-east-1"))
        self._credentials = Credentials(Metadata())
        host = str(spec.get("host") or "")
        self._bucket = Bucket(str(spec["bucket"]), region, self._credentials, host=host)
        self._region = region
        self._dead_man = DeadMan(spec)

    def run(self) -> int:
        """Stage, and say how it ended: 0 for done, 1 else."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_end)
        if self._spec.get("machine", {}).get("watch_notice"):
            NoticeWatch(_ignore, lambda _action, _at: self._stop("interrupted"), lambda: None)
        self.state.write()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        phase, code, message = "failed", "", ""
        try:
            self._stage()
            phase = "done"
        except Stopped:
            phase = self._ended_by or "stopped"
        except Refused as error:
            code, message = error.code, str(error)
        except (StoreAway, StoreRefused) as error:
            code, message = type(error).__name__, str(error)
        except OSError as error:
            code, message = "disk", "%s: %s" % (error.strerror or error, error.filename or self.root)
        self._over.set()
        self.state.set(phase=phase, code=code, message=message, ended=time.time())
        self.state.write_left_out()
        self.state.write()
        return 0 if phase == "done" else 1

    def _stage(self) -> None:
        if not os.path.isdir(self.root):
            raise Refused("no-folder", "there is no folder %s" % self.root)
        with Manifest(self.root) as manifest:
            self._stage_to(manifest)

    def _stage_to(self, manifest: Manifest) -> None:
        if not manifest.is_mine:
            raise Refused("busy", "another staging works on this volume")
        delete = bool(self._spec.get("delete"))
        before = manifest.header.get("location")
        if before not in (None, self.location) and not delete:
            raise Refused("other-dataset", "the volume holds %s, not %s" % (before, self.location))
        listed = self._list()
        if not listed:
            raise Refused("nothing", "there is nothing at %s" % self.location)
        for number in range(PASSES):
            self._pass(manifest, listed, delete)
            self.state.set(phase="verifying")
            again = self._list()
            if objects.version(again) == objects.version(listed):
                break
            listed = again
            self.state.set(message="the dataset changed while it was copied: pass %d" % (number + 2))
        else:
            raise Refused("changing", "the dataset changed in each of %d passes" % PASSES)
        if self.state["failed_files"]:
            names = [name for name, (_, fault) in self.state.left_out.items() if fault]
            raise Refused("incomplete", "%d files did not arrive, %s among them" % (len(names), names[0]))
        self._finish(manifest, listed)

    def _list(self) -> List[Entry]:
        for wait in OUTAGE_WAITS:
            try:
                return self._list_once()
            except StoreAway as error:
                self.state.set(message=str(error))
                self.stopping.wait(wait)
        return self._list_once()

    def _list_once(self) -> List[Entry]:
        found: List[Entry] = []
        for item in objects.entries(self._bucket, self.prefix):
            if self.stopping.is_set():
                raise Stopped
            found.append(item)
        return found

    def _pass(self, manifest: Manifest, listed: List[Entry], delete: bool) -> None:
        """Make the folder equal to a listing, as far as that can be."""
        good, refused = objects.split(listed)
        self.state.left_out.clear()
        self.state.left_out.update((key, (why, False)) for key, why in refused)
        names = {item.key for item in good}
        gone = [key for key in manifest.files if key not in names]
        wanted = self._wanted(manifest, good)
        if wanted or gone or manifest.header.get("version") != objects.version(listed):
            manifest.begin(self.location)
        if delete:
            self._delete(manifest, gone)
            gone = []
        self.state.set(
            phase="copying",
            files=len(listed),
            bytes=sum(item.size for item in listed),
            wanted_files=self.state["copied_files"] + len(wanted),
            wanted_bytes=self.state["copied_bytes"] + sum(item.size for item in wanted),
            equal_files=len(listed) - len(wanted) - len(self.state.left_out),
            extra_files=len(gone),
        )
        names = {os.path.basename(engines.name_of(manifest.parts, item)) for item in wanted}
        for name in os.listdir(manifest.parts):
            if name.partition(".")[0] not in names:
                os.unlink(os.path.join(manifest.parts, name))
        self._require_room(manifest.parts, wanted)
        left = wanted
        for tried, wait in enumerate(OUTAGE_WAITS, 1):
            left, is_away = self._copy(manifest, left)
            if not left or (tried >= TRIES and not is_away):
                break
            if is_away:
                self.stopping.wait(wait)
        self.state.count_left_out()

    def _wanted(self, manifest: Manifest, good: List[Entry]) -> List[Entry]:
        """What is not there as it should be; what others put in its place is left out."""
        self.state.set(phase="checking")
        wanted: List[Entry] = []
        for item in good:
            if self.stopping.is_set():
                raise Stopped
            why, there = self._is_there(manifest, item)
            if why:
                self.state.left_out[item.key] = (why, False)
            elif not there:
                wanted.append(item)
        return wanted

    def _is_there(self, manifest: Manifest, item: Entry) -> Tuple[str, bool]:
        try:
            path = objects.inside(self.root, item.key)
            found = os.lstat(path)
        except FileNotFoundError:
            return "", False
        except NotADirectoryError as error:
            mine = os.path.relpath(str(error.filename), self.root) in manifest.files
            return ("" if mine and self._spec.get("delete") else "%s: in its way" % error.strerror), False
        if not stat.S_ISREG(found.st_mode):
            return "something that is no file has its name", False
        here = Known(found.st_size, item.etag, found.st_mtime_ns)
        known = manifest.files.get(item.key)
        if known is not None:
            same = known == here and here.size == item.size
            return "", same and (not self._spec.get("check") or objects.matches(path, item) is not False)
        if here.size != item.size or not objects.matches(path, item):
            return "a file of this name is there that runctl did not put there", False
        manifest.files[item.key] = here
        return "", True

    def _delete(self, manifest: Manifest, gone: List[str]) -> None:
        """Remove what we put there and the dataset has no more; what somebody changed since is kept."""
        removed: List[str] = []
        folders: Set[str] = set()
        for key in gone:
            try:
                path = objects.inside(self.root, key)
                found = os.lstat(path)
                if (found.st_size, found.st_mtime_ns) != (
                    manifest.files[key].size,
                    manifest.files[key].modified,
                ):
                    self.state.left_out[key] = (
                        "it is gone from the dataset, but was changed here: kept",
                        False,
                    )
                    continue
                os.unlink(path)
                folders.add(os.path.dirname(path))
            except (FileNotFoundError, NotADirectoryError):
                pass
            removed.append(key)
        manifest.gone(removed)
        for emptied in sorted(folders, key=len, reverse=True):
            folder = emptied
            while folder != self.root:
                try:
                    os.rmdir(folder)
                except OSError:
                    break  # something else lies there
                folder = os.path.dirname(folder)
        self.state.add(deleted_files=len(removed))

    def _require_room(self, parts: str, wanted: List[Entry]) -> None:
        """What came before a loss lies in `parts` and takes no more room."""
        status = os.statvfs(self.root)
        free = status.f_bavail * status.f_frsize + sum(
            os.path.getsize(os.path.join(parts, name)) for name in os.listdir(parts)
        )
        needed = sum(item.size for item in wanted)
        if needed > free:
            text = "%d bytes are to be copied, and %d are free on the volume" % (needed, free)
            raise Refused("no-room", text)
        if status.f_files and len(wanted) > status.f_favail:
            raise Refused("no-room", "the file system of the volume cannot hold %d more files" % len(wanted))

    # Copying: one batch is fetched while the one before it is put in its place

    def _copy(self, manifest: Manifest, wanted: List[Entry]) -> Tuple[List[Entry], bool]:
        """Answers what did not come, and whether the store was away; what changed is the next pass's."""
        fetcher = Fetcher(self._bucket, self.prefix, manifest.parts, self.stopping, self.state.came)
        program = engines.find_program()
        if program and self._spec.get("engine", "auto") != "own":
            fetcher.use(program, engines.environment_of(self._credentials, self._region))
        self.state.set(engine="s5cmd" if fetcher.program else "own")
        again: List[Fetched] = []
        before: Optional[Future[List[Fetched]]] = None
        with ThreadPoolExecutor(1) as ahead:
            for batch in [*_batches(wanted), []]:
                job = ahead.submit(fetcher.fetch, batch) if batch else None
                if before is not None:
                    again += self._place(manifest, before.result())
                before = job
        return [found.item for found in again], any(found.away for found in again)

    def _place(self, manifest: Manifest, fetched: List[Fetched]) -> List[Fetched]:
        """Put files in their places: on the disk first, in the journal next, under their names last."""
        here = [found for found in fetched if found.path]
        for found in here:
            moment = int(found.item.modified * 1e9)
            os.utime(found.path, ns=(moment, moment))
        sync(manifest.parts)
        manifest.put([(found.item.key, _known(found)) for found in here])
        for found in here:
            path = objects.inside(self.root, found.item.key)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(found.path, path)
            self.state.left_out.pop(found.item.key, None)
        again = [found for found in fetched if not found.path and not found.changed]
        self.state.left_out.update((found.item.key, (found.why, True)) for found in again)
        self.state.add(
            copied_files=len(here),
            copied_bytes=sum(found.item.size for found in here),
            proved_files=sum(found.proved for found in here),
        )
        self.state.came(-sum(found.item.size for found in fetched))
        return again

    def _finish(self, manifest: Manifest, listed: List[Entry]) -> None:
        """Everything is where it should be, and safe: only then the volume says what it holds."""
        for item in objects.split(listed)[0]:
            if item.key in self.state.left_out:
                continue
            path = objects.inside(self.root, item.key)
            if not os.path.isfile(path) or os.path.getsize(path) != item.size:
                raise Refused("incomplete", "%s is not on the volume as it is in S3" % item.key)
        for name in os.listdir(manifest.parts):
            os.unlink(os.path.join(manifest.parts, name))
        found = objects.version(listed)
        if manifest.header.get("version") != found or manifest.is_open:
            manifest.complete(self.location, found)
        sync(self.root)
        self.state.set(version=found)

    # The state, for whoever asks

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._dead_man.put_off()
            if os.path.exists(os.path.join(self._run_folder, "stop")):
                self._stop("stopped")
            self.state.write()

    def _asked_to_end(self, _number: int, _frame: Any) -> None:
        self._stop("stopped")

    def _stop(self, phase: str) -> None:
        self._ended_by = self._ended_by or phase
        self.stopping.set()


def _known(found: Fetched) -> Known:
    return Known(found.item.size, found.item.etag, os.lstat(found.path).st_mtime_ns)


def _ignore(_identity: Any) -> None:
    """Who we are is of no concern here."""


def _batches(wanted: List[Entry]) -> Iterator[List[Entry]]:
    batch: List[Entry] = []
    size = 0
    for item in wanted:
        batch.append(item)
        size += item.size
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
