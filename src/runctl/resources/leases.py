"""Leases: until when a machine may live. Its own timer ends it, armed at each boot before all else."""

from __future__ import annotations

from datetime import timedelta

from runctl.clouds import SandboxEnded
from runctl.errors import CloudError, Conflict, TrainctlError
from runctl.events import Notice
from runctl.model import TAG_JOB, TAG_LEASE_UNTIL, TAG_MANAGED
from runctl.providers.aws import shell
from runctl.providers.aws.instances import Instance
from runctl.quoting import quoted
from runctl.resources.operation import Operation

HOURS = 24.0
"""Where nothing else was said."""

REACH_PATIENCE = timedelta(minutes=10)
_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"

# What lies in cloud-init's folder runs at every boot, however the machine was started.
_AT_BOOT = '"${RUNCTL_PER_BOOT:-/var/lib/cloud/scripts/per-boot}"'
_ARM = """\
shutdown -P +{minutes}{or_else}
mkdir -p {folder}{or_else}
printf '#!/bin/sh\\nshutdown -P +{minutes}\\n%s' {then} >{folder}/runctl-lease
chmod 755 {folder}/runctl-lease
"""
_LIFT = "shutdown -c\nrm -f {folder}/runctl-lease\n"


def user_data(hours: float) -> str:
    """The first boot of a machine; 0 hours are for ever. The timer comes before anything that can fail."""
    return "#!/bin/sh\n" + (_script(hours) if hours > 0 else "")


def armed_at_boot(minutes: int, then: str = "''", or_else: str = " || exit 1") -> str:
    """Shell lines that arm a machine's timer now and at each boot: it does not survive a restart.

    `then` is what each later boot does next, as a shell word of whole lines. `or_else` follows what may fail.
    """
    return _ARM.format(minutes=minutes, folder=_AT_BOOT, then=then, or_else=or_else)


def tag(operation: Operation, hours: float) -> str:
    """The value of the tag of a lease that begins now; empty for one without an end."""
    now = operation.session.cloud.clock.now()
    return (now + timedelta(hours=hours)).strftime(_TIMESTAMP) if hours > 0 else ""


def wanted(instance: Instance, asked: float | None) -> float | None:
    """The hours of an instance's new lease; None leaves it alone, as what runctl did not make.

    Raises Conflict for a job's machine, whose lease its agent renews, and for one that cannot be told.
    """
    if instance.tags.get(TAG_JOB):
        if asked is not None:
            raise Conflict(f"{instance.id} is a job's machine", why="its agent renews its lease")
        return None
    if asked is None and instance.tags.get(TAG_MANAGED) != "true":
        return None
    hours = HOURS if asked is None else asked
    if hours > 0 and instance.profile is None and not instance.tags.get(TAG_LEASE_UNTIL):
        raise Conflict(
            f"{instance.id} would run without end",
            why="it has no lease of its own, and without a role SSM cannot bring it one",
            next=f"runctl aws start {quoted(instance.id)} --lease 0 lets it live",
        )
    return hours


def note(operation: Operation, instance_id: str, hours: float) -> None:
    """Write the lease into the instance's tags, by which cleanup goes."""
    pair = {"Key": TAG_LEASE_UNTIL, "Value": tag(operation, hours)}
    operation.session.call("ec2", "create_tags", Resources=[instance_id], Tags=[pair])


def renew(operation: Operation, instance: Instance, hours: float) -> None:
    """Arm a running machine's timer anew, for this life and its later ones. Raises CloudError.

    A machine without a role keeps the lease that it was made with, which each of its boots arms.
    """
    session = operation.session
    if instance.profile is None:
        text = f"{instance.id} has no role for SSM: its first lease counts again from its last boot"
        operation.emit(Notice(text=text, warning=True))
        return
    try:
        shell.wait_online(session, instance.id, timeout=REACH_PATIENCE, emit=operation.emit)
        done = shell.run(session, instance.id, _script(hours), comment="runctl: lease")
        why = "" if done.exit_code == 0 else done.error.strip() or f"exit code {done.exit_code}"
    except SandboxEnded:
        raise
    except TrainctlError as error:
        why = error.why or error.what
    if why:
        raise CloudError(
            f"{instance.id} runs, and its lease could not be armed",
            service="ssm",
            operation="send_command",
            code="NoLease",
            why=why,
            next=f"runctl aws start {quoted(instance.id)} again, or runctl aws stop {quoted(instance.id)}",
        )


def _script(hours: float) -> str:
    if hours <= 0:
        return _LIFT.format(folder=_AT_BOOT)
    return armed_at_boot(max(1, round(hours * 60)))
