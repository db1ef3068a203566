"""A job knew neither its region nor its account: with other settings it was looked for where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from runctl.cli import known_jobs
from runctl.clouds import aws_cloud
from runctl.errors import CloudError, ConfigError
from runctl.providers.aws.session import Session


def test_a_job_is_where_its_bucket_is_whatever_the_settings_say_today(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def head(_: Session, service: str, operation: str, **parameters: Any) -> Any:
        asked.append({"call": f"{service}.{operation}", **parameters})
        return {"BucketRegion": "eu-west-1", "Account": "123456789012"}

    monkeypatch.setattr(Session, "call", head)
    job: Any = None
    assert known_jobs._region_of(aws_cloud(region="us-east-1"), job, "mine") == "eu-west-1"
    assert asked[-1] == {"call": "s3.head_bucket", "Bucket": "mine", "ExpectedBucketOwner": "123456789012"}


def test_a_job_of_another_account_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Session, service: str, operation: str, **__: Any) -> Any:
        if service == "sts":
            return {"Account": "123456789012"}
        raise CloudError("Forbidden", service=service, operation=operation, code="403")

    monkeypatch.setattr(Session, "call", refuse)

    class Job:
        id = "walk-1"

    job: Any = Job()
    with pytest.raises(ConfigError, match="not of this account") as refused:
        known_jobs._region_of(aws_cloud(region="us-east-1"), job, "mine")
    assert "--profile" in refused.value.next
