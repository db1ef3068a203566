"""The steps of filling a volume: a machine that may be taken away at any moment, and the staging on it.

A step on a temporary machine that is lost answers `{"lost": WHY}` instead of an id: the plan goes on with
another machine.
"""

# ruff: noqa: ARG002 (every kind has the same form)

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from runctl.clouds import SANDBOX_ENDED
from runctl.errors import CloudError, ConfigError, Conflict, Interrupted, NotFound, TrainctlError
from runctl.events import Notice, Progress
from runctl.ledger.staged import StagedRecord
from runctl.model import (
    TAG_DATASET,
    TAG_DATASET_BYTES,
    TAG_DATASET_EXTRA,
    TAG_DATASET_FILES,
    TAG_DATASET_LEFT_OUT,
    TAG_DATASET_TIME,
    TAG_DATASET_VERSION,
)
from runctl.providers.aws import instances, shell, volumes
from runctl.resources import steps
from runctl.resources.pace import Pace, hearing
from runctl.resources.stager import Stager, State
from runctl.resources.steps import BOOT_PATIENCE, VOLUME_PATIENCE, Surroundings
from runctl.safety.protection import ResourceKind
from runctl.safety.saga import Call, Kind, Result

MOST_STARTS = 4
OUTAGE_SECONDS = 1800.0
"""Real seconds without a word from the cloud, after which the filling is given up: the machine needs no
word of ours, and copies on."""

TAG_VALUE = 256
"""The longest value that EC2 takes."""

_FIRST_POLL, _LONGEST_POLL = 0.2, 5.0
_UNSEEN = timedelta(seconds=20)
_OVER = frozenset({"shutting-down", "terminated", "stopping", "stopped"})


def kinds(around: Surroundings) -> Mapping[str, Kind]:
    """The kinds of step that filling adds."""
    return {
        "run-temporary": RunTemporary(around),
        "free-volume": FreeVolume(around),
        "unmark-volume": UnmarkVolume(around),
        "reach-temporary": ReachTemporary(around),
        "attach-to-temporary": OnTemporary(around, steps.AttachVolume(around)),
        "mount-on-temporary": OnTemporary(around, steps.Mount(around)),
        "stage-dataset": StageDataset(around),
        "stage-on-temporary": OnTemporary(around, StageDataset(around)),
        "release-volume": ReleaseVolume(around),
        "release-from-temporary": ReleaseFromTemporary(around),
        "end-temporary": EndTemporary(around),
        "mark-volume": MarkVolume(around),
    }


def dataset_tag(location: str) -> str:
    """A dataset's location as a tag's value: cut, with a digest, where it is longer than EC2 takes."""
    if len(location) <= TAG_VALUE:
        return location
    return f"{location[: TAG_VALUE - 33]}#{hashlib.sha256(location.encode()).hexdigest()[:32]}"


class _OfFilling:
    final = False

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._session = around.session
        self._emit = around.emit

    def find(self, call: Call) -> Result | None:
        return None

    def undo(self, call: Call, result: Result) -> None:
        """Nothing to undo."""

    def _lost(self, instance_id: str) -> str:
        """Why a machine is no use any more; empty while it lives. One just made may be shown late."""
        clock = self._session.cloud.clock
        begun = clock.now()
        while (found := instances.get(self._session, instance_id)) is None:
            if clock.now() - begun > _UNSEEN:
                return "EC2 does not know it"
            time.sleep(0.25)
        return (found.reason or found.state) if found.state in _OVER else ""


class RunTemporary(steps.RunInstance):
    """Launch a temporary machine; one that has ended before anybody could note it down is a lost one."""

    def do(self, call: Call) -> Result:
        try:
            return super().do(call)
        except CloudError as error:
            ended = instances.find_by_token(self._session, call.token)
            if error.code != "IdempotentInstanceTerminated" or ended is None:
                raise
            return {"id": ended.id, "zone": ended.zone, "usd_per_hour": None}


