"""Which cloud a command talks to: AWS, or the sandbox that runs on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from runctl.clock import Clock, FileClock, SystemClock
from runctl.errors import ConfigError
from runctl.processes import is_alive


def home() -> Path:
    """The folder of the ledger, the sandbox and caches; `RUNCTL_HOME` overrides the user data folder."""
    override = os.environ.get("RUNCTL_HOME")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("runctl"))


class SandboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`sandbox/cloud.json` under `home()`: written when a sandbox is up, removed when it is down."""

    id: str
    endpoint: str
    s3_endpoint: str
    region: str
    account: str
    access_key: str
    secret_key: str
    clock: str
    pid: int
    control_token: str


class Cloud(msgspec.Struct, frozen=True):
    """One AWS-shaped cloud. `name` is `aws` or `sandbox`; `key` tells sandboxes of different lives apart.

    Endpoints and keys are None where the SDK's own chain decides.
    """

    name: str
    key: str
    clock: Clock
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    s3_endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = None


def sandbox_record_path() -> Path:
    return home() / "sandbox" / "cloud.json"


def read_sandbox_record() -> SandboxRecord:
    """The sandbox that is up. Raises ConfigError where none is."""
    path = sandbox_record_path()
    try:
        record = msgspec.json.decode(path.read_bytes(), type=SandboxRecord)
    except FileNotFoundError:
        raise ConfigError(
            "The sandbox cloud is not up",
            why=f"there is no {path}",
            next="runctl sandbox up",
        ) from None
    if not is_alive(record.pid):
        raise ConfigError(
            "The sandbox cloud is not up",
            why=f"its process {record.pid} is gone",
            next="runctl sandbox up",
        )
    return record


def sandbox_cloud() -> Cloud:
    """The sandbox on this machine. Raises ConfigError where none is up."""
    record = read_sandbox_record()
    return Cloud(
        name="sandbox",
        key=f"sandbox:{record.id}",
        clock=FileClock(Path(record.clock)),
        region=record.region,
        endpoint=record.endpoint,
        s3_endpoint=record.s3_endpoint,
        access_key=record.access_key,
        secret_key=record.secret_key,
    )


def aws_cloud(*, region: str | None = None, profile: str | None = None) -> Cloud:
    """The real AWS, as the SDK's own settings and these two say."""
    return Cloud(name="aws", key="aws", clock=SystemClock(), region=region, profile=profile)
