"""The sandbox cloud's shared state: its clock, machines, faults, usage, and what happened when."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runctl.sandbox.disks import Disks
from runctl.sandbox.faults import Faults
from runctl.sandbox.keyring import Key, Keyring
from runctl.sandbox.machine import Machine
from runctl.sandbox.prices import PriceBook
from runctl.sandbox.timing import FLOOR, CloudClock, Schedule
from runctl.sandbox.usage import Usage

ACCOUNT = "123456789012"
VCPU_LIMIT = 10_000
CONSISTENCY_SECONDS = 1.5
"""For how long, at most, a new id may be unknown to calls that name it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long states take, in cloud seconds; about as on EC2."""

    boot: float = 12.0
    agent: float = 15.0
    stop: float = 20.0
    terminate: float = 25.0
    volume: float = 2.0
    attach: float = 3.0
    detach: float = 3.0
    snapshot: float = 10.0
    modify: float = 5.0
    optimize: float = 25.0
    spot_notice: float = 120.0


@dataclass(slots=True)
class SandboxCloud:
    """One cloud. `lock` guards moto's EC2 records, which have no lock of their own."""

    folder: Path
    region: str
    isolation: str
    endpoint: str
    s3_endpoint: str
    own_key: Key
    """The owner's; S3 has it too, unless another server stands in its place that wants others."""
    s3_keys: tuple[str, str] | None
    """Of another S3 server, for machines too."""
    image: list[Path]
    clock: CloudClock
    seed: int = 7
    vcpu_limit: int = VCPU_LIMIT
    timing: Timing = field(default_factory=Timing)
    lock: threading.RLock = field(default_factory=threading.RLock)

    keys: Keyring = field(init=False)
    schedule: Schedule = field(init=False)
    disks: Disks = field(init=False)
    faults: Faults = field(init=False)
    usage: Usage = field(init=False)
    prices: PriceBook = field(init=False)
    machines: dict[str, Machine] = field(default_factory=dict[str, Machine])
    online_from: dict[str, float] = field(default_factory=dict[str, float])
    visible_from: dict[str, float] = field(default_factory=dict[str, float])
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keyring(self.own_key, lives=self._lives)
        self.schedule = Schedule(self.clock)
        self.disks = Disks(self.folder)
        self.faults = Faults(self.clock, self.seed)
        self.prices = PriceBook(self.seed, self.clock.now())
        self.usage = Usage(self.clock, self.prices)
        self._random = random.Random(self.seed)  # noqa: S311 (a seeded simulation)

    def _lives(self, instance_id: str) -> bool:
        machine = self.machines.get(instance_id)
        return machine is not None and machine.powered

    @property
    def started(self) -> float:
        return self.prices.since

    def born(self, *ids: str) -> None:
        """Calls that name these ids do not find them yet, as on EC2 for a moment after a create."""
        seconds = self._random.uniform(0, CONSISTENCY_SECONDS)
        # Seen at any speed, and not met every time.
        floor = 2 * FLOOR if seconds > CONSISTENCY_SECONDS / 3 else 0.0
        until = time.monotonic() + max(floor, self.clock.real(seconds))
        self.visible_from.update(dict.fromkeys(ids, until))

    def jitter(self) -> float:
        """A factor around 1: no two machines take the same time."""
        return self._random.uniform(0.8, 1.2)

    def is_visible(self, resource_id: str) -> bool:
        return self.visible_from.get(resource_id, 0.0) <= time.monotonic()

    def after(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        """Call under the cloud's lock after some cloud seconds."""

        def locked() -> None:
            with self.lock:
                call(*arguments)

        self.schedule.after(seconds, locked)

    def online(self, instance_id: str) -> bool:
        """Whether the machine's SSM agent has registered."""
        machine = self.machines.get(instance_id)
        since = self.online_from.get(instance_id)
        return bool(machine and machine.running and since is not None and since <= self.clock.now())
