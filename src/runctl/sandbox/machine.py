"""One machine of the sandbox cloud: a process tree, a folder, disks, a metadata service, a power button."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runctl.sandbox import shims, surroundings
from runctl.sandbox.imds import (
    MachineFacts,
    Metadata,
    MetadataServer,
    Role,
    Signals,
    SpotNotice,
    private_name,
)
from runctl.sandbox.isolation import HOME, Confines, Stream, isolate, spawning
from runctl.sandbox.switchboard import Fifo
from runctl.sandbox.timing import CloudClock, Schedule, Timer

__all__ = ["Machine", "MachineFacts", "Role", "SpotNotice"]

GRACE_CAP = 2.0
"""Real seconds that `off` waits at most for processes that were asked to end."""
CONSOLE_BYTES = 64 * 1024
"""What EC2 keeps of a console."""
PER_BOOT = "per-boot"
"""The machine's own place for what cloud-init keeps in /var/lib/cloud/scripts/per-boot."""
BY_ID = "nvme-Amazon_Elastic_Block_Store_"

log = logging.getLogger(__name__)


class Machine:
    """A machine whose folder is `<state>/machines/<instance id>`; paths are the same inside and outside.

    `facts` is asked again whenever they matter, never under a lock of the machine's. `environment` is given
    to every process; `image` are host folders that the machine sees read-only and whose bin/ comes first in
    its PATH. `on_power_off(machine, kind)` is called on a thread of its own when the machine asks to be ended
    ("halt") or restarted ("reboot").
    """

    def __init__(
        self,
        facts: Callable[[], MachineFacts],
        folder: Path,
        *,
        clock: CloudClock,
        schedule: Schedule,
        environment: Mapping[str, str],
        image: Sequence[Path],
        isolation: str,
        on_power_off: Callable[[Machine, str], None],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self._state = self.folder.parents[1]
        self._facts = facts
        self._clock = clock
        self._schedule = schedule
        self._given = dict(environment)
        self._image = tuple(image)
        self._on_power_off = on_power_off
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}  # volume id -> nvmeXn1
        self._disks: dict[str, Path] = {}
        self._signals = Signals()
        self._timer: Timer | None = None
        self._fifo: Fifo | None = None
        self._on = False
        self.powered = False
        """From the beginning of `boot` to the end of `off`: as long as any process of it may live."""
        self.boots = 0
        self._settings = {
            **surroundings.package_settings(os.environ),
            **surroundings.numeric_settings(os.environ),
        }
        self._isolation = isolate(isolation, self._confines(facts()))
        self._server = MetadataServer(Metadata(facts, lambda: self._signals, clock.now))

    def __repr__(self) -> str:
        return f"Machine({self.folder.name})"

    @property
    def id(self) -> str:
        """The instance id."""
        return self.folder.name

    @property
    def running(self) -> bool:
        """True from the end of `boot` to the beginning of `off`, unless its PID 1 was killed."""
        return self._on and self._isolation.running

    @property
    def metadata_endpoint(self) -> str:
        """Where this machine's metadata service listens; empty before the first boot."""
        return self._server.endpoint

    @property
    def notice(self) -> SpotNotice | None:
        """The spot notice that stands in the metadata."""
        return self._signals.notice

    # Power

    def boot(self, at: float | None = None) -> None:
        """Start isolation and metadata, plug the disks, start what cloud-init would; returns when up.

        `at` is since when it counts as running, now if left out. OSError when the host refuses the isolation.
        """
        booted_at = self._clock.now() if at is None else at
        with self._lock:
            if self._on:
                return
            self._furnish()
            self.powered = True
            self._signals = Signals(disks=self._signals.disks, booted_at=booted_at)
            self._server.hang(False)
            self._server.start()
            self._fifo = Fifo(self.folder / "power", self._power_asked)
            try:
                self._isolation.start()
                for volume_id, name in self._names.items():
                    self._show(volume_id, name)
            except BaseException:
                self.off(grace=0)
                raise
            self._on = True
            self.boots += 1
        for script in sorted((self.folder / PER_BOOT).iterdir()):
            if os.access(script, os.X_OK):
                self._run_script(script)
        self._run_user_data()

    def off(self, *, grace: float) -> None:
        """End every process, after at most `grace` cloud seconds (and `GRACE_CAP` real ones); disks stay."""
        with self._lock:
            if self._fifo is None:
                return
            self._on = False
            fifo, self._fifo = self._fifo, None
            fifo.close()
            self._cancel_timer()
            self._isolation.stop(min(self._clock.real(grace), GRACE_CAP))
            self.powered = False
            self._server.stop()

    def console(self) -> bytes:
        """The newest 64 KiB of what its boots and their scripts wrote."""
        try:
            with (self.folder / "console.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - CONSOLE_BYTES))
                return file.read()
        except FileNotFoundError:
            return b""

    def destroy(self) -> None:
        """Off, without grace, and no trace left but its disks."""
        self.off(grace=0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _furnish(self) -> None:
        for name in ("home", "tmp", "mounts", "dev", PER_BOOT):
            (self.folder / name).mkdir(exist_ok=True)
        (self._state / "cache" / "pip").mkdir(parents=True, exist_ok=True)
        (self._state / "cache" / "uv").mkdir(parents=True, exist_ok=True)
        shims.install(self._state / "shims")

    def _confines(self, facts: MachineFacts) -> Confines:
        readable = [
            self._clock.path.resolve().parent,
            self._state / "shims",
            *surroundings.image_paths(self._image),
            *surroundings.paths_in(self._settings),
        ]
        return Confines(
            folder=self.folder,
            hostname=private_name(facts).partition(".")[0],
            # By its folder, not its id: two sandboxes on one host never meet each other's machines.
            marker=f"RUNCTL_SANDBOX_FOLDER={self.folder}",
            sandbox_marker=f"RUNCTL_SANDBOX_STATE={self._state}",
            readable=readable,
            writable=[self._state / "cache"],
        )

    def _run_user_data(self) -> None:
        """As cloud-init does: scripts only, once in the machine's life, output to its console."""
        done = self.folder / "user-data.done"
        text = self._facts().user_data
        if done.exists() or not text.startswith(b"#!"):
            return
        script = self.folder / "user-data"
        with spawning:
            script.write_bytes(text)
            script.chmod(0o700)
        done.touch()
        self._run_script(script)

    def _run_script(self, script: Path) -> None:
        with (self.folder / "console.log").open("ab") as console:
            try:
                process = self.popen([str(script)], cwd="/", stdout=console, stderr=subprocess.STDOUT)
            except ProcessLookupError:  # put off in the meantime
                return
        threading.Thread(target=process.wait, name=f"{script.name}-{self.id}", daemon=True).start()

    def _power_asked(self, line: str) -> None:
        request = shims.parse(line, self._clock.now())
        if request is None:
            log.warning("%s: not a power request: %r", self.id, line)
            return
        self._cancel_timer()
        if request.kind == "cancel":
            return
        if request.seconds > 0:
            self._timer = self._schedule.after(request.seconds, self._power_off, request.kind)
        else:
            self._power_off(request.kind)

    def _power_off(self, kind: str) -> None:
        if self._fifo is not None:
            arguments = (self, kind)
            threading.Thread(target=self._on_power_off, args=arguments, name=f"{kind}-{self.id}").start()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # Processes

    def environment(self) -> dict[str, str]:
        """What every process of the machine has in its environment."""
        facts = self._facts()
        folders = [self._state / "shims", *(folder / "bin" for folder in self._image)]
        return {
            **self._settings,
            "PATH": ":".join([*map(str, folders), *surroundings.SYSTEM_PATH]),
            "HOME": str(HOME if self._isolation.separate else self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "PIP_CACHE_DIR": str(self._state / "cache" / "pip"),
            "UV_CACHE_DIR": str(self._state / "cache" / "uv"),
            "AWS_REGION": facts.region,
            "AWS_DEFAULT_REGION": facts.region,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata_endpoint,
            "RUNCTL_CLOCK": str(self._clock.path.resolve()),
            "RUNCTL_BOOTED": repr(self._signals.booted_at),
            **self._given,
            "RUNCTL_SANDBOX_MACHINE": self.id,
            "RUNCTL_DEV": str(self.folder / "dev"),
            "RUNCTL_PER_BOOT": str(self.folder / PER_BOOT),
            **({} if self._isolation.separate else {"RUNCTL_ROOT": str(self.folder)}),
            "RUNCTL_SANDBOX_FOLDER": str(self.folder),
            "RUNCTL_SANDBOX_STATE": str(self._state),
            shims.FIFO_VARIABLE: str(self.folder / "power"),
        }

    def popen(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` inside, in `cwd` (the machine's home by default), as leader of a session of its own.

        ProcessLookupError while the machine is off, FileNotFoundError where `cwd` does not exist.
        """
        if not self._on:
            raise ProcessLookupError(f"{self.id} is off")
        return self._isolation.spawn(
            argv,
            cwd=str(cwd or self.folder / "home"),
            environment={**self.environment(), **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def signal_group(self, process: subprocess.Popen[bytes], signum: int) -> None:
        """Signal the process group of what `popen` returned."""
        self._isolation.signal_group(process, signum)

    # Disks

    def plug(self, volume_id: str, device: str, disk: Path) -> None:
        """Give the machine the folder `disk`, as dev/nvmeXn1, in dev/disk/by-id and by the name asked for."""
        with self._lock:
            taken = set(self._names.values())
            name = next(name for n in range(1, 999) if (name := f"nvme{n}n1") not in taken)
            self._names[volume_id], self._disks[volume_id] = name, disk.resolve()
            self._signals = self._with_disks({**self._signals.disks, volume_id: device})
            if self._fifo is not None:
                self._show(volume_id, name)

    def unplug(self, volume_id: str, *, force: bool = False) -> bool:
        """Take a disk away. False, and nothing done, while it is mounted, unless `force`."""
        with self._lock:
            name = self._names.get(volume_id)
            if name is None:
                return True
            if self._fifo is not None:
                if not force and self._isolation.mounted(name):
                    return False
                self._isolation.unplug(name)
            for link in self._links(volume_id):
                link.unlink(missing_ok=True)
            del self._names[volume_id], self._disks[volume_id]
            left = {other: device for other, device in self._signals.disks.items() if other != volume_id}
            self._signals = self._with_disks(left)
            return True

    def _with_disks(self, disks: Mapping[str, str]) -> Signals:
        old = self._signals
        return Signals(old.notice, old.rebalance_at, disks, old.booted_at)

    def _links(self, volume_id: str) -> list[Path]:
        dev = self.folder / "dev"
        device = self._signals.disks[volume_id].removeprefix("/dev/")
        return [dev / "disk" / "by-id" / (BY_ID + volume_id.replace("-", "")), dev / device]

    def _show(self, volume_id: str, name: str) -> None:
        self._isolation.plug(name, self._disks[volume_id])
        by_id, device = self._links(volume_id)
        by_id.parent.mkdir(parents=True, exist_ok=True)
        for link, target in ((by_id, f"../../{name}"), (device, name)):
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    # What the cloud tells the machine

    def post_notice(self, action: str, at: float) -> None:
        """Announce a spot interruption: `action` terminate, stop or hibernate at `at` cloud seconds."""
        old = self._signals
        self._signals = Signals(SpotNotice(action, at), old.rebalance_at, old.disks, old.booted_at)

    def post_rebalance(self, at: float) -> None:
        """Recommend to rebalance, as of `at` cloud seconds."""
        old = self._signals
        self._signals = Signals(old.notice, at, old.disks, old.booted_at)

    def metadata_fault(self, kind: str) -> None:
        """`away`: the metadata service answers nothing, until `none` lifts it."""
        if kind not in ("away", "none"):
            raise ValueError(f"no metadata fault is called {kind!r}")
        with contextlib.suppress(RuntimeError):
            self._server.hang(kind == "away")
