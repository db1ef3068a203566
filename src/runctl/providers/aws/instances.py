"""EC2 instances: run, describe, terminate, and what AWS's answers say about a machine's life."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from runctl.errors import CapacityError, CloudError, NotFound, QuotaError
from runctl.events import Emit, Progress
from runctl.model import Market, Offer
from runctl.providers.aws import ends, quotas
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import UNSEEN_PATIENCE, Attachment
from runctl.providers.aws.waiting import Pause
from runctl.providers.base import Disk, LaunchRequest, Machine, MachineState
from runctl.quoting import quoted

_STATES = {
    "pending": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "stopping": MachineState.STOPPED,
    "stopped": MachineState.STOPPED,
    "shutting-down": MachineState.ENDING,
    "terminated": MachineState.GONE,
}

# "User initiated (2026-01-01 10:00:00 GMT)"
_TRANSITION_TIME = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)")

_NO_SUBNET = re.compile(r"no (default )?subnets? (found )?for", re.IGNORECASE)
"""Of MissingInput, InvalidInput and InvalidSubnetID.NotFound: EC2 says it in several ways."""

_BURSTABLE = frozenset({"t2", "t3", "t3a", "t4g"})

_TAGGED_AT_LAUNCH = ("instance", "volume", "network-interface")


class InstanceSpec(msgspec.Struct, frozen=True):
    """What an instance shall be; disk sizes in GiB. `user_data` is a shell script of at most 16 KiB."""

    offer: Offer
    image: str
    root_device: str
    root_volume_gib: int
    profile: str
    user_data: str
    tags: dict[str, str]
    security_group: str | None = None


def run_parameters(spec: InstanceSpec, token: str) -> dict[str, Any]:
    """The whole RunInstances request: closed, IMDSv2 only, encrypted, its shutdown ends the bill."""
    spot = spec.offer.market is Market.SPOT
    tags = [{"Key": key, "Value": value} for key, value in spec.tags.items()]
    tagged = (*_TAGGED_AT_LAUNCH, "spot-instances-request") if spot else _TAGGED_AT_LAUNCH
    parameters: dict[str, Any] = {
        "ClientToken": token,
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": spec.image,
        "InstanceType": spec.offer.instance_type,
        "UserData": spec.user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "IamInstanceProfile": {"Name": spec.profile},
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 2,
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": spec.root_device,
                "Ebs": {
                    "VolumeSize": spec.root_volume_gib,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in tagged],
    }
    if spec.offer.instance_type.partition(".")[0] in _BURSTABLE:
        # `unlimited`, the default of all but T2, costs 0.05 USD for each vCPU-hour above the baseline.
        parameters["CreditSpecification"] = {"CpuCredits": "standard"}
    if spec.offer.subnet:
        parameters["SubnetId"] = spec.offer.subnet
    else:
        parameters["Placement"] = {"AvailabilityZone": spec.offer.zone}
    if spec.security_group:
        parameters["SecurityGroupIds"] = [spec.security_group]
    if spot:
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return parameters


def run(session: Session, request: LaunchRequest) -> Machine:
    """Launch, or find again, the instance of this request: its client token makes it idempotent.

    Raises QuotaError where the account may have none, CapacityError where AWS has none to give or the zone
    has no subnet, CloudError and ConfigError else.
    """
    offer = request.offer
    try:
        answer = session.call("ec2", "run_instances", **json.loads(request.parameters))
    except QuotaError as error:
        raise quotas.exceeded(error, offer.instance_type, offer.market, session.region) from error
    except (CloudError, NotFound) as error:
        code = error.code if isinstance(error, CloudError) else "NoSubnet"
        if offer.subnet is not None or not (code == "MissingInput" or _NO_SUBNET.search(error.what)):
            raise
        raise CapacityError(
            f"There is no subnet in {offer.zone}",
            service="ec2",
            operation="run_instances",
            code=code,
            why=error.what,
            next=f"aws ec2 create-default-subnet --availability-zone {quoted(offer.zone)}",
        ) from error
    return _machine(session, answer["Instances"][0])


def describe(session: Session, instance_id: str) -> Machine | None:
    """What EC2 says of an instance; None where it knows none of this id (yet, or any more)."""
    # A filter, not InstanceIds: an id that is not visible yet is an empty answer, never an error.
    found = _find(session, "instance-id", instance_id)
    return found[0] if found else None


def find_by_token(session: Session, token: str) -> Machine | None:
    """The instance that a client token made, if EC2 shows one."""
    found = _find(session, "client-token", token)
    return found[0] if found else None


def find_by_job(session: Session, job: str) -> list[Machine]:
    """Every instance of a job that EC2 still shows, the ended ones included."""
    return _find(session, "tag:runctl:job", job)


def terminate(session: Session, instance_id: str) -> None:
    """Terminate an instance; one that has ended is fine. To be called by `safety.destroy` alone.

    Its spot request is to be cancelled before: an open one starts the machine again.
    """
    session.call(
        "ec2",
        "terminate_instances",
        InstanceIds=[instance_id],
        exists=lambda: get(session, instance_id) is not None,
    )


def console(session: Session, instance_id: str) -> str:
    """The newest 64 KiB of an instance's console; also of one that has just ended. Raises CloudError."""
    answer = session.call("ec2", "get_console_output", InstanceId=instance_id)
    return str(answer.get("Output") or "")  # botocore has decoded it


