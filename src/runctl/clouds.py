"""Which cloud a command talks to: AWS, or the sandbox that runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from runctl.clock import Clock, FileClock, SystemClock
from runctl.errors import CloudError, ConfigError
from runctl.processes import identity

SANDBOX_ENDED = "SandboxEnded"
"""The code of every call to a sandbox that is gone."""
_SANDBOX = "sandbox:"


def _nobody(prompt: str) -> str:  # noqa: ARG001 (as the one who asks takes it)
    raise EOFError("the profile wants a code for MFA, and there is no terminal to ask at")


code_for_mfa: Callable[[str], str] = _nobody
"""How a profile's code for MFA is asked for. A supervisor without a terminal has nobody to ask."""


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
    s3_access_key: str
    s3_secret_key: str
    clock: str
    pid: int
    process: str
    """Which process served it, as `processes.identity` names it: a pid alone is another's after a reboot."""
    control_token: str

    @property
    def key(self) -> str:
        """As jobs, resources and transactions name this life of a sandbox."""
        return f"{_SANDBOX}{self.id}"

    @property
    def is_served(self) -> bool:
        return identity(self.pid) == self.process


class Cloud(msgspec.Struct, frozen=True):
    """One AWS-shaped cloud. `name` is `aws` or `sandbox`; `key` tells sandboxes of different lives apart.

    Endpoints and keys are None where the SDK's own chain decides; the keys of S3 where they are the same.
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
    s3_access_key: str | None = None
    s3_secret_key: str | None = None
    server: SandboxRecord | None = None

    @property
    def ended(self) -> str:
        """Why there is no such cloud any more; empty while it lives. AWS does not end."""
        return "" if self.server is None or self.server.is_served else _gone(self.server)

    @property
    def s3_keys(self) -> tuple[str, str] | None:
        """Access key and secret key for S3."""
        access, secret = self.s3_access_key or self.access_key, self.s3_secret_key or self.secret_key
        return (access, secret) if access and secret else None


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
    if not record.is_served:
        raise ConfigError("The sandbox cloud is not up", why=_gone(record), next="runctl sandbox up")
    return record


def ended(key: str) -> str:
    """Why the cloud of a key is over; empty for one that lives, and for AWS."""
    if not key.startswith(_SANDBOX):
        return ""
    try:
        record = msgspec.json.decode(sandbox_record_path().read_bytes(), type=SandboxRecord)
    except FileNotFoundError:
        return "it was taken down"
    except msgspec.MsgspecError:  # of another version of ours, whose sandbox is another life
        return "another one was started after it"
    if record.key != key:
        return "another one was started after it"
    return "" if record.is_served else _gone(record)


class SandboxEnded(CloudError):
    """A call to a sandbox that is gone: no other try, and no other call, can succeed."""

    ends_all = True

    @property
    def kind(self) -> str:
        return CloudError.__name__


def sandbox_ended(cloud: Cloud, service: str, operation: str) -> SandboxEnded:
    """What becomes of a call to a sandbox that ended."""
    return SandboxEnded(
        "The sandbox ended while this command used it",
        service=service,
        operation=operation,
        code=SANDBOX_ENDED,
        lost_answer=True,
        why=f"{cloud.ended}; its machines, disks and S3 went with it",
        next="runctl sandbox up, then give the command again",
    )


def _gone(record: SandboxRecord) -> str:
    if not sandbox_record_path().exists():  # a server that ends by itself takes its record along
        return "it was taken down"
    return f"its process {record.pid} is gone"


def sandbox_cloud() -> Cloud:
    """The sandbox on this machine. Raises ConfigError where none is up."""
    record = read_sandbox_record()
    return Cloud(
        name="sandbox",
        key=record.key,
        clock=FileClock(Path(record.clock)),
        region=record.region,
        endpoint=record.endpoint,
        s3_endpoint=record.s3_endpoint,
        access_key=record.access_key,
        secret_key=record.secret_key,
        server=record,
        s3_access_key=record.s3_access_key,
        s3_secret_key=record.s3_secret_key,
    )


def aws_cloud(*, region: str | None = None, profile: str | None = None) -> Cloud:
    """The real AWS, as the SDK's own settings and these two say."""
    return Cloud(name="aws", key="aws", clock=SystemClock(), region=region, profile=profile)