class FreeVolume(_OfFilling):
    """Wait until a `volume` is at no machine; so it is left, too, when the operation is undone."""

    def do(self, call: Call) -> Result:
        volumes.wait_available(
            self._session, call.request["volume"], timeout=VOLUME_PATIENCE, emit=self._emit
        )
        return {"id": call.request["volume"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["volume"]}

    def undo(self, call: Call, result: Result) -> None:
        volumes.wait_detached(self._session, result["id"], timeout=VOLUME_PATIENCE, emit=self._emit)


class UnmarkVolume(_OfFilling):
    """A `volume` that is about to change holds no state of a dataset any more; not undone, for it is so."""

    def do(self, call: Call) -> Result:
        self._session.call(
            "ec2",
            "create_tags",
            Resources=[call.request["volume"]],
            Tags=[{"Key": TAG_DATASET_VERSION, "Value": ""}],
        )
        return {"id": call.request["volume"]}


class ReachTemporary(_OfFilling):
    """Wait until the shell of a temporary `instance` answers."""

    def do(self, call: Call) -> Result:
        instance_id, clock = call.request["instance"], self._session.cloud.clock
        begun = clock.now()
        while not shell.is_online(self._session, instance_id):
            if why := self._lost(instance_id):
                return _gone(self._around, instance_id, why)
            waited = clock.now() - begun
            if waited > BOOT_PATIENCE:
                raise CloudError(
                    f"{instance_id} cannot be reached through SSM",
                    service="ssm",
                    operation="describe_instance_information",
                    code="NotOnline",
                    why=f"its agent did not come online within {BOOT_PATIENCE}: no role, no route, no agent",
                    next="see docs/aws-setup.md",
                )
            task = f"waiting for the shell of {instance_id}"
            self._emit(Progress(task=task, done=waited.total_seconds(), total=None, unit="s"))
            time.sleep(0.5)
        return {"id": instance_id}


class OnTemporary(_OfFilling):
    """A step on a temporary `instance`, which is lost where the machine is, and needs no undoing then."""

    def __init__(self, around: Surroundings, inner: Kind) -> None:
        super().__init__(around)
        self._inner = inner

    def do(self, call: Call) -> Result:
        try:
            return self._inner.do(call)
        except (CloudError, Conflict, NotFound):
            why = self._lost(call.request["instance"])
            if not why:
                raise
            return _gone(self._around, call.request["instance"], why)

    def find(self, call: Call) -> Result | None:
        return self._inner.find(call)

    def undo(self, call: Call, result: Result) -> None:
        if not result.get("id") or self._lost(call.request["instance"]):
            return
        try:
            self._inner.undo(call, result)
        except (CloudError, Conflict, NotFound) as error:
            # The machine is ended next, and that frees the volume: see FreeVolume.
            self._emit(Notice(text=f"{error}; the end of the machine frees it", warning=True))


class ReleaseVolume(_OfFilling):
    """Unmount and detach a `volume` that this operation attached: what undoes the attachment is done then."""

    def do(self, call: Call) -> Result:
        request = call.request
        if request.get("mounted"):
            steps.Unmount(self._around).do(call)
        if request.get("attached"):
            steps.DetachVolume(self._around).do(call)
        return {"id": request["volume"]}


class ReleaseFromTemporary(ReleaseVolume):
    """The same on a temporary machine: what fails here, its end does."""

    def do(self, call: Call) -> Result:
        if not self._lost(call.request["instance"]):
            try:
                return super().do(call)
            except (CloudError, Conflict, NotFound) as error:
                self._emit(Notice(text=f"{error}; the end of the machine frees it", warning=True))
        return {"id": call.request["volume"]}


class EndTemporary(_OfFilling):
    """End the machine that this operation made, whether it lives or not."""

    def do(self, call: Call) -> Result:
        self._around.door.remove_created(ResourceKind.INSTANCE, call.request["instance"], tx=call.tx)
        return {"id": call.request["instance"]}


class StageDataset(_OfFilling):
    """Stage a dataset as `spec` says into the `path` where a `volume` is mounted on an `instance`.

    The program on the machine runs on by itself; this looks at it. Undone by telling it to stop: what
    has been copied stays.
    """

    def do(self, call: Call) -> Result:
        stager = _stager(self._around, call)
        pace = Pace(self._around, call.request)
        stopping = threading.Event()
        state = stager.look(fresh=True, looks=4)
        wait, silent_since = _FIRST_POLL, time.monotonic()
        with hearing(stopping):
            while state is None or not state.ended:
                if stopping.is_set():
                    stager.stop()
                    raise Interrupted("The staging was stopped", why="Ctrl-C; what was copied stays")
                if state is not None:
                    pace.show(state)
                    _require_alive(state)
                stopping.wait(wait)
                wait = min(wait * 1.5, _LONGEST_POLL)
                try:
                    state = stager.look()
                    if state is None and (why := self._lost(stager.instance)):
                        return _gone(self._around, stager.instance, why)
                    silent_since = time.monotonic()
                except (CloudError, ConfigError) as error:
                    if not _passes(error) or time.monotonic() - silent_since > OUTAGE_SECONDS:
                        raise
                    if state is not None:
                        self._emit(Notice(text=f"{error}: the machine works on meanwhile", warning=True))
                    state = None
        return self._result(call, stager, state, pace)

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["volume"]}

    def undo(self, call: Call, result: Result) -> None:
        _stager(self._around, call).stop()

    def _result(self, call: Call, stager: Stager, state: State, pace: Pace) -> Result:
        temporary = call.request["spec"]["machine"]["disposable"]
        if state.phase == "interrupted":
            return _gone(self._around, stager.instance, "a spot interruption was announced")
        if state.phase == "stopped" and temporary:  # by its system, which is going down
            return _gone(self._around, stager.instance, "its system ended the staging")
        if state.phase != "done":
            raise not_staged(state, stager.left_out(state))
        left_out = stager.left_out(state)
        if not temporary:
            stager.clear()
        return {
            "id": call.request["volume"],
            "complete": True,
            "location": call.request["location"],
            "version": state.version,
            "files": state.files,
            "bytes": state.bytes,
            "copied_files": state.copied_files,
            "copied_bytes": state.copied_bytes,
            "equal_files": state.equal_files,
            "proved_files": state.proved_files,
            "deleted_files": state.deleted_files,
            "extra_files": state.extra_files,
            "left_out": left_out,
            "left_out_files": state.left_out_files,
            "engine": state.engine,
            "seconds": round(pace.seconds, 1),
            "usd": None if (cost := pace.cost()) is None else str(round(cost, 6)),
        }


