"""Every operation while the cloud throttles, loses answers, fails and has no capacity."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dying import launch, launch_again
from operations import STORIES, World, begin, require_end

from runctl.errors import Conflict, TrainctlError
from runctl.ledger import Ledger
from runctl.model import JobState
from runctl.resources import recovery

STORMS = 4
TRIES = 6
LEAST_FINISHED = 0.5
"""Of all operations that a run of this suite told: a product that only ever gives up would pass the rest."""

OUTCOMES: Counter[str] = Counter()


@contextlib.contextmanager
def storm(live: Any) -> Iterator[None]:
    """40% throttled, 10% of the answers lost, 5% server errors, and capacity that is missing at first."""
    for service in ("ec2", "ssm", "s3"):
        live.control.add_fault(service, "throttle", operation="*", rate=0.4)
        live.control.add_fault(service, "lost-response", operation="*", rate=0.1)
        live.control.add_fault(service, "error", operation="*", rate=0.05, code="InternalError", status=500)
    live.control.add_fault("ec2", "no-capacity", operation="RunInstances", rate=0.5, count=3)
    try:
        yield
    finally:
        live.control.clear_faults()


@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.xdist_group("fault-storm")
def test_an_operation_ends_as_wanted_or_leaves_nothing(own_cloud: Any, tmp_path: Path, name: str) -> None:
    through_storm(own_cloud, tmp_path / "1", name)


@pytest.mark.xdist_group("fault-storm")
def test_a_launch_makes_one_machine_or_none(own_cloud: Any, tmp_path: Path) -> None:
    launch_in_storm(own_cloud, tmp_path / "1")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.xdist_group("fault-storm")
def test_many_storms(own_cloud: Any, tmp_path: Path, name: str) -> None:
    for number in range(STORMS):
        through_storm(own_cloud, tmp_path / str(number), name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("fault-storm")
def test_many_launches(own_cloud: Any, tmp_path: Path) -> None:
    for number in range(STORMS):
        launch_in_storm(own_cloud, tmp_path / str(number))


@pytest.mark.xdist_group("fault-storm")
def test_most_of_them_came_to_the_wanted_end() -> None:
    if not OUTCOMES:
        pytest.skip("no storm was told in this run")
    assert OUTCOMES["finished"] >= LEAST_FINISHED * OUTCOMES.total(), OUTCOMES


def through_storm(live: Any, folder: Path, name: str) -> None:
    world = begin(live, folder, name)
    operation = world.operation()
    with storm(live):
        try:
            STORIES[name].act(world, operation)
            failed = False
        except TrainctlError:
            failed = True
        for turn in range(TRIES):
            for record in recovery.unfinished(operation.ledger):
                with contextlib.suppress(TrainctlError):
                    finish(operation, record, undo=turn > 1)
    assert not recovery.unfinished(operation.ledger)
    operation.ledger.close()
    outcome = world.outcome()
    if name == "cleanup" and failed:
        outcome = "ended"  # one that failed may have done a part, and said so
    OUTCOMES[str(outcome)] += 1
    require_end(world, name, outcome)


def finish(operation: Any, record: Any, *, undo: bool) -> None:
    try:
        (recovery.roll_back if undo else recovery.resume)(operation, record)
    except Conflict:
        (recovery.resume if undo else recovery.roll_back)(operation, record)


def launch_in_storm(live: Any, folder: Path) -> None:
    """A job that goes on has one machine with its disk; one that was given up has nothing."""
    folder.mkdir(parents=True)
    world = World(live, folder)
    world.mark()
    with storm(live):
        with contextlib.suppress(TrainctlError):
            launch(world)
        for _ in range(TRIES):
            if state_of(world) in {JobState.PLANNED, JobState.PROVISIONING}:
                with contextlib.suppress(TrainctlError):
                    launch_again(world)
    state = state_of(world)
    goes_on = state in {JobState.STAGING, JobState.RUNNING}
    assert goes_on or state in {None, JobState.FAILED}, state
    live.until(lambda: world.made().counts() == ((1, 1, 0, 0) if goes_on else (0, 0, 0, 0)))
    with Ledger.open(folder) as ledger:
        assert not ledger.journal.unfinished()
    OUTCOMES["finished" if goes_on else "given up"] += 1
    world.clear()


def state_of(world: World) -> JobState | None:
    """The state of the world's one job, None while there is none."""
    with Ledger.open(world.folder) as ledger:
        found = ledger.jobs.list()
    assert len(found) <= 1
    return found[0].state if found else None
