"""Every operation, killed before and after each of its calls: the next command finishes or undoes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crash_table
import pytest
from dying import carried_out
from operations import LAUNCHES, STORIES, World, begin, require_end

from runctl.errors import Conflict
from runctl.resources import recovery

CALLS = {
    "attach-volume": 11,
    "cleanup": 41,
    "create-instance": 16,
    "create-pre-warmed-volume": 59,
    "create-spot-instance": 21,
    "delete-volume": 10,
    "detach-volume": 11,
    "pre-warm-volume": 47,
    "restore-snapshot": 16,
    "restore-volume": 16,
    "terminate-instance": 25,
}
"""About how many calls each makes: every run tells one point of each half of them, and does not count first.

All points, of the calls as they are, are told with -m slow.
"""

OPERATIONS = len(STORIES) + len(LAUNCHES)


def recover(world: World, *, undo: bool) -> None:
    """What the next command does of what the dead process left."""
    operation = world.operation()
    try:
        for record in recovery.unfinished(operation.ledger):
            try:
                (recovery.roll_back if undo else recovery.resume)(operation, record)
            except Conflict:
                assert undo, "what was begun can be finished"
                recovery.resume(operation, record)
        assert not recovery.unfinished(operation.ledger)
    finally:
        operation.ledger.close()


def tell(live: Any, folder: Path, name: str, at: int, *, before: bool, undo: bool) -> str | None:
    """One point of the matrix; answers the outcome, None where the operation has no such call."""
    world = begin(live, folder, name)
    was_killed, _ = carried_out(world, name, at, before=before)
    if not was_killed:
        require_end(world, name, "finished")
        return None
    recover(world, undo=undo)
    try:
        require_end(world, name, outcome := world.outcome())
    except AssertionError as error:
        error.add_note(f"killed {'before' if before else 'after'} call {at}, then {undo=}")
        raise
    return outcome


def calls_of(live: Any, folder: Path, name: str) -> int:
    """How many calls an operation makes that nobody kills, and that ends as it should."""
    world = begin(live, folder, name)
    _, calls = carried_out(world, name)
    require_end(world, name, world.outcome())
    return calls


def told(live: Any, folder: Path, name: str, points: list[tuple[int, bool]]) -> Counter[str]:
    """Points of an operation, by turns resumed and rolled back; another operation begins the other way."""
    outcomes: Counter[str] = Counter()
    for number, (at, before) in enumerate(points, sorted(STORIES).index(name)):
        place = folder / f"{at}-{'before' if before else 'after'}"
        outcome = tell(live, place, name, at, before=before, undo=number % 2 == 1)
        outcomes[outcome or "ended before"] += 1
    return outcomes


def some_points(name: str) -> list[tuple[int, bool]]:
    """One of each half of the calls, elsewhere in each operation."""
    index = sorted(STORIES).index(name)
    place = 1 + CALLS[name] * (index * 3 % 7) // 14
    return [(place, index % 2 == 0), (place + CALLS[name] // 2, index % 2 == 1)]


@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.xdist_group("crash-matrix")
def test_an_operation_that_is_killed_at_any_call_is_finished_or_undone(
    own_cloud: Any, tmp_path: Path, name: str
) -> None:
    outcomes = told(own_cloud, tmp_path, name, some_points(name))
    assert outcomes.total() > outcomes["ended before"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(STORIES))
def test_the_whole_matrix(
    own_cloud: Any, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """Every point of every operation; the table comes with the summary of the run."""
    calls = calls_of(own_cloud, tmp_path / "count", name)
    points = [(at, before) for at in range(1, calls + 1) for before in (True, False)]
    outcomes = told(own_cloud, tmp_path, name, points)
    record_property(crash_table.PROPERTY, crash_table.row(name, outcomes, of=OPERATIONS))
    assert outcomes.total() > outcomes["ended before"]


def test_a_whole_matrix_with_too_few_points_is_a_failure() -> None:
    rows = [
        crash_table.row(name, Counter({"finished": 4}), of=OPERATIONS) for name in map(str, range(OPERATIONS))
    ]
    assert crash_table.is_too_small(rows)
    assert not crash_table.is_too_small(rows[1:]), "not all of it was run"
    enough = [*rows[1:], crash_table.row("0", Counter({"rolled-back": 60}), of=OPERATIONS)]
    assert not crash_table.is_too_small(enough)
    none = crash_table.row("0", Counter({"ended before": 60}), of=OPERATIONS)
    assert crash_table.is_too_small([*rows[1:], none]), "who was not killed is no point"
