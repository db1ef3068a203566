"""What was used and for how long: the sandbox's own bill, and the history of every machine's states.

It is worked out from what happened, not by the meter of the product, so that one can be held against
the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from runctl.sandbox.prices import PriceBook
from runctl.sandbox.timing import CloudClock

STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
MINIMUM_SECONDS = 60
FREE_SECONDS = 3600
_MONTH_SECONDS = 730 * 3600


@dataclass(slots=True)
class InstanceUsage:
    """Runs are (start, end or None); `free` are those that the cloud cut short within their first hour."""

    id: str
    instance_type: str
    zone: str
    market: str
    job: str
    runs: list[tuple[float, float | None]] = field(default_factory=list[tuple[float, float | None]])
    free: set[int] = field(default_factory=set[int])


@dataclass(slots=True)
class VolumeUsage:
    """Stretches of a disk: since when, and what it cost a month from then on."""

    id: str
    job: str
    stretches: list[tuple[float, Decimal]]
    deleted: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A machine entered a state."""

    at: float
    instance: str
    state: str
    cause: str
    job: str


class Usage:
    """Told by the control plane of every change."""

    def __init__(self, clock: CloudClock, prices: PriceBook) -> None:
        self._clock = clock
        self._prices = prices
        self.instances: dict[str, InstanceUsage] = {}
        self.volumes: dict[str, VolumeUsage] = {}
        self.history: list[Change] = []

    def note(self, instance: InstanceUsage, state: str, cause: str = "") -> None:
        """A machine entered a state now."""
        now = self._clock.now()
        known = self.instances.setdefault(instance.id, instance)
        self.history.append(Change(now, instance.id, state, cause, instance.job))
        running = bool(known.runs and known.runs[-1][1] is None)
        if state == "running" and not running:
            known.runs.append((now, None))
        elif state != "running" and running:
            start = known.runs[-1][0]
            known.runs[-1] = (start, now)
            if cause.startswith("Server.Spot") and now - start < FREE_SECONDS:
                known.free.add(len(known.runs) - 1)

    def running_since(self, instance_id: str) -> float:
        """When the last run of an instance began, by the bill."""
        return self.instances[instance_id].runs[-1][0]

    def volume(
        self, volume_id: str, volume_type: str, size: int, iops: int, throughput: int, job: str
    ) -> None:
        """A disk was made, or changed, now."""
        rate = self._prices.volume_rate(volume_type, size, iops, throughput)
        known = self.volumes.setdefault(volume_id, VolumeUsage(volume_id, job, []))
        known.stretches.append((self._clock.now(), rate))

    def volume_deleted(self, volume_id: str) -> None:
        if (known := self.volumes.get(volume_id)) is not None and known.deleted is None:
            known.deleted = self._clock.now()

    def bill(self) -> list[dict[str, Any]]:
        """One line a resource; USD as text, in full precision."""
        now = self._clock.now()
        lines = [self._instance_line(instance, now) for instance in self.instances.values()]
        lines.extend(self._volume_line(volume, now) for volume in self.volumes.values())
        return lines

    def spent(self) -> Decimal:
        return sum((Decimal(line["usd"]) for line in self.bill()), Decimal(0))

    def _instance_line(self, instance: InstanceUsage, now: float) -> dict[str, Any]:
        usd, seconds = Decimal(0), 0.0
        for index, (start, end) in enumerate(instance.runs):
            length = (end or now) - start
            seconds += length
            if index not in instance.free:
                usd += self._run_usd(instance, start, start + max(length, MINIMUM_SECONDS))
        return {
            "id": instance.id,
            "kind": "instance",
            "job": instance.job,
            "what": f"{instance.instance_type} {instance.market}",
            "seconds": seconds,
            "usd": str(usd),
        }

    def _run_usd(self, instance: InstanceUsage, start: float, end: float) -> Decimal:
        if instance.market != "spot":
            return self._prices.on_demand(instance.instance_type) * Decimal(end - start) / 3600
        usd = Decimal(0)
        changes = self._prices.changes(instance.instance_type, instance.zone, start, end)
        bounds = [*(at for at, _ in changes[1:]), end]
        since = start
        for (_, price), until in zip(changes, bounds, strict=True):
            usd += price * Decimal(until - since) / 3600
            since = until
        return usd

    @staticmethod
    def _volume_line(volume: VolumeUsage, now: float) -> dict[str, Any]:
        end = volume.deleted or now
        bounds = [*(at for at, _ in volume.stretches[1:]), end]
        usd = Decimal(0)
        for (since, month), until in zip(volume.stretches, bounds, strict=True):
            usd += month * Decimal(until - since) / _MONTH_SECONDS
        seconds = end - volume.stretches[0][0]
        return {
            "id": volume.id,
            "kind": "volume",
            "job": volume.job,
            "what": "disk",
            "seconds": seconds,
            "usd": str(usd),
        }