def tags_of(session: Session, instance_id: str) -> dict[str, str]:
    """An instance's tags; empty where EC2 shows no such instance."""
    for instance in _describe(session, "instance-id", instance_id):
        return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    return {}


def _find(session: Session, name: str, value: str) -> list[Machine]:
    return [_machine(session, instance) for instance in _describe(session, name, value)]


def _describe(session: Session, name: str, value: str) -> list[dict[str, Any]]:
    filters = [{"Name": name, "Values": [value]}]
    reservations = session.pages(
        "ec2", "describe_instances", "Reservations", Filters=filters, MaxResults=1000
    )
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def _machine(session: Session, raw: dict[str, Any]) -> Machine:
    state = _STATES[raw["State"]["Name"]]
    spot = raw.get("InstanceLifecycle") == "spot"
    code = raw.get("StateReason", {}).get("Code", "")
    ended = ended_by = None
    if state in {MachineState.ENDING, MachineState.GONE, MachineState.STOPPED}:
        ended_by = str(ends.of(code).by)
        ended = _ended_at(session, raw, by_cloud=ended_by == "cloud")
    return Machine(
        id=raw["InstanceId"],
        state=state,
        instance_type=raw["InstanceType"],
        zone=raw["Placement"]["AvailabilityZone"],
        region=session.region,
        market=Market.SPOT if spot else Market.ON_DEMAND,
        launched=raw["LaunchTime"].astimezone(UTC),
        ended=ended,
        ended_by=ended_by,
        reason=_reason(raw),
        disks=_disks(raw),
    )


def _reason(raw: dict[str, Any]) -> str:
    """EC2's own words, and for a launch that cannot succeed what they mean."""
    reason = raw.get("StateReason", {})
    code = reason.get("Code", "")
    said = reason.get("Message", "") or code
    end = ends.of(code)
    return f"{end.meaning} ({said}); {end.next}" if end.by is ends.By.LAUNCH else said


def _ended_at(session: Session, raw: dict[str, Any], *, by_cloud: bool) -> datetime | None:
    """When the bill stopped, as far as EC2 proves it: its transition reason, else the spot request."""
    if match := _TRANSITION_TIME.search(raw.get("StateTransitionReason", "")):
        return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    request = raw.get("SpotInstanceRequestId")
    if by_cloud and request:
        try:
            answer = session.call("ec2", "describe_spot_instance_requests", SpotInstanceRequestIds=[request])
        except NotFound:  # it is forgotten before its instance is
            return None
        for row in answer["SpotInstanceRequests"]:
            if updated := row.get("Status", {}).get("UpdateTime"):
                return updated.astimezone(UTC)
    return None


def _disks(raw: dict[str, Any]) -> tuple[Disk, ...]:
    """The disks that die with the instance; type and size come with `describe_disks`."""
    return tuple(
        Disk(id=mapping["Ebs"]["VolumeId"], volume_type="", size_gib=0, iops=None, throughput_mibs=None)
        for mapping in raw.get("BlockDeviceMappings", [])
        if mapping.get("Ebs", {}).get("DeleteOnTermination")
    )


def describe_disks(session: Session, instance_id: str) -> tuple[Disk, ...]:
    """The volumes attached to an instance, with what their price depends on."""
    volumes = session.pages(
        "ec2",
        "describe_volumes",
        "Volumes",
        Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}],
    )
    return tuple(
        Disk(
            id=volume["VolumeId"],
            volume_type=volume["VolumeType"],
            size_gib=volume["Size"],
            iops=volume.get("Iops"),
            throughput_mibs=volume.get("Throughput"),
        )
        for volume in volumes
    )


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What EC2 says of an instance, in EC2's own word for its state."""

    id: str
    region: str
    zone: str
    instance_type: str
    state: str
    market: Market
    launched: datetime
    image: str
    root_device: str
    architecture: str
    disks: tuple[Attachment, ...]
    tags: dict[str, str]
    spot_request: str | None = None
    key: str | None = None
    profile: str | None = None
    ended: datetime | None = None
    ended_by: str | None = None
    reason: str = ""
    private_ip: str | None = None
    public_ip: str | None = None

    @property
    def name(self) -> str:
        return self.tags.get("Name", "")


def listing(session: Session, filters: Sequence[dict[str, Any]] = ()) -> list[Instance]:
    """Every instance of the region that passes the filters, those that ended within the hour included."""
    reservations = session.pages(
        "ec2", "describe_instances", "Reservations", Filters=list(filters), MaxResults=1000
    )
    return [_instance(session, row) for reservation in reservations for row in reservation["Instances"]]


