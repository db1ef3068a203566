"""Every setting that there is, each with what it could do in a file that came with a repository."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from runctl.config.powers import harmless, sends, spends, weakens

Count = Annotated[int, msgspec.Meta(ge=1)]
Hours = Annotated[float, msgspec.Meta(gt=0)]


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults of `runctl train`; budget in USD."""

    on: Annotated[str, sends("where code runs, and so where it is sent and who is paid")] = "local"
    instance_type: Annotated[str | None, spends("which machine is bought")] = None
    spot: Annotated[bool, spends("how machines are bought")] = False
    max_attempts: Annotated[Count, spends("how many machines one job may buy", safe="lower")] = 10
    checkpoints: Annotated[str | None, sends("which folder is watched and kept", safe="inside")] = None
    output: Annotated[str | None, sends("where results are sent or written")] = None
    budget: Annotated[Decimal | None, spends("USD that one job may cost", safe="lower")] = None
    max_hours: Annotated[Hours | None, spends("hours that one job may take", safe="lower")] = None


class Aws(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how machines are made on AWS; the disk in GiB, the lease in minutes."""

    region: Annotated[str | None, sends("the region that machines and buckets are in")] = None
    profile: Annotated[str | None, sends("whose credentials are used")] = None
    bucket: Annotated[str | None, sends("the bucket that code, data and results are sent to")] = None
    instance_profile: Annotated[str, weakens("the rights that machines get")] = "runctl-instance"
    subnets: Annotated[tuple[str, ...], weakens("the networks that machines are in")] = ()
    security_group: Annotated[str | None, weakens("who may reach machines")] = None
    image: Annotated[str | None, sends("the system that machines run, with all that they are sent")] = None
    root_volume_gib: Annotated[Count, spends("the size of machines' disks, GiB")] = 30
    lease_minutes: Annotated[Count, spends("for how many minutes a machine may live unattended")] = 15


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which spending on runctl warns, in USD."""

    usd_per_hour: Annotated[Decimal, weakens("USD per hour below which nobody is warned", safe="lower")] = (
        Decimal(50)
    )
    usd_per_day: Annotated[Decimal, weakens("USD per day below which nobody is warned", safe="lower")] = (
        Decimal(100)
    )
    usd_total: Annotated[Decimal, weakens("USD in all below which nobody is warned", safe="lower")] = Decimal(
        500
    )


class Protection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How careful to be: minutes, and numbers of running instances."""

    young_minutes: Annotated[
        Count, weakens("for how many minutes new resources are protected", safe="higher")
    ] = 5
    warn_instances: Annotated[Count, weakens("up to how many machines nobody is warned", safe="lower")] = 10
    refuse_instances: Annotated[Count, weakens("up to how many machines may run at once", safe="lower")] = 50


class Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting that there is."""

    project: Annotated[str | None, harmless()] = None
    user: Annotated[str | None, weakens("as whose resources are marked and protected")] = None
    cloud: Annotated[Literal["aws", "sandbox"], sends("the cloud that commands work on")] = "aws"
    train: Train = Train()
    aws: Aws = Aws()
    thresholds: Thresholds = Thresholds()
    protection: Protection = Protection()
