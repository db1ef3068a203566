"""`runctl sandbox`: a cloud on this machine."""

from __future__ import annotations

import sys
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting
from runctl.cli.options import Context, common
from runctl.cli.sandbox_env import env
from runctl.errors import TrainctlError
from runctl.model import JobId
from runctl.render import figures, output

if TYPE_CHECKING:
    from runctl.clouds import SandboxRecord


@click.group()
def sandbox() -> None:
    """A cloud on this machine: EC2, EBS, S3 and SSM at another endpoint, with simulated money."""


sandbox.add_command(env)


@sandbox.command()
@click.option("--speed", type=float, help="How fast its clock runs.  [default: 1]")
@click.option(
    "--s3", help="A real S3 server's URL in the place of the built-in one; its keys: docs/sandbox.md."
)
@click.option("--isolation", type=click.Choice(["auto", "namespaces", "plain"]), default="auto")
@click.option("--vcpu-limit", type=int, help="How many vCPUs the account may run (10000).")
@common
def up(context: Context, speed: float | None, s3: str | None, isolation: str, vcpu_limit: int | None) -> None:
    """Start the sandbox in the background; one that is up stays as it is.

    \b
    Examples:
      runctl sandbox up
      runctl sandbox up --speed 20
    """
    from runctl.sandbox import launcher

    record = launcher.running()
    was_up = record is not None
    if record is None:
        region = context.region or "us-east-1"
        record = launcher.up(
            speed=speed or 1.0, s3=s3, region=region, isolation=isolation, vcpu_limit=vcpu_limit
        )
    wanted = {
        "speed": speed,
        "s3_endpoint": s3,
        "isolation": None if isolation == "auto" else isolation,
        "vcpu_limit": vcpu_limit,
        "region": context.region,
    }
    _require_as_asked(wanted)
    if context.json:
        output.write_json({"endpoint": record.endpoint, "region": record.region, "pid": record.pid})
        return
    verb = "is up already" if was_up else "is up"
    output.write_line(f"the sandbox {verb} at {record.endpoint}")
    output.talk("try it: runctl train SCRIPT --on sandbox --spot --instance-type g5.xlarge")


def _require_as_asked(wanted: dict[str, Any]) -> None:
    """Raises Conflict where the sandbox that is up was started with other options."""
    from runctl.errors import Conflict

    found = control().status()
    other = {name: value for name, value in wanted.items() if value not in {None, found[name]}}
    if not other:
        return
    raise Conflict(
        "A sandbox is up already, with other options",
        why="; ".join(
            f"its {name.replace('_', ' ')} is {_plain(found[name])}, not {_plain(value)}"
            for name, value in other.items()
        ),
        next=f"runctl sandbox clock --speed {other['speed']:g}"
        if other.keys() == {"speed"}
        else "runctl sandbox down, then this command again",
    )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@sandbox.command()
@common
def status(context: Context) -> None:
    """Show its endpoint, machines, disks, faults and what was spent.

    \b
    Examples:
      runctl sandbox status
      runctl sandbox status --output json
    """
    found = control().status()
    if context.json:
        output.write_json(found)
        return
    _write_status(found)


def _write_status(found: dict[str, Any]) -> None:
    write = output.write_line
    spent = figures.usd(Decimal(found["spent"]))
    write(f"endpoint   {found['endpoint']}  region {found['region']}")
    write(f"clock      {found['speed']:g} times as fast    isolation  {found['isolation']}")
    write(f"spent      {spent} (simulated)")
    for row in found["faults"]:
        what = f"{row['kind']} {row['service']}.{row['operation']}"
        write(f"fault      {row['id']}: {what}, {row['hits']} hits")
    if found["machines"]:
        columns = ["id", "type", "zone", "market", "state", "job"]
        rows = [
            [*(row[name] for name in columns), figures.duration(timedelta(seconds=row["age_seconds"]))]
            for row in found["machines"]
        ]
        output.write_table(["machine", *columns[1:], "age"], rows)
    else:
        write("machines   none")
    if found["disks"]:
        rows = [
            [row["id"], f"{row['size_gib']} GiB", row["type"], row["state"], row["instance"], row["job"]]
            for row in found["disks"]
        ]
        output.write_table(["disk", "size", "type", "state", "machine", "job"], rows)
    else:
        write("disks      none")


