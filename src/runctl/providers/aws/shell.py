"""A shell on an instance through SSM: no inbound port, no key."""

from __future__ import annotations

import secrets
import threading
import time
from datetime import timedelta
from typing import Any

import msgspec

from runctl.errors import CloudError, NotFound, TrainctlError
from runctl.events import Emit, Progress
from runctl.providers.aws.session import Session
from runctl.quoting import quoted

_FINAL = frozenset({"Success", "Failed", "Cancelled", "TimedOut"})
_FIRST_POLL = 0.25
_LONGEST_POLL = 5.0
_DELIVERY_SECONDS = 60
_ONLINE_POLL = 0.5
_COMMENT = 91
"""Letters of a comment, of which SSM takes 100, beside the mark."""
_SEEN_WITHIN = 3.0
"""Seconds after which a command that SSM does not show was not sent."""


class ShellResult(msgspec.Struct, frozen=True):
    """How a command ended; output is cut by SSM at 24,000 and 8,000 characters."""

    status: str
    exit_code: int
    output: str
    error: str


def is_online(session: Session, instance_id: str) -> bool:
    """Whether the instance's SSM agent answers."""
    answer = session.call(
        "ssm",
        "describe_instance_information",
        Filters=[{"Key": "InstanceIds", "Values": [instance_id]}],
    )
    return any(row["PingStatus"] == "Online" for row in answer["InstanceInformationList"])


def wait_online(session: Session, instance_id: str, *, timeout: timedelta, emit: Emit) -> None:
    """Wait until SSM reaches an instance; on the cloud's clock. Raises CloudError where it never does."""
    begun = session.cloud.clock.now()
    while not is_online(session, instance_id):
        waited = session.cloud.clock.now() - begun
        if waited > timeout:
            raise CloudError(
                f"{instance_id} cannot be reached through SSM",
                service="ssm",
                operation="describe_instance_information",
                code="NotOnline",
                why=f"its agent did not come online within {timeout}: no role, no route, or no agent",
                next="see docs/aws-setup.md",
            )
        emit(
            Progress(
                task=f"waiting for the shell of {instance_id}",
                done=waited.total_seconds(),
                total=None,
                unit="s",
            )
        )
        time.sleep(_ONLINE_POLL)


def run(
    session: Session,
    instance_id: str,
    script: str,
    *,
    comment: str,
    timeout: timedelta = timedelta(minutes=10),
    hurry: threading.Event | None = None,
) -> ShellResult:
    """Run a shell script as root and wait for its end.

    `hurry` is set by who has heard otherwise that the end is near: then it is looked for more often.

    The script must bear running twice: SendCommand carries no client token.
    Raises CloudError where SSM cannot deliver it or does not finish it in `timeout`.
    """
    seconds = int(timeout.total_seconds())
    command_id = _send(session, instance_id, script, comment, seconds)
    deadline = time.monotonic() + seconds + _DELIVERY_SECONDS
    wait = _FIRST_POLL
    while time.monotonic() < deadline:
        if hurry is None:
            time.sleep(wait)
        elif hurry.is_set() or hurry.wait(wait):
            time.sleep(_FIRST_POLL)
        wait = min(wait * 1.5, _LONGEST_POLL)
        invocation = _invocation(session, command_id, instance_id)
        if invocation and invocation["Status"] in _FINAL:
            return ShellResult(
                status=invocation["Status"],
                exit_code=invocation["ResponseCode"],
                output=invocation["StandardOutputContent"],
                error=invocation["StandardErrorContent"],
            )
    raise CloudError(
        f"A command on {instance_id} did not end",
        service="ssm",
        operation="send_command",
        code="TimedOut",
        why=f"{comment}: no result after {seconds} s",
        next=f"aws ssm get-command-invocation --command-id {quoted(command_id)}"
        f" --instance-id {quoted(instance_id)}",
    )


def _send(session: Session, instance_id: str, script: str, comment: str, seconds: int) -> str:
    """Send a script; answers the command's id, also where SSM's answer was lost: it is known by its comment.

    What was sent and is given up would run later, behind the back of whoever undoes it.
    """
    marked = f"{comment[:_COMMENT]} {secrets.token_hex(4)}"
    try:
        answer = session.call(
            "ssm",
            "send_command",
            repeatable=False,
            InstanceIds=[instance_id],
            DocumentName="AWS-RunShellScript",
            Comment=marked,
            TimeoutSeconds=_DELIVERY_SECONDS,
            Parameters={"commands": [script], "executionTimeout": [str(seconds)]},
        )
    except CloudError as error:
        found = _find(session, instance_id, marked) if error.lost_answer else None
        if found is None:
            raise
        return found
    return str(answer["Command"]["CommandId"])


def _find(session: Session, instance_id: str, comment: str) -> str | None:
    """The command with this comment; None where SSM shows none for a while, or does not let us look."""
    deadline = time.monotonic() + _SEEN_WITHIN
    while True:
        try:
            for command in session.pages("ssm", "list_commands", "Commands", InstanceId=instance_id):
                if command.get("Comment") == comment:
                    return str(command["CommandId"])
        except TrainctlError:  # without the right to list, nobody knows
            return None
        if time.monotonic() > deadline:
            return None
        time.sleep(_FIRST_POLL)


def _invocation(session: Session, command_id: str, instance_id: str) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = session.call(
            "ssm", "get_command_invocation", CommandId=command_id, InstanceId=instance_id
        )
    except (CloudError, NotFound) as error:
        # Straight after sending, SSM does not know its own command yet.
        if isinstance(error, CloudError) and error.code == "InvocationDoesNotExist":
            return None
        raise
    return answer
