"""A private root, process tree, host name and IPC for each machine; the network is the host's.

Works for root, and for ordinary users where user namespaces are allowed. PID 1 of a machine is a fork of the
nursery, so that all machines end with the process that started them, however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from runctl.sandbox.isolation import HOME, UMASK, Confines, Stream, nursery, spawning

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/sys",
    "/nix/store",
)
"""What of the host every machine sees, read-only; links are copied as links."""
_HOSTS = "/etc/hosts"
ANSWER_SECONDS = 20.0


class _Nursery:
    """The one nursery of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, object]) -> socket.socket:
        """Send one request; returns the socket on which it is answered."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with self._lock, theirs:
            requests = self._requests
            if requests is None or self._process is None or self._process.poll() is not None:
                requests = self._start()
            socket.send_fds(requests, [json.dumps(request).encode()], [theirs.fileno()])
        return mine

    def _start(self) -> socket.socket:
        if self._requests is not None:
            self._requests.close()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, spawning:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", nursery.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                start_new_session=True,
                umask=UMASK,
            )
        return self._requests

    def close(self) -> None:
        """End the nursery, and with it every machine."""
        with self._lock:
            if self._requests is not None and self._process is not None:
                self._requests.close()
                self._process.wait()
                self._requests = self._process = None


_nursery = _Nursery()
atexit.register(_nursery.close)


def _hear(answers: socket.socket, seconds: float = ANSWER_SECONDS) -> str:
    """The next word of the nursery; empty when its socket is closed."""
    answers.settimeout(seconds)
    return answers.recv(4096).decode(errors="replace").strip()


def _request(request: Mapping[str, object]) -> None:
    with _nursery.ask(request) as answers:
        word = _hear(answers)
        if word != "done":
            raise OSError(word.removeprefix("failed ") or "the nursery died")


@functools.cache
def refusal() -> str:
    """Why this host gives no namespaces to this user; empty when it does. Found by trying."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    missing = [tool for tool in ("nsenter", "setsid", "sh") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "probe"
        (folder / "home").mkdir(parents=True)
        probe = NamespaceIsolation(Confines(folder, "probe", "PROBE=1", "PROBE=1"))
        try:
            probe.start()
            process = probe.spawn(
                ["true"],
                cwd=str(folder),
                environment={"PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return "" if process.wait(ANSWER_SECONDS) == 0 else "a command in a namespace failed"
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            probe.stop(0)


class NamespaceIsolation:
    """The processes of one machine, in namespaces of their own."""

    separate = True

    def __init__(self, confines: Confines) -> None:
        self._confines = confines
        self._user_namespace = os.geteuid() != 0
        self._answers: socket.socket | None = None
        self._pid = 0

    @property
    def running(self) -> bool:
        answers = self._answers
        if answers is None:
            return False
        try:
            # Nothing is said between "ready" and "gone": a word, or the end of file, is its death.
            return not select.select([answers], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def start(self) -> None:
        root = self._confines.folder / "root"
        for name in ("root", "dev", "tmp", "home"):
            (self._confines.folder / name).mkdir(exist_ok=True)
        order = {
            "do": "boot",
            "user_namespace": self._user_namespace,
            "root": str(root),
            "dev": str(self._confines.folder / "dev"),
            "hostname": self._confines.hostname,
            "links": [(name, str(Path(name).readlink())) for name in SYSTEM if Path(name).is_symlink()],
            "binds": self._binds(),
        }
        answers = _nursery.ask(order)
        try:
            while (word := _hear(answers)) != "ready":
                if not word.startswith("pid "):
                    raise OSError(word.removeprefix("failed ") or "the nursery died")
                self._pid = int(word.removeprefix("pid "))
            if not self._pid:
                self._pid = int(_hear(answers).removeprefix("pid "))
        except BaseException:
            answers.close()
            raise
        self._answers = answers

    def _binds(self) -> list[tuple[str, str, bool]]:
        """(source, place, read-only), parents before what lies below them."""
        folder = self._confines.folder
        system = [path for name in SYSTEM if (path := Path(name)).is_dir() and not path.is_symlink()]
        resolver = Path("/etc/resolv.conf").resolve()
        readable = [*self._confines.readable, *([resolver] if resolver.is_file() else [])]
        found: dict[str, tuple[str, str, bool]] = {}
        for path in system:
            found[str(path)] = (str(path), str(path), True)
        found["/tmp"] = (str(folder / "tmp"), "/tmp", False)  # noqa: S108 a place inside the machine
        for path in readable:
            if path.exists() and not any(path == seen or seen in path.parents for seen in system):
                found[str(path)] = (str(path), str(path), True)
        for path in (*self._confines.writable, folder):
            found[str(path)] = (str(path), str(path), False)
        found[str(HOME)] = (str(folder / "home"), str(HOME), False)
        found[_HOSTS] = (str(self._hosts()), _HOSTS, True)
        return sorted(found.values(), key=lambda bind: len(Path(bind[1]).parts))

    def _hosts(self) -> Path:
        """The machine's own name leads to itself: what joins processes, such as torchrun, asks for it."""
        known = Path(_HOSTS)
        text = known.read_text(encoding="utf-8", errors="replace") if known.is_file() else ""
        name = self._confines.hostname
        made = self._confines.folder / "hosts"
        own = f"127.0.0.1 localhost\n127.0.0.1 {name} {name}.ec2.internal\n"
        made.write_text(own + text, encoding="utf-8")
        return made

    def _enter(self) -> list[str]:
        user = ["-U", "--preserve-credentials"] if self._user_namespace else []
        return ["nsenter", "-t", str(self._pid), *user, "-m", "-p", "-u", "-i"]

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
    ) -> subprocess.Popen[bytes]:
        if not Path(f"/proc/{self._pid}/root{cwd}").is_dir():
            raise FileNotFoundError(2, "No such file or directory", cwd)
        # `nsenter` is looked up in our PATH, `argv` in the machine's.
        inside = ["sh", "-c", 'cd "$0" && exec setsid "$@"', cwd, *argv]
        tool = shutil.which("nsenter") or "nsenter"
        with spawning:
            if self._answers is None:
                raise ProcessLookupError("the machine is off")
            return subprocess.Popen(
                [*self._enter(), *inside],
                executable=tool,
                cwd="/",
                env=dict(environment),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                umask=UMASK,
            )

    def signal_group(self, process: subprocess.Popen[bytes], signum: int) -> None:
        """The group is led by the child of `nsenter`, known to us by its host process id."""
        if process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                os.killpg(int(child), signum)
            if children:
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)

    def stop(self, grace: float) -> None:
        with spawning:
            answers, self._answers = self._answers, None
        if answers is None:
            return
        with answers:
            if grace > 0:
                with contextlib.suppress(OSError):
                    answers.send(b"off\n")
                    if self._gone(answers, grace):
                        return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            if not self._gone(answers, ANSWER_SECONDS):
                raise TimeoutError("processes of the machine could not be ended")

    def _gone(self, answers: socket.socket, seconds: float) -> bool:
        """True when the kernel has ended every process of the machine."""
        try:
            return _hear(answers, seconds) in ("gone", "")
        except TimeoutError:
            return False
        except OSError:
            return True

    def plug(self, name: str, disk: Path) -> None:
        target = str(self._confines.folder / "dev" / name)
        order = {"do": "plug", "pid": self._pid, "source": str(disk), "target": target}
        _request({**order, "user_namespace": self._user_namespace})

    def unplug(self, name: str) -> None:
        place = self._confines.folder / "dev" / name
        order = {"do": "unplug", "pid": self._pid, "target": str(place)}
        _request({**order, "user_namespace": self._user_namespace})
        place.rmdir()

    def mounted(self, name: str) -> bool:
        """Looked up in the machine's own table: a mount whose root lies below the disk's."""
        place = str(self._confines.folder / "dev" / name)
        rows = [line.split() for line in Path(f"/proc/{self._pid}/mountinfo").read_text().splitlines()]
        disk = next((row[3] for row in rows if row[4] == place), None)
        return disk is not None and any(row[3].startswith(disk + "/") for row in rows)
