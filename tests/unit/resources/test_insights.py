"""What could be saved: each finding with its saving, and nothing that is kept on purpose."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cloud_values import TAGS, ValueSession, at, attached, instance, inventory_of, snapshot, volume
from msgspec.structs import replace

from runctl.ledger import Ledger
from runctl.model import Market
from runctl.providers.aws.disk_limits import DiskLimits, of_types
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import MachineImage
from runctl.resources import costs
from runctl.resources.insights import Insight, Topic, View, insights, saving

DAY = timedelta(days=1).total_seconds()
CENT = Decimal("0.01")


def look(
    session: ValueSession, *found: Any, days: float = 100, images: Any = (), **view: Any
) -> list[Insight]:
    now = at(days * DAY)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder))
        rates = {one.id: costs.rate(session, ledger, one) for one in found}
        ledger.close()
    return insights(inventory_of(now, *found, images=images), View(now=now, rates=rates, **view))


def test_a_machine_without_a_job_is_idle_and_one_with_a_job_is_not(session: ValueSession) -> None:
    [found] = look(session, instance())
    assert found.topic is Topic.IDLE
    assert found.usd_per_month == Decimal("1.006") * 730
    assert found.command == f"runctl aws stop {instance().id} --region us-east-1"
    assert look(session, instance(), busy=frozenset({instance().id})) == []
    assert look(session, instance(), days=0.01) == []


def test_a_spot_machine_cannot_be_stopped(session: ValueSession) -> None:
    [found] = look(session, instance(market=Market.SPOT))
    assert "aws terminate" in found.command


def test_an_idle_machine_of_unknown_price_saves_an_unknown_sum(session: ValueSession) -> None:
    unknown, known = instance(1, instance_type="x9.unheard"), instance(2)
    found = look(session, unknown, known)
    assert [one.usd_per_month is None for one in found] == [False, True]
    assert saving(found) == (Decimal("1.006") * 730, 1)


def test_a_stopped_machine_pays_for_its_big_disks(session: ValueSession) -> None:
    disk = volume(1, size_gib=500, state="in-use", attachments=(attached(volume(1).id, instance().id),))
    small = replace(disk, size_gib=20)
    stopped = instance(state="stopped", ended=at(50 * DAY), disks=disk.attachments)
    [found] = look(session, stopped, disk)
    assert (found.topic, found.usd_per_month) == (Topic.STOPPED, pytest.approx(Decimal(40)))
    assert "50 days" in found.reason
    assert look(session, stopped, small) == []
    assert look(session, stopped, replace(disk, tags={**TAGS, "runctl:persistent": "true"})) == []
    assert look(session, replace(stopped, ended=at(99.9 * DAY)), disk) == []


@pytest.mark.parametrize("tag", ["runctl:persistent", "runctl:protected", "runctl:important"])
def test_a_volume_that_is_kept_on_purpose_is_left_alone(session: ValueSession, tag: str) -> None:
    [found] = look(session, volume())
    assert (found.topic, found.usd_per_month) == (Topic.UNATTACHED, pytest.approx(Decimal(8)))
    assert found.command == f"runctl aws ebs delete {volume().id} --snapshot --region us-east-1"
    assert look(session, volume(tags={**TAGS, tag: "true"})) == []
    assert look(session, snapshot(), volume(tags={**TAGS, tag: "true"}), days=1) == []


def test_a_volume_is_not_said_to_be_unattached_for_longer_than_was_seen(session: ValueSession) -> None:
    [found] = look(session, volume())
    assert "100 days old" in found.reason
    [found] = look(session, volume(), since={volume().id: at(60 * DAY)})
    assert "for 40 days" in found.reason
    assert look(session, volume(), since={volume().id: at(99.5 * DAY)}) == []


def used(**changes: Any) -> Any:
    made = volume(1, **changes)
    return replace(made, state="in-use", attachments=(attached(made.id, instance().id),))


def test_gp2_becomes_gp3_with_as_much_performance_where_that_is_cheaper(session: ValueSession) -> None:
    busy = frozenset({instance().id})
    [found] = look(session, instance(), used(volume_type="gp2", size_gib=100, iops=300), busy=busy)
    assert found.topic is Topic.GP2
    assert found.usd_per_month == pytest.approx(Decimal(2))  # 10.00 against 8.00
    assert "--volume-type gp3 --iops 3000 --throughput 125" in found.command
    [found] = look(session, instance(), used(volume_type="gp2", size_gib=2000, iops=6000), busy=busy)
    assert found.usd_per_month == pytest.approx(Decimal(200 - (160 + 15 + 5)))
    assert "--iops 6000 --throughput 250" in found.command


def test_iops_that_the_machine_cannot_draw_are_not_worth_their_price(session: ValueSession) -> None:
    busy, limits = frozenset({instance().id}), {"g5.xlarge": DiskLimits(6000, 400.0)}
    bought = used(iops=16_000, throughput_mibs=1000)
    [found] = look(session, instance(), bought, busy=busy, limits=limits)
    assert found.topic is Topic.IOPS
    assert "--iops 6000 --throughput 381" in found.command
    assert found.usd_per_month == pytest.approx(Decimal(10_000) * Decimal("0.005") + 619 * Decimal("0.04"))
    assert look(session, instance(), bought, busy=busy) == []  # no limit is known
    fitting = used(iops=6000, throughput_mibs=381)
    assert look(session, instance(), fitting, busy=busy, limits=limits) == []


def test_io1_within_what_gp3_gives_becomes_gp3(session: ValueSession) -> None:
    busy = frozenset({instance().id})
    [found] = look(session, instance(), used(volume_type="io1", iops=5000, throughput_mibs=None), busy=busy)
    assert "--volume-type gp3 --iops 5000 --throughput 500" in found.command
    # io1: 100 GiB at 0.125 and 5,000 IOPS at 0.065; gp3: 8, 2,000 IOPS more at 0.005, 375 MiB/s at 0.04.
    assert found.usd_per_month == pytest.approx(Decimal("337.5") - (8 + 10 + 15))


def test_an_old_snapshot_may_go_unless_an_image_or_nothing_else_needs_it(session: ValueSession) -> None:
    disk = used()
    busy = frozenset({instance().id})
    [found] = look(session, instance(), disk, snapshot(stored_bytes=10 * 2**30), busy=busy)
    assert (found.topic, found.usd_per_month) == (Topic.OLD, pytest.approx(Decimal("0.5")))
    assert look(session, snapshot()) == []  # the only copy of a volume that is gone
    image = MachineImage(
        id="ami-1", region="us-east-1", name="", created=None, snapshots=(snapshot().id,), tags={}
    )
    assert look(session, instance(), disk, snapshot(), busy=busy, images=(image,)) == []
    assert look(session, instance(), disk, snapshot(), busy=busy, days=80) == []


def test_what_others_made_is_shown_on_request_alone(session: ValueSession) -> None:
    assert look(session, volume(tags={})) == []
    assert len(look(session, volume(tags={}), unmanaged=True)) == 1


def test_ec2_tells_what_a_type_can_draw(sandbox_cloud: Any) -> None:
    found = of_types(Session(sandbox_cloud.cloud()), ["m5.large", "g5.xlarge"])
    assert found["m5.large"] == DiskLimits(18_750, 593.75)
