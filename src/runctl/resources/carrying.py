"""The steps of a transfer with an instance: a staging prefix that is always emptied, and the carrying."""

# ruff: noqa: ARG001, ARG002 (every kind of step has the same form)

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.agent.report import TornWord
from runctl.clouds import SandboxEnded
from runctl.errors import CloudError, ConfigError, NotFound, TrainctlError
from runctl.events import Emit, Notice
from runctl.providers.aws import account
from runctl.providers.aws.session import Session
from runctl.providers.aws.tunnel import require_programs
from runctl.providers.aws.uploads import abort
from runctl.resources.between import key_of, staged_for, staging_of, transfer_id, withdraw
from runctl.resources.reaching import access_of
from runctl.safety.saga import Call, Kind, Result
from runctl.safety.transaction import LeftAtOnce
from runctl.storage import claims
from runctl.storage.location import InstancePath, LocalPath, S3Location, parse
from runctl.storage.loopback import LoopbackStaging
from runctl.storage.staging import UPLOADS, SigningStore, Staging, new_prefix

if TYPE_CHECKING:
    from runctl.resources.leg_plan import LegOptions
    from runctl.resources.leg_run import Ends, LegReport
    from runctl.resources.sides import InstanceSide, LocalSide, S3Side, Upload

_TRIES = 8
"""How often a record may come torn."""


class TransferStopped(TrainctlError):
    """The transfer ended early; `cause` says how. What arrived stays, what was staged is removed."""

    def __init__(self, cause: TrainctlError) -> None:
        super().__init__(cause.what, why=cause.why, next=cause.next)
        self.exit_code = cause.exit_code
        self.cause = cause


class NoStaging(ConfigError):
    """There is no bucket to go through."""


class OpenStaging:
    """Have a `bucket`, and a `prefix` in it that is empty again when the transfer has ended.

    An empty `bucket` is a folder of this computer, which machines reach over SSH.
    """

    final = False

    def __init__(self, session: Session, emit: Emit) -> None:
        self._session = session
        self._emit = emit

    def do(self, call: Call) -> Result:
        bucket = call.request["bucket"]
        if not bucket:
            require_programs()
            return {"id": call.request["prefix"], "bucket": bucket}
        try:
            made = account.ensure_bucket(self._session, bucket)
        except (CloudError, ConfigError) as error:
            if isinstance(error, SandboxEnded) or (isinstance(error, CloudError) and error.retryable):
                raise  # no other bucket would help
            raise NoStaging(
                f"There is no bucket to go through: {bucket}",
                why=f"{error.why or error}; files reach an instance through a bucket of yours",
                next="name one that you may use: runctl config set aws.bucket NAME",
            ) from error
        if made:
            self._emit(Notice(text=f"created the bucket {bucket}"))
        return {"id": call.request["prefix"], "bucket": bucket}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["prefix"], "bucket": call.request["bucket"]}

    def undo(self, call: Call, result: Result) -> None:
        clear(self._session, call.request, self._emit, working=True)


class ClearStaging:
    """Empty the staging `prefix`, which has done its service."""

    final = False

    def __init__(self, session: Session, emit: Emit) -> None:
        self._session = session
        self._emit = emit

    def do(self, call: Call) -> Result:
        clear(self._session, call.request, self._emit, working=False)
        return {"id": call.request["prefix"]}

    def find(self, call: Call) -> Result | None:
        return None

    def undo(self, call: Call, result: Result) -> None:
        """What was removed has served its purpose."""


class CarryFiles:
    """Move what differs between `source` and `destination`; what has arrived is not undone."""

    final = False

    def __init__(self, session: Session, emit: Emit, tell: Callable[[LegReport], None] | None = None) -> None:
        self._session = session
        self._emit = emit
        self._tell = tell

    def do(self, call: Call) -> Result:
        from runctl.resources.leg_plan import LegOptions
        from runctl.resources.leg_run import Carrier

        request = call.request
        options = msgspec.convert(request["options"], LegOptions)
        stopping = threading.Event()
        try:
            with (
                _interrupting(stopping),
                staged_for(self._session, request, self._emit) as seen_by,
            ):
                ends = _ends(self._session, request, self._emit, stopping, seen_by)
                report = Carrier(ends, options, self._emit, stopping).run()
        except TrainctlError as error:
            raise TransferStopped(error) from error
        if self._tell is not None:
            self._tell(report)
        return {
            "id": request["prefix"],
            "moved_files": len(report.moved),
            "moved_bytes": report.moved_bytes,
            "failed": len(report.failed),
        }

    def find(self, call: Call) -> Result | None:
        return None

    def undo(self, call: Call, result: Result) -> None:
        """What has arrived is whole, and the user's."""


