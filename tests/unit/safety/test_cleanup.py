"""What is left over, the plan to remove it, and that plan carried out over HTTP on the shared sandbox."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.config import Protection
from runctl.errors import Conflict, ValidationError
from runctl.events import Event
from runctl.ledger import JobRecord, Ledger, Owner
from runctl.model import JobId, JobState, Market, Price
from runctl.providers.aws import instances, snapshots, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.safety import cleanup, cleanup_plan, leftovers, transaction
from runctl.safety.cleanup import UNLIMITED, Limits, Outcome, Report
from runctl.safety.cleanup_plan import Plan
from runctl.safety.dependencies import graph_of, marks
from runctl.safety.destroy import Door
from runctl.safety.leftovers import Reason, View
from runctl.safety.vocabulary import Action, Request, ResourceKind, Verdict

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
OWN = {"runctl:managed": "true", "runctl:user": "ada"}
LONG_AGO = NOON - timedelta(days=30)


def instance(instance_id: str = "i-1", *, state: str = "running", **changes: Any) -> Instance:
    plain = Instance(
        id=instance_id,
        region="us-east-1",
        zone="us-east-1a",
        instance_type="c6i.large",
        state=state,
        market=Market.ON_DEMAND,
        launched=LONG_AGO,
        image="ami-1",
        root_device="/dev/xvda",
        architecture="x86_64",
        disks=(),
        tags=OWN,
    )
    return msgspec.structs.replace(plain, **changes)


def volume(volume_id: str = "vol-1", *, at: str = "", dies: bool = False, **changes: Any) -> Volume:
    attachment = Attachment(
        volume=volume_id, instance=at, device="/dev/sdf", state="attached", delete_on_termination=dies
    )
    plain = Volume(
        id=volume_id,
        region="us-east-1",
        zone="us-east-1a",
        volume_type="gp3",
        size_gib=100,
        iops=3000,
        throughput_mibs=125,
        encrypted=True,
        state="in-use" if at else "available",
        created=LONG_AGO,
        snapshot=None,
        attachments=(attachment,) if at else (),
        tags=OWN,
    )
    return msgspec.structs.replace(plain, **changes)


def snapshot(snapshot_id: str = "snap-1", *, of: str = "vol-gone", **changes: Any) -> Snapshot:
    plain = Snapshot(
        id=snapshot_id,
        region="us-east-1",
        volume=of,
        size_gib=100,
        state="completed",
        progress="100%",
        started=LONG_AGO,
        encrypted=True,
        description="",
        tags=OWN,
    )
    return msgspec.structs.replace(plain, **changes)


def view(**changes: Any) -> View:
    return msgspec.structs.replace(View(now=NOON, older_than=WEEK), **changes)


def everything_allowed(action: Action, kind: ResourceKind, resource: str) -> Verdict:
    """The policy at its most careless: what stays then stays by its tags alone."""
    return Verdict(action=action, kind=kind, resource=resource, findings=())


def seen_of(
    machines: Sequence[Instance] = (), disks: Sequence[Volume] = (), copies: Sequence[Snapshot] = ()
) -> cleanup_plan.Inventory:
    held = marks(instances=machines, volumes=disks, snapshots=copies, user="ada", now=NOON)
    price = Price(Decimal("0.1"), "test", NOON)
    rates: dict[str, Price | None] = {found.id: price for found in (*machines, *disks)}
    return cleanup_plan.Inventory(
        cloud="sandbox:1",
        region="us-east-1",
        instances=machines,
        volumes=disks,
        snapshots=copies,
        graph=graph_of(instances=machines, volumes=disks, snapshots=copies, rates=rates, protected=held),
        marks=held,
    )


def planned(at: View | None = None, **resources: Any) -> Plan:
    return cleanup_plan.plan(seen_of(**resources), at or view(), user="ada", assess=everything_allowed)


def ids(plan: Plan) -> list[str]:
    return [item.id for item in plan.items]


def reason(found: leftovers.Leftover | None) -> Reason | None:
    return None if found is None else found.reason


@pytest.mark.parametrize(
    ("found", "at", "expected"),
    [
        (instance(), view(), None),
        (instance(state="stopped", ended=NOON - WEEK), view(), Reason.STOPPED),
        (instance(state="stopped", ended=NOON - WEEK + timedelta(seconds=1)), view(), None),
        (instance(state="stopped"), view(), None),  # since when is not known: that counts against it
        (instance(state="stopped"), view(since={"i-1": LONG_AGO}), Reason.STOPPED),
        (instance(tags=OWN | {"runctl:lease-until": "2026-11-23T11:59:59Z"}), view(), Reason.LEASE_OVER),
        (instance(tags=OWN | {"runctl:lease-until": "2026-11-23T12:00:01Z"}), view(), None),
        (instance(tags=OWN | {"runctl:lease-until": "soon"}), view(), None),
        (instance(tags=OWN | {"runctl:job": "a"}), view(jobs={"a": JobState.SUCCEEDED}), Reason.JOB_OVER),
        (instance(tags=OWN | {"runctl:job": "a"}), view(jobs={"a": JobState.RECOVERING}), None),
        (instance(tags=OWN | {"runctl:job": "a"}), view(), None),  # nobody knows of this job
        (
            instance(tags=OWN | {"runctl:job": "a", "runctl:lease-until": "2026-11-01T00:00:00Z"}),
            view(jobs={"a": JobState.RUNNING}),
            None,
        ),
        (volume(), view(), Reason.UNATTACHED),
        (volume(created=NOON - WEEK + timedelta(seconds=1)), view(), None),
        (volume(), view(since={"vol-1": NOON - timedelta(days=1)}), None),  # it was in use yesterday
        (volume(at="i-1"), view(), None),
        (volume(state="creating"), view(), None),
        (
            volume(created=NOON, tags=OWN | {"runctl:job": "a"}),
            view(jobs={"a": JobState.FAILED}),
            Reason.JOB_OVER,
        ),
        (volume(tags=OWN | {"runctl:job": "a"}), view(jobs={"a": JobState.PLANNED}), None),
    ],
)
def test_what_is_left_over_and_what_is_not(
    found: Instance | Volume, at: View, expected: Reason | None
) -> None:
    assert reason(cleanup_plan.of(found, at)) is expected


def test_a_snapshot_is_left_over_when_it_is_old_and_its_volume_is_gone() -> None:
    assert reason(leftovers.of_snapshot(snapshot(), view(), volume_is_gone=True)) is Reason.VOLUME_GONE
    assert leftovers.of_snapshot(snapshot(), view(), volume_is_gone=False) is None
    assert leftovers.of_snapshot(snapshot(started=NOON), view(), volume_is_gone=True) is None
    assert leftovers.of_snapshot(snapshot(state="pending"), view(), volume_is_gone=True) is None


def test_the_inverted_cleanup_that_ended_everything_without_its_tag() -> None:
    """The original ended every machine older than a day that did not carry its tag."""
    old = {"state": "stopped", "ended": LONG_AGO}
    plan = planned(
        machines=[instance("i-theirs", tags={}, **old), instance("i-mine", **old)],
        disks=[volume("vol-theirs", tags={"Name": "precious"}), volume("vol-mine")],
        copies=[snapshot("snap-theirs", tags={}), snapshot("snap-mine")],
    )
    assert set(ids(plan)) == {"i-mine", "vol-mine", "snap-mine"}
    assert {skipped.id: skipped.rule for skipped in plan.skipped} == {
        "i-theirs": "unmanaged",
        "vol-theirs": "unmanaged",
        "snap-theirs": "unmanaged",
    }


TAGS = st.fixed_dictionaries(
    {},
    optional={
        "runctl:managed": st.sampled_from(["true", "false", ""]),
        "runctl:user": st.sampled_from(["ada", "bob", ""]),
        "runctl:persistent": st.sampled_from(["true", "false", "yes"]),
        "runctl:protected": st.sampled_from(["true", "no", "1"]),
        "runctl:important": st.sampled_from(["true", "false"]),
    },
)
NO = {None, "false", "no"}


@given(st.lists(TAGS, max_size=5), st.lists(TAGS, max_size=5), st.lists(TAGS, max_size=5), st.data())
def test_a_plan_holds_own_managed_resources_alone_and_none_that_a_tag_keeps(
    machine_tags: list[dict[str, str]],
    disk_tags: list[dict[str, str]],
    copy_tags: list[dict[str, str]],
    data: st.DataObject,
) -> None:
    machines = [
        instance(f"i-{number}", state="stopped", ended=LONG_AGO, tags=tags)
        for number, tags in enumerate(machine_tags)
    ]
    places = st.sampled_from(["", *(found.id for found in machines)])
    disks = [
        volume(f"vol-{number}", tags=tags, at=data.draw(places), dies=data.draw(st.booleans()))
        for number, tags in enumerate(disk_tags)
    ]
    copies = [snapshot(f"snap-{number}", tags=tags) for number, tags in enumerate(copy_tags)]
    plan = planned(machines=machines, disks=disks, copies=copies)
    by_id = {found.id: found.tags for found in (*machines, *disks, *copies)}
    for item in plan.items:
        tags = by_id[item.id]
        assert (tags.get("runctl:managed"), tags.get("runctl:user")) == ("true", "ada")
        assert {tags.get("runctl:protected"), tags.get("runctl:important")} <= NO
        for taken in item.takes:
            assert by_id[taken].get("runctl:persistent") in NO
            assert {by_id[taken].get("runctl:protected"), by_id[taken].get("runctl:important")} <= NO
        if item.kind is not ResourceKind.INSTANCE:
            assert tags.get("runctl:persistent") in NO
    assert not set(ids(plan)) & {skipped.id for skipped in plan.skipped}


def test_what_is_held_is_counted_whatever_its_age() -> None:
    young = volume(created=NOON, tags=OWN | {"runctl:persistent": "true"})
    assert [skipped.rule for skipped in planned(disks=[young]).skipped] == ["persistent volume"]


def test_a_verdict_that_blocks_is_a_reason_to_skip_by_its_rule() -> None:
    from runctl.safety.vocabulary import Effect, Finding

    def refuse(action: Action, kind: ResourceKind, resource: str) -> Verdict:
        finding = Finding("only copy of checkpoints", Effect.FORCE, "it holds them", "take a snapshot")
        return Verdict(action=action, kind=kind, resource=resource, findings=(finding,))

    plan = cleanup_plan.plan(seen_of(disks=[volume()]), view(), user="ada", assess=refuse)
    assert plan.items == ()
    assert [(one.rule, one.why, one.next) for one in plan.skipped] == [
        ("only copy of checkpoints", "it holds them", "take a snapshot")
    ]


def test_a_termination_is_planned_with_what_it_takes_along_and_before_what_it_needs() -> None:
    stopped = instance(
        state="stopped", ended=LONG_AGO, disks=(volume("vol-root", at="i-1", dies=True).attachments[0],)
    )
    plan = planned(
        machines=[stopped],
        disks=[volume("vol-a"), volume("vol-root", at="i-1", dies=True)],
        copies=[snapshot("snap-a")],
    )
    (item,) = [item for item in plan.items if item.id == "i-1"]
    assert (item.takes, item.disks) == (("vol-root",), ("vol-root",))
    assert item.saves_per_month == Decimal(146)  # 0.2 USD/h over 730 h
    assert "vol-root" not in ids(plan)


def test_a_volume_that_was_restored_goes_before_the_snapshot_that_it_came_from() -> None:
    plan = planned(disks=[volume("vol-z", snapshot="snap-a")], copies=[snapshot("snap-a")])
    assert ids(plan) == ["vol-z", "snap-a"]


def test_stopping_everything_means_own_machines_that_run() -> None:
    seen = seen_of(
        machines=[
            instance("i-run"),
            instance("i-off", state="stopped"),
            instance("i-theirs", tags={}),
            instance("i-spot", market=Market.SPOT),
        ]
    )
    plan = cleanup_plan.plan_stop(seen, view(), user="ada", assess=everything_allowed)
    assert [(item.id, item.action, item.takes) for item in plan.items] == [("i-run", Action.STOP, ())]
    assert {one.id: one.rule for one in plan.skipped} == {"i-theirs": "unmanaged", "i-spot": "spot"}


def test_a_plan_survives_its_file_and_nothing_else_is_taken_for_one() -> None:
    plan = planned(disks=[volume()], machines=[instance("i-theirs", tags={})])
    assert cleanup_plan.decode(cleanup_plan.encode(plan)) == plan
    for data in (b"", b"[]", b'{"items": []}', b"\xff", cleanup_plan.encode(plan)[:-10]):
        with pytest.raises(ValidationError):
            cleanup_plan.decode(data)


class Pool:
    """Volumes that are older than the youngest that may go, made at once: each test takes some as its own."""

    SIZE = 24

    def __init__(self, live: Any) -> None:
        self.live = live
        self.ec2 = live.client("ec2")
        zone = {"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "gp3"}
        self.made = [self.ec2.create_volume(**zone)["VolumeId"] for _ in range(self.SIZE)]
        self.free = list(self.made)
        clock = live.cloud().clock
        born = clock.now()
        live.until(lambda: clock.now() - born > timedelta(seconds=61))
        live.until(lambda: all(live.disk(one).get("State") == "available" for one in self.made))

    def clear(self) -> None:
        for made in self.made:
            if self.live.disk(made).get("State") == "available":
                self.ec2.delete_volume(VolumeId=made)


@pytest.fixture(scope="module")
def pool(sandbox_cloud: Any) -> Iterator[Pool]:
    made = Pool(sandbox_cloud)
    yield made
    made.clear()


class Place:
    """A door to the shared sandbox for a user of its own."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self.pool = pool
        self.live = pool.live
        self.ledger = ledger
        self.user = self.live.name("user")
        self.session = Session(self.live.cloud())
        self.ec2 = pool.ec2
        self.events: list[Event] = []
        policy = Protection(young_minutes=1)
        self.door = Door(self.session, ledger, self.user, policy=policy, emit=self.events.append)
        self.made: list[str] = []

    @property
    def now(self) -> datetime:
        return self.session.cloud.clock.now()

    def volume(self, **tags: str) -> str:
        made = self.pool.free.pop()
        self.made.append(made)
        for key, value in {"runctl:managed": "true", "runctl:user": self.user, **tags}.items():
            self.tag(made, key, value)
        return made

    def plan(self, *, force: bool = False) -> Plan:
        disks = [found for found in volumes.listing(self.session) if found.id in self.made]
        held = marks(volumes=disks, user=self.user, now=self.now)
        price = Price(Decimal("0.5"), "test", NOON)
        rates: dict[str, Price | None] = {found.id: price for found in disks}
        seen = cleanup_plan.Inventory(
            cloud=self.session.cloud.key,
            region=self.session.region,
            instances=(),
            volumes=disks,
            snapshots=(),
            graph=graph_of(volumes=disks, rates=rates, protected=held),
            marks=held,
        )
        at = cleanup_plan.view_of(self.ledger, self.session.cloud.key, now=self.now, older_than=timedelta(0))
        request = Request(bulk=True, force=force, user=self.user)
        return cleanup_plan.plan(
            seen, at, user=self.user, assess=lambda *asked: self.door.assess(*asked, request)
        )

    def apply(self, plan: Plan, limits: Limits = UNLIMITED) -> Report:
        return cleanup.apply(self.ledger, self.door, plan, limits=limits)

    def there(self, volume_id: str) -> bool:
        return self.live.disk(volume_id).get("State") == "available"

    def tag(self, volume_id: str, key: str, value: str) -> None:
        self.ec2.create_tags(Resources=[volume_id], Tags=[{"Key": key, "Value": value}])