@sandbox.command()
@click.option("--dry-run", is_flag=True, help="Say what would end, and touch nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask about jobs that run in it.")
@common
def down(context: Context, dry_run: bool, yes: bool) -> None:
    """End the sandbox and every process in it; its data is thrown away.

    Jobs that run in it are closed. On a terminal it asks first where there are some.

    \b
    Examples:
      runctl sandbox down
      runctl sandbox down --yes --output json
    """
    from runctl.sandbox import launcher

    record = launcher.running()
    jobs = _jobs_in(context, record)
    if dry_run:
        _would_end(context, record is not None, jobs)
        return
    if jobs and sys.stdin.isatty():
        acting.confirm(f"{_counted(jobs)} in it ({', '.join(jobs[:3])}) end with it. End it?", yes=yes)
    if record is not None:
        launcher.down(record)
    if jobs:
        context.ledger().close()  # which closes them, and says so
    if context.json:
        output.write_json({"was_up": record is not None, "jobs": jobs})
    else:
        output.talk("the sandbox is down" if record else "no sandbox was up")


def _would_end(context: Context, is_up: bool, jobs: list[JobId]) -> None:
    status: dict[str, Any] = control().status() if is_up else {"machines": [], "disks": []}
    machines, disks = ([row["id"] for row in status[kind]] for kind in ("machines", "disks"))
    if context.json:
        output.write_json(
            {"is_up": is_up, "machines": machines, "disks": disks, "jobs": jobs, "dry_run": True}
        )
    elif is_up:
        output.talk(
            f"would end the sandbox, with {len(machines)} machines, {len(disks)} disks and {_counted(jobs)}"
        )
    else:
        output.talk("no sandbox is up")


def _jobs_in(context: Context, record: SandboxRecord | None) -> list[JobId]:
    """Those that go on in it. A ledger that cannot be read keeps no sandbox up."""
    if record is None:
        return []
    try:
        with context.ledger() as ledger:
            return [job.id for job in ledger.jobs.unfinished(cloud=record.key)]
    except TrainctlError as error:
        output.talk(f"[warning] whether jobs run in it is not known: {error}")
        return []


def _counted(jobs: list[JobId]) -> str:
    return f"{len(jobs)} unfinished job{'' if len(jobs) == 1 else 's'}"


@sandbox.command()
@click.argument("instance")
@click.option("--notice", type=float, help="Seconds of its clock between notice and end (120).")
@click.option("--action", type=click.Choice(["terminate", "stop"]), default="terminate")
@click.option("--rebalance-first", type=float, help="Recommend to rebalance so many seconds before.")
@click.option("--dry-run", is_flag=True, help="Say whether it could be taken, and touch nothing.")
@common
def interrupt(
    context: Context,
    instance: str,
    notice: float | None,
    action: str,
    rebalance_first: float | None,
    dry_run: bool,
) -> None:
    """Take a spot machine back, after its notice.

    \b
    Examples:
      runctl sandbox interrupt i-0123456789abcdef0
      runctl sandbox interrupt i-0123456789abcdef0 --notice 30
    """
    found = control().interrupt(
        instance, notice=notice, action=action, rebalance_first=rebalance_first, dry_run=dry_run
    )
    if context.json:
        output.write_json({**found, "dry_run": dry_run})
    else:
        output.talk(f"{instance} {'would get' if dry_run else 'has'} its notice")


