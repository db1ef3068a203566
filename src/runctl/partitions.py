"""AWS's partitions: which regions each has, and how its hosts are named. The data is botocore's own."""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from pathlib import Path

import msgspec


class _Outputs(msgspec.Struct, frozen=True, rename="camel"):
    dns_suffix: str


class _Partition(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    outputs: _Outputs
    region_regex: str
    regions: dict[str, msgspec.Raw] = {}


class _Partitions(msgspec.Struct, frozen=True):
    partitions: list[_Partition]


class Partition(msgspec.Struct, frozen=True):
    """One of them: `name` as in ARNs (aws, aws-cn), `suffix` as its hosts end (amazonaws.com)."""

    name: str
    suffix: str


def of_region(region: str) -> Partition:
    """The partition of a region, known or of a like name; aws for any other name, as the SDKs have it."""
    known = _known()
    found = next((one for one in known if region in one.regions), None)
    found = found or next((one for one in known if re.match(one.region_regex, region)), known[0])
    return Partition(found.id, found.outputs.dns_suffix)


def regions(partition: str) -> list[str]:
    """The regions that a partition is known to have, in order of name."""
    [found] = [one for one in _known() if one.id == partition]
    return sorted(name for name in found.regions if not name.endswith("-global"))


def s3_host(region: str, *, fips: bool = False, dual_stack: bool = False) -> str:
    """S3's host in a region, which serves a bucket as BUCKET.HOST. Source: S3's endpoint rules."""
    words = ["s3-fips" if fips else "s3", "dualstack" if dual_stack else "", region]
    return ".".join([*filter(None, words), of_region(region).suffix])


@functools.cache
def _known() -> list[_Partition]:
    # The file alone: importing botocore takes longer than many commands do.
    spec = find_spec("botocore")
    assert spec is not None and spec.origin is not None  # noqa: PT018, S101 (a dependency)
    data = (Path(spec.origin).parent / "data" / "partitions.json").read_bytes()
    return msgspec.json.decode(data, type=_Partitions).partitions
