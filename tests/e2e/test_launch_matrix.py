"""The launch of a job, killed before and after each of its calls: one machine, whoever goes on with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crash_table
import pytest
from dying import LAUNCH, RECOVER_LAUNCH, carried_out
from operations import LAUNCHES, STORIES, World, is_at

from runctl.ledger import Ledger

POINTS = 2
OPERATIONS = len(STORIES) + len(LAUNCHES)


def world_in(live: Any, folder: Path, *, with_data: bool) -> World:
    """What is there before; a job `with_data` reads it from a volume that is filled already."""
    folder.mkdir(parents=True)
    world = World(live, folder)
    if with_data:
        live.client("s3").create_bucket(Bucket=world.word)
        live.client("s3").put_object(Bucket=world.word, Key="set/a.csv", Body=b"1,2")
        world.volumes["data"] = volume = live.volume()
        (live.home / "sandbox/state/volumes" / volume / "formatted").write_text("ext4")
    world.mark()
    return world


def require_one_machine(world: World) -> None:
    """One machine with its root volume, and with the data where there is some; nothing else is new."""

    def is_so() -> bool:
        made = world.made()
        if made.counts() != (1, 1, 0, 0):
            return False
        machine = made.instances[0]["InstanceId"]
        disks = [*made.volumes, *(world.disk(name) for name in world.volumes)]
        return all(is_at(disk, machine) for disk in disks)

    world.live.until(is_so)


def tell(world: World, at: int, *, before: bool) -> str:
    """One point; answers what became of the launch."""
    was_killed, _ = carried_out(world, LAUNCH, at, before=before)
    with Ledger.open(world.folder) as ledger:
        was_begun = bool(ledger.jobs.list())
    if not was_begun:
        assert world.made().counts() == (0, 0, 0, 0)
        return "never begun"
    if was_killed:
        carried_out(world, RECOVER_LAUNCH)
    require_one_machine(world)
    with Ledger.open(world.folder) as ledger:
        assert not ledger.journal.unfinished()
    world.clear()
    return "finished" if was_killed else "ended before"


def run(live: Any, folder: Path, *, with_data: bool, most: int | None = None) -> Counter[str]:
    counted = world_in(live, folder / "count", with_data=with_data)
    _, calls = carried_out(counted, LAUNCH)
    require_one_machine(counted)
    counted.clear()
    points = [(at, before) for at in range(1, calls + 1) for before in (True, False)]
    every = -(-len(points) // most) if most else 1
    return Counter(
        tell(world_in(live, folder / f"{at}-{before}", with_data=with_data), at, before=before)
        for at, before in (points[1::every] if most else points)
    )


@pytest.mark.xdist_group("crash-matrix")
def test_a_launch_that_is_killed_at_any_call_makes_one_machine(own_cloud: Any, tmp_path: Path) -> None:
    outcomes = run(own_cloud, tmp_path, with_data=False, most=POINTS)
    assert outcomes["finished"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LAUNCHES)
def test_every_point_of_a_launch(
    own_cloud: Any, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    outcomes = run(own_cloud, tmp_path, with_data=name.endswith("with-data"))
    record_property(crash_table.PROPERTY, crash_table.row(name, outcomes, of=OPERATIONS))
    assert outcomes["finished"] > 0
