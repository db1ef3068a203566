"""SSM Run Command: the service that keeps commands, and the agent that runs them in machines.

Limits and wording follow the open-source amazon-ssm-agent: a script file run as `sh -c FILE`; output kept to
24,000 characters and errors to 8,000; a cancelled or overdue command ends by SIGKILL to its process group, so
that a child in a session of its own lives on; a child that keeps the output open keeps it in progress.
Every delay and timeout is cloud time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from runctl.sandbox.isolation import spawning
from runctl.sandbox.machine import Machine
from runctl.sandbox.timing import FLOOR, CloudClock, Schedule

MAX_OUTPUT, MAX_ERROR = 24_000, 8_000
SUFFIX = "--output truncated--"
KILLED = 137
DEFAULT_EXECUTION, MIN_EXECUTION, MAX_EXECUTION = 3600, 5, 172_800
DEFAULT_FOLDER = "/usr/bin"
KEPT = 64 << 20
"""Bytes kept of each stream, for the upload; the rest is read and thrown away."""
VISIBLE_SECONDS = 0.5
"""Cloud seconds for which an invocation is not found after SendCommand."""
DELIVERY_SECONDS = 0.7
POLL_SECONDS = 1.0
LOOK_SECONDS = 0.05
PLUGIN = "awsrunShellScript/0.awsrunShellScript"

PENDING, IN_PROGRESS = "Pending", "InProgress"
SUCCESS, FAILED, TIMED_OUT, CANCELLED = "Success", "Failed", "TimedOut", "Cancelled"
ENDED = frozenset({SUCCESS, FAILED, TIMED_OUT, CANCELLED})

log = logging.getLogger(__name__)


def clipped(text: str, limit: int) -> str:
    """The first `limit` characters, the last of them the agent's suffix when any were cut."""
    return text if len(text) <= limit else text[: limit - len(SUFFIX)] + SUFFIX


def execution_seconds(asked: float | None) -> float:
    """The agent's execution timeout: 3,600 s when none, or one outside 5 to 172,800 s, was asked for."""
    if asked is None or not MIN_EXECUTION <= asked <= MAX_EXECUTION:
        return DEFAULT_EXECUTION
    return asked


@dataclass(frozen=True, slots=True)
class Order:
    """What SendCommand asked for; times are cloud seconds."""

    id: str
    instance_ids: tuple[str, ...]
    commands: tuple[str, ...]
    working_directory: str
    execution_timeout: float
    delivery_timeout: float
    comment: str
    document: str
    output_bucket: str
    output_prefix: str
    parameters: Mapping[str, Sequence[str]]
    requested: float

    @property
    def expires_after(self) -> float:
        """When the service gives up for good."""
        return self.requested + self.delivery_timeout + self.execution_timeout


@dataclass(slots=True)
class Invocation:
    """A command on one machine; no output, and `code` -1, until it has ended. Times are cloud seconds."""

    order: Order
    instance_id: str
    status: str = PENDING
    details: str = PENDING
    code: int = -1
    stdout: str = ""
    stderr: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def command_id(self) -> str:
        """The id of its command."""
        return self.order.id

    @property
    def over(self) -> bool:
        """True in a state that does not change any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its invocations, as they are at the moment that they are read."""

    order: Order
    invocations: tuple[Invocation, ...]

    @property
    def id(self) -> str:
        """The command id."""
        return self.order.id

    @property
    def status(self) -> str:
        """In progress or pending while any invocation is, else the worst of them."""
        found = {invocation.status for invocation in self.invocations}
        for status in (IN_PROGRESS, PENDING, FAILED, TIMED_OUT, CANCELLED):
            if status in found:
                return IN_PROGRESS if status == PENDING and len(found) > 1 else status
        return SUCCESS

    @property
    def completed(self) -> int:
        """How many invocations are over."""
        return sum(invocation.over for invocation in self.invocations)

    @property
    def errors(self) -> int:
        """How many invocations failed."""
        return sum(invocation.status == FAILED for invocation in self.invocations)


@dataclass(slots=True)
class _Output:
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)


