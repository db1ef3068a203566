"""Whoever logs in again while a command runs need not start it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.errors import ConfigError
from runctl.providers.aws.session import Session


def write(path: Path, key: str, secret: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


def test_credentials_that_were_refused_are_read_anew(
    sandbox_cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    old = (sandbox_cloud.record.access_key, sandbox_cloud.record.secret_key)
    iam, user = sandbox_cloud.client("iam"), sandbox_cloud.name("user")
    iam.create_user(UserName=user)
    made = iam.create_access_key(UserName=user)["AccessKey"]
    new = (made["AccessKeyId"], made["SecretAccessKey"])
    write(file, *old)
    without = dict.fromkeys(("access_key", "secret_key", "s3_access_key", "s3_secret_key"))
    session = Session(msgspec.structs.replace(sandbox_cloud.cloud(), **without))
    assert session.call("sts", "get_caller_identity")
    write(file, *new)
    assert session.credentials()[0] == old[0]

    sandbox_cloud.control.add_fault("sts", "error", code="ExpiredToken", status=403, count=1)
    with pytest.raises(ConfigError, match="No usable AWS credentials"):
        session.call("sts", "get_caller_identity")
    assert session.call("sts", "get_caller_identity")
    assert session.credentials()[0] == new[0]
    session.client("sts").close()
