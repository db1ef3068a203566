"""What went wrong with the tools before us, each told once more and ending well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from classics import Account, on_sandbox
from dying import carried_out
from inside import Inside
from operations import STORIES, World, begin, require_end
from test_crash_matrix import recover

pytestmark = pytest.mark.xdist_group("lessons")


@pytest.fixture
def account(own_cloud: Any, tmp_path: Path) -> Iterator[Account]:
    with on_sandbox(own_cloud, tmp_path) as found:
        try:
            yield found
        finally:
            own_cloud.control.clear_faults()


def launched(account: Account) -> list[str]:
    """Machines of this test that have not ended."""
    asked = [{"Name": "tag:Name", "Values": [account.word]}]
    groups = account.ec2.describe_instances(Filters=asked)["Reservations"]
    found = [one for group in groups for one in group["Instances"]]
    return [one["InstanceId"] for one in found if one["State"]["Name"] not in {"shutting-down", "terminated"}]


def test_l1_a_kill_right_after_run_instances_leaks_no_machine(own_cloud: Any, tmp_path: Path) -> None:
    at = call_of_run_instances(own_cloud, tmp_path / "noted")
    for undo in (True, False):
        world = begin(own_cloud, tmp_path / f"{undo=}", "create-instance")
        assert carried_out(world, "create-instance", at, before=False)[0]
        recover(world, undo=undo)
        assert world.outcome() == ("rolled-back" if undo else "finished")
        require_end(world, "create-instance", world.outcome())


def call_of_run_instances(live: Any, folder: Path) -> int:
    """Which call of the operation launches the machine, found out in a world of its own."""
    from runctl.providers.aws.session import Session

    seen: list[str] = []

    class Noting(Session):
        def call(self, service: str, operation: str, **parameters: Any) -> Any:
            seen.append(operation)
            return super().call(service, operation, **parameters)

    world = begin(live, folder, "create-instance")
    operation = world.operation(Noting)
    STORIES["create-instance"].act(world, operation)
    operation.ledger.close()
    return seen.index("run_instances") + 1


def test_l1_ctrl_c_while_a_machine_is_made_leaves_nothing(account: Account, own_cloud: Any) -> None:
    own_cloud.control.add_fault("ec2", "latency", operation="CreateVolume", latency=1.5, count=1)
    command = subprocess.Popen(
        [sys.executable, "-m", "runctl", "aws", "create", "t3.micro", "--name", account.word,
         "--data-volume-size", "4"],
        env=account.environment,
        cwd=account.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    account.until(lambda: launched(account))
    os.kill(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130, said
    account.until(lambda: not launched(account))
    account.until(lambda: not volumes(account))
    assert account.ok("tx", "list").data == []


def volumes(account: Account) -> list[str]:
    asked = [{"Name": "tag:Name", "Values": [f"{account.word}*"]}]
    return [one["VolumeId"] for one in account.ec2.describe_volumes(Filters=asked)["Volumes"]]


def test_l2_a_termination_that_failed_is_no_success(account: Account, own_cloud: Any) -> None:
    instance = account.create_instance()
    own_cloud.control.add_fault(
        "ec2", "error", operation="TerminateInstances", rate=1.0, code="UnauthorizedOperation", status=403
    )
    said = account.run("aws", "terminate", instance, "--yes", "--force")
    assert said.code == 2, said.err
    assert account.state(instance) == "running"
    listed = account.ok("resources", "list", "--kind", "instance").data["resources"]
    assert [row["state"] for row in listed if row["id"] == instance] == ["running"]


def test_l2_terminated_is_said_when_the_cloud_says_so(account: Account) -> None:
    instance = account.create_instance()
    account.ok("aws", "terminate", instance, "--yes", "--force")
    assert account.state(instance) == "terminated"


def test_l3_the_lease_is_armed_before_anything_can_fail(account: Account) -> None:
    instance = account.create_instance("--lease", "0.02")  # a minute of the cloud's time
    account.until(lambda: account.state(instance) in {"stopping", "stopped"})


def test_l3_a_machine_whose_maker_dies_at_a_later_step_ends_itself(account: Account, own_cloud: Any) -> None:
    own_cloud.control.add_fault("ec2", "latency", operation="CreateVolume", latency=5.0, count=1)
    command = subprocess.Popen(
        [sys.executable, "-m", "runctl", "aws", "create", "t3.micro", "--name", account.word,
         "--data-volume-size", "4", "--lease", "0.02"],
        env=account.environment,
        cwd=account.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (instance,) = account.until(lambda: launched(account))
    command.kill()
    command.wait()
    account.until(lambda: account.state(instance) in {"stopping", "stopped"})
    assert own_cloud.instance(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_l4_a_stopped_machine_still_costs_its_disks_and_says_so(account: Account) -> None:
    instance = account.create_instance("--data-volume-size", "100")
    account.ok("aws", "stop", instance)
    status = account.ok("aws", "status", instance).data
    assert status["instance"]["state"] == "stopped"
    # 30 and 100 GiB of gp3 at 0.08 USD a month of 730 hours.
    assert float(status["usd_per_hour"]) == pytest.approx(130 * 0.08 / 730)
    rows = account.ok("resources", "list").data["resources"]
    hourly = {row["kind"]: float(row["usd_per_hour"]) for row in rows if account.word in row["name"]}
    assert hourly["instance"] == 0
    assert hourly["volume"] > 0


@pytest.mark.slow
def test_l5_an_interruption_during_setup_is_no_failure_of_the_script(lab: Any) -> None:
    lab.control.add_fault(
        "s3", "latency", operation="GetObject", instance="runctl/agents", latency=3.0, count=1
    )
    command = lab.train("--steps", "3")
    machine = lab.first_machine()
    lab.interrupt(machine, notice=1)
    lab.until(lambda: lab.ended(machine), "the machine is taken away before its agent has come")
    lab.finish(command)
    report = lab.report()
    assert (report["state"], len(report["attempts"])) == ("succeeded", 2)
    assert lab.most_at_once() == 1
    assert lab.output() == lab.walked(3)


def test_l8_a_volume_is_attached_to_a_machine_that_boots_still(account: Account, own_cloud: Any) -> None:
    volume = account.create_volume()
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": account.word}]}]
    placement = {"AvailabilityZone": account.zones[0]}
    machine = own_cloud.launch(TagSpecifications=tags, Placement=placement)
    account.until(lambda: account.state(machine) == "pending")
    account.ok("aws", "ebs", "attach", volume, machine)
    assert account.volume(volume)["Attachments"][0]["State"] == "attached"


def test_l8_a_volume_is_not_deleted_when_its_snapshot_failed(account: Account, own_cloud: Any) -> None:
    volume = account.create_volume()
    own_cloud.control.add_fault(
        "ec2", "error", operation="CreateSnapshot", code="SnapshotLimitExceeded", status=400
    )
    said = account.run("aws", "ebs", "delete", volume, "--snapshot", "--yes", "--force")
    assert (said.code, said.error["code"]) == (2, "SnapshotLimitExceeded")
    assert account.volume(volume)["State"] == "available"


def test_l8_the_zone_is_one_that_exists(account: Account) -> None:
    said = account.ok("aws", "ebs", "create", "--size", "4", "--name", f"{account.word}-zone")
    assert said.data["volume"]["zone"] in account.zones


def test_l12_another_user_s_volume_needs_force(account: Account) -> None:
    volume = account.create_volume()
    said = account.run("aws", "ebs", "delete", volume, "--yes", RUNCTL_USER="somebody-else")
    assert said.code == 1
    assert "another user's" in said.error["reasons"]
    assert account.volume(volume)["State"] == "available"


def test_l12_what_runctl_did_not_make_is_left_alone(account: Account, own_cloud: Any) -> None:
    volume = own_cloud.volume()
    said = account.run("aws", "ebs", "delete", volume, "--yes", "--force")
    assert said.code == 1
    assert "unmanaged" in said.error["reasons"]
    account.ok("resources", "cleanup", "--yes", "--older-than", "0")
    assert account.volume(volume)["State"] == "available"


@pytest.mark.slow
def test_l15_a_lost_laptop_loses_no_control(account: Account, own_cloud: Any, tmp_path: Path) -> None:
    instance, volume = account.create_instance(), account.create_volume("--persistent", name="kept")
    other = tmp_path / "another laptop"
    other.mkdir()
    with on_sandbox(own_cloud, other) as another:
        another.word = account.word
        found = Inside.of(another)
        assert found.ok("resources", "summary", "--offline").data["running"] == 0
        adopted = found.ok("resources", "adopt").data
        assert {instance, volume} <= set(adopted["new"])
        assert found.ok("resources", "summary", "--offline").data["running"] >= 1
        found.ok("aws", "terminate", instance, "--yes", "--force")
        refused = found.run("aws", "ebs", "delete", volume, "--yes").error
        assert "persistent volume" in refused["reasons"]
    assert account.state(instance) == "terminated"


def spot_requests(account: Account) -> list[dict[str, Any]]:
    asked = [{"Name": "tag:Name", "Values": [account.word]}]
    return account.ec2.describe_spot_instance_requests(Filters=asked)["SpotInstanceRequests"]


def test_peers_1b1_a_spot_request_without_an_answer_brings_one_machine(
    account: Account, own_cloud: Any
) -> None:
    """The original waited for a state that does not exist, fell back, and two machines billed."""
    own_cloud.control.add_fault("ec2", "lost-response", operation="RunInstances", count=1)
    made = (
        Inside.of(account).ok("aws", "create", "g5.xlarge", "--spot", "--name", account.word).data["instance"]
    )
    assert made["market"] == "spot"
    assert launched(account) == [made["id"]]
    assert [request["InstanceId"] for request in spot_requests(account)] == [made["id"]]


def test_peers_1b1_a_fallback_leaves_no_request_behind(account: Account, own_cloud: Any) -> None:
    own_cloud.control.add_fault("ec2", "no-capacity", operation="RunInstances", count=3)
    zone = ("--availability-zone", account.zones[0])
    made = (
        Inside.of(account)
        .ok("aws", "create", "g5.xlarge", "--spot", "--name", account.word, *zone)
        .data["instance"]
    )
    assert made["market"] == "on-demand"
    assert launched(account) == [made["id"]]
    assert [one for one in spot_requests(account) if one["State"] in {"open", "active"}] == []


def test_peers_1b2_without_a_ceiling_the_on_demand_price_is_it(account: Account) -> None:
    """The original's ceiling was ten cents, whatever the machine: a spot request that nobody fulfils."""
    Inside.of(account).ok("aws", "create", "g5.12xlarge", "--spot", "--name", account.word)
    (request,) = spot_requests(account)
    assert float(request["SpotPrice"]) == pytest.approx(5.672)