@pytest.fixture
def place(pool: Pool, tmp_path: Path) -> Iterator[Place]:
    with Ledger.open(tmp_path) as ledger:
        yield Place(pool, ledger)
    pool.live.control.clear_faults()


def outcomes(report: Report) -> dict[str, Outcome]:
    return {result.item.id: result.outcome for result in report.results}


def test_what_has_changed_since_the_plan_is_refused_and_nothing_is_added(place: Place) -> None:
    kept, retagged, same, gone = (place.volume() for _ in range(4))
    plan = place.plan()
    assert set(ids(plan)) == {kept, retagged, same, gone}
    place.tag(kept, "runctl:protected", "true")
    place.tag(retagged, "Name", "somebody looked at it")
    place.ec2.delete_volume(VolumeId=gone)
    later = place.volume()
    place.live.until(lambda: place.live.disk(gone) == {})
    report = place.apply(plan)
    assert outcomes(report) == {
        kept: Outcome.CHANGED,
        retagged: Outcome.CHANGED,
        same: Outcome.DONE,
        gone: Outcome.GONE,
    }
    place.live.until(lambda: not place.there(same))
    assert all(place.there(one) for one in (kept, retagged, later))
    assert place.ledger.journal.get(report.tx).outcome == "finished"
    assert [row.allowed for row in place.ledger.verdicts.list(resource=same)] == [True]


