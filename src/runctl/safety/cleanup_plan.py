"""Cleanup is a plan: what, why and what it saves, to be looked at, kept in a file, and applied later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.ledger import Ledger
from runctl.model import HOURS_PER_MONTH, TAG_PERSISTENT, Market
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.safety import leftovers
from runctl.safety.graph import Graph, deletions, order
from runctl.safety.leftovers import Leftover, Reason, View
from runctl.safety.protection import marked
from runctl.safety.vocabulary import Action, ResourceKind, Verdict

Assess = Callable[[Action, ResourceKind, str], Verdict]
Resource = Instance | Volume | Snapshot

OLDER_THAN = timedelta(days=7)
_COMMANDS = {
    (Action.STOP, ResourceKind.INSTANCE): "runctl aws stop",
    (Action.TERMINATE, ResourceKind.INSTANCE): "runctl aws terminate",
    (Action.DELETE, ResourceKind.VOLUME): "runctl aws ebs delete",
    (Action.DELETE, ResourceKind.SNAPSHOT): "runctl aws ebs snapshot-delete",
}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be done, with what was true of the resource when it was planned.

    `disks` are all volumes at an instance, `takes` those that end with it; USD a month with these, None
    where a price is unknown. `command` does the same to this resource alone.
    """

    id: str
    kind: ResourceKind
    action: Action
    reason: Reason
    why: str
    name: str = ""
    tags: dict[str, str] = {}
    disks: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    saves_per_month: Decimal | None = None

    @property
    def command(self) -> str:
        return f"{_COMMANDS[self.action, self.kind]} {self.id}"

    @property
    def usd_per_hour(self) -> Decimal | None:
        return None if self.saves_per_month is None else self.saves_per_month / HOURS_PER_MONTH


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A leftover that stays: the rule that holds it, and why."""

    id: str
    kind: ResourceKind
    rule: str
    why: str
    next: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a cleanup will do, in an order in which it is possible; nothing is added later."""

    version: int = 1
    cloud: str
    region: str
    user: str
    made: datetime
    older_than: timedelta
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]

    @property
    def saves_per_month(self) -> Decimal:
        """Of the items whose price is known."""
        return sum((item.saves_per_month for item in self.items if item.saves_per_month), Decimal(0))

    @property
    def unpriced(self) -> int:
        return sum(item.saves_per_month is None for item in self.items)


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud shows of one region, its graph, and the rule that lastingly holds a resource, by id."""

    cloud: str
    region: str
    instances: Sequence[Instance]
    volumes: Sequence[Volume]
    snapshots: Sequence[Snapshot]
    graph: Graph
    marks: Mapping[str, str]


def plan(seen: Inventory, view: View, *, user: str, assess: Assess) -> Plan:
    """The plan to remove what is left over. Only own, managed resources that no rule holds are in it.

    `assess` is asked of everything that its tags do not hold already. Raises as `assess` does.
    """
    volumes = {volume.id for volume in seen.volumes}

    def judge(resource: Resource, at: View) -> Leftover | None:
        if isinstance(resource, Snapshot):
            return leftovers.of_snapshot(resource, at, volume_is_gone=resource.volume not in volumes)
        return of(resource, at)

    found: list[tuple[Resource, Leftover]] = []
    for resource in (*seen.instances, *seen.volumes, *seen.snapshots):
        # What is held is counted whatever its age: it would never be a matter of time.
        held = seen.marks.get(resource.id) or _kept(resource)
        at = msgspec.structs.replace(view, older_than=timedelta(0)) if held else view
        if leftover := judge(resource, at):
            found.append((resource, leftover))
    return _judged(seen, found, view, user=user, assess=assess)


def plan_stop(seen: Inventory, view: View, *, user: str, assess: Assess) -> Plan:
    """The plan to stop every own, managed instance that runs. Raises as `assess` does."""
    found = [
        (instance, leftover) for instance in seen.instances if (leftover := leftovers.of_running(instance))
    ]
    return _judged(seen, found, view, user=user, assess=assess, stop=True)


def of(resource: Instance | Volume, view: View) -> Leftover | None:
    """Whether an instance or a volume is left over."""
    if isinstance(resource, Instance):
        return leftovers.of_instance(resource, view)
    return leftovers.of_volume(resource, view)


def view_of(ledger: Ledger, cloud: str, *, now: datetime, older_than: timedelta) -> View:
    """What the ledger knows of jobs, and of the times at which states were entered."""
    intervals = ledger.resources.all_intervals(cloud=cloud)
    return View(
        now=now,
        older_than=older_than,
        jobs={job.id: job.state for job in ledger.jobs.list(limit=100_000) if job.cloud == cloud},
        since={
            resource: found[-1].start for resource, found in intervals.items() if found and not found[-1].end
        },
    )


def decode(data: bytes) -> Plan:
    """A plan that was written to a file. Raises ValidationError for anything else."""
    try:
        found = msgspec.json.decode(data, type=Plan)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValidationError(
            "This is no cleanup plan", why=str(error), next="runctl resources cleanup --save FILE"
        ) from error
    if found.version != 1:
        raise ValidationError(
            f"This cleanup plan has version {found.version}", why="this runctl knows version 1"
        )
    return found


def encode(found: Plan) -> bytes:
    """A plan as a file that people can read."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def kind_of(resource: Resource) -> ResourceKind:
    if isinstance(resource, Instance):
        return ResourceKind.INSTANCE
    return ResourceKind.VOLUME if isinstance(resource, Volume) else ResourceKind.SNAPSHOT


