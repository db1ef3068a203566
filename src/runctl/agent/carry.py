"""One side of a transfer on a machine: lists, sends or receives as a spec says that is fetched by its URL."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any, Dict, Optional

from .failures import StoreAway, StoreRefused
from .parcel import TornParcel, packers
from .presigned import Courier, Expired, Stopped
from .receiving import Receiving, SourceAway
from .report import Report, sealed
from .sending import Sending
from .tree import listing

FAILED = 1
_KILL_AFTER = 10.0
_TRIES = 5
_LARGEST_SPEC = 512 * 1024 * 1024
_STOPPED = ".stopped"
_REMEMBERED = 7 * 86400.0


def carry(home: str) -> int:
    """Do what the spec says that the first line of the standard input leads to, and end with its exit code.

    The line is the spec's URL, its SHA-256 and the transfer's key. They are rights: they are kept from the
    arguments, which every process of the machine can read, and the key from all that lies in the bucket.
    """
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopping.set())
    courier = Courier(stopping)
    try:
        url, digest, key = sys.stdin.readline().split()
        spec = _spec(courier, url, digest)
        with _take(os.path.join(_folder(home), "%s-%s.lock" % (spec["transfer"], spec["role"]))) as mine:
            try:
                said = _alone(home, spec, courier, stopping, key)
            finally:
                os.unlink(mine.name)
    except (StoreAway, StoreRefused, Stopped, OSError, ValueError) as error:
        sys.stdout.write("runctl: error failed %s\n" % error)
        return FAILED
    sys.stdout.write("runctl: %s\n" % said)
    return 0 if said.startswith("ok") else FAILED


def stop(home: str, transfer: str) -> int:
    """End whatever works for a transfer on this machine; returns when it has ended."""
    folder = _folder(home)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith(_STOPPED) and os.path.getmtime(path) < time.time() - _REMEMBERED:
            os.unlink(path)
    for name in sorted(os.listdir(folder)):
        if name.startswith(transfer + "-") and name.endswith(".lock"):
            with _take(os.path.join(folder, name)) as theirs:
                os.unlink(theirs.name)
    sys.stdout.write("runctl: ok stopped\n")
    return 0


def perform(
    spec: Dict[str, Any],
    courier: Courier,
    stopping: threading.Event,
    key: str,
    root: Any = str,
    report: Optional[Report] = None,
) -> str:
    """Carry out a spec here; answers the state in which it ended. Raises what cannot be reported.

    `key` is the transfer's, in hex: what it says and sends carries an HMAC by it.
    """
    if spec["role"] == "list":
        found = listing(root(str(spec["path"])), spec.get("only"), bool(spec.get("checksum")))
        answer = {**found._asdict(), "packers": packers()}
        courier.put(str(spec["answer"]), sealed(answer, key, str(spec["word"])))
        return "done"
    spec = {**spec, "root": root(str(spec["root"]))}
    if report is None:
        url, word = str(spec["status"]), str(spec["word"])
        speaking = Courier()  # the last word must come through even when all else was told to stop

        def publish(told: Dict[str, Any]) -> None:
            speaking.put(url, sealed(told, key, word))

        report = Report(publish)
    report.start()
    state, why = "failed", "it ended in a way that it should not"
    try:
        if spec["role"] == "send":
            Sending(spec, courier, report, key).run()
        else:
            Receiving(spec, courier, report, stopping, key).run()
        state, why = "done", ""
    except Stopped:
        state, why = "stopped", "it was told to end"
    except Expired as error:
        state, why = "expired", str(error)
    except (StoreAway, StoreRefused, TornParcel, SourceAway, OSError) as error:
        state, why = "failed", str(error)
    finally:
        report.end(state, why)
    return state


def _spec(courier: Courier, url: str, digest: str) -> Dict[str, Any]:
    for _ in range(_TRIES):
        packed = courier.get(url, most=_LARGEST_SPEC)
        if hashlib.sha256(packed).hexdigest() == digest:
            spec: Dict[str, Any] = json.loads(gzip.decompress(packed))
            return spec
    raise StoreRefused("the spec is not what was sent: its checksum differs")


def _on_this_machine(path: str) -> str:
    """In a sandbox whose machines share one root, a machine's folder stands for its root."""
    root = os.environ.get("RUNCTL_ROOT") or ""
    return path if not root or (path + "/").startswith(root + "/") else root + path


def _folder(home: str) -> str:
    folder = os.path.join(home, "carry")
    os.makedirs(folder, 0o700, exist_ok=True)
    return folder


def _tombstone(home: str, transfer: str) -> str:
    """Where it is, the transfer was undone: a command of it that is delivered later does nothing."""
    return os.path.join(_folder(home), transfer + _STOPPED)


def _alone(home: str, spec: Dict[str, Any], courier: Courier, stopping: threading.Event, key: str) -> str:
    """Carry out the spec, unless another transfer writes to the same folder; answers what to say.

    A later worker of one transfer and role has ended an earlier one by now, whose caller is gone.
    """
    if os.path.exists(_tombstone(home, spec["transfer"])):
        raise Stopped("it was undone before it began")
    if spec["role"] != "receive":
        return "ok " + perform(spec, courier, stopping, key, root=_on_this_machine)
    name = hashlib.sha256(os.fsencode(_on_this_machine(str(spec["root"])))).hexdigest()[:32]
    with open(os.path.join(_folder(home), "into-%s" % name), "a+") as there:
        try:
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "error busy another transfer writes to %s" % spec["root"]
        return "ok " + perform(spec, courier, stopping, key, root=_on_this_machine)


def _take(path: str) -> Any:
    """The lock of a file that holds its holder's pid; a living holder is ended first."""
    begun = time.monotonic()
    while True:
        file = open(path, "a+")  # noqa: SIM115 (it is the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                break
            file.close()  # its holder took it away when it ended
            continue
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            file.close()
            if pid.isdigit():
                _end(int(pid), signal.SIGKILL if time.monotonic() - begun > _KILL_AFTER else signal.SIGTERM)
            time.sleep(0.1)
    file.truncate(0)
    file.write("%d\n" % os.getpid())
    file.flush()
    return file


def _end(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