def test_a_job_that_began_since_the_plan_keeps_its_volume(place: Place) -> None:
    job = place.live.name("job")
    used = place.volume(**{"runctl:job": job})
    plan = place.plan(force=True)  # nobody knows the job: it may hold the only copy of its checkpoints
    assert ids(plan) == [used]
    place.ledger.jobs.add(
        JobRecord(
            id=JobId(job),
            name=job,
            spec=b"{}",
            state=JobState.RUNNING,
            target="sandbox",
            cloud=place.session.cloud.key,
            folder=None,
            store="s3://nowhere/jobs",
            project="",
            user=place.user,
            created=place.now,
            updated=place.now,
        ),
        "test",
    )
    assert outcomes(place.apply(plan)) == {used: Outcome.CHANGED}
    assert place.there(used)


def test_one_failure_does_not_stop_the_rest_and_is_reported(place: Place) -> None:
    made = [place.volume() for _ in range(3)]
    plan = place.plan()
    fault = {"operation": "DeleteVolume", "code": "InvalidParameterValue", "status": 400, "count": 1}
    place.live.control.add_fault("ec2", "error", **fault)
    report = place.apply(plan)
    first = plan.items[0].id
    assert outcomes(report) == {one: Outcome.FAILED if one == first else Outcome.DONE for one in made}
    assert "InvalidParameterValue" in str(report.having(Outcome.FAILED)[0].why)
    assert place.there(first)
    steps = place.ledger.journal.get(report.tx).steps
    assert {step.name: step.outcome for step in steps} == {
        one: "failed" if one == first else "done" for one in made
    }