def own_tags(resource: Resource) -> dict[str, str]:
    """The tags that people and runctl set: AWS sets its own when it likes."""
    return {key: value for key, value in resource.tags.items() if not key.startswith("aws:")}


def disks_of(resource: Resource) -> tuple[str, ...]:
    return tuple(sorted(disk.volume for disk in resource.disks)) if isinstance(resource, Instance) else ()


def _judged(
    seen: Inventory,
    found: Sequence[tuple[Resource, Leftover]],
    view: View,
    *,
    user: str,
    assess: Assess,
    stop: bool = False,
) -> Plan:
    means = deletions(seen.graph, [resource.id for resource, _ in found])
    place = {node: number for number, node in enumerate(order(seen.graph))}
    items: list[Item] = []
    skipped: list[Skipped] = []
    for resource, leftover in sorted(found, key=lambda one: place[one[0].id]):
        kind = kind_of(resource)
        action = Action.DELETE if kind is not ResourceKind.INSTANCE else Action.TERMINATE
        action = Action.STOP if stop else action
        held = _held(seen.marks.get(resource.id, ""), resource, stop=stop)
        held = held or (_spot(resource) if stop else None) or _by_verdict(assess, action, kind, resource)
        if held is not None:
            skipped.append(held)
            continue
        node = seen.graph.node(resource.id)
        meant = means[resource.id]
        items.append(
            Item(
                id=resource.id,
                kind=kind,
                action=action,
                reason=leftover.reason,
                why=leftover.why,
                name=resource.name,
                tags=own_tags(resource),
                disks=disks_of(resource),
                takes=() if stop else meant.takes,
                saves_per_month=node.usd_per_month if stop else meant.saves_per_month,
            )
        )
    return Plan(
        cloud=seen.cloud,
        region=seen.region,
        user=user,
        made=view.now,
        older_than=view.older_than,
        items=tuple(items),
        skipped=tuple(skipped),
    )


def _held(mark: str, resource: Resource, *, stop: bool) -> Skipped | None:
    """What its tags alone say: nothing of another's is even asked about."""
    if stop and mark not in {"unmanaged", "another user's"}:
        return None
    if mark:
        return Skipped(id=resource.id, kind=kind_of(resource), rule=mark, why=f"held by the rule: {mark}")
    if _kept(resource):
        why = "it is marked as persistent"
        return Skipped(id=resource.id, kind=kind_of(resource), rule="persistent volume", why=why)
    return None


def _spot(resource: Resource) -> Skipped | None:
    if not isinstance(resource, Instance) or resource.market is not Market.SPOT:
        return None
    return Skipped(
        id=resource.id,
        kind=ResourceKind.INSTANCE,
        rule="spot",
        why="AWS lets a one-time spot instance only be terminated",
        next=f"runctl aws terminate {quoted(resource.id)}",
    )


def _kept(resource: Resource) -> bool:
    """A snapshot that is marked as persistent is as good as its volume: the one copy that is left."""
    return not isinstance(resource, Instance) and marked(resource.tags, TAG_PERSISTENT)


def _by_verdict(assess: Assess, action: Action, kind: ResourceKind, resource: Resource) -> Skipped | None:
    try:
        verdict = assess(action, kind, resource.id)
    except NotFound:
        return Skipped(id=resource.id, kind=kind, rule="gone meanwhile", why="the cloud shows it no more")
    if verdict.allowed:
        return None
    against = verdict.blocking[0]
    return Skipped(id=resource.id, kind=kind, rule=against.rule, why=against.reason, next=against.next)
