"""SSM, IAM, Pricing, quotas and S3 over HTTP; and what is not simulated, which says so."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import LiveSandbox

ROLE = "arn:aws:iam::123456789012:role/runctl-instance"


def test_a_command_is_unseen_then_in_progress_then_over(each_sandbox_cloud: LiveSandbox) -> None:
    cloud, ssm = each_sandbox_cloud, each_sandbox_cloud.client("ssm")
    machine = cloud.running()
    seen: list[str] = []
    sent = ssm.send_command(
        InstanceIds=[machine],
        DocumentName="AWS-RunShellScript",
        Comment="a test",
        Parameters={"commands": ["echo out; sleep 0.4; echo err >&2; exit 3"]},
    )["Command"]
    assert (sent["Status"], sent["TargetCount"]) == ("Pending", 1)

    def over() -> dict[str, Any] | None:
        try:
            found = ssm.get_command_invocation(CommandId=sent["CommandId"], InstanceId=machine)
        except ssm.exceptions.InvocationDoesNotExist:
            seen.append("unseen")
            return None
        seen.append(found["Status"])
        return None if found["Status"] in {"Pending", "InProgress"} else found

    done = cloud.until(over)
    told = list(dict.fromkeys(seen))  # a slow machine asks too late to see the first ones
    assert told == [state for state in ("unseen", "Pending", "InProgress", "Failed") if state in told]
    assert told[-1] == "Failed"
    assert (done["ResponseCode"], done["StandardOutputContent"]) == (3, "out\n")
    assert "exit status 3" in done["StandardErrorContent"]
    listed = ssm.list_command_invocations(CommandId=sent["CommandId"], Details=True)["CommandInvocations"]
    assert listed[0]["CommandPlugins"][0]["Output"].startswith("out\n")
    [command] = ssm.list_commands(CommandId=sent["CommandId"])["Commands"]
    assert (command["Status"], command["ErrorCount"]) == ("Failed", 1)


def test_commands_go_to_machines_that_are_online_alone(sandbox_cloud: LiveSandbox) -> None:
    ssm = sandbox_cloud.client("ssm")
    machine = sandbox_cloud.launch()
    asked = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    for ids in ([machine], ["i-0123456789abcdef0"]):
        assert sandbox_cloud.refusal(ssm.send_command, InstanceIds=ids, **asked) == "InvalidInstanceId"
    sandbox_cloud.until(lambda: sandbox_cloud.is_online(machine))
    unknown = {**asked, "DocumentName": "AWS-Nothing"}
    assert sandbox_cloud.refusal(ssm.send_command, InstanceIds=[machine], **unknown) == "InvalidDocument"
    twice = [machine, machine]
    assert sandbox_cloud.refusal(ssm.send_command, InstanceIds=twice, **asked) == "DuplicateInstanceId"
    sandbox_cloud.client("ec2").stop_instances(InstanceIds=[machine])
    assert sandbox_cloud.refusal(ssm.send_command, InstanceIds=[machine], **asked) == "InvalidInstanceId"
    assert not sandbox_cloud.is_online(machine)


def test_a_command_can_be_cancelled_and_its_output_kept_in_a_bucket(sandbox_cloud: LiveSandbox) -> None:
    ssm, bucket = sandbox_cloud.client("ssm"), sandbox_cloud.name("bucket")
    sandbox_cloud.client("s3").create_bucket(Bucket=bucket)
    machine = sandbox_cloud.running()
    sent = ssm.send_command(
        InstanceIds=[machine],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ['echo begun; touch "$HOME/begun"; sleep 60']},
        OutputS3BucketName=bucket,
        OutputS3KeyPrefix="outputs",
    )["Command"]["CommandId"]

    def status() -> str:
        return ssm.list_command_invocations(CommandId=sent)["CommandInvocations"][0]["Status"]

    written = sandbox_cloud.home / f"sandbox/state/machines/{machine}/home/begun"
    sandbox_cloud.until(written.exists)
    sandbox_cloud.until(lambda: status() == "InProgress")
    ssm.cancel_command(CommandId=sent)
    sandbox_cloud.until(lambda: status() == "Cancelled")
    listed = sandbox_cloud.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert [row["Key"] for row in listed] == [
        f"outputs/{sent}/{machine}/awsrunShellScript/0.awsrunShellScript/stdout"
    ]


def test_machines_are_found_by_tag(sandbox_cloud: LiveSandbox) -> None:
    group = sandbox_cloud.name("group")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "group", "Value": group}]}]
    machine = sandbox_cloud.running(TagSpecifications=tags)
    sent = sandbox_cloud.client("ssm").send_command(
        Targets=[{"Key": "tag:group", "Values": [group]}],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["true"]},
    )["Command"]
    assert (sent["TargetCount"], sent["InstanceIds"]) == (1, [machine])


def test_policies_are_simulated(sandbox_cloud: LiveSandbox) -> None:
    simulate = sandbox_cloud.client("iam").simulate_principal_policy
    found = simulate(PolicySourceArn=ROLE, ActionNames=["s3:PutObject", "ec2:RunInstances"])
    assert {row["EvalActionName"]: row["EvalDecision"] for row in found["EvaluationResults"]} == {
        "s3:PutObject": "allowed",
        "ec2:RunInstances": "implicitDeny",
    }
    nobody = {"PolicySourceArn": ROLE + "-not", "ActionNames": ["s3:PutObject"]}
    assert sandbox_cloud.refusal(simulate, **nobody) == "NoSuchEntity"


def test_prices_quotas_and_scores_are_answered(sandbox_cloud: LiveSandbox) -> None:
    by_type = [{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g5.xlarge"}]
    products = sandbox_cloud.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=by_type)
    [terms] = json.loads(products["PriceList"][0])["terms"]["OnDemand"].values()
    [dimension] = terms["priceDimensions"].values()
    assert Decimal(dimension["pricePerUnit"]["USD"]) == Decimal("1.006")
    family = [{"Type": "TERM_MATCH", "Field": "productFamily", "Value": "Storage Snapshot"}]
    products = sandbox_cloud.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=family)
    usages = [json.loads(one)["product"]["attributes"]["usagetype"] for one in products["PriceList"]]
    assert usages == ["EBS:SnapshotUsage", "EBS:SnapshotArchiveStorage"]
    quota = sandbox_cloud.client("service-quotas").get_service_quota(
        ServiceCode="ec2", QuotaCode="L-34B43A08"
    )["Quota"]
    assert quota["Value"] == 10_000
    score = sandbox_cloud.client("ec2").get_spot_placement_scores
    few = score(TargetCapacity=1, InstanceTypes=["g5.xlarge"])["SpotPlacementScores"]
    many = score(
        TargetCapacity=1, InstanceTypes=["g5.xlarge", "g6.xlarge", "g4dn.xlarge"], SingleAvailabilityZone=True
    )["SpotPlacementScores"]
    assert few[0]["Score"] <= 3
    assert len(many) == 6
    assert many[0]["AvailabilityZoneId"].startswith("use1-az")


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_public_parameters_lead_to_images_that_exist(sandbox_cloud: LiveSandbox, arch: str) -> None:
    for name in (
        f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",
        f"/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id",
    ):
        [image] = sandbox_cloud.client("ec2").describe_images(ImageIds=[sandbox_cloud.image(name)])["Images"]
        assert (image["Architecture"], image["State"]) == (arch, "available")


@pytest.mark.parametrize(
    ("service", "call", "arguments"),
    [
        ("ec2", "describe_fast_snapshot_restores", {}),
        (
            "ec2",
            "describe_volume_attribute",
            {"VolumeId": "vol-0123456789abcdef0", "Attribute": "autoEnableIO"},
        ),
        ("ec2", "request_spot_instances", {"InstanceCount": 1}),
        ("ssm", "resume_session", {"SessionId": "sandbox-0123456789"}),
        ("service-quotas", "list_service_quotas", {"ServiceCode": "ec2"}),
        ("pricing", "describe_services", {}),
        ("autoscaling", "describe_auto_scaling_groups", {}),
        ("lambda", "list_functions", {}),
    ],
)
def test_what_is_not_simulated_says_so(
    sandbox_cloud: LiveSandbox, service: str, call: str, arguments: dict[str, Any]
) -> None:
    refused = sandbox_cloud.refusal(getattr(sandbox_cloud.client(service), call), **arguments)
    assert refused == "InvalidAction"


def test_a_session_opens_on_machines_that_are_there_for_ssh_alone(sandbox_cloud: LiveSandbox) -> None:
    ssm = sandbox_cloud.client("ssm")
    asked = {"Target": "i-0123456789abcdef0", "DocumentName": "AWS-StartSSHSession"}
    assert sandbox_cloud.refusal(ssm.start_session, **asked) == "TargetNotConnected"


# S3


def digest(data: bytes, kind: str) -> str:
    return base64.b64encode(hashlib.new(kind, data).digest()).decode()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ContentMD5", digest(b"else", "md5")),
        ("ChecksumSHA256", digest(b"else", "sha256")),
        ("ChecksumSHA1", digest(b"else", "sha1")),
        ("ChecksumCRC32", "AAAAAA=="),
    ],
)
def test_an_upload_that_is_not_what_it_says_is_refused(
    sandbox_cloud: LiveSandbox, header: str, value: str
) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("bucket")
    s3.create_bucket(Bucket=bucket)
    asked = {"Bucket": bucket, "Key": "k", "Body": b"this", header: value}
    assert sandbox_cloud.refusal(s3.put_object, **asked) == "BadDigest"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.put_object(Bucket=bucket, Key="k", Body=b"this", ContentMD5=digest(b"this", "md5"))


def test_of_many_conditional_writes_one_wins(sandbox_cloud: LiveSandbox) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("bucket")
    s3.create_bucket(Bucket=bucket)
    outcomes: list[str] = []

    def write(number: int) -> None:
        asked = {"Bucket": bucket, "Key": "latest", "Body": f"{number}".encode(), "IfNoneMatch": "*"}
        outcomes.append(sandbox_cloud.refusal(s3.put_object, **asked))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["", *["PreconditionFailed"] * 11]
    etag = s3.head_object(Bucket=bucket, Key="latest")["ETag"]
    s3.put_object(Bucket=bucket, Key="latest", Body=b"next", IfMatch=etag)
    stale = {"Bucket": bucket, "Key": "latest", "Body": b"late", "IfMatch": etag}
    assert sandbox_cloud.refusal(s3.put_object, **stale) == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="latest")["Body"].read() == b"next"


def test_ranges_are_the_bytes_asked_for(sandbox_cloud: LiveSandbox) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("bucket")
    s3.create_bucket(Bucket=bucket)
    body = bytes(range(256)) * 4_096
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    for asked, piece in {
        "bytes=0-0": body[:1],
        "bytes=1000-1999": body[1000:2000],
        "bytes=1048570-": body[1_048_570:],
        "bytes=-7": body[-7:],
        "bytes=5-99999999": body[5:],
    }.items():
        got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
        assert got["Body"].read() == piece
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    beyond = {"Bucket": bucket, "Key": "k", "Range": "bytes=2000000-2000010"}
    assert sandbox_cloud.refusal(s3.get_object, **beyond) == "InvalidRange"


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_an_object_sent_in_parts_has_their_checksum_and_its_copy_that_of_the_whole(
    sandbox_cloud: LiveSandbox,
) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("parts")
    s3.create_bucket(Bucket=bucket)
    parts = [b"a" * (5 << 20), b"b" * 1000]
    of = {"Bucket": bucket, "Key": "whole"}
    upload = s3.create_multipart_upload(**of, ChecksumAlgorithm="SHA256")["UploadId"]
    sent = [
        {
            "PartNumber": number,
            **{
                name: s3.upload_part(
                    **of, UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm="SHA256"
                )[name]
                for name in ("ETag", "ChecksumSHA256")
            },
        }
        for number, part in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(**of, UploadId=upload, MultipartUpload={"Parts": sent})
    expected = base64.b64encode(_sha256(b"".join(map(_sha256, parts)))).decode() + "-2"
    for ask in (s3.head_object, s3.get_object):
        told = ask(**of, ChecksumMode="ENABLED")
        assert (told["ChecksumSHA256"], told["ChecksumType"]) == (expected, "COMPOSITE")

    s3.copy_object(Bucket=bucket, Key="copy", CopySource=of)
    copied = s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    assert copied["ChecksumSHA256"] == base64.b64encode(_sha256(b"".join(parts))).decode()


def test_a_part_that_is_copied_has_the_checksum_of_its_range(sandbox_cloud: LiveSandbox) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("copies")
    s3.create_bucket(Bucket=bucket)
    body = bytes(range(256)) * (24 << 10)
    etag = s3.put_object(Bucket=bucket, Key="from", Body=body)["ETag"]
    of = {"Bucket": bucket, "Key": "to"}
    upload = s3.create_multipart_upload(**of, ChecksumAlgorithm="SHA256")["UploadId"]
    asked = {**of, "UploadId": upload, "CopySource": {"Bucket": bucket, "Key": "from"}}
    sent = []
    for number, (first, end) in enumerate([(7, (5 << 20) + 7), (3, 1003)], 1):
        span = f"bytes={first}-{end - 1}"
        made = s3.upload_part_copy(**asked, PartNumber=number, CopySourceRange=span)["CopyPartResult"]
        assert made["ChecksumSHA256"] == base64.b64encode(_sha256(body[first:end])).decode()
        assert made["ETag"].strip('"') == hashlib.md5(body[first:end]).hexdigest()
        sent.append({"PartNumber": number, "ETag": made["ETag"], "ChecksumSHA256": made["ChecksumSHA256"]})
    for change, code in (
        ({"CopySourceRange": f"bytes=0-{len(body)}"}, "InvalidArgument"),
        ({"CopySource": {"Bucket": bucket, "Key": "none"}}, "NoSuchKey"),
        ({"CopySourceIfMatch": '"other"'}, "PreconditionFailed"),
        ({"UploadId": "none"}, "NoSuchUpload"),
        ({"ExpectedSourceBucketOwner": "999999999999"}, "AccessDenied"),
    ):
        assert sandbox_cloud.refusal(s3.upload_part_copy, **{**asked, "PartNumber": 3, **change}) == code
    s3.upload_part_copy(**asked, PartNumber=3, CopySourceIfMatch=etag)
    s3.complete_multipart_upload(**of, UploadId=upload, MultipartUpload={"Parts": sent})
    assert s3.get_object(**of)["Body"].read() == body[7 : (5 << 20) + 7] + body[3:1003]


def test_the_end_of_an_upload_in_parts_names_the_checksum_of_each(sandbox_cloud: LiveSandbox) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("ends")
    s3.create_bucket(Bucket=bucket)
    of = {"Bucket": bucket, "Key": "a"}
    upload = s3.create_multipart_upload(**of, ChecksumAlgorithm="SHA256")["UploadId"]
    sent = s3.upload_part(**of, UploadId=upload, PartNumber=1, Body=b"body", ChecksumAlgorithm="SHA256")

    def refused(**named: str) -> str:
        part = {"PartNumber": 1, "ETag": sent["ETag"], **named}
        ending = {**of, "UploadId": upload, "MultipartUpload": {"Parts": [part]}}
        return sandbox_cloud.refusal(s3.complete_multipart_upload, **ending)

    assert refused() == "InvalidRequest"
    assert refused(ChecksumSHA256=base64.b64encode(_sha256(b"other")).decode()) == "InvalidPart"
    assert sandbox_cloud.refusal(s3.head_object, **of) == "404"
    assert refused(ChecksumSHA256=sent["ChecksumSHA256"]) == ""
    assert s3.get_object(**of)["Body"].read() == b"body"


def test_an_upload_in_parts_that_nobody_knows_is_told(sandbox_cloud: LiveSandbox) -> None:
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("unknown")
    s3.create_bucket(Bucket=bucket)
    of = {"Bucket": bucket, "Key": "a", "UploadId": "none"}
    parts = {"Parts": [{"PartNumber": 1, "ETag": "a"}]}
    assert sandbox_cloud.refusal(s3.upload_part, **of, PartNumber=1, Body=b"a") == "NoSuchUpload"
    assert sandbox_cloud.refusal(s3.complete_multipart_upload, **of, MultipartUpload=parts) == "NoSuchUpload"