def test_it_stops_at_its_limits(place: Place) -> None:
    made = [place.volume() for _ in range(3)]
    plan = place.plan()
    report = place.apply(plan, Limits(max_count=1, max_usd_per_hour=None))
    assert [result.outcome for result in report.results] == [
        Outcome.DONE,
        Outcome.OVER_LIMIT,
        Outcome.OVER_LIMIT,
    ]
    report = place.apply(plan, Limits(max_count=None, max_usd_per_hour=Decimal("0.7")))
    assert [result.outcome for result in report.results] == [
        Outcome.GONE,
        Outcome.DONE,
        Outcome.OVER_LIMIT,
    ]
    assert [place.there(item.id) for item in plan.items] == [False, False, True]
    assert len(made) == 3


def test_an_unknown_price_is_over_every_limit(place: Place) -> None:
    place.volume()
    plan = place.plan()
    (item,) = plan.items
    unknown = msgspec.structs.replace(plan, items=(msgspec.structs.replace(item, saves_per_month=None),))
    report = place.apply(unknown, Limits(max_count=None, max_usd_per_hour=Decimal(1000)))
    assert outcomes(report) == {item.id: Outcome.OVER_LIMIT}
    assert place.there(item.id)


def killed(place: Place, plan: Plan, steps: int) -> str:
    """The journal of a cleanup that was killed right after its last call, of which nobody knows."""
    dead = Owner(pid=2**22 - 1, started=1.0, host=transaction.this_process().host)
    run = cleanup._Run(plan=plan, limits=UNLIMITED, force=False)
    journal = place.ledger.journal
    tx = journal.begin("cleanup", subject="", payload=msgspec.json.encode(run), owner=dead, at=place.now)
    for number, item in enumerate(plan.items[:steps], 1):
        step = journal.intend(tx, item.id, token=f"{tx}-{item.id}", request=msgspec.json.encode(item))
        place.ec2.delete_volume(VolumeId=item.id)
        if number < steps:
            journal.done(tx, step, b"{}")
    return tx


