# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""SSM's calls on the sandbox's command center: commands that really run, with AWS's refusals."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from functools import cache
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ssm.responses import SimpleSystemManagerResponse

from runctl.sandbox import instances
from runctl.sandbox.commands import Command, CommandCenter, Invocation, clipped
from runctl.sandbox.overlay import AwsError, cloud
from runctl.sandbox.state import ACCOUNT, SandboxCloud

DOCUMENTS = ("AWS-RunShellScript", "arn:aws:ssm:::document/AWS-RunShellScript")
SSH_DOCUMENT = "AWS-StartSSHSession"
LISTED_OUTPUT = 2_500
MOST_INSTANCES = 50
_centers: list[CommandCenter] = []
_sessions: dict[str, dict[str, str]] = {}


def _service_setting(self: Any) -> Any:
    """No setting was ever changed: no default role manages instances."""
    setting = {"SettingId": self._get_param("SettingId"), "SettingValue": "$None", "Status": "Default"}
    return ActionResult({"ServiceSetting": setting})


def install(sandbox: SandboxCloud) -> None:
    """Let SSM serve this cloud's machines."""
    _centers[:] = [
        CommandCenter(
            clock=sandbox.clock,
            schedule=sandbox.schedule,
            machine_of=sandbox.machines.get,
            online=sandbox.online,
            upload=_upload,
        )
    ]


def _center() -> CommandCenter:
    return _centers[0]


def _upload(bucket: str, key: str, data: bytes) -> None:
    if cloud().s3_endpoint != cloud().endpoint:
        _other_s3().put_object(Bucket=bucket, Key=key, Body=data)
        return
    from moto.s3.models import s3_backends

    s3_backends[ACCOUNT]["aws"].put_object(bucket, key, data)


@cache
def _other_s3() -> Any:
    """The server that --s3 has put in the place of our own."""
    import boto3
    from botocore.config import Config

    access_key, secret_key = cloud().s3_keys or (cloud().own_key.access, cloud().own_key.secret)
    return boto3.client(
        "s3",
        region_name=cloud().region,
        endpoint_url=cloud().s3_endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )


def _send_command(self: Any) -> Any:
    get = self._get_param
    document = get("DocumentName")
    if document not in DOCUMENTS:
        raise AwsError("InvalidDocument", f"Document with name {document} does not exist.")
    ids = [*get("InstanceIds", []), *_targets(get("Targets", []))]
    if len(set(ids)) < len(ids):
        raise AwsError(
            "DuplicateInstanceId", "You cannot specify an instance ID in more than one association."
        )
    if len(get("InstanceIds", [])) > MOST_INSTANCES:
        raise AwsError("ValidationException", f"At most {MOST_INSTANCES} instance IDs can be named")
    bad = [one for one in ids if not _is_valid(one)]
    if bad or not ids:
        raise AwsError(
            "InvalidInstanceId",
            f"Instances [[{', '.join(bad)}]] not in a valid state for account {self.current_account}",
        )
    parameters = get("Parameters", {})
    if not parameters.get("commands"):
        raise AwsError("InvalidParameters", "Parameter commands is required")
    command = _center().send(
        instance_ids=ids,
        commands=parameters["commands"],
        working_directory=(parameters.get("workingDirectory") or [""])[0],
        execution_timeout=float((parameters.get("executionTimeout") or ["3600"])[0]),
        delivery_timeout=float(get("TimeoutSeconds", 3600)),
        comment=get("Comment", ""),
        document="AWS-RunShellScript",
        output_bucket=get("OutputS3BucketName", ""),
        output_prefix=get("OutputS3KeyPrefix", ""),
        parameters=parameters,
    )
    return ActionResult({"Command": {**_command(command), "Status": "Pending", "StatusDetails": "Pending"}})


def _is_valid(instance_id: str) -> bool:
    record = instances.find(instance_id)
    return record is not None and record._state.name == "running" and cloud().online(instance_id)


def _targets(targets: list[dict[str, Any]]) -> list[str]:
    found = []
    for target in targets:
        key, values = target["Key"], target["Values"]
        for instance_id in cloud().machines:
            record = instances.find(instance_id)
            tags = {tag["key"]: tag["value"] for tag in record.get_tags()} if record is not None else {}
            if (key.lower() == "instanceids" and instance_id in values) or (
                key.startswith("tag:") and tags.get(key[4:]) in values
            ):
                found.append(instance_id)
    return found


def _get_command_invocation(self: Any) -> Any:
    try:
        invocation = _center().invocation(self._get_param("CommandId"), self._get_param("InstanceId"))
    except KeyError:
        raise AwsError("InvocationDoesNotExist", "") from None
    return ActionResult(
        {
            **_invocation(invocation),
            "PluginName": "aws:runShellScript",
            "ResponseCode": invocation.code,
            "ExecutionStartDateTime": _text(invocation.started),
            "ExecutionEndDateTime": _text(invocation.ended),
            "StandardOutputContent": invocation.stdout,
            "StandardErrorContent": invocation.stderr,
            "StandardOutputUrl": "",
            "StandardErrorUrl": "",
        }
    )


