"""The door over HTTP: machines and disks of the shared sandbox, the real calls, the real shell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent import archive
from runctl.config import Protection
from runctl.errors import CloudError, NotFound, Protected
from runctl.events import Event, Notice
from runctl.ledger import Ledger
from runctl.providers.aws import instances, volumes
from runctl.providers.aws.session import Session
from runctl.safety import destroy
from runctl.safety.destroy import Door
from runctl.safety.fate import Fate, fate_of_volumes
from runctl.safety.protection import Action, Effect, Request, ResourceKind

MINE = {"runctl:managed": "true", "runctl:user": "ada"}


def pairs(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class Doorway:
    """A door to the shared sandbox; what it makes is removed afterwards, whatever protects it."""

    def __init__(self, live: Any, ledger: Ledger) -> None:
        self.live = live
        self.ledger = ledger
        self.session = Session(live.cloud())
        self.ec2 = live.client("ec2")
        self.events: list[Event] = []
        self.door = self.careful(minutes=0)
        self.made: list[str] = []

    def careful(self, minutes: int) -> Door:
        policy = Protection(young_minutes=minutes)
        return Door(self.session, self.ledger, "ada", policy=policy, emit=self.events.append)

    def volume(self, tags: dict[str, str] | None = None, **changes: Any) -> str:
        tags = {**MINE, **(tags or {})}
        made = self.live.volume(
            TagSpecifications=[{"ResourceType": "volume", "Tags": pairs(tags)}], **changes
        )
        self.made.append(made)
        return made

    def machine(self, tags: dict[str, str] | None = None, **changes: Any) -> str:
        tags = {**MINE, **(tags or {})}
        specification = [{"ResourceType": kind, "Tags": pairs(tags)} for kind in ("instance", "volume")]
        made = self.live.running(TagSpecifications=specification, **changes)
        self.made.append(made)
        return made

    def attach(self, volume_id: str, instance_id: str, *, dies: bool = False) -> None:
        self.ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
        self.live.until(
            lambda: [one["State"] for one in self.live.disk(volume_id)["Attachments"]] == ["attached"]
        )
        if dies:
            self.ec2.modify_instance_attribute(
                InstanceId=instance_id,
                BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}],
            )

    def refusal(self, call: Any, *arguments: Any) -> Protected:
        with pytest.raises(Protected) as caught:
            call(*arguments)
        return caught.value

    def clear(self) -> None:
        for made in self.made:
            if made.startswith("i-"):
                self.ec2.modify_instance_attribute(InstanceId=made, DisableApiTermination={"Value": False})
                self.ec2.terminate_instances(InstanceIds=[made])
        for made in self.made:
            if made.startswith("vol-") and self.live.disk(made):
                self.live.until(lambda one=made: self.live.disk(one).get("State") in {None, "available"})
                if self.live.disk(made):
                    self.ec2.delete_volume(VolumeId=made)


@pytest.fixture
def doorway(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Doorway]:
    with Ledger.open(tmp_path) as ledger:
        made = Doorway(sandbox_cloud, ledger)
        yield made
        made.clear()


@pytest.fixture(scope="module")
def standing(sandbox_cloud: Any) -> Iterator[str]:
    """A machine that no test ends."""
    specification = [{"ResourceType": "instance", "Tags": pairs(MINE)}]
    made = sandbox_cloud.running(TagSpecifications=specification)
    yield made
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[made])


ALONE = Request(user="ada")
FORCED = Request(user="ada", force=True)
BULK = Request(user="ada", force=True, unmanaged=True, bulk=True)


def test_a_persistent_volume_is_deleted_with_force_alone_and_never_in_bulk(doorway: Doorway) -> None:
    volume = doorway.volume({"runctl:persistent": "true"})
    assert doorway.refusal(doorway.door.delete_volume, volume, ALONE).reasons == ("persistent volume",)
    refused = doorway.refusal(doorway.door.delete_volume, volume, BULK)
    assert refused.reasons == ("persistent volume",)
    assert not refused.verdict.allowed
    assert doorway.live.disk(volume)["State"] == "available"
    doorway.door.delete_volume(volume, FORCED)
    doorway.live.until(lambda: doorway.live.disk(volume) == {})
    assert doorway.door.delete_volume(volume, ALONE).allowed  # gone already: nothing to refuse
    told = [(row.allowed, row.forced) for row in doorway.ledger.verdicts.list(resource=volume)]
    assert told == [(True, True), (False, True), (False, False)]
    findings = json.loads(doorway.ledger.verdicts.list(resource=volume)[-1].findings)
    assert {"rule": "persistent volume", "effect": "force"}.items() <= findings[
        [found["rule"] for found in findings].index("persistent volume")
    ].items()


def test_an_attached_volume_is_not_deleted_even_with_force(doorway: Doorway, standing: str) -> None:
    volume = doorway.volume()
    doorway.attach(volume, standing)
    refused = doorway.refusal(doorway.door.delete_volume, volume, FORCED)
    assert refused.reasons == ("attached volume",)
    assert refused.next == f"runctl aws ebs detach {volume}"
    doorway.ec2.detach_volume(VolumeId=volume)


def test_the_original_forgot_a_machines_age_at_each_start_of_its_own(doorway: Doorway, standing: str) -> None:
    """It kept ages in memory, so that protection of young machines never applied: here the cloud says it."""
    careful = doorway.careful(minutes=600)
    assert doorway.refusal(careful.terminate_instance, standing, ALONE).reasons == ("young",)
    assert doorway.refusal(careful.terminate_instance, standing, BULK).reasons == ("young",)
    assert doorway.live.state(standing) == "running"


def test_termination_protection_is_told_with_the_command_that_lifts_it(
    doorway: Doorway, standing: str
) -> None:
    doorway.ec2.modify_instance_attribute(InstanceId=standing, DisableApiTermination={"Value": True})
    refused = doorway.refusal(doorway.door.terminate_instance, standing, FORCED)
    assert refused.reasons == ("termination protection",)
    assert refused.next.split()[-2:] == [standing, "--no-disable-api-termination"]
    assert doorway.live.state(standing) == "running"
    doorway.ec2.modify_instance_attribute(InstanceId=standing, DisableApiTermination={"Value": False})


def test_the_original_checked_tags_that_it_kept_in_memory(doorway: Doorway) -> None:
    """Its tracker was empty in each run, so that no tag ever protected anything: here the cloud is asked."""
    volume = doorway.volume()
    assert doorway.door.assess(Action.DELETE, ResourceKind.VOLUME, volume, ALONE).allowed
    doorway.ec2.create_tags(Resources=[volume], Tags=pairs({"runctl:important": "true"}))
    refused = doorway.refusal(doorway.door.delete_volume, volume, ALONE)
    assert refused.reasons == ("protected tag",)
    assert refused.next == f"runctl aws ebs delete {volume} --force"


def test_assessing_changes_and_records_nothing(doorway: Doorway) -> None:
    volume = doorway.volume()
    verdict = doorway.door.assess(Action.DELETE, ResourceKind.VOLUME, volume, ALONE)
    assert verdict.allowed
    assert doorway.live.disk(volume)["State"] == "available"
    assert doorway.ledger.verdicts.list() == []
    with pytest.raises(NotFound):
        doorway.door.assess(Action.DELETE, ResourceKind.VOLUME, "vol-0123456789abcdef0", ALONE)


def test_persistent_volumes_outlive_their_machine_whatever_ec2_was_told(doorway: Doorway) -> None:
    instance = doorway.machine()
    kept = doorway.volume({"runctl:persistent": "true"})
    doorway.attach(kept, instance, dies=True)
    machine = instances.get(doorway.session, instance)
    assert machine is not None
    disks = [disk.volume for disk in machine.disks]
    known = [found for one in disks if (found := volumes.describe(doorway.session, one))]
    fates = {fate.volume: fate.fate for fate in fate_of_volumes(machine, known)}
    (root,) = set(fates) - {kept}
    assert fates == {kept: Fate.DETACHED_AND_KEPT, root: Fate.DELETED}
    verdict = doorway.door.terminate_instance(instance, ALONE)
    assert [finding.rule for finding in verdict.warnings] == ["persistent volume"]
    doorway.live.until(lambda: doorway.live.state(instance) == "terminated")
    doorway.live.until(lambda: doorway.live.disk(kept)["State"] == "available")
    doorway.live.until(lambda: doorway.live.disk(root) == {})
    assert doorway.door.terminate_instance(instance, ALONE).findings[0].rule == "gone already"


def start_training(doorway: Doorway, instance: str, script: str) -> None:
    done = doorway.live.command(instance, script)
    assert done["ResponseCode"] == 0, done


TRAINING = """\
cat >"$HOME/train.sh" <<'END'
trap 'sleep 1; touch "$HOME/saved"; exit 0' TERM
while :; do sleep 0.2; done
END
RUNCTL_JOB_ID=digits setsid nohup sh "$HOME/train.sh" </dev/null >/dev/null 2>&1 &
"""


def test_running_training_saves_before_its_machine_is_stopped(doorway: Doorway) -> None:
    instance = doorway.machine()
    start_training(doorway, instance, TRAINING)
    verdict = doorway.door.assess(Action.STOP, ResourceKind.INSTANCE, instance, ALONE)
    assert verdict.graceful
    (finding,) = [found for found in verdict.findings if found.effect is Effect.GRACEFUL]
    assert "belongs to a job" in finding.reason
    doorway.door.stop_instance(instance, ALONE)
    doorway.live.until(lambda: doorway.live.state(instance) == "stopped")
    told = [(row.action, row.allowed) for row in doorway.ledger.verdicts.list(resource=instance)]
    assert told == [("stop", True), ("stop", True)]
    doorway.ec2.start_instances(InstanceIds=[instance])
    doorway.live.until(lambda: doorway.live.is_online(instance))
    assert doorway.live.command(instance, 'ls "$HOME/saved"')["ResponseCode"] == 0


AGENT = """\
folder="$HOME/.runctl/jobs/digits/attempt-1"
mkdir -p "$folder" && cd "$folder/.." || exit 1
cat >train.py <<'END'
import pathlib, signal, time
def save(*_):
    pathlib.Path("checkpoints").mkdir(exist_ok=True)
    pathlib.Path("checkpoints/step-7.txt").write_text("saved")
    raise SystemExit
