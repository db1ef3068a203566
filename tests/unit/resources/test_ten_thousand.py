"""Ten thousand resources: listed, drawn and cleaned up whole, with nothing asked for each of them."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from cloud_values import (
    START,
    TAGS,
    SetClock,
    ValueSession,
    at,
    attached,
    instance,
    inventory_of,
    snapshot,
    volume,
)

from runctl.events import ignore
from runctl.ledger import Ledger
from runctl.resources import inventory, listing
from runctl.resources.listing import Filters
from runctl.resources.operation import Operation
from runctl.resources.survey import for_cleanup, survey
from runctl.safety import cleanup_plan
from runctl.safety.destroy import Door
from runctl.safety.graph import deletion, deletions, order
from runctl.safety.vocabulary import Verdict

MACHINES, DISKS, COPIES = 2_000, 5_000, 3_000
LATER = timedelta(days=40)


@pytest.fixture
def operation(clock: SetClock, session: ValueSession, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One look at a cloud with two disks at each machine, a thousand free ones, and snapshots of these."""
    clock.sleep(LATER.total_seconds())
    machines = [instance(number) for number in range(MACHINES)]
    disks = [
        volume(
            number,
            state="in-use" if number < 2 * MACHINES else "available",
            attachments=(attached(f"vol-{number:017x}", machines[number // 2].id),)
            if number < 2 * MACHINES
            else (),
            tags={**TAGS, "runctl:persistent": "true"} if number % 10 == 9 else TAGS,
        )
        for number in range(DISKS)
    ]
    copies = [snapshot(number, volume=f"vol-{number:017x}", stored_bytes=2**30) for number in range(COPIES)]
    seen = inventory_of(at(LATER.total_seconds()), *machines, *disks, *copies)
    monkeypatch.setattr(inventory, "read", lambda sessions, emit: seen)
    door = Door(session, ledger, "ada")
    return Operation(session=session, ledger=ledger, door=door, emit=ignore)


def test_ten_thousand_resources_are_listed(operation: Operation) -> None:
    rows, failures = listing.rows(operation, [operation.session], Filters(sort="cost"))
    assert Counter(row.kind for row in rows) == {"instance": MACHINES, "volume": DISKS, "snapshot": COPIES}
    assert failures == ()
    assert sum(row.protected == "persistent" for row in rows) == DISKS // 10
    assert all(row.usd_so_far is not None for row in rows if row.kind == "volume")


def test_ten_thousand_resources_are_drawn_and_cleaned_up(operation: Operation) -> None:
    found = survey(operation, [operation.session], user="ada")
    whole = deletions(found.graph)
    assert len(whole) >= MACHINES + DISKS + COPIES
    assert len(order(found.graph)) == len(found.graph.nodes)
    assert deletion(found.graph, f"vol-{0:017x}") == whole[f"vol-{0:017x}"]

    asked: list[str] = []

    def allowed(action: Any, kind: Any, resource_id: str) -> Verdict:
        asked.append(resource_id)
        return Verdict(action=action, kind=kind, resource=resource_id, findings=())

    now = START + LATER
    view = cleanup_plan.view_of(
        operation.ledger, operation.session.cloud.key, now=now, older_than=timedelta(days=30)
    )
    plan = cleanup_plan.plan(for_cleanup(found), view, user="ada", assess=allowed)
    free = [number for number in range(2 * MACHINES, DISKS) if number % 10 != 9]
    assert {item.id for item in plan.items} == {f"vol-{number:017x}" for number in free}
    assert sorted(asked) == sorted(item.id for item in plan.items)  # nothing is asked of what is kept