@sandbox.command()
@click.argument("instance")
@common
def reset(context: Context, instance: str) -> None:
    """Crash a machine and let it boot again, as a kernel panic does.

    No process hears of it, timers are forgotten, and user data is not run twice.

    \b
    Examples:
      runctl sandbox reset i-0123456789abcdef0
      runctl sandbox reset i-0123456789abcdef0 --output json
    """
    found = control().reset(instance)
    if context.json:
        output.write_json(found)
    else:
        output.talk(f"{instance} crashed and boots again")


@sandbox.command()
@click.option("--speed", type=float, required=True, help="How fast its clock shall run from now on.")
@common
def clock(context: Context, speed: float) -> None:
    """Let time run faster, for machines, notices and prices alike.

    \b
    Examples:
      runctl sandbox clock --speed 20
      runctl sandbox clock --speed 1
    """
    found = control().set_speed(speed)
    if context.json:
        output.write_json(found)
    else:
        output.talk(f"the clock runs {speed:g} times as fast")


@sandbox.group()
def fault() -> None:
    """Let calls fail, lose their answers, or lie."""


@fault.command()
@click.option("--service", required=True, help="ec2, ssm, s3, iam, sts, or imds for a machine's metadata.")
@click.option("--operation", default="*", show_default=True, help="Such as CreateVolume; * for all.")
@click.option(
    "--kind",
    required=True,
    type=click.Choice(
        [
            "throttle",
            "error",
            "lost-response",
            "latency",
            "no-capacity",
            "no-start",
            "wrong-state",
            "missing",
            "stale",
            "away",
        ]
    ),
)
@click.option(
    "--rate", type=float, default=1.0, show_default=True, help="The share of calls that it strikes."
)
@click.option("--count", type=int, help="How often it strikes at most.")
@click.option("--code", help="The error's code.")
@click.option("--status", type=int, help="The error's HTTP status.")
@click.option("--latency", type=float, help="Real seconds to wait.")
@click.option("--instance", help="Only calls about this machine.")
@click.option("--type", "instance_type", help="Only this instance type (no-capacity).")
@click.option("--zone", help="Only this zone (no-capacity).")
@click.option("--state", help="The false state (wrong-state).")
@common
def add(context: Context, service: str, kind: str, **fields: Any) -> None:
    """Add a fault.

    \b
    Examples:
      runctl sandbox fault add --service ec2 --operation CreateVolume --kind throttle --rate 0.3 --count 5
      runctl sandbox fault add --service ec2 --operation RunInstances --kind no-capacity --zone us-east-1a
    """
    found = control().add_fault(
        service, kind, **{key: value for key, value in fields.items() if value is not None}
    )
    if context.json:
        output.write_json(found)
    else:
        output.talk(f"fault {found['id']} is in force")


@fault.command("list")
@common
def list_(context: Context) -> None:
    """List the faults that are in force.

    \b
    Examples:
      runctl sandbox fault list
      runctl sandbox fault list --output json
    """
    faults = control().status()["faults"]
    if context.json:
        output.write_json(faults)
        return
    rows = [
        [str(row["id"]), row["kind"], row["service"], row["operation"], str(row["rate"]), str(row["hits"])]
        for row in faults
    ]
    output.write_table(["fault", "kind", "service", "operation", "rate", "hits"], rows)


@fault.command()
@common
def clear(context: Context) -> None:
    """Remove every fault.

    \b
    Examples:
      runctl sandbox fault clear
      runctl sandbox fault clear --output json
    """
    control().clear_faults()
    if context.json:
        output.write_json({})
    else:
        output.talk("no fault is in force")


def control() -> Any:
    """The controls of the sandbox that is up. Raises ConfigError where none is."""
    from runctl.clouds import read_sandbox_record
    from runctl.sandbox.control import Control

    return Control(read_sandbox_record())


class SandboxNotice:
    """Takes machines of the sandbox away; the next one is another machine and needs no lifting."""

    def __init__(self, notice_seconds: float) -> None:
        self._seconds = notice_seconds

    def notice(self, machine_id: str) -> None:
        control().interrupt(machine_id, notice=self._seconds)

    def lift(self) -> None:
        pass
