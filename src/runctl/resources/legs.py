"""Transfers with an instance on one side or both: whole, or gone on with by whoever asks for it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runctl.errors import ConfigError, Conflict, ValidationError
from runctl.events import Emit, Notice
from runctl.ledger import TransactionRecord
from runctl.links import refuse_brought
from runctl.providers.aws import account
from runctl.providers.aws.tunnel import require_programs
from runctl.resources import carrying
from runctl.resources.carrying import NoStaging, TransferStopped, anew, new_request
from runctl.resources.leg_plan import LegOptions
from runctl.resources.leg_run import LegReport
from runctl.resources.operation import Operation
from runctl.safety import saga, transaction
from runctl.safety.saga import Kind, Plan, PlannedStep
from runctl.storage.listing import LeftOut
from runctl.storage.location import InstancePath, LocalPath, S3Location, parse
from runctl.storage.transfer import TransferReport

__all__ = ["OPERATION", "LegOptions", "WouldTransfer", "plan", "transfer"]

OPERATION = "transfer"


class WouldTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """What a transfer would do: files with their sizes in bytes, and what it would delete."""

    files: tuple[tuple[str, int], ...]
    size: int
    equal_files: int
    delete: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def transfer(
    operation: Operation,
    source: str,
    destination: str,
    options: LegOptions | None = None,
    *,
    bucket: str | None = None,
    emit: Emit | None = None,
) -> TransferReport:
    """Move what differs from `source` to `destination`, locations of which one at least is on an instance.

    A transfer of the same places that died is gone on with. `bucket` is what files go through, None for the
    jobs' own. Raises NotFound, ValidationError, Conflict, ConfigError (no bucket, no shell), TransferError,
    CloudError, Interrupted; what has arrived stays, what was staged is removed.
    """
    report = _carry(operation, source, destination, options or LegOptions(), bucket, emit)
    return TransferReport(
        moved_files=len(report.moved),
        moved_bytes=report.moved_bytes,
        equal_files=report.equal,
        deleted_files=len(report.deleted),
        left_out=report.left_out,
        failed=tuple(LeftOut(name, why) for name, why in sorted(report.failed.items())),
        seconds=report.seconds,
    )


def plan(
    operation: Operation,
    source: str,
    destination: str,
    options: LegOptions | None = None,
    *,
    bucket: str | None = None,
    emit: Emit | None = None,
) -> WouldTransfer:
    """What `transfer` would do; both sides are listed and nothing is moved. Raises as `transfer`."""
    asked = msgspec.structs.replace(options or LegOptions(), dry_run=True)
    report = _carry(operation, source, destination, asked, bucket, emit)
    return WouldTransfer(
        files=report.would,
        size=sum(size for _, size in report.would),
        equal_files=report.equal,
        delete=report.would_delete,
        left_out=report.left_out,
    )


def _carry(
    operation: Operation,
    source: str,
    destination: str,
    options: LegOptions,
    bucket: str | None,
    emit: Emit | None,
) -> LegReport:
    places = (_absolute(source), _absolute(destination))
    if not any(isinstance(parse(place), InstancePath) for place in places):
        raise ValidationError("Neither side is on an instance", next="i-0123456789abcdef0:/path names one")
    _require_meant(places, options)
    here, there = (parse(place) for place in places)
    if isinstance(here, LocalPath):
        refuse_brought(here.path, reading=True)
    if isinstance(there, LocalPath):
        refuse_brought(there.path)
    listen = emit or operation.emit
    through = bucket or account.default_bucket(operation.session)
    try:
        return _carry_through(operation, new_request(*places, through, options), listen)
    except NoStaging as error:
        if bucket or any(isinstance(parse(place), S3Location) for place in places):
            raise
        try:
            require_programs()
        except ConfigError as missing:
            why = f"{error.why}; and over SSH: {missing.what}"
            raise ConfigError(error.what, why=why, next=f"{error.next}; or {missing.next}") from missing
        text = f"{error}: going over SSH through SSM, which is slow for more than some hundred MiB"
        listen(Notice(text=text, warning=True))
        return _carry_through(operation, new_request(*places, "", options), listen)


def _require_meant(places: tuple[str, str], options: LegOptions) -> None:
    """Nothing that was asked for is passed over in silence."""
    if not any(isinstance(parse(place), S3Location) for place in places):
        return
    for asked, name, why in (
        (options.compress, "--compress", "objects in S3 are kept as they are"),
        (options.checksum, "--checksum", "S3 keeps no SHA-256 of every object: size and time are compared"),
    ):
        if asked:
            raise ValidationError(
                f"{name} is not for S3 and an instance",
                why=why,
                next=f"leave {name} out; what arrives is proven",
            )


def _carry_through(operation: Operation, request: dict[str, Any], listen: Emit) -> LegReport:
    told: list[LegReport] = []
    kinds = carrying.kinds(operation.session, listen, told.append)
    subject = f"{request['source']} to {request['destination']}"
    try:
        if (left := _left(operation, subject, request, kinds, listen)) is not None:
            saga.resume(operation.ledger, left, kinds, emit=listen)
        else:
            now = operation.session.cloud.clock.now()
            saga.carry_out(operation.ledger, _plan(operation, subject, request), kinds, emit=listen, at=now)
    except TransferStopped as error:
        for note in getattr(error, "__notes__", ()):
            error.cause.add_note(note)
        raise error.cause from None
    if not told:
        # It had arrived before the process died that should have said so: only the tidying was left.
        return _carry_through(operation, anew(request), listen)
    return told[-1]


def _plan(operation: Operation, subject: str, request: dict[str, Any]) -> Plan:
    return operation.plan(
        OPERATION,
        subject,
        [
            PlannedStep(name="staging", kind="open-staging", requests=(request,)),
            PlannedStep(name="carry", kind="carry-files", requests=(request,)),
            PlannedStep(name="clear", kind="clear-staging", requests=(request,)),
        ],
    )


def _left(
    operation: Operation, subject: str, request: dict[str, Any], kinds: Mapping[str, Kind], emit: Emit
) -> TransactionRecord | None:
    """What a dead process left of the same transfer, to be gone on with; what cannot be, is undone."""
    ledger = operation.ledger
    dead = [
        record
        for record in transaction.abandoned(ledger, operation=OPERATION, subject=subject)
        if saga.plan_of(record).cloud == operation.session.cloud.key
    ]
    known = {record.id for record in dead}
    for record in ledger.journal.unfinished(operation=OPERATION, subject=subject):
        if record.id not in known and saga.plan_of(record).cloud == operation.session.cloud.key:
            raise Conflict(
                f"This transfer is under way: {subject}",
                why=f"process {record.owner.pid} on {record.owner.host} works on it",
                next="wait for it, or end that process",
            )
    going_on: TransactionRecord | None = None
    for record in dead:
        asked = saga.plan_of(record).steps[0].requests[0]
        # One that failed was being undone when its process died, or when the store did not answer.
        ended = any(step.outcome in {"undoing", "undone", "failed"} for step in record.steps)
        same = all(asked[name] == request[name] for name in ("options", "bucket"))
        if going_on is None and same and not ended:
            emit(Notice(text=f"going on with {record.id}, which was left unfinished"))
            going_on = record
        else:
            saga.roll_back(ledger, record, kinds)
    return going_on


def _absolute(text: str) -> str:
    """A location that means the same from every folder."""
    place = parse(text)
    if not isinstance(place, LocalPath):
        return text
    return str(place.path.absolute()) + ("/" if text.endswith("/") and text != "/" else "")