def test_a_killed_cleanup_is_finished_from_where_it_was(place: Place) -> None:
    for _ in range(4):
        place.volume()
    plan = place.plan()
    tx = killed(place, plan, steps=2)
    place.tag(plan.items[3].id, "runctl:important", "true")
    place.live.until(lambda: not any(place.there(item.id) for item in plan.items[:2]))
    (record,) = transaction.abandoned(place.ledger, operation="cleanup")
    assert cleanup.plan_of(record) == plan
    report = cleanup.resume(place.ledger, place.door, record)
    assert [result.outcome for result in report.results] == [
        Outcome.DONE,
        Outcome.DONE,
        Outcome.DONE,
        Outcome.CHANGED,
    ]
    found = place.ledger.journal.get(tx)
    assert (found.outcome, [step.outcome for step in found.steps]) == ("finished", ["done"] * 3)
    assert place.there(plan.items[3].id)


def test_a_rollback_ends_a_cleanup_and_deletes_no_more(place: Place) -> None:
    for _ in range(2):
        place.volume()
    plan = place.plan()
    tx = killed(place, plan, steps=1)
    cleanup.rollback(place.ledger, place.ledger.journal.get(tx))
    assert place.ledger.journal.get(tx).outcome == "ended"
    assert place.there(plan.items[1].id)