def kinds(
    session: Session, emit: Emit, tell: Callable[[LegReport], None] | None = None
) -> Mapping[str, Kind]:
    """The steps of a transfer by their names in plans; `tell` is told in full what came of it."""
    return {
        "open-staging": OpenStaging(session, emit),
        "carry-files": CarryFiles(session, emit, tell),
        "clear-staging": ClearStaging(session, emit),
    }


def clear(session: Session, request: dict[str, Any], emit: Emit, *, working: bool) -> None:
    """Empty the staging prefix; with `working`, machines that may still write to it are told to end first."""
    from runctl.resources.machine_side import MachineSide
    from runctl.resources.sides import Upload, word_of

    staging = staging_of(session, request)
    machines = {
        place.instance
        for place in map(parse, (request["source"], request["destination"]))
        if isinstance(place, InstancePath)
    }
    for instance in machines if working else ():
        MachineSide(session, instance, staging, transfer_id(request), key_of(request), emit).stop(
            for_good=True
        )
    if isinstance(staging, LoopbackStaging):
        withdraw(session, machines, request, emit)
        staging.empty()
        return
    try:
        for record in staging.list(UPLOADS.rstrip("/")):
            try:
                told = word_of(staging, record.key, key_of(request), tries=_TRIES)
            except TornWord:
                text = (
                    f"{claims.spelled(record.key)} is no record of this transfer (its seal is wrong): removed"
                )
                emit(Notice(text=text, warning=True))
                continue
            if told is not None:
                _abort(session, request, claims.converted(told, Upload, record.key), emit)
        staging.empty()
    except NotFound:
        return  # the bucket is gone, or was never made


def _abort(session: Session, request: dict[str, Any], told: Upload, emit: Emit) -> None:
    """End an upload of this transfer: a record of another bucket is none of its own."""
    destination = parse(request["destination"])
    if isinstance(destination, S3Location) and destination.bucket == told.bucket:
        abort(session, told.bucket, told.key, told.upload)
    else:
        text = f"a record of an upload to {claims.spelled(told.bucket)} is not this transfer's: left alone"
        emit(Notice(text=text, warning=True))


def new_request(source: str, destination: str, bucket: str, options: LegOptions) -> dict[str, Any]:
    """What every step of one transfer is asked. Its key is shown nowhere: the journal is the user's own."""
    return anew(
        {
            "source": source,
            "destination": destination,
            "bucket": bucket,
            # As the journal gives it back, so that a request can be compared with one of a dead process.
            "options": msgspec.json.decode(msgspec.json.encode(options)),
        }
    )


def anew(request: dict[str, Any]) -> dict[str, Any]:
    """The same transfer for another time: with a prefix and a key that nobody else has."""
    return {**request, "prefix": new_prefix(), "key": secrets.token_hex(32)}


def _ends(
    session: Session,
    request: dict[str, Any],
    emit: Emit,
    stopping: threading.Event,
    seen_by: Callable[[str], Staging],
) -> Ends:
    """Both sides. Raises as `MachineSide.require_online`, and as a tunnel to a machine."""
    from runctl.resources.leg_run import Ends
    from runctl.resources.machine_side import MachineSide
    from runctl.resources.sides import InstanceSide, LocalSide, S3Side

    access = access_of(session)
    run = secrets.token_hex(4)
    online: set[str] = set()

    def side(text: str) -> LocalSide | InstanceSide | S3Side:
        place = parse(text)
        if isinstance(place, LocalPath):
            return LocalSide(place.path, key_of(request))
        if isinstance(place, S3Location):
            return S3Side(lambda prefix: SigningStore(place.bucket, prefix, access), place.key, text)
        if place.instance not in online:
            far = staging_of(session, request)
            MachineSide(
                session, place.instance, far, transfer_id(request), key_of(request), emit
            ).require_online()
            online.add(place.instance)
        staging = seen_by(place.instance)
        machine = MachineSide(session, place.instance, staging, transfer_id(request), key_of(request), emit)
        return InstanceSide(machine, place.path, staging, run=run, stopping=stopping)

    return Ends(
        source=side(request["source"]),
        destination=side(request["destination"]),
        destination_text=request["destination"],
        staging=seen_by(""),
        session=session,
        key=key_of(request),
        run=run,
    )


@contextmanager
def _interrupting(stopping: threading.Event) -> Generator[None]:
    """Ctrl-C ends the transfer in order, instead of waiting for its end; the second leaves at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    heard = 0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        stopping.set()
        if heard > 1:
            raise LeftAtOnce

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
