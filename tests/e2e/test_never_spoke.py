"""Machines that can never work: two in a row are enough, and one if the cloud refuses to start it."""

from __future__ import annotations

from typing import Any

JOB_FAILED = 4


def test_a_network_without_a_way_to_the_store_ends_the_job_after_two_machines(lab: Any) -> None:
    lab.environment["RUNCTL_AWS_LEASE_MINUTES"] = "2"
    lab.control.add_fault("s3", "error", operation="GetObject", instance="runctl/agents", status=503)
    lab.finish(lab.train(), code=JOB_FAILED)
    report = lab.report()
    assert [attempt["cause"] for attempt in report["attempts"]] == ["silent", "silent"]
    assert len(lab.machines()) == 2
    assert "2 machines in a row ended without a word of their agent" in lab.said()
    assert "its console ends with:" in lab.said()
    assert "503" in lab.said().rpartition("its console ends with:")[2]


def test_a_disk_whose_key_may_not_be_used_is_not_bought_ten_times(lab: Any) -> None:
    lab.control.add_fault("ec2", "no-start", code="Client.InternalError")
    lab.finish(lab.train(), code=JOB_FAILED)
    assert lab.report()["attempts"][0]["cause"] == "launch"
    assert len(lab.machines()) == 1
    assert "kms:CreateGrant" in lab.said()
