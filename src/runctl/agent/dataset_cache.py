"""Datasets on a local disk, one folder a version, shared by the jobs of a machine.

A version's folder is made by `stage`, as a volume's is: verified, gone on with after a loss. It is whole
before anybody is given it, and does not change after that. Who uses one holds its lock; what nobody holds
goes when there is no room, the longest unused first.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from typing import IO, Any, List, Optional

from . import objects
from .failures import StoreAway, StoreRefused
from .files import read_json, to_json, write_atomically
from .local_disk import cache_folder, free

TRIES = 3
ROOM = 64 << 20
"""Bytes beside the dataset's own."""

_held: List[IO[Any]] = []
"""The locks of what this process uses, until it ends."""


def load(bucket: Any, prefix: str, region: str, host: str, disposable: bool) -> Optional[str]:
    """A folder with the dataset as it is now; None where nothing lies below the prefix.

    Raises StoreAway, StoreRefused, OSError.
    """
    home = os.path.join(os.environ.get("HOME") or "/root", ".runctl")
    base = cache_folder(home, disposable)
    os.makedirs(base, exist_ok=True)
    root = prefix.strip("/") + "/" if prefix.strip("/") else ""
    for _ in range(TRIES):
        listed = list(objects.entries(bucket, root))
        if not listed:
            return None
        version = objects.version(listed)
        name = hashlib.sha256(("%s/%s" % (bucket.name, root)).encode()).hexdigest()[:16]
        folder = os.path.join(base, "%s-%s" % (name, version[:16]))
        spec = {"bucket": bucket.name, "prefix": root, "region": region, "host": host, "folder": folder}
        if _provide(folder, spec, version, listed):
            return folder
    raise StoreAway("the dataset at s3://%s/%s changes all the time" % (bucket.name, root))


def _provide(folder: str, spec: Any, version: str, listed: List[objects.Entry]) -> bool:
    """Have the folder whole and hold its lock; False where the dataset has changed meanwhile."""
    lock = open(folder + ".lock", "a")  # noqa: SIM115 (held until this process ends)
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_whole(folder, version, listed):
            os.utime(folder + ".ready")
            _held.append(lock)
            return True
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if os.path.exists(folder + ".ready"):
                raise StoreRefused("another job uses %s, and somebody has damaged it" % folder) from None
            time.sleep(0.2)  # whoever stages it will be done
            continue
        made = _make(folder, spec, version, listed)
        if not made:
            lock.close()
            return False
        fcntl.flock(lock, fcntl.LOCK_UN)


def _is_whole(folder: str, version: str, listed: List[objects.Entry]) -> bool:
    """Whether it was staged to the end, and still has every file in its size."""
    try:
        with open(folder + ".ready") as file:
            if file.read() != version:
                return False
        return all(os.stat(os.path.join(folder, item.key)).st_size == item.size for item in listed)
    except OSError:  # a file is missing
        return False


def _make(folder: str, spec: Any, version: str, listed: List[objects.Entry]) -> bool:
    """Stage under the exclusive lock; False where another version came."""
    _remove(folder + ".ready")
    os.makedirs(folder, exist_ok=True)
    _make_room(folder, sum(item.size for item in listed))
    journal, kept = os.path.join(folder, objects.OWN), folder + ".journal"
    if os.path.isdir(kept) and not os.path.exists(journal):
        os.rename(kept, journal)
    state = _stage(folder, spec)
    if state.get("phase") != "done":
        said = str(state.get("message") or state.get("phase"))
        raise (StoreAway if state.get("code") in ("StoreAway", "") else StoreRefused)(said)
    if state.get("left_out_files"):
        named = "; ".join("%r: %s" % (name, why) for name, why in state.get("left_out") or [])
        raise StoreRefused("%s objects cannot be files: %s" % (state["left_out_files"], named))
    if state.get("version") != version:
        return False
    # Frameworks take every folder of a dataset for a class of it: our journal lies beside.
    shutil.rmtree(kept, ignore_errors=True)
    os.rename(journal, kept)
    write_atomically(folder + ".ready", version.encode())
    return True


def _stage(folder: str, spec: Any) -> Any:
    """Run the staging program to its end; its state."""
    run = folder + ".run"
    shutil.rmtree(run, ignore_errors=True)
    os.makedirs(run)
    write_atomically(os.path.join(run, "spec.json"), to_json({**spec, "delete": True}))
    # As a module we were started without the working directory on the path, which a repository may fill.
    safe = ["-P"] if getattr(sys.flags, "safe_path", False) else []
    program = [sys.argv[0]] if zipfile.is_zipfile(sys.argv[0]) else [*safe, "-m", "runctl.agent"]
    # Our folder is a path as we see it, wherever a sandbox has put this machine.
    environment = {**os.environ, "RUNCTL_ROOT": ""}
    command = [sys.executable, *program, "stage", os.path.join(run, "spec.json")]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    state = read_json(os.path.join(run, "state.json"))
    if state is None:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise StoreAway("the data was not staged: %s" % (said or "exit code %d" % done.returncode))
    shutil.rmtree(run, ignore_errors=True)
    return state


def _make_room(folder: str, size: int) -> None:
    """Remove other datasets that nobody uses, the longest unused first, until this one fits."""
    there = sum(
        os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(folder) for name in names
    )
    ready = glob.glob(os.path.join(os.path.dirname(folder), "*.ready"))
    for path in sorted(ready, key=_used):
        if free(folder) >= size - there + ROOM:
            return
        other = path[: -len(".ready")]
        if other == folder:
            continue
        with open(other + ".lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(path)
            for left in (other, other + ".journal"):
                shutil.rmtree(left, ignore_errors=True)


def _used(path: str) -> float:
    try:
        return os.path.getmtime(path)
    except OSError:  # it went
        return 0.0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