class _Run:
    """The agent's side of one invocation: delivery, the process, the report."""

    def __init__(self, center: CommandCenter, invocation: Invocation) -> None:
        self.invocation = invocation
        self.visible_at = center.clock.now() + VISIBLE_SECONDS
        self.visible_real = time.monotonic() + FLOOR
        self._center = center
        self._order = invocation.order
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        center.schedule.after(DELIVERY_SECONDS, self._deliver)

    def cancel(self) -> None:
        """End it; at once when it was not delivered yet."""
        self._cancelled.set()
        with self._lock:
            if self.invocation.status == PENDING:
                self._settle(CANCELLED, CANCELLED, -1)

    def _settle(self, status: str, details: str, code: int) -> None:
        invocation = self.invocation
        if not invocation.over:
            invocation.ended = self._center.clock.now()
            invocation.code, invocation.details = code, details
            invocation.status = status  # last: who reads it first finds the rest complete

    def _deliver(self) -> None:
        machine = self._center.machine_of(self.invocation.instance_id)
        there = machine is not None and machine.running and self._center.online(self.invocation.instance_id)
        with self._lock:
            if self.invocation.over:
                return
            if machine is not None and there:
                self.invocation.details = "In Progress"
                self.invocation.started = self._center.clock.now()
                self.invocation.status = IN_PROGRESS
                name = f"ssm-{self.invocation.instance_id}"
                threading.Thread(target=self._run, args=(machine,), name=name, daemon=True).start()
                return
            if self._center.clock.now() >= self._order.requested + self._order.delivery_timeout:
                self._settle(TIMED_OUT, "Undeliverable" if machine is None else "Delivery Timed Out", -1)
                return
        self._center.schedule.after(POLL_SECONDS, self._deliver)

    # In the machine

    def _run(self, machine: Machine) -> None:
        boots = machine.boots
        output = _Output()
        try:
            process = self._start(machine)
        except ProcessLookupError:
            self._lost()
            return
        except OSError as error:
            output.err += f"failed to run commands: {error.strerror}: {error.filename}".encode()
            self._report(machine, boots, output, FAILED, FAILED, 1)
            return
        killed = self._follow(machine, process, output)
        if not machine.running or machine.boots != boots:
            self._lost()
        elif killed:
            status, details = (
                (CANCELLED, CANCELLED) if killed == CANCELLED else (TIMED_OUT, "Execution Timed Out")
            )
            self._report(machine, boots, output, status, details, KILLED)
        else:
            self._conclude(machine, boots, output, process.wait())

    def _start(self, machine: Machine) -> subprocess.Popen[bytes]:
        folder = machine.folder / "ssm" / self._order.id
        script = folder / "_script.sh"
        with spawning:
            folder.mkdir(parents=True, exist_ok=True)
            script.write_text("\n".join(self._order.commands) + "\n")
            script.chmod(0o700)
        return machine.popen(
            ["sh", "-c", str(script)],
            cwd=self._order.working_directory or DEFAULT_FOLDER,
            environment={
                "AWS_SSM_INSTANCE_ID": self.invocation.instance_id,
                "AWS_SSM_REGION_NAME": machine.environment()["AWS_REGION"],
                "SSM_COMMAND_ID": self._order.id,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _follow(self, machine: Machine, process: subprocess.Popen[bytes], output: _Output) -> str:
        """Read to the end of both streams; why the command was killed, or ""."""
        assert process.stdout is not None  # noqa: S101 pipes were asked for
        assert process.stderr is not None  # noqa: S101
        due = self._center.clock.now() + self._order.execution_timeout
        with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
            selector.register(process.stdout, selectors.EVENT_READ, output.out)
            selector.register(process.stderr, selectors.EVENT_READ, output.err)
            while selector.get_map() or process.poll() is None:
                _pump(selector)
                if not selector.get_map():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(LOOK_SECONDS)
                why = CANCELLED if self._cancelled.is_set() else ""
                if not why and self._center.clock.now() >= due:
                    why = TIMED_OUT
                if why:
                    machine.signal_group(process, signal.SIGKILL)
                    while _pump(selector, 0):
                        pass
                    process.wait()
                    return why
                if not machine.running and process.poll() is not None:
                    break
        return ""

    def _conclude(self, machine: Machine, boots: int, output: _Output, code: int) -> None:
        if code == 0:
            self._report(machine, boots, output, SUCCESS, SUCCESS, 0)
            return
        how = f"exit status {code}" if code > 0 else f"signal: {signal.Signals(-code).name}"
        if output.err and not output.err.endswith(b"\n"):
            output.err += b"\n"
        output.err += f"failed to run commands: {how}".encode()
        self._report(machine, boots, output, FAILED, FAILED, code if code > 0 else -1)

    # Back to the service

    def _report(
        self, machine: Machine, boots: int, output: _Output, status: str, details: str, code: int
    ) -> None:
        """Tell the service the end once the agent is online; a machine that goes away tells nothing."""
        if not machine.running or machine.boots != boots:
            self._lost()
            return
        if not self._center.online(self.invocation.instance_id):
            if self._center.clock.now() >= self._order.expires_after:
                self._lost()
            else:
                arguments = (machine, boots, output, status, details, code)
                self._center.schedule.after(POLL_SECONDS, self._report, *arguments)
            return
        self._upload(output)
        with self._lock:
            self.invocation.stdout = clipped(output.out.decode(errors="replace"), MAX_OUTPUT)
            self.invocation.stderr = clipped(output.err.decode(errors="replace"), MAX_ERROR)
            self._settle(status, details, code)

    def _upload(self, output: _Output) -> None:
        if not self._order.output_bucket:
            return
        parts = (self._order.output_prefix.strip("/"), self._order.id, self.invocation.instance_id, PLUGIN)
        prefix = "/".join(part for part in parts if part)
        for name, body in (("stdout", output.out), ("stderr", output.err)):
            if body:
                try:
                    self._center.upload(self._order.output_bucket, f"{prefix}/{name}", bytes(body))
                except Exception:
                    log.exception("output of command %s could not be uploaded", self._order.id)

    def _lost(self) -> None:
        """Nobody will report: in progress until the service gives up."""
        wait = max(self._order.expires_after - self._center.clock.now(), 0.0)
        self._center.schedule.after(wait, self._give_up)

    def _give_up(self) -> None:
        with self._lock:
            self._settle(TIMED_OUT, "Undeliverable", -1)


def _pump(selector: selectors.BaseSelector, wait: float = LOOK_SECONDS) -> bool:
    """Read what is there from each stream within `wait` real seconds; False when there was nothing."""
    ready = selector.select(wait) if selector.get_map() else []
    for key, _ in ready:
        stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
        chunk = os.read(stream.fileno(), 65536)
        if chunk:
            key.data.extend(chunk[: max(KEPT - len(key.data), 0)])
        else:
            selector.unregister(stream)
    return bool(ready)


class CommandCenter:
    """Every command of the sandbox.

    `machine_of` finds a machine, `online` says whether its agent is connected, `upload(bucket, key, body)`
    keeps an output. All are called without a lock of ours.
    """

    def __init__(
        self,
        *,
        clock: CloudClock,
        schedule: Schedule,
        machine_of: Callable[[str], Machine | None],
        online: Callable[[str], bool],
        upload: Callable[[str, str, bytes], None],
    ) -> None:
        self.clock = clock
        self.schedule = schedule
        self.machine_of = machine_of
        self.online = online
        self.upload = upload
        self._runs: dict[str, dict[str, _Run]] = {}

    def send(
        self,
        *,
        instance_ids: Sequence[str],
        commands: Sequence[str],
        working_directory: str = "",
        execution_timeout: float | None = None,
        delivery_timeout: float = 3600.0,
        comment: str = "",
        document: str = "AWS-RunShellScript",
        output_bucket: str = "",
        output_prefix: str = "",
        parameters: Mapping[str, Sequence[str]] | None = None,
    ) -> Command:
        """Send `commands`, the lines of one shell script, to machines that the caller has found valid."""
        order = Order(
            id=str(uuid.uuid4()),
            instance_ids=tuple(instance_ids),
            commands=tuple(commands),
            working_directory=working_directory,
            execution_timeout=execution_seconds(execution_timeout),
            delivery_timeout=delivery_timeout,
            comment=comment,
            document=document,
            output_bucket=output_bucket,
            output_prefix=output_prefix,
            parameters=dict(parameters or {}),
            requested=self.clock.now(),
        )
        self._runs[order.id] = {one: _Run(self, Invocation(order, one)) for one in order.instance_ids}
        return self.command(order.id)

    def command(self, command_id: str) -> Command:
        """One command; KeyError for an unknown id."""
        runs = self._runs[command_id]
        invocations = tuple(run.invocation for run in runs.values())
        return Command(invocations[0].order, invocations)

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        """One invocation; KeyError for unknown ids, and for a moment right after sending."""
        run = self._runs[command_id][instance_id]
        if self.clock.now() < run.visible_at or time.monotonic() < run.visible_real:
            raise KeyError(instance_id)
        return run.invocation

    def invocations(self, command_id: str | None = None, instance_id: str | None = None) -> list[Invocation]:
        """Those visible, newest command first."""
        ids = [command_id] if command_id is not None else list(reversed(self._runs))
        return [
            run.invocation
            for one in ids
            for name, run in self._runs.get(one, {}).items()
            if instance_id in (None, name) and self.clock.now() >= run.visible_at
        ]

    def commands(self) -> list[Command]:
        """Every command, newest first."""
        return [self.command(command_id) for command_id in reversed(list(self._runs))]

    def cancel(self, command_id: str, instance_ids: Sequence[str] = ()) -> None:
        """Cancel on the machines named, on all without names; KeyError for an unknown command."""
        for name, run in self._runs[command_id].items():
            if not instance_ids or name in instance_ids:
                run.cancel()