class MarkVolume(_OfFilling):
    """Write down what a `volume` holds now, in its tags and the ledger, by the first of `stagings` there was.

    Raises CloudError where every machine was taken away before one was done.
    """

    def do(self, call: Call) -> Result:
        session, request = self._session, call.request
        found = next((one for one in request["stagings"] if one["version"]), None)
        if found is None:
            raise CloudError(
                f"{request['volume']} is not filled",
                service="ec2",
                operation="describe_instances",
                code="MachinesLost",
                why=f"{len(request['stagings'])} machines were taken away before one was done",
                next="the same command goes on where they stopped; --no-spot is not interrupted",
            )
        now = session.cloud.clock.now()
        mark(self._around, request["volume"], request["location"], found, now)
        extra = str(found.get("extra_files") or 0)
        return {"id": request["volume"], "version": found["version"], "extra": extra}


def mark(
    around: Surroundings, volume_id: str, location: str, found: Mapping[str, Any], now: datetime
) -> None:
    """Tags and a line of the ledger: from now on the volume is known to hold this."""
    tags = {
        TAG_DATASET: dataset_tag(location),
        TAG_DATASET_VERSION: str(found["version"]),
        TAG_DATASET_FILES: str(found["files"]),
        TAG_DATASET_BYTES: str(found["bytes"]),
        TAG_DATASET_TIME: now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        TAG_DATASET_LEFT_OUT: str(found.get("left_out_files") or 0),
        TAG_DATASET_EXTRA: str(found.get("extra_files") or 0),
    }
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    around.session.call(
        "ec2",
        "create_tags",
        Resources=[volume_id],
        Tags=pairs,
        exists=lambda: volumes.describe(around.session, volume_id) is not None,
    )
    if around.ledger is not None:
        around.ledger.staged.add(
            StagedRecord(
                resource=volume_id,
                cloud=around.session.cloud.key,
                region=around.session.region,
                location=location,
                version=str(found["version"]),
                files=int(found["files"]),
                bytes=int(found["bytes"]),
                at=now,
            )
        )


def _stager(around: Surroundings, call: Call) -> Stager:
    request = call.request
    return Stager(
        around.session,
        request["instance"],
        call.token,
        request["agent_bucket"],
        request["path"],
        request["spec"],
    )


def _passes(error: CloudError | ConfigError) -> bool:
    """Whether what failed here may be well in a while: the network, or credentials that are renewed."""
    if isinstance(error, ConfigError):
        return True
    return error.code != SANDBOX_ENDED and (error.retryable or error.lost_answer)


def _require_alive(state: State) -> None:
    if state.starts > MOST_STARTS:
        raise CloudError(
            "The staging does not stay alive",
            service="ssm",
            operation="send_command",
            code="Restarted",
            why=f"the program on the machine ended {state.starts - 1} times without a word",
        )


def not_staged(state: State, left_out: list[tuple[str, str]]) -> TrainctlError:
    """What a staging that ended without being done comes to."""
    if state.phase == "stopped":
        return Interrupted("The staging was stopped on its machine", next="the same command goes on with it")
    if state.code in {"other-dataset", "nothing", "no-room", "busy"}:
        return Conflict(state.message, next="--delete, or another volume" if "other" in state.code else "")
    refused = "HTTP 403" in state.message
    lines = "; ".join(f"{name}: {why}" for name, why in left_out[:5])
    return CloudError(
        "The dataset was not staged",
        service="s3",
        operation="stage",
        code=state.code or "Failed",
        why=f"{state.message}{': ' + lines if lines else ''}",
        next="the machine's role needs s3:GetObject and s3:ListBucket there: see docs/aws-setup.md"
        if refused
        else "the same command goes on where it stopped",
    )


def _gone(around: Surroundings, instance_id: str, why: str) -> Result:
    around.emit(Notice(text=f"{instance_id} is lost ({why}): the filling goes on elsewhere", warning=True))
    return {"lost": why}
