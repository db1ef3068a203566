"""The one door to a destructive provider call: facts are gathered, the rules speak, then it acts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from runctl.config import Protection
from runctl.errors import CloudError, Conflict, NotFound, Protected, TrainctlError, ValidationError
from runctl.events import Emit, Notice, ignore
from runctl.ledger import Ledger, VerdictRecord
from runctl.model import (
    TAG_IMPORTANT,
    TAG_JOB,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROTECTED,
    TAG_TRANSACTION,
    TAG_USER,
)
from runctl.providers.aws import instances, shell, snapshots, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.safety import ending, facts
from runctl.safety.facts import KnownInstance
from runctl.safety.fate import OVER, POLL_SECONDS, UNSEEN_PATIENCE, require_kept, to_keep
from runctl.safety.protection import evaluate, marked
from runctl.safety.vocabulary import Action, Disk, Effect, Facts, Finding, Request, ResourceKind, Verdict

DETACH_PATIENCE = timedelta(minutes=2)

DELETED_AT_ONCE = 1000
"""The most keys that one DeleteObjects takes."""


class Door:
    """Destroys for one user on one cloud. One object is for one thread, as its ledger is."""

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        user: str,
        *,
        policy: Protection | None = None,
        emit: Emit = ignore,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._user = user
        self._policy = policy or Protection()
        self._emit = emit

    @property
    def session(self) -> Session:
        """The cloud that it leads to."""
        return self._session

    @property
    def user(self) -> str:
        """For whom it opens."""
        return self._user

    @property
    def emit(self) -> Emit:
        """Who listens to what it does."""
        return self._emit

    def assess(self, action: Action, kind: ResourceKind, resource_id: str, request: Request) -> Verdict:
        """What the rules say now; nothing is changed and nothing recorded.

        Raises NotFound for what the cloud does not show, ValidationError for an action that the kind has not.
        """
        if kind is ResourceKind.INSTANCE and action is not Action.DELETE:
            known = facts.of_instance(self._session, self._ledger, resource_id)
        elif kind is ResourceKind.VOLUME and action is Action.DELETE:
            known = facts.of_volume(self._session, self._ledger, resource_id)
        elif kind is ResourceKind.SNAPSHOT and action is Action.DELETE:
            known = facts.of_snapshot(self._session, self._ledger, resource_id)
        else:
            raise ValidationError(f"A {kind} cannot be asked for this here: {action}")
        if known is None:
            raise _not_found(kind, resource_id)
        return self._judge(action, resource_id, known.facts, request)

    def stop_instance(self, instance_id: str, request: Request) -> Verdict:
        """Stop an instance, after its training was ended where some runs.

        Raises Protected, NotFound, CloudError. One that its agent ended meanwhile is left to its end.
        """
        known = facts.of_instance(self._session, self._ledger, instance_id)
        if known is None or known.instance.state in OVER:
            raise _not_found(ResourceKind.INSTANCE, instance_id)
        verdict, known = self._pass(Action.STOP, known, request)
        if known.instance.state in OVER:
            self._emit(Notice(text=f"{instance_id} was ended by its agent, once it had saved", warning=True))
        else:
            instances.stop(self._session, instance_id)
        return verdict

    def terminate_instance(self, instance_id: str, request: Request) -> Verdict:
        """Terminate an instance, after its training was ended; persistent volumes are kept. Idempotent.

        Raises Protected, CloudError; Conflict where a persistent volume could not be saved from its end.
        """
        known = facts.of_instance(self._session, self._ledger, instance_id)
        if known is None or (
            known.instance.state in OVER and not _may_come_back(self._session, known.instance)
        ):
            return _gone(Action.TERMINATE, ResourceKind.INSTANCE, instance_id)
        verdict, known = self._pass(Action.TERMINATE, known, request)
        _terminate(self._session, known.instance, emit=self._emit)
        return verdict

    def end_training(self, instance_id: str, request: Request) -> Instance | None:
        """Let what trains save and end, as before a termination, which is not made yet. Idempotent.

        Answers the instance as it is then; None where it has ended. Raises Protected, CloudError.
        """
        known = facts.of_instance(self._session, self._ledger, instance_id)
        if known is None or known.instance.state in OVER:
            return None
        _, known = self._pass(Action.TERMINATE, known, request)
        return None if known.instance.state in OVER else known.instance

    def delete_volume(self, volume_id: str, request: Request) -> Verdict:
        """Delete a volume; one that is gone is fine. Raises Protected, CloudError."""
        known = facts.of_volume(self._session, self._ledger, volume_id)
        if known is None or known.volume.state in {"deleting", "deleted"}:
            return _gone(Action.DELETE, ResourceKind.VOLUME, volume_id)
        verdict = self._admit(self._judge(Action.DELETE, volume_id, known.facts, request), request)
        volumes.delete(self._session, volume_id)
        return verdict

    def delete_snapshot(self, snapshot_id: str, request: Request) -> Verdict:
        """Delete a snapshot; one that is gone is fine. Raises Protected, CloudError."""
        known = facts.of_snapshot(self._session, self._ledger, snapshot_id)
        if known is None:
            return _gone(Action.DELETE, ResourceKind.SNAPSHOT, snapshot_id)
        verdict = self._admit(self._judge(Action.DELETE, snapshot_id, known.facts, request), request)
        snapshots.delete(self._session, snapshot_id)
        return verdict

    def remove_created(self, kind: ResourceKind, resource_id: str, *, tx: str) -> None:
        """Undo a creation: remove what carries the tag of this transaction, and nothing else. Idempotent.

        Raises Protected for what does not carry it, CloudError, ValidationError for a checkpoint.
        """
        if kind is ResourceKind.CHECKPOINT:
            raise ValidationError("A checkpoint is not made by a transaction")
        created = self._created(kind, resource_id)
        if created is None:
            return
        tags = created.tags
        made = bool(tx) and tags.get(TAG_TRANSACTION) == tx
        reason = f"{tx} made it" if made else f"it was not made by {tx}"
        action = Action.TERMINATE if kind is ResourceKind.INSTANCE else Action.DELETE
        finding = Finding("made by this operation", Effect.ALLOW if made else Effect.FORBID, reason)
        verdict = Verdict(action=action, kind=kind, resource=resource_id, findings=(finding,))
        self._admit(verdict, Request(user=self._user))
        if isinstance(created, Instance):
            _terminate(self._session, created, emit=self._emit, made_by=tx)
        elif isinstance(created, Volume):
            volumes.delete(self._session, resource_id)
        else:
            snapshots.delete(self._session, resource_id)

    def end_with_instance(self, volume_id: str, instance_id: str, device: str) -> None:
        """Set a volume to be deleted with its instance again: undoes its keeping.

        A persistent one stays kept, as it should have been before.
        """
        volume = volumes.describe(self._session, volume_id)
        if volume is None or not any(found.instance == instance_id for found in volume.attachments):
            return
        if marked(volume.tags, TAG_PERSISTENT):
            self._emit(Notice(text=f"{volume_id} is persistent and stays kept when {instance_id} ends"))
            return
        instances.set_delete_on_termination(self._session, instance_id, device, delete=True)

    def _created(self, kind: ResourceKind, resource_id: str) -> Instance | Volume | snapshots.Snapshot | None:
        """What is there still; what was just made may be shown late."""
        read: Callable[[Session, str], Instance | Volume | snapshots.Snapshot | None] = {
            ResourceKind.INSTANCE: instances.get,
            ResourceKind.VOLUME: volumes.describe,
            ResourceKind.SNAPSHOT: snapshots.describe,
        }[kind]
        clock = self._session.cloud.clock
        begun = clock.now()
        while (found := read(self._session, resource_id)) is None:
            if clock.now() - begun > UNSEEN_PATIENCE:
                return None
            clock.sleep(POLL_SECONDS)
        over = not isinstance(found, snapshots.Snapshot) and found.state in {*OVER, "deleting", "deleted"}
        return None if over else found

    def _pass(self, action: Action, known: KnownInstance, request: Request) -> tuple[Verdict, KnownInstance]:
        """Let an instance through once its training has ended: then everything is asked anew."""
        instance_id = known.instance.id
        verdict = self._admit(self._judge(action, instance_id, known.facts, request), request)
        if not verdict.graceful:
            return verdict, known
        seen = ending.end_training(self._session, self._ledger, instance_id, known.seen, emit=self._emit)
        again = facts.of_instance(self._session, self._ledger, instance_id, seen=seen)
        if again is None:
            raise _not_found(ResourceKind.INSTANCE, instance_id)
        if again.instance.state in OVER:
            return verdict, again
        return self._admit(self._judge(action, instance_id, again.facts, request), request), again

    def _judge(self, action: Action, resource_id: str, known: Facts, request: Request) -> Verdict:
        now = self._session.cloud.clock.now()
        return evaluate(action, resource_id, known, request, now, self._policy)

    def _admit(self, verdict: Verdict, request: Request) -> Verdict:
        """Record a verdict, then raise Protected where it blocks."""
        _record(self._ledger, self._session, verdict, request.user)
        _require_allowed(verdict)
        return verdict


class Removes(Protocol):
    """Where checkpoints lie: a prefix of S3, or a folder."""

    def remove(self, keys: list[str]) -> None:
        """Idempotent."""
        ...


def delete_checkpoint(
    store: Removes, keys: Iterable[str], verdict: Verdict, *, ledger: Ledger, user: str, at: datetime
) -> None:
    """Delete a checkpoint's objects in their order, so that it is none from the first on. Idempotent.

    Raises Protected, CloudError. The verdict is recorded.
    """
    _write_down(ledger, verdict, user, at)
    _require_allowed(verdict)
    first, *rest = keys
    store.remove([first])
    for start in range(0, len(rest), DELETED_AT_ONCE):
        store.remove(rest[start : start + DELETED_AT_ONCE])


def terminate_job_instance(
    session: Session, instance_id: str, *, job: str, ledger: Ledger | None = None
) -> None:
    """Terminate a machine that a job made for itself; idempotent. Persistent volumes at it are kept.

    Raises Protected for a machine that is unmanaged, marked as protected, or belongs to another job:
    everything unknown counts against deletion. The verdict is recorded where a ledger is given.
    """
    instance = instances.get(session, instance_id)
    if instance is None:
        return
    managed = instance.tags.get(TAG_MANAGED) == "true"
    own = instance.tags.get(TAG_JOB) == job
    status = f"runctl aws status {quoted(instance_id)}"
    findings = (
        Finding("unmanaged", Effect.ALLOW, "runctl made it")
        if managed
        else Finding("unmanaged", Effect.FORBID, "unmanaged: runctl did not make it", status),
        Finding("made by this job", Effect.ALLOW, f"{job} made it")
        if own
        else Finding("made by this job", Effect.FORBID, "another job's machine", status),
        *_held(instance),
    )
    verdict = Verdict(
        action=Action.TERMINATE, kind=ResourceKind.INSTANCE, resource=instance_id, findings=findings
    )
    if ledger is not None and instance.state not in OVER:
        _record(ledger, session, verdict, instance.tags.get(TAG_USER, ""))
    _require_allowed(verdict)
    _terminate(session, instance, emit=session.emit)


def _held(instance: Instance) -> tuple[Finding, ...]:
    """What its owner marked is not ended behind his back, whoever made it."""
    if not marked(instance.tags, TAG_PROTECTED, TAG_IMPORTANT):
        return ()
    next_ = f"runctl aws terminate {quoted(instance.id)} --force"
    return (Finding("protected tag", Effect.FORBID, "marked as protected or important", next_),)


def _record(ledger: Ledger, session: Session, verdict: Verdict, user: str) -> None:
    _write_down(ledger, verdict, user, session.cloud.clock.now())


def _write_down(ledger: Ledger, verdict: Verdict, user: str, at: datetime) -> None:
    ledger.verdicts.add(
        VerdictRecord(
            at=at,
            action=verdict.action,
            resource=verdict.resource,
            allowed=verdict.allowed,
            forced=verdict.forced,
            findings=msgspec.json.encode(verdict.findings),
            user=user,
        )
    )


def _require_allowed(verdict: Verdict) -> None:
    if verdict.allowed:
        return
    raise Protected(
        f"{verdict.resource} is protected from this: {verdict.action}",
        reasons=tuple(finding.rule for finding in verdict.blocking),
        verdict=verdict,
        why="; ".join(finding.reason for finding in verdict.blocking),
        next=next((finding.next for finding in verdict.blocking if finding.next), ""),
    )


def _terminate(session: Session, instance: Instance, *, emit: Emit, made_by: str | None = None) -> None:
    """Save the persistent volumes from its end, then cancel its spot request, then terminate it.

    With `made_by` every volume that this transaction did not make is kept, too.
    """
    if instance.state not in OVER:
        kept = to_keep(session, instance, made_by)
        for disk in kept:
            if disk.dies_with_instance:
                instances.set_delete_on_termination(session, instance.id, disk.device, delete=False)
        for disk in kept:
            _detach(session, instance, disk, emit=emit)
        require_kept(session, instance, made_by)
    if _may_come_back(session, instance):
        session.call("ec2", "cancel_spot_instance_requests", SpotInstanceRequestIds=[instance.spot_request])
    if instance.state not in OVER:
        instances.terminate(session, instance.id)


def _detach(session: Session, instance: Instance, disk: Disk, *, emit: Emit) -> None:
    """Detach a volume cleanly where that is possible; elsewhere the end of the machine does it.

    It is kept either way: it does not end with the instance any more.
    """
    from runctl.providers.aws import disks

    if disk.device == instance.root_device or instance.state not in {"running", "stopped"}:
        return
    try:
        if instance.state == "running":
            if not shell.is_online(session, instance.id):
                return
            disks.unmount(session, instance.id, disk.volume)
        volumes.detach(session, disk.volume, instance.id)
        volumes.wait_detached(session, disk.volume, timeout=DETACH_PATIENCE, emit=emit)
    except (CloudError, Conflict, NotFound) as error:
        text = f"{disk.volume} is not detached before {instance.id} ends, and kept: {error.why or error.what}"
        emit(Notice(text=text, warning=True))


def _may_come_back(session: Session, instance: Instance) -> bool:
    """Whether its spot request could still start a machine, although this one ends."""
    if not instance.spot_request:
        return False
    try:
        answer = session.call(
            "ec2", "describe_spot_instance_requests", SpotInstanceRequestIds=[instance.spot_request]
        )
    except NotFound:
        return False
    return any(row["State"] in {"open", "active"} for row in answer["SpotInstanceRequests"])


def _gone(action: Action, kind: ResourceKind, resource_id: str) -> Verdict:
    finding = Finding("gone already", Effect.ALLOW, "the cloud has ended it or does not know it")
    return Verdict(action=action, kind=kind, resource=resource_id, findings=(finding,))


def _not_found(kind: ResourceKind, resource_id: str) -> TrainctlError:
    return NotFound(
        f"There is no {kind} {resource_id}",
        why="the cloud does not show it in this region, or it has ended",
        next="runctl resources list, or another --region",
    )
