"""The words of protection: what is asked, what is known, what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec


class Action(StrEnum):
    """What is asked for."""

    STOP = "stop"
    TERMINATE = "terminate"
    DELETE = "delete"


class ResourceKind(StrEnum):
    """What it is asked of."""

    INSTANCE = "instance"
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    CHECKPOINT = "checkpoint"


class Effect(StrEnum):
    """What a rule says: nothing, a warning, end the training first, only with force, or never."""

    ALLOW = "allow"
    WARN = "warn"
    GRACEFUL = "graceful"
    FORCE = "force"
    FORBID = "forbid"


class Activity(StrEnum):
    """Whether training runs on an instance."""

    IDLE = "idle"
    BUSY = "busy"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """What one rule said, why, and the command that helps."""

    rule: str
    effect: Effect
    reason: str
    next: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """How the action was asked for. Without `graceful`, training is not given the time to save."""

    bulk: bool = False
    force: bool = False
    unmanaged: bool = False
    graceful: bool = True
    user: str


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at an instance, as far as the rules care; tags of None are unknown."""

    volume: str
    device: str
    dies_with_instance: bool
    tags: Mapping[str, str] | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules need of one resource; None is unknown. A kind's facts are not asked of another kind.

    `created` of an instance is its last start. `reachable`: training there can be asked to end.
    `only_copy_of`: jobs of which this volume holds the only checkpoints. `restoring`: volumes and
    operations that are being made from a snapshot. `resumed_by`: live jobs that start from a checkpoint.
    """

    kind: ResourceKind
    tags: Mapping[str, str] | None = None
    created: datetime | None = None
    activity: Activity | None = None
    activity_reason: str = ""
    reachable: bool | None = None
    termination_protected: bool | None = None
    disks: tuple[Disk, ...] | None = None
    attached_to: tuple[str, ...] | None = None
    snapshots: tuple[str, ...] | None = None
    only_copy_of: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    restoring: tuple[str, ...] | None = None
    being_written: bool | None = None
    newest_complete: bool | None = None
    resumed_by: tuple[str, ...] | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The policy's answer: one finding for each rule that was looked at, those that allow included."""

    action: Action
    kind: ResourceKind
    resource: str
    findings: tuple[Finding, ...]
    forced: bool = False

    @property
    def allowed(self) -> bool:
        """As it was asked for, with or without force."""
        return not self.blocking

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What stands against it, force counted in."""
        against = {Effect.FORBID} if self.forced else {Effect.FORBID, Effect.FORCE}
        return tuple(finding for finding in self.findings if finding.effect in against)

    @property
    def graceful(self) -> bool:
        """Whether training has to be ended first."""
        return any(finding.effect is Effect.GRACEFUL for finding in self.findings)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.effect is Effect.WARN)
