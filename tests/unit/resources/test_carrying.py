"""The staging of a transfer: which errors mean that there is no bucket to go through."""

from __future__ import annotations

from typing import Any

import pytest

from runctl.clouds import SandboxEnded
from runctl.errors import CloudError, TrainctlError
from runctl.providers.aws import account
from runctl.resources.carrying import NoStaging, OpenStaging
from runctl.safety.saga import Call

CALL = Call(request={"bucket": "b", "prefix": "p"}, token="t", tx="tx-1")


def opened(monkeypatch: pytest.MonkeyPatch, error: TrainctlError) -> type[BaseException]:
    def fail(session: Any, bucket: str) -> bool:
        raise error

    monkeypatch.setattr(account, "ensure_bucket", fail)
    session: Any = None
    with pytest.raises(TrainctlError) as caught:
        OpenStaging(session, lambda event: None).do(CALL)
    return caught.type


def test_a_cloud_that_ended_is_no_bucket_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {"service": "s3", "operation": "CreateBucket", "code": "x"}
    assert opened(monkeypatch, SandboxEnded("it ended", **facts)) is SandboxEnded
    assert opened(monkeypatch, CloudError("refused", **facts)) is NoStaging
