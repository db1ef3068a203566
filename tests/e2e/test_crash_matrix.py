"""Every operation, killed before and after each of its calls: the next command finishes or undoes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dying import carried_out
from operations import STORIES, World

from runctl.errors import Conflict
from runctl.resources import recovery

LONGEST = 120
POINTS = 2  # of each operation in every run, spread over its calls; all of them with -m slow


def recovered(world: World, *, undo: bool) -> tuple[str, str]:
    """What the next command does: the transaction, and its outcome."""
    operation = world.operation()
    try:
        left = recovery.unfinished(operation.ledger)
        known = operation.ledger.journal.newest(limit=1)
        if not left:
            return (known[0].id, str(known[0].outcome)) if known else ("", "never begun")
        (record,) = left
        try:
            (recovery.roll_back if undo else recovery.resume)(operation, record)
        except Conflict:
            assert undo, "what was begun can be finished"
            recovery.resume(operation, record)
        return record.id, str(operation.ledger.journal.get(record.id).outcome)
    finally:
        operation.ledger.close()


def tell(live: Any, folder: Path, name: str, at: int, *, before: bool, undo: bool) -> str | None:
    """One point of the matrix; answers the outcome, None where the operation has no such call."""
    folder.mkdir(parents=True)
    world = World(live, folder)
    story = STORIES[name]
    story.prepare(world)
    earlier = sum(1 for _ in world_transactions(world))
    was_killed, _ = carried_out(world, name, at, before=before)
    if not was_killed:
        return None
    tx, outcome = recovered(world, undo=undo)
    if sum(1 for _ in world_transactions(world)) == earlier:
        outcome = "never begun"
    made = world.made(tx) if outcome != "never begun" else {}
    point = f"{name} at call {at}, {'before' if before else 'after'} it: {outcome}, {made}"
    if outcome == "finished":
        live.until(lambda: story.is_done(world, world.made(tx)), LONGEST)
    else:
        assert outcome in {"rolled-back", "never begun", "ended"}, point
        live.until(lambda: story.is_undone(world, world.made(tx or "none")), LONGEST)
    assert not recovery.unfinished(world.operation().ledger), point
    return outcome


def world_transactions(world: World) -> Iterator[str]:
    operation = world.operation()
    yield from (record.id for record in operation.ledger.journal.newest(limit=100))
    operation.ledger.close()


def calls_of(live: Any, folder: Path, name: str) -> int:
    folder.mkdir(parents=True)
    world = World(live, folder)
    STORIES[name].prepare(world)
    _, calls = carried_out(world, name)
    operation = world.operation()
    made = world.made(operation.ledger.journal.newest(limit=1)[0].id)
    operation.ledger.close()
    live.until(lambda: STORIES[name].is_done(world, made), LONGEST)
    return calls


def run_matrix(live: Any, folder: Path, name: str, *, most: int | None = None) -> Counter[str]:
    """So many points of an operation at most, by turns resumed and rolled back."""
    outcomes: Counter[str] = Counter()
    calls = calls_of(live, folder / "count", name)
    points = [(at, before) for at in range(1, calls + 1) for before in (True, False)]
    every = -(-len(points) // most) if most else 1
    chosen = points[sorted(STORIES).index(name) % every :: every]
    for number, (at, before) in enumerate(chosen):
        place = folder / f"{at}-{'before' if before else 'after'}"
        outcome = tell(live, place, name, at, before=before, undo=number % 2 == 1)
        outcomes[outcome or "ended before"] += 1
    return outcomes


@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.xdist_group("crash-matrix")
def test_an_operation_that_is_killed_at_any_call_is_finished_or_undone(
    own_cloud: Any, tmp_path: Path, name: str
) -> None:
    outcomes = run_matrix(own_cloud, tmp_path, name, most=POINTS)
    assert outcomes.total() > outcomes["ended before"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(STORIES))
def test_the_whole_matrix(
    own_cloud: Any, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """Every point of every operation; the table comes with the summary of the run."""
    outcomes = run_matrix(own_cloud, tmp_path / name, name)
    record_property("crash matrix", {"operation": name, **outcomes})
    assert outcomes.total() > outcomes["ended before"]
