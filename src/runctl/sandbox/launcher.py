"""Bringing the sandbox's process up and down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from runctl import private_files
from runctl.clouds import SandboxRecord, home, read_sandbox_record, sandbox_record_path
from runctl.errors import CloudError, ConfigError
from runctl.processes import is_alive
from runctl.sandbox.control import Control

_READY_SECONDS = 60.0
_DOWN_SECONDS = 30.0
_TAKEN = 3  # what the server says when another one serves this home; it is imported too late to be asked


def running() -> SandboxRecord | None:
    """The sandbox that is up, None where none is."""
    try:
        return read_sandbox_record()
    except ConfigError:
        return None  # a crashed one's record is left to the next server: it may have written its own by now


def up(
    *,
    speed: float = 1.0,
    s3: str | None = None,
    region: str = "us-east-1",
    isolation: str = "auto",
    vcpu_limit: int | None = None,
) -> SandboxRecord:
    """Start a sandbox in the background and wait until it serves. Raises ConfigError without its extra."""
    folder = home() / "sandbox"
    private_files.make_folder(folder)
    # -P: the working directory may be a cloned repository with a json.py in it.
    command = [sys.executable, "-P", "-m", "runctl.sandbox.server", "--speed", str(speed)]
    command += ["--region", region, "--isolation", isolation, *(["--s3", s3] if s3 else [])]
    command += ["--vcpu-limit", str(vcpu_limit)] if vcpu_limit is not None else []
    log = folder / "server.log"
    with open(log, "wb", opener=private_files.opener) as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll()
        if ended not in (None, _TAKEN):
            break
        record = running()
        # With two of us at once, the one that came second finds the first's.
        if record is not None and (ended == _TAKEN or record.pid == process.pid):
            process.returncode = 0  # it outlives us by design
            return record
        time.sleep(0.05)
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No module named" in text:
        raise ConfigError(
            "The sandbox cloud is not installed",
            why=text.strip().splitlines()[-1],
            next="pip install 'runctl[sandbox]'",
        )
    process.kill()
    raise CloudError(
        "The sandbox cloud did not come up",
        service="sandbox",
        operation="up",
        code="NotReady",
        why=text.strip().splitlines()[-1] if text.strip() else "it says nothing",
        next=f"see {log}",
    )


def down(record: SandboxRecord) -> None:
    """End a sandbox and every process in it, and wait for that."""
    try:
        Control(record).down()
    except CloudError:
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while time.monotonic() < deadline:
        if not is_alive(record.pid):
            return
        time.sleep(0.05)
    os.kill(record.pid, signal.SIGKILL)
    sandbox_record_path().unlink(missing_ok=True)