signal.signal(signal.SIGTERM, save)
while True: time.sleep(0.1)
END
cat >attempt-1/spec.json <<END
{"format": 1, "job": "digits", "attempt": 1, "command": ["python3", "train.py"], "workdir": "$PWD",
 "environment": {}, "python": {"kind": "none"}, "bundle": null, "data": null,
 "checkpoint_dir": "checkpoints", "output_dir": "outputs", "store": {"kind": "folder", "path": "$PWD"},
 "resume": {"from": "newest"}, "resume_arg": null, "signal": "SIGTERM", "grace_seconds": 60,
 "lease_seconds": 0, "deadline": null, "budget": null,
 "machine": {"disposable": false, "watch_notice": false}}
END
setsid nohup python3 "$HOME/agent.py" run attempt-1/spec.json </dev/null >agent.log 2>&1 &
until grep -q '"phase": "running"' attempt-1/state.json 2>/dev/null; do sleep 0.1; done
"""


def test_the_agent_is_asked_to_save_before_its_machine_stops(doorway: Doorway) -> None:
    instance = doorway.machine()
    home = doorway.live.home / "sandbox/state/machines" / instance / "home"
    (home / "agent.py").write_bytes(archive.build())
    start_training(doorway, instance, AGENT)
    verdict = doorway.door.stop_instance(instance, ALONE)
    assert not verdict.graceful  # the last word was said once nothing trained any more
    first, last = reversed(doorway.ledger.verdicts.list(resource=instance))
    assert "the agent of digits, attempt 1, lives" in first.findings.decode()
    assert "no agent and no busy process" in last.findings.decode()
    doorway.live.until(lambda: doorway.live.state(instance) == "stopped")
    assert (home / ".runctl/jobs/digits/checkpoints/step-7.txt").read_text() == "saved"


def test_training_that_does_not_end_keeps_its_machine(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runctl.safety import ending

    monkeypatch.setattr(ending.end_training, "__kwdefaults__", {"patience": timedelta(seconds=30)})
    instance = doorway.machine()
    deaf = "RUNCTL_JOB_ID=digits setsid nohup sh -c 'trap \"\" TERM; while :; do sleep 0.2; done' "
    start_training(doorway, instance, deaf + "</dev/null >/dev/null 2>&1 &")
    refused = doorway.refusal(doorway.door.terminate_instance, instance, ALONE)
    assert refused.reasons == ("running training",)
    assert doorway.live.state(instance) == "running"
    now = Request(user="ada", graceful=False)
    assert doorway.refusal(doorway.door.terminate_instance, instance, now).reasons == ("running training",)
    doorway.door.terminate_instance(instance, Request(user="ada", graceful=False, force=True))
    doorway.live.until(lambda: doorway.live.state(instance) in {"shutting-down", "terminated"})


def test_the_original_proceeded_when_ssm_failed(doorway: Doorway) -> None:
    """Nobody knows whether a machine trains that does not answer, so that it is taken to."""
    instance = doorway.machine()
    doorway.live.control.add_fault(
        "ssm", "error", operation="SendCommand", instance=instance, code="AccessDeniedException", status=400
    )
    try:
        refused = doorway.refusal(doorway.door.terminate_instance, instance, ALONE)
        assert refused.reasons == ("running training",)
        assert "SSM failed" in refused.why
        assert doorway.live.state(instance) == "running"
        doorway.door.terminate_instance(instance, FORCED)
        doorway.live.until(lambda: doorway.live.state(instance) in {"shutting-down", "terminated"})
    finally:
        doorway.live.control.clear_faults()


def test_an_undoing_removes_what_its_own_transaction_made_and_nothing_else(doorway: Doorway) -> None:
    own = doorway.volume({"runctl:tx": "tx-1"})
    snapshot = doorway.ec2.create_snapshot(VolumeId=own)["SnapshotId"]
    for kind, resource, tx in (
        (ResourceKind.VOLUME, own, "tx-2"),
        (ResourceKind.VOLUME, own, ""),
        (ResourceKind.SNAPSHOT, snapshot, "tx-1"),
    ):
        with pytest.raises(Protected):
            doorway.door.remove_created(kind, resource, tx=tx)
    assert doorway.live.disk(own)["State"] == "available"
    doorway.door.remove_created(ResourceKind.VOLUME, own, tx="tx-1")
    doorway.live.until(lambda: doorway.live.disk(own) == {})
    doorway.door.remove_created(ResourceKind.VOLUME, own, tx="tx-1")
    doorway.ec2.delete_snapshot(SnapshotId=snapshot)


def test_an_undone_launch_leaves_the_volumes_that_were_there_before(doorway: Doorway) -> None:
    instance = doorway.machine({"runctl:tx": "tx-3"})
    before = doorway.volume()
    doorway.attach(before, instance, dies=True)
    doorway.door.remove_created(ResourceKind.INSTANCE, instance, tx="tx-3")
    doorway.live.until(lambda: doorway.live.state(instance) == "terminated")
    doorway.live.until(lambda: doorway.live.disk(before)["State"] == "available")


def test_a_spot_request_is_cancelled_before_its_machine_ends(doorway: Doorway) -> None:
    market = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    instance = doorway.machine({"runctl:job": "digits-1"}, InstanceMarketOptions=market)
    with pytest.raises(Protected):
        destroy.terminate_job_instance(doorway.session, instance, job="digits-2")
    destroy.terminate_job_instance(doorway.session, instance, job="digits-1")
    request = doorway.live.instance(instance)["SpotInstanceRequestId"]

    def state() -> str:
        answer = doorway.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[request])
        return answer["SpotInstanceRequests"][0]["State"]

    assert state() == "cancelled"
    destroy.terminate_job_instance(doorway.session, instance, job="digits-1")
    doorway.live.until(lambda: doorway.live.state(instance) in {"shutting-down", "terminated"})


def test_a_refusal_by_the_cloud_is_no_success(doorway: Doorway) -> None:
    volume = doorway.volume()
    doorway.live.control.add_fault("ec2", "error", operation="DeleteVolume", code="Nope", status=400, count=1)
    with pytest.raises(CloudError):
        doorway.door.delete_volume(volume, ALONE)
    assert doorway.live.disk(volume)["State"] == "available"
    assert not [event for event in doorway.events if isinstance(event, Notice)]