def test_a_question_without_a_terminal_is_a_refusal(account: Account) -> None:
    volume = account.create_volume()
    said = account.run("aws", "ebs", "delete", volume, "--force")
    assert (said.code, said.error["next"]) == (1, "add --yes")
    assert account.volume(volume)["State"] == "available"


def test_an_operation_that_was_left_is_mentioned_and_finished(own_cloud: Any, tmp_path: Path) -> None:
    with on_sandbox(own_cloud, tmp_path) as account:
        world = World(own_cloud, tmp_path)
        STORIES["delete-volume"].prepare(world)
        assert carried_out(world, "delete-volume", 4, before=False)[0]
        said = account.ok("aws", "ebs", "list", form="text")
        assert "left unfinished: delete-volume of vol-" in said.err
        (left,) = account.ok("tx", "list").data
        assert (left["operation"], left["state"]) == ("delete-volume", "left unfinished")
        shown = account.ok("tx", "show", left["id"], form="text")
        assert f"runctl tx resume {left['id']}" in shown.err
        done = account.ok("tx", "resume", left["id"]).data
        assert done["state"] == "finished"
        assert account.ok("tx", "list").data == []
        refused = account.run("tx", "resume", left["id"])
        assert refused.error["what"] == f"{left['id']} is finished"
        json.dumps(done)


