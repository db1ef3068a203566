"""What the SDK raises for credentials that cannot be had is told in our types, with the step that helps.

Ten kinds came out bare, as stack traces, and a profile with MFA asked a supervisor that has no terminal.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runctl.clouds import aws_cloud
from runctl.errors import ConfigError, CredentialsError
from runctl.providers.aws.session import Session
from runctl.retry import RetryPolicy

ROLE = "role_arn = arn:aws:iam::123456789012:role/r\n"
KEYS = "aws_access_key_id = a\naws_secret_access_key = b\n"
SETUPS = {
    "a key without its secret": "aws_access_key_id = a\n",
    "a program that fails": "credential_process = false\n",
    "a program that is not there": "credential_process = /nonexistent/program\n",
    "a program that prints rubbish": "credential_process = echo rubbish\n",
    "a program of another version": "credential_process = echo '{\"Version\": 9}'\n",
    "a source profile that is not there": f"{ROLE}source_profile = gone\n",
    "a profile that is its own source": f"{ROLE}source_profile = y\n[profile y]\n{ROLE}source_profile = x\n",
    "a role without a source": ROLE,
    "a token file that is not there": f"{ROLE}web_identity_token_file = /nonexistent\n",
    "an SSO login that never was": (
        "sso_start_url = https://x.awsapps.com/start\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
    ),
    "an SSO session that is not there": "sso_session = gone\nsso_account_id = 1\nsso_role_name = r\n",
    "a login that never was": "login_session = arn:aws:iam::123456789012:user/u\n",
    "a code for MFA": f"{ROLE}source_profile = other\nmfa_serial = arn:x\n[profile other]\n{KEYS}",
    "nothing at all": "",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path / "config"


def session(**of_cloud: Any) -> Session:
    return Session(aws_cloud(**{"region": "us-east-1", **of_cloud}), policy=RetryPolicy(attempts=1))


@pytest.mark.parametrize("setup", SETUPS)
def test_credentials_that_cannot_be_had_are_an_error_of_ours(setup: str, settings: Path) -> None:
    settings.write_text(f"[profile x]\n{SETUPS[setup]}")
    own = session(profile="x")
    for use in (lambda: own.call("sts", "get_caller_identity"), own.credentials):
        with pytest.raises(ConfigError) as raised:
            use()
        assert raised.value.why
        assert raised.value.next


def test_a_code_for_mfa_is_not_asked_of_a_supervisor_without_a_terminal(settings: Path) -> None:
    settings.write_text(f"[profile x]\n{SETUPS['a code for MFA']}")
    with pytest.raises(CredentialsError) as raised:
        session(profile="x").credentials()
    assert "no terminal to ask at" in raised.value.why


@pytest.mark.parametrize(
    ("text", "cloud"),
    [
        ("[profile x\nregion", {}),
        ("", {"profile": "gone"}),
        ("", {"region": "not a region!"}),
    ],
    ids=["no INI file", "no such profile", "no name of a region"],
)
def test_settings_that_cannot_be_used_are_an_error_of_ours(text: str, cloud: Any, settings: Path) -> None:
    settings.write_text(text)
    with pytest.raises(ConfigError) as raised:
        session(**cloud).call("sts", "get_caller_identity")
    assert raised.value.next


def test_an_image_of_somebody_else_is_not_taken_for_bad_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    from runctl.providers.aws import answers

    def told(message: str) -> Exception:
        answer: Any = {"Error": {"Code": "AuthFailure", "Message": message}}
        return answers.translate(ClientError(answer, "RunInstances"), "ec2", "run_instances", repeatable=True)

    assert not isinstance(told("Not authorized for images: [ami-1]"), ConfigError)
    assert isinstance(told("AWS was not able to validate the provided access credentials"), CredentialsError)