def _list_command_invocations(self: Any) -> Any:
    found = _center().invocations(self._get_param("CommandId"), self._get_param("InstanceId"))
    details = self._get_param("Details")
    rows = []
    for invocation in found:
        output = invocation.stdout
        if invocation.stderr:
            output += f"\n----------ERROR-------\n{invocation.stderr}"
        plugin = {
            "Name": "aws:runShellScript",
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "ResponseCode": invocation.code,
            "Output": clipped(output, LISTED_OUTPUT),
        }
        rows.append(
            {
                **_invocation(invocation),
                "RequestedDateTime": _time(invocation.order.requested),
                "CommandPlugins": [plugin] if details else [],
            }
        )
    return ActionResult({"CommandInvocations": rows})


def _list_commands(self: Any) -> Any:
    wanted, machine = self._get_param("CommandId"), self._get_param("InstanceId")
    found = [
        command
        for command in _center().commands()
        if wanted in (None, command.id) and (machine is None or machine in command.order.instance_ids)
    ]
    return ActionResult({"Commands": [_command(command) for command in found]})


def _cancel_command(self: Any) -> Any:
    command_id = self._get_param("CommandId")
    try:
        command = _center().command(command_id)
    except KeyError:
        raise AwsError("InvalidCommandId", "") from None
    _center().cancel(command_id, self._get_param("InstanceIds", []) or list(command.order.instance_ids))
    return EmptyResult()


def _describe_instance_information(self: Any) -> Any:
    """Machines that registered; a stopped or ended one is no error but an absence."""
    filters = [*self._get_param("Filters", []), *self._get_param("InstanceInformationFilterList", [])]
    wanted = {
        value
        for row in filters
        if row.get("Key", row.get("key")) == "InstanceIds"
        for value in row.get("Values", row.get("valueSet", []))
    }
    rows = [
        {
            "InstanceId": instance_id,
            "PingStatus": "Online",
            "LastPingDateTime": _time(cloud().clock.now()),
            "AgentVersion": "3.3.0.0",
            "PlatformType": "Linux",
            "PlatformName": "Sandbox Linux",
            "ResourceType": "EC2Instance",
        }
        for instance_id in list(cloud().machines)
        if cloud().online(instance_id) and (not wanted or instance_id in wanted)
    ]
    return ActionResult({"InstanceInformationList": rows})


def _invocation(invocation: Invocation) -> dict[str, Any]:
    return {
        "CommandId": invocation.command_id,
        "InstanceId": invocation.instance_id,
        "Comment": invocation.order.comment,
        "DocumentName": invocation.order.document,
        "Status": invocation.status,
        "StatusDetails": invocation.details,
    }


def _command(command: Command) -> dict[str, Any]:
    order = command.order
    return {
        "CommandId": command.id,
        "DocumentName": order.document,
        "Comment": order.comment,
        "Parameters": dict(order.parameters),
        "InstanceIds": list(order.instance_ids),
        "RequestedDateTime": _time(order.requested),
        "ExpiresAfter": _time(order.expires_after),
        "Status": command.status,
        "StatusDetails": command.status,
        "TargetCount": len(command.invocations),
        "CompletedCount": command.completed,
        "ErrorCount": command.errors,
        "TimeoutSeconds": int(order.delivery_timeout),
    }


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


def _text(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _start_session(self: Any) -> Any:
    """What a client's plugin needs to go on; the data channel itself is no part of this cloud."""
    target, document = self._get_param("Target"), self._get_param("DocumentName")
    if not _is_valid(target):
        raise AwsError("TargetNotConnected", f"{target} is not connected.")
    if document != SSH_DOCUMENT:
        raise AwsError("InvalidDocument", f"Document with name {document} does not exist.")
    session = f"sandbox-{secrets.token_hex(9)}"
    _sessions[session] = {"SessionId": session, "Target": target, "Status": "Connected"}
    return ActionResult(
        {
            "SessionId": session,
            "TokenValue": secrets.token_urlsafe(48),
            "StreamUrl": f"wss://ssmmessages.{cloud().region}.amazonaws.com/v1/data-channel/{session}",
        }
    )


def _terminate_session(self: Any) -> Any:
    session = self._get_param("SessionId")
    if session in _sessions:
        _sessions[session]["Status"] = "Terminated"
    return ActionResult({"SessionId": session})


def _describe_sessions(self: Any) -> Any:
    connected = self._get_param("State") == "Active"
    rows = [row for row in _sessions.values() if (row["Status"] == "Connected") == connected]
    return ActionResult({"Sessions": rows})


for _name, _function in {
    "start_session": _start_session,
    "terminate_session": _terminate_session,
    "describe_sessions": _describe_sessions,
    "send_command": _send_command,
    "get_command_invocation": _get_command_invocation,
    "list_command_invocations": _list_command_invocations,
    "list_commands": _list_commands,
    "cancel_command": _cancel_command,
    "get_service_setting": _service_setting,
    "describe_instance_information": _describe_instance_information,
}.items():
    setattr(SimpleSystemManagerResponse, _name, _function)
