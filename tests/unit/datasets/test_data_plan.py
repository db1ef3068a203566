"""`runctl data plan` on a listing, with and without volumes that hold it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runctl.storage.entries import Entry, dataset_version

GIB = 2**30


def test_a_listed_dataset_is_planned_for_with_the_arithmetic(desk: Any) -> None:
    for number in range(3):
        desk.put(f"shard-{number}.bin", b"x" * 1000)
    code, out, _ = desk.text("data", "plan", desk.place, "--machine", "g5.xlarge", "--runs", "5", "--explain")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{desk.place}: 3 files, 2.9 KiB"
    assert lines[1].startswith("5 runs of 1 epoch on g5.xlarge, $1.01/h")
    [chosen] = [line for line in lines if line.startswith("* ")]
    assert "existing-ebs" not in out
    assert f"{chosen.split()[1]}: it costs" in out
    assert "runs * epochs * once" in out
    assert "network of g5.xlarge (AWS's instance types, sustained)" in out


def test_spot_is_planned_at_the_price_in_force(desk: Any) -> None:
    desk.put("a", b"1")
    _, said = desk.json("data", "plan", desk.place, "--machine", "g5.xlarge", "--spot")
    price = said["situation"]["machine"]["price"]
    found = desk.live.client("ec2").describe_spot_price_history(InstanceTypes=["g5.xlarge"])
    assert Decimal(price["usd_per_hour"]) in {Decimal(row["SpotPrice"]) for row in found["SpotPriceHistory"]}
    assert "catalog" not in price["source"]


def test_the_sum_is_the_sum_of_the_terms_in_json(desk: Any) -> None:
    words = ("--files", "1281167", "--size", "138", "--runs", "5", "--epochs", "90", "--machine", "g5.xlarge")
    code, said = desk.json("data", "plan", *words)
    assert code == 0
    assert said["situation"]["bytes"] == 138 * GIB
    choice = said["choice"]
    assert choice["strategy"] == "local-cache"
    for estimate in choice["estimates"]:
        assert Decimal(estimate["usd"]) == sum(Decimal(term["value"]) for term in estimate["costs"])


def test_a_pre_warmed_volume_of_this_version_needs_no_filling(desk: Any) -> None:
    desk.put("a", b"1")
    listed = desk.s3.list_objects_v2(Bucket=desk.bucket, Prefix="set/")["Contents"]
    version = dataset_version([Entry("a", 1, 0, listed[0]["ETag"].strip('"'))])
    tags = {"managed": "true", "dataset": desk.place, "dataset-version": version}
    warm = _volume(desk, tags)
    _volume(desk, {**tags, "dataset-version": "older"})
    words = ("data", "plan", desk.place, "--machine", "g5.xlarge")
    _, said = desk.json(*words)
    assert said["situation"]["warm"]["id"] == warm
    [found] = [one for one in said["choice"]["estimates"] if one["strategy"] == "prewarmed-ebs"]
    assert found["preparing"] == []
    desk.put("a", b"2")
    _, said = desk.json(*words)
    assert said["situation"]["warm"] is None
    _, said = desk.json(*words, "--volume", warm)
    [found] = [one for one in said["choice"]["estimates"] if one["strategy"] == "existing-ebs"]
    assert "and the dataset is at" in found["obstacles"][0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--machine", "g5.xlarge"], "both --files and --size"),
        (["s3://bucket/x", "--files", "3", "--machine", "g5.xlarge"], "both --files and --size"),
        (["--files", "3", "--size", "1"], "--machine g5.xlarge"),
        (["--files", "3", "--size", "-1", "--machine", "g5.xlarge"], "no number from 0 on"),
        (["--files", "3", "--size", "1", "--machine", "g5.xlrge"], "did you mean"),
        (["--files", "3", "--size", "1", "--machine", "g5.xlarge", "--gpu-needs", "0"], "must be above 0"),
        (["data", "--machine", "g5.xlarge"], "no place in S3"),
        (["--files", "3", "--size", "1", "--machine", "m7i.large", "--volume", "vol-1"], "can be listed"),
    ],
)
def test_what_is_no_question_is_refused(desk: Any, words: list[str], why: str) -> None:
    code, out, err = desk.text("data", "plan", *words)
    assert (code, out) == (1, "")
    assert why in err


def _volume(desk: Any, tags: dict[str, str]) -> str:
    pairs = [{"Key": f"runctl:{key}", "Value": value} for key, value in tags.items()]
    return desk.live.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": pairs}])
