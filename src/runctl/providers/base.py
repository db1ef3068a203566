"""What a job asks of whoever gives it machines; every provider keeps these contracts."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from runctl.model import Market, Offer


class MachineState(StrEnum):
    """What the provider says of a machine; `ending` machines run no more work and never come back."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    ENDING = "ending"
    GONE = "gone"


class Disk(msgspec.Struct, frozen=True):
    """A disk that was made with the machine and dies with it; size in GiB."""

    id: str
    volume_type: str
    size_gib: int
    iops: int | None
    throughput_mibs: int | None


class Machine(msgspec.Struct, frozen=True):
    """One answer of the provider about one machine. Times are the provider's own.

    `ended_by` is `cloud` for an interruption, `self` for a shutdown from within, `user` for a call,
    `launch` for a machine that never ran.
    """

    id: str
    state: MachineState
    instance_type: str
    zone: str
    region: str
    market: Market
    launched: datetime
    ended: datetime | None = None
    ended_by: str | None = None
    reason: str = ""
    disks: tuple[Disk, ...] = ()


class LaunchRequest(msgspec.Struct, frozen=True):
    """One attempt on one offer, ready to be repeated word for word after a crash.

    `token` makes the launch idempotent; `parameters` is the provider's own request as JSON text.
    """

    token: str
    offer: Offer
    parameters: str


class Provider(Protocol):
    """Machines for attempts.

    `launch` may be called twice with the same request and gives the same machine. `describe` answers
    None for a machine that the provider does not know (any more), and never raises NotFound. `end` is
    idempotent; destructive calls of it pass through `safety.destroy`.
    """

    name: str

    def launch(self, request: LaunchRequest) -> Machine:
        """Raises CapacityError where another offer may help, CloudError else."""
        ...

    def find(self, token: str) -> Machine | None:
        """The machine that a token made, ended ones included; None where there is none to be seen."""
        ...

    def describe(self, machine_id: str) -> Machine | None:
        """What is known of the machine now. Raises CloudError when the provider does not answer."""
        ...

    def ask_to_stop(self, machine_id: str, job: str, attempt: int) -> None:
        """Ask the agent to end its attempt gracefully; returns once it was told."""
        ...