def get(session: Session, instance_id: str) -> Instance | None:
    """One instance; None where EC2 knows none of this id (yet, or any more)."""
    found = listing(session, [{"Name": "instance-id", "Values": [instance_id]}])
    return found[0] if found else None


def start(session: Session, instance_id: str) -> None:
    """Start a stopped instance; one that runs is fine. Raises CapacityError, CloudError, NotFound."""
    session.call(
        "ec2",
        "start_instances",
        InstanceIds=[instance_id],
        exists=lambda: get(session, instance_id) is not None,
    )


def stop(session: Session, instance_id: str) -> None:
    """Stop an instance; one that has stopped is fine. To be called by `safety.destroy` alone."""
    session.call(
        "ec2",
        "stop_instances",
        InstanceIds=[instance_id],
        exists=lambda: get(session, instance_id) is not None,
    )


def termination_protected(session: Session, instance_id: str) -> bool:
    """Whether AWS itself refuses to terminate it. Raises NotFound, CloudError."""
    answer = session.call(
        "ec2",
        "describe_instance_attribute",
        InstanceId=instance_id,
        Attribute="disableApiTermination",
        exists=lambda: get(session, instance_id) is not None,
    )
    return bool(answer["DisableApiTermination"].get("Value"))


def set_delete_on_termination(session: Session, instance_id: str, device: str, *, delete: bool) -> None:
    """Whether a volume ends with its instance. Raises CloudError, NotFound."""
    session.call(
        "ec2",
        "modify_instance_attribute",
        InstanceId=instance_id,
        BlockDeviceMappings=[{"DeviceName": device, "Ebs": {"DeleteOnTermination": delete}}],
        exists=lambda: get(session, instance_id) is not None,
    )


def wait_state(session: Session, instance_id: str, state: str, *, timeout: timedelta, emit: Emit) -> Instance:
    """Wait until an instance is in a state. Raises CloudError where it ended instead, and after `timeout`."""
    begun, pause = session.cloud.clock.now(), Pause(session.cloud.clock)
    while True:
        found = get(session, instance_id)
        waited = session.cloud.clock.now() - begun
        if found is not None and found.state == state:
            return found
        gone = found is None and waited > UNSEEN_PATIENCE
        ended = found is not None and found.state in {"shutting-down", "terminated"}
        if gone and state == "terminated":
            raise NotFound(f"There is no instance {instance_id}", next="runctl resources list")
        if gone or (ended and state != "terminated"):
            why = found.reason if found else "EC2 does not know it"
            raise _not_so(instance_id, "InstanceGone", f"it has ended: {why}")
        if waited > timeout:
            now = found.state if found else "not shown"
            raise _not_so(instance_id, "TimedOut", f"it is {now}, not {state}, after {timeout}")
        emit(
            Progress(
                task=f"waiting for {instance_id} to be {state}",
                done=waited.total_seconds(),
                total=None,
                unit="s",
            )
        )
        pause.take()


def _not_so(instance_id: str, code: str, why: str) -> CloudError:
    return CloudError(
        f"{instance_id} is not as it should be",
        service="ec2",
        operation="describe_instances",
        code=code,
        why=why,
        next=f"runctl aws status {quoted(instance_id)}",
    )


def _instance(session: Session, raw: dict[str, Any]) -> Instance:
    ended = ended_by = None
    code = raw.get("StateReason", {}).get("Code", "")
    if raw["State"]["Name"] not in {"pending", "running"}:
        ended_by = str(ends.of(code).by)
        if match := _TRANSITION_TIME.search(raw.get("StateTransitionReason", "")):
            ended = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    spot = raw.get("InstanceLifecycle") == "spot"
    return Instance(
        id=raw["InstanceId"],
        region=session.region,
        zone=raw["Placement"]["AvailabilityZone"],
        instance_type=raw["InstanceType"],
        state=raw["State"]["Name"],
        market=Market.SPOT if spot else Market.ON_DEMAND,
        launched=raw["LaunchTime"].astimezone(UTC),
        image=raw.get("ImageId", ""),
        root_device=raw.get("RootDeviceName", ""),
        architecture=raw.get("Architecture", ""),
        disks=tuple(
            Attachment(
                volume=mapping["Ebs"]["VolumeId"],
                instance=raw["InstanceId"],
                device=mapping["DeviceName"],
                state=mapping["Ebs"].get("Status", ""),
                delete_on_termination=bool(mapping["Ebs"].get("DeleteOnTermination")),
            )
            for mapping in raw.get("BlockDeviceMappings", [])
            if "Ebs" in mapping
        ),
        tags={tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])},
        spot_request=raw.get("SpotInstanceRequestId"),
        key=raw.get("KeyName"),
        profile=raw.get("IamInstanceProfile", {}).get("Arn"),
        ended=ended,
        ended_by=ended_by,
        reason=_reason(raw),
        private_ip=raw.get("PrivateIpAddress"),
        public_ip=raw.get("PublicIpAddress"),
    )
