"""How long a listing of a whole fleet takes, beside AWS's own command line reading the same.

Run with `python -m benchmarks.listing`. A sandbox with 1,000 machines and 2,000 disks; each round runs
`runctl resources list`, then `aws ec2 describe-instances` and `aws ec2 describe-volumes` one after the other.
Interleaved rounds, medians, one table. `aws` is found on PATH, or installed into a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import msgspec

from benchmarks.goals import Goals
from runctl.clouds import SandboxRecord

INSTANCES = 1000
VOLUMES = 2000
ROUNDS = 5
RUNCTL = str(Path(sys.executable).parent / "runctl")
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
TAGS = [
    {"Key": "runctl:managed", "Value": "true"},
    {"Key": "runctl:project", "Value": "benchmark"},
    {"Key": "runctl:user", "Value": "benchmark"},
]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment |= {"RUNCTL_HOME": str(home), "RUNCTL_CONFIG": str(folder / "none.toml")}
        _run([RUNCTL, "sandbox", "up", "--isolation", "plain", "--vcpu-limit", "1000000"], environment)
        try:
            record = msgspec.json.decode((home / "sandbox/cloud.json").read_bytes(), type=SandboxRecord)
            _fill(record)
            return _measure(record, environment, _aws(folder))
        finally:
            _run([RUNCTL, "sandbox", "down"], environment)


def _fill(record: SandboxRecord) -> None:
    def client(service: str) -> object:
        return boto3.client(
            service,
            region_name=record.region,
            endpoint_url=record.endpoint,
            aws_access_key_id=record.access_key,
            aws_secret_access_key=record.secret_key,
        )

    ec2, ssm = client("ec2"), client("ssm")
    image = ssm.get_parameter(Name=IMAGE)["Parameter"]["Value"]
    tagged = [{"ResourceType": kind, "Tags": TAGS} for kind in ("instance", "volume")]
    for _ in range(INSTANCES // 50):  # each brings its root disk
        ec2.run_instances(
            ImageId=image, InstanceType="m7i.xlarge", MinCount=50, MaxCount=50, TagSpecifications=tagged
        )
    for _ in range(VOLUMES - INSTANCES):
        ec2.create_volume(
            AvailabilityZone=f"{record.region}a", Size=4, VolumeType="gp3", TagSpecifications=tagged[1:]
        )
    ids = [{"Name": "instance-state-name", "Values": ["pending"]}]
    end = time.monotonic() + 300
    while any(page["Reservations"] for page in ec2.get_paginator("describe_instances").paginate(Filters=ids)):
        if time.monotonic() > end:
            raise TimeoutError("machines are pending after five minutes")
        time.sleep(1)


def _measure(record: SandboxRecord, environment: dict[str, str], aws: str) -> int:
    keys = {
        "AWS_ACCESS_KEY_ID": record.access_key,
        "AWS_SECRET_ACCESS_KEY": record.secret_key,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    shared = ["--endpoint-url", record.endpoint, "--region", record.region, "--output", "json"]
    ours = [RUNCTL, "resources", "list", "--on", "sandbox", "--quiet"]
    theirs = [[aws, "ec2", what, *shared] for what in ("describe-instances", "describe-volumes")]
    listed: set[int] = set()
    times: dict[str, list[float]] = {"runctl": [], "aws": []}
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        listed.add(len(_run(ours, environment).split()))
        times["runctl"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for command in theirs:
            _run(command, environment | keys)
        times["aws"].append(time.perf_counter() - begun)
    if listed != {INSTANCES + VOLUMES}:
        raise AssertionError(f"a listing was not whole: {listed} rows")
    first, again = times["runctl"][0], statistics.median(times["runctl"][1:])
    aws_median = statistics.median(times["aws"])
    print(f"{INSTANCES} instances and {VOLUMES} volumes, {ROUNDS} rounds  {'seconds':>10}")
    print(f"{'runctl resources list, the first (fills the ledger)':<60}{first:>8.2f}")
    print(f"{'runctl resources list, median of the rest':<60}{again:>8.2f}")
    print(f"{'aws ec2 describe-instances, then describe-volumes, median':<60}{aws_median:>8.2f}")
    goals = Goals()
    told = goals.under(again, aws_median)
    print(f"{'of the time that aws takes':<60}{again / aws_median:>8.0%}   must: under 100%  {told}")
    return goals.exit_code


def _aws(folder: Path) -> str:
    if found := shutil.which("aws"):
        return found
    _run([sys.executable, "-m", "venv", str(folder / "aws")], dict(os.environ))
    _run([str(folder / "aws/bin/pip"), "install", "--quiet", "awscli"], dict(os.environ))
    return str(folder / "aws/bin/aws")


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
