"""What the ledger makes of an inventory: nothing lost, nothing guessed, nothing counted twice."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from cloud_values import KEY, SetClock, ValueSession, at, instance, inventory_of, snapshot, volume

from runctl.config import Thresholds
from runctl.events import Event
from runctl.ledger import Interval, Ledger
from runctl.providers.aws.session import Session
from runctl.resources import costs, inventory

HOUR = 3600


def intervals(ledger: Ledger, resource_id: str) -> list[tuple[str, float, float | None, bool]]:
    def seconds(found: Interval) -> tuple[str, float, float | None, bool]:
        end = None if found.end is None else (found.end - at(0)).total_seconds()
        return found.state, (found.start - at(0)).total_seconds(), end, found.billable

    return [seconds(found) for found in ledger.resources.intervals(resource_id)]


def test_a_boot_that_was_seen_is_not_billed(ledger: Ledger, session: ValueSession) -> None:
    one = instance(state="pending")
    for moment in (1, 11):
        inventory.refresh(ledger, [session], inventory_of(at(moment), one))
    running = instance(state="running")
    inventory.refresh(ledger, [session], inventory_of(at(20), running))
    inventory.refresh(ledger, [session], inventory_of(at(30), running))
    assert intervals(ledger, one.id) == [("pending", 0, 11, False), ("running", 11, None, True)]


def test_a_boot_that_nobody_saw_is_billed_from_the_launch_on(ledger: Ledger, session: ValueSession) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(30), instance()))
    assert intervals(ledger, instance().id) == [("running", 0, None, True)]


def test_a_machine_that_vanished_is_closed_when_it_was_last_seen(
    ledger: Ledger, session: ValueSession
) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(100), instance(), volume()))
    inventory.refresh(ledger, [session], inventory_of(at(9000)))
    for found in (instance().id, volume().id):
        assert ledger.resources.get(found).ended == at(100)


@pytest.mark.parametrize("unread", [((("us-east-1", "instance")),), (("us-east-1", "volume"),)])
def test_nothing_is_closed_in_a_region_that_failed(
    ledger: Ledger, session: ValueSession, unread: tuple[tuple[str, str], ...]
) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(100), instance(), volume()))
    inventory.refresh(ledger, [session], inventory_of(at(200), unread=unread))
    failed = {kind for _, kind in unread}
    for kind, found in (("instance", instance().id), ("volume", volume().id)):
        assert (ledger.resources.get(found).ended is None) == (kind in failed)


def test_another_region_s_resources_are_not_closed_by_this_one(ledger: Ledger, session: ValueSession) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(100), volume()))
    inventory.refresh(ledger, [session], inventory_of(at(200), regions=("eu-west-1",)))
    assert ledger.resources.get(volume().id).ended is None


def test_a_modified_volume_costs_its_new_rate_from_then_on(ledger: Ledger, session: ValueSession) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(HOUR), volume()))
    inventory.refresh(ledger, [session], inventory_of(at(2 * HOUR), volume(size_gib=200)))
    [account] = costs.accounts(ledger, KEY, at(3 * HOUR))
    gib_hour = Decimal("0.08") / 730
    assert abs(account.sums.usd_total - gib_hour * (100 + 100 + 200)) < Decimal("0.000001")
    assert abs(account.sums.usd_per_hour - gib_hour * 200) < Decimal("0.000001")


def test_a_snapshot_is_unknown_until_it_is_told_what_it_stores(ledger: Ledger, session: ValueSession) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(HOUR), snapshot()))
    [account] = costs.accounts(ledger, KEY, at(HOUR))
    assert (account.sums.unknown, account.sums.usd_total) == (1, 0)


def test_a_use_of_a_machine_is_not_counted_beside_the_machine(ledger: Ledger, session: ValueSession) -> None:
    inventory.refresh(ledger, [session], inventory_of(at(HOUR), instance()))
    whole = ledger.resources.get(instance().id)
    use = f"{whole.id}/digits-1/1"
    ledger.resources.save(msgspec.structs.replace(whole, id=use, job="digits-1"))
    [interval] = ledger.resources.intervals(whole.id)
    ledger.resources.observe(use, "running", at=at(0), billable=True, price=interval.price)
    assert costs.summary(ledger, KEY, at(HOUR), Thresholds()).total.usd_total == Decimal("1.006")


def test_thresholds_warn_of_what_they_say(ledger: Ledger, session: ValueSession) -> None:
    dear = [instance(number, instance_type="p4d.24xlarge") for number in range(1, 4)]  # 21.96 USD/h each
    inventory.refresh(ledger, [session], inventory_of(at(60), *dear))
    assert [text[:25] for text in costs.warnings(ledger, KEY, at(60), Thresholds())] == [
        "what runs now costs 65.87"
    ]
    assert len(costs.warnings(ledger, KEY, at(2 * HOUR), Thresholds())) == 2  # 100 USD within a day
    assert len(costs.warnings(ledger, KEY, at(8 * HOUR), Thresholds())) == 3  # 500 USD in all
    none = Thresholds(usd_per_hour=Decimal(66), usd_per_day=Decimal(10**6), usd_total=Decimal(10**6))
    assert costs.warnings(ledger, KEY, at(8 * HOUR), none) == []


def test_ten_thousand_resources_are_noted_and_summed_up_in_seconds(
    ledger: Ledger, session: ValueSession, clock: SetClock
) -> None:
    found = [instance(number) for number in range(4000)] + [volume(number) for number in range(6000)]
    begun = time.process_time()
    inventory.refresh(ledger, [session], inventory_of(clock.now(), *found))
    clock.sleep(HOUR)
    inventory.refresh(ledger, [session], inventory_of(clock.now(), *found))
    whole = costs.summary(ledger, KEY, clock.now(), Thresholds())
    took = time.process_time() - begun
    assert whole.running == 4000
    assert abs(whole.by_kind["instance"].usd_total - 4000 * Decimal("1.006")) < Decimal("0.01")
    assert took < 20


class Deaf(ValueSession):
    """A region that does not answer for one kind."""

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Any:
        from runctl.errors import CloudError

        if operation == "describe_volumes":
            raise CloudError("no", service=service, operation=operation, code="Unavailable")
        return iter(())


def test_a_service_that_does_not_answer_is_a_failure_and_no_empty_truth() -> None:
    told: list[Event] = []
    seen = inventory.read([Deaf(SetClock())], emit=told.append)
    assert seen.unread == (("us-east-1", "volume"),)
    assert len(seen.failures) == 1
    assert len(told) == 1


def test_a_listing_over_http_is_whole_though_it_comes_in_pages(sandbox_cloud: Any, ledger: Ledger) -> None:
    name = sandbox_cloud.name("pages")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "runctl:project", "Value": name}]}]
    made = {sandbox_cloud.volume(TagSpecifications=tags) for _ in range(3)}
    session = Session(sandbox_cloud.cloud())
    seen = inventory.read([session], emit=lambda _: None)
    assert made <= {one.id for one in seen.volumes}
    inventory.refresh(ledger, [session], seen)
    for one in made:
        record = ledger.resources.get(one)
        assert record.project == name
        assert record.created <= seen.taken
        sandbox_cloud.client("ec2").delete_volume(VolumeId=one)

    def closed() -> bool:
        """What is new may be shown late: that it is gone is believed when it is older."""
        later = inventory.read([session], emit=lambda _: None)
        inventory.refresh(ledger, [session], later)
        ended = [ledger.resources.get(one).ended for one in made]
        assert all(end is None or end <= later.taken for end in ended)
        return None not in ended

    sandbox_cloud.until(closed)