def test_ctrl_c_finishes_the_step_and_leaves_the_rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        place.volume()
    plan = place.plan()
    real = volumes.delete

    def interrupted(session: Session, volume_id: str) -> None:
        real(session, volume_id)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(volumes, "delete", interrupted)
    report = place.apply(plan)
    assert report.interrupted
    assert [result.outcome for result in report.results] == [
        Outcome.DONE,
        Outcome.NOT_REACHED,
        Outcome.NOT_REACHED,
    ]
    assert place.ledger.journal.get(report.tx).outcome == "finished"


def test_a_plan_of_another_cloud_is_refused(place: Place) -> None:
    plan = msgspec.structs.replace(place.plan(), cloud="aws")
    with pytest.raises(Conflict, match="another place"):
        place.apply(plan)
    assert place.ledger.journal.list() == []


def test_a_machine_is_terminated_with_the_disks_of_the_plan_alone(place: Place) -> None:
    """A persistent volume that was attached since keeps its machine from the plan's end; then it is freed."""
    tags = {"runctl:managed": "true", "runctl:user": place.user, "runctl:lease-until": "2020-01-01T00:00:00Z"}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    machine = place.live.running(
        TagSpecifications=[{"ResourceType": kind, "Tags": pairs} for kind in ("instance", "volume")]
    )
    born = place.now
    place.live.until(lambda: place.now - born > timedelta(seconds=61))
    seen = instances.get(place.session, machine)
    assert seen is not None
    disks = volumes.listing(place.session, [{"Name": "attachment.instance-id", "Values": [machine]}])
    price = Price(Decimal("0.5"), "test", NOON)
    inventory = cleanup_plan.Inventory(
        cloud=place.session.cloud.key,
        region=place.session.region,
        instances=[seen],
        volumes=disks,
        snapshots=(),
        graph=graph_of(
            instances=[seen], volumes=disks, rates={machine: price, disks[0].id: price}, protected={}
        ),
        marks={},
    )
    at = View(now=place.now, older_than=timedelta(0))
    request = Request(bulk=True, user=place.user)
    plan = cleanup_plan.plan(
        inventory, at, user=place.user, assess=lambda *asked: place.door.assess(*asked, request)
    )
    assert [(item.id, item.reason, item.takes) for item in plan.items] == [
        (machine, Reason.LEASE_OVER, (disks[0].id,))
    ]
    extra = place.volume(**{"runctl:persistent": "true"})
    place.ec2.attach_volume(VolumeId=extra, InstanceId=machine, Device="/dev/sdf")
    place.live.until(lambda: [one["State"] for one in place.live.disk(extra)["Attachments"]] == ["attached"])
    assert outcomes(place.apply(plan)) == {machine: Outcome.CHANGED}
    assert place.live.state(machine) == "running"
    place.ec2.detach_volume(VolumeId=extra)
    place.live.until(lambda: place.there(extra))
    assert outcomes(place.apply(plan)) == {machine: Outcome.DONE}
    place.live.until(lambda: place.live.state(machine) == "terminated")
    assert place.there(extra)
    assert snapshots.listing(place.session, [{"Name": "volume-id", "Values": [extra]}]) == []
