"""The launch of a job, killed before and after each of its calls: one machine, whoever goes on with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dying import LAUNCH, RECOVER_LAUNCH, carried_out
from operations import World

from runctl.ledger import Ledger

POINTS = 2


def machines(world: World) -> list[str]:
    """The living machines of this world's job."""
    asked = [{"Name": "tag:runctl:job", "Values": [f"{world.word}-*"]}]
    groups = world.live.client("ec2").describe_instances(Filters=asked)["Reservations"]
    found = [one for group in groups for one in group["Instances"]]
    return [one["InstanceId"] for one in found if one["State"]["Name"] in {"pending", "running"}]


def tell(world: World, at: int, *, before: bool) -> str:
    was_killed, _ = carried_out(world, LAUNCH, at, before=before)
    if not was_killed:
        return "ended before"
    with Ledger.open(world.folder) as ledger:
        begun = bool(ledger.jobs.list())
    if not begun:
        assert machines(world) == []
        return "never begun"
    carried_out(world, RECOVER_LAUNCH)
    world.live.until(lambda: len(machines(world)) == 1)
    world.live.client("ec2").terminate_instances(InstanceIds=machines(world))
    return "finished"


def world_in(live: Any, folder: Path) -> World:
    folder.mkdir(parents=True)
    return World(live, folder)


def run(live: Any, folder: Path, *, most: int | None = None) -> Counter[str]:
    counted = world_in(live, folder / "count")
    _, calls = carried_out(counted, LAUNCH)
    live.client("ec2").terminate_instances(InstanceIds=machines(counted))
    points = [(at, before) for at in range(1, calls + 1) for before in (True, False)]
    every = -(-len(points) // most) if most else 1
    return Counter(
        tell(world_in(live, folder / f"{at}-{before}"), at, before=before) for at, before in points[1::every]
    )


def with_volume(live: Any, folder: Path) -> World:
    world = world_in(live, folder)
    live.client("s3").create_bucket(Bucket=world.word)
    live.client("s3").put_object(Bucket=world.word, Key="set/a.csv", Body=b"1,2")
    world.volumes["data"] = volume = live.volume()
    (live.home / "sandbox/state/volumes" / volume / "formatted").write_text("ext4")
    return world


@pytest.mark.slow
@pytest.mark.xdist_group("crash-matrix")
def test_a_launch_that_is_killed_while_it_attaches_data_gives_its_one_machine_the_volume(
    own_cloud: Any, tmp_path: Path
) -> None:
    counted = with_volume(own_cloud, tmp_path / "count")
    _, calls = carried_out(counted, LAUNCH)
    own_cloud.client("ec2").terminate_instances(InstanceIds=machines(counted))
    for at, before in ((calls - 3, True), (calls - 2, False), (calls - 1, True), (calls, False)):
        world = with_volume(own_cloud, tmp_path / f"{at}-{before}")
        carried_out(world, LAUNCH, at, before=before)
        carried_out(world, RECOVER_LAUNCH)
        found = machines(world)
        disk = own_cloud.disk(world.volumes["data"])
        assert [one["InstanceId"] for one in disk["Attachments"]] == found
        assert len(found) == 1
        own_cloud.client("ec2").terminate_instances(InstanceIds=found)


@pytest.mark.xdist_group("crash-matrix")
def test_a_launch_that_is_killed_at_any_call_makes_one_machine(own_cloud: Any, tmp_path: Path) -> None:
    outcomes = run(own_cloud, tmp_path, most=POINTS)
    assert outcomes["finished"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_point_of_a_launch(own_cloud: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = run(own_cloud, tmp_path)
    with capsys.disabled():
        print(f"\njob-launch: {outcomes.total()} points, {dict(outcomes)}")
