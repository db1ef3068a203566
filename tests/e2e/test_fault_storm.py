"""Every operation while the cloud throttles, loses answers, fails and has no capacity."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operations import STORIES, World

from runctl.errors import Conflict, TrainctlError
from runctl.resources import recovery

STORMS = 4
TRIES = 6


@contextlib.contextmanager
def storm(live: Any) -> Iterator[None]:
    """40% throttled, 10% of the answers lost, 5% server errors, and capacity that is missing at first."""
    for service in ("ec2", "ssm"):
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
    through_storms(own_cloud, tmp_path, name, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.xdist_group("fault-storm")
def test_many_storms(own_cloud: Any, tmp_path: Path, name: str) -> None:
    through_storms(own_cloud, tmp_path, name, STORMS)


def through_storms(own_cloud: Any, tmp_path: Path, name: str, storms: int) -> None:
    for number in range(storms):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(own_cloud, folder)
        STORIES[name].prepare(world)
        with storm(own_cloud):
            operation = world.operation()
            with contextlib.suppress(TrainctlError):
                STORIES[name].act(world, operation)
            for turn in range(TRIES):
                left = recovery.unfinished(operation.ledger)
                for record in left:
                    with contextlib.suppress(TrainctlError):
                        finish(operation, record, undo=turn > 1)
        newest = operation.ledger.journal.newest(limit=1)
        assert not recovery.unfinished(operation.ledger), newest
        tx, outcome = (newest[0].id, newest[0].outcome) if newest else ("none", None)
        if outcome == "finished" and newest[0].operation == name:
            own_cloud.until(lambda w=world, t=tx: STORIES[name].is_done(w, w.made(t)), 60)
        else:
            own_cloud.until(lambda w=world, t=tx: STORIES[name].is_undone(w, w.made(t)), 60)
        operation.ledger.close()


def finish(operation: Any, record: Any, *, undo: bool) -> None:
    try:
        (recovery.roll_back if undo else recovery.resume)(operation, record)
    except Conflict:
        (recovery.resume if undo else recovery.roll_back)(operation, record)