def test_without_capacity_the_next_way_is_taken_and_the_reason_told(account: Account, own_cloud: Any) -> None:
    own_cloud.control.add_fault("ec2", "no-capacity", operation="RunInstances", instance_type="g5.xlarge")
    said = account.ok("aws", "create", "g5.xlarge", "--spot", "--name", account.word, form="text")
    instance = said.out.split()[0]
    found = own_cloud.instance(instance)
    assert found["InstanceType"] == "g5.2xlarge"
    assert "g5.xlarge spot in us-east-1a: InsufficientInstanceCapacity, trying the next" in said.err
    refused = account.run("aws", "create", "g5.xlarge", "--no-fallback", "--name", account.word)
    assert (refused.code, refused.error["code"]) == (2, "InsufficientInstanceCapacity")
    assert account.ok("tx", "list").data == []


def test_the_number_of_running_instances_is_guarded(account: Account) -> None:
    account.create_instance()
    warned = account.ok(
        "aws", "create", "t3.micro", "--name", account.word, form="text", RUNCTL_PROTECTION_WARN_INSTANCES="1"
    )
    assert "instances will run" in warned.err
    said = account.run("aws", "create", "t3.micro", RUNCTL_PROTECTION_REFUSE_INSTANCES="1")
    assert said.code == 1
    assert "protection.refuse_instances" in said.error["next"]
