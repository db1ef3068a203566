"""What may be stopped, terminated or deleted: each rule a small function with a name that users see. Pure.

Everything unknown counts against deletion: a fact that is None is taken as the worse of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from runctl import config
from runctl.model import (
    TAG_IMPORTANT,
    TAG_JOB,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROTECTED,
    TAG_USER,
)
from runctl.quoting import quoted
from runctl.safety.vocabulary import (
    Action,
    Activity,
    Disk,
    Effect,
    Facts,
    Finding,
    Request,
    ResourceKind,
    Verdict,
)

__all__ = [
    "RULES",
    "Action",
    "Activity",
    "Disk",
    "Effect",
    "Facts",
    "Finding",
    "Request",
    "ResourceKind",
    "Rule",
    "Verdict",
    "dies",
    "evaluate",
    "marked",
]

CHECKPOINT_YOUTH = timedelta(hours=1)
_NO = frozenset({"false", "no", "off", "0"})


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the rules."""

    action: Action
    resource: str
    facts: Facts
    request: Request
    now: datetime
    policy: config.Protection


Ruling = tuple[Effect, str] | tuple[Effect, str, str]


class Rule(msgspec.Struct, frozen=True):
    """A rule by the name that users see, and the pairs of action and kind that it is about."""

    name: str
    about: frozenset[tuple[Action, ResourceKind]]
    judge: Callable[[Case], Ruling]


def evaluate(
    action: Action,
    resource: str,
    facts: Facts,
    request: Request,
    now: datetime,
    policy: config.Protection,
) -> Verdict:
    """Ask every rule that is about this action on this kind of resource; `now` is the cloud's time."""
    case = Case(action=action, resource=resource, facts=facts, request=request, now=now, policy=policy)
    findings = tuple(_finding(rule, case) for rule in RULES if (action, facts.kind) in rule.about)
    return Verdict(action=action, kind=facts.kind, resource=resource, findings=findings, forced=request.force)


def _finding(rule: Rule, case: Case) -> Finding:
    ruling = rule.judge(case)
    return Finding(rule.name, ruling[0], ruling[1], ruling[2] if len(ruling) == 3 else "")


def marked(tags: Mapping[str, str] | None, *keys: str) -> bool:
    """Whether one of the tags is set to anything but a no. Unknown tags are taken to be set."""
    if tags is None:
        return True
    return any(key in tags and tags[key].strip().lower() not in _NO for key in keys)


def _persistent_volume(case: Case) -> Ruling:
    if not marked(case.facts.tags, TAG_PERSISTENT):
        return Effect.ALLOW, "it is not marked as persistent"
    if case.request.bulk:
        return Effect.FORBID, "a persistent volume is never deleted in bulk", _one_by_one(case)
    return Effect.FORCE, "it is marked as persistent", _with_force(case)


def _persistent_disks(case: Case) -> Ruling:
    if case.facts.disks is None:
        return Effect.FORBID, "its volumes are not known, and one may be persistent", _status(case)
    kept = [disk.volume for disk in case.facts.disks if marked(disk.tags, TAG_PERSISTENT)]
    if not kept:
        return Effect.ALLOW, "no persistent volume is attached"
    return Effect.WARN, f"persistent, detached and kept: {', '.join(kept)}"


def _protected(case: Case) -> Ruling:
    held = ["it"] if marked(case.facts.tags, TAG_PROTECTED, TAG_IMPORTANT) else []
    if case.action is Action.TERMINATE:
        held += [
            disk.volume
            for disk in case.facts.disks or ()
            if dies(disk) and marked(disk.tags, TAG_PROTECTED, TAG_IMPORTANT)
        ]
    if not held:
        return Effect.ALLOW, "no tag protects it"
    reason = "marked as protected or important: " + ", ".join(
        case.resource if name == "it" else f"{name}, which would be deleted with it" for name in held
    )
    return _force_alone(case, reason)


def _young(case: Case) -> Ruling:
    youth = timedelta(minutes=case.policy.young_minutes)
    if case.facts.created is None:
        return _force_alone(case, "its age is not known")
    age = case.now - case.facts.created
    if age < youth:
        return _force_alone(case, f"it is {_duration(age)} old, younger than {_duration(youth)}")
    return Effect.ALLOW, f"it is {_duration(age)} old"


def _attached(case: Case) -> Ruling:
    if case.facts.attached_to is None:
        return Effect.FORBID, "it is not known whether it is attached", _status(case)
    if case.facts.attached_to:
        to = ", ".join(case.facts.attached_to)
        return Effect.FORBID, f"it is attached to {to}", f"runctl aws ebs detach {quoted(case.resource)}"
    return Effect.ALLOW, "it is not attached"


def _has_snapshots(case: Case) -> Ruling:
    if case.facts.snapshots is None:
        return Effect.WARN, "its snapshots are not known"
    if case.facts.snapshots:
        return Effect.WARN, f"its snapshots are kept: {', '.join(case.facts.snapshots)}"
    return Effect.ALLOW, "it has no snapshot"


def _only_copy(case: Case) -> Ruling:
    if case.facts.snapshots:
        return Effect.ALLOW, "there is a snapshot of it"
    first = f"runctl aws ebs snapshot {quoted(case.resource)}"
    if case.facts.only_copy_of is None:
        return Effect.FORCE, "it may hold the only copy of a job's checkpoints, and has no snapshot", first
    if case.facts.only_copy_of:
        jobs = ", ".join(case.facts.only_copy_of)
        return Effect.FORCE, f"it holds the only copy of checkpoints of {jobs}, and has no snapshot", first
    return Effect.ALLOW, "it holds no only copy of checkpoints"


def _image_needs_it(case: Case) -> Ruling:
    if case.facts.images is None:
        return Effect.FORBID, "it is not known whether an image needs it", _status(case)
    if case.facts.images:
        names = ", ".join(case.facts.images)
        return (
            Effect.FORBID,
            f"it is needed by {names}",
            f"aws ec2 deregister-image --image-id {quoted(case.facts.images[0])}",
        )
    return Effect.ALLOW, "no image needs it"


def _being_restored(case: Case) -> Ruling:
    if case.facts.restoring is None:
        return Effect.FORBID, "it is not known whether it is being restored", _status(case)
    if case.facts.restoring:
        return Effect.FORBID, f"it is being restored: {', '.join(case.facts.restoring)}", "runctl tx list"
    return Effect.ALLOW, "nothing is being restored from it"


def _running_training(case: Case) -> Ruling:
    reason = case.facts.activity_reason
    if case.facts.activity is Activity.IDLE:
        return Effect.ALLOW, reason or "no training runs"
    if case.facts.activity is Activity.BUSY:
        reason = f"training runs: {reason}" if reason else "training runs"
    else:
        reason = f"it is not known whether training runs: {reason or 'it could not be asked'}"
    now = f"runctl aws {case.action} {quoted(case.resource)} --now --force"
    if not case.request.graceful:
        return Effect.FORCE, f"{reason}; it would lose what it has not saved", now
    if not case.facts.reachable:
        return Effect.FORCE, f"{reason}; it cannot be asked to save", now
    return Effect.GRACEFUL, reason


def _made_for_a_job(case: Case) -> Ruling:
    job = "" if case.facts.tags is None else case.facts.tags.get(TAG_JOB, "")
    if job and case.facts.activity is not Activity.IDLE:
        return Effect.WARN, f"it was made for {job} and may end for good once its agent has saved"
    return Effect.ALLOW, "it does not end with a job"


def _termination_protection(case: Case) -> Ruling:
    if case.facts.termination_protected is False:
        return Effect.ALLOW, "AWS does not protect it from termination"
    if case.facts.termination_protected is None:
        return Effect.FORBID, "it is not known whether AWS protects it from termination", _status(case)
    return (
        Effect.FORBID,
        "AWS protects it from termination",
        (
            f"aws ec2 modify-instance-attribute --instance-id {quoted(case.resource)}"
            " --no-disable-api-termination"
        ),
    )


def _another_user(case: Case) -> Ruling:
    owner = "" if case.facts.tags is None else case.facts.tags.get(TAG_USER, "")
    if owner and owner == case.request.user:
        return Effect.ALLOW, f"it is {owner}'s, as you are"
    return _force_alone(case, f"it is {owner}'s" if owner else "nobody knows whose it is")


def _unmanaged(case: Case) -> Ruling:
    if case.facts.tags is not None and case.facts.tags.get(TAG_MANAGED) == "true":
        return Effect.ALLOW, "runctl made it"
    if case.request.bulk:
        return Effect.FORBID, "runctl did not make it: never in bulk", _one_by_one(case)
    if not case.request.unmanaged:
        return Effect.FORBID, "runctl did not make it", f"{_command(case)} --unmanaged --force"
    return Effect.FORCE, "runctl did not make it", f"{_command(case)} --unmanaged --force"


def _being_written(case: Case) -> Ruling:
    if case.facts.being_written is False:
        return Effect.ALLOW, "nobody writes it"
    unknown = case.facts.being_written is None
    return Effect.FORBID, "it is not known whether it is being written" if unknown else "it is being written"


def _newest_complete(case: Case) -> Ruling:
    if case.facts.newest_complete is False:
        return Effect.ALLOW, "there is a newer one that is complete"
    unknown = case.facts.newest_complete is None
    return Effect.FORBID, "it may be the newest complete one" if unknown else "it is the newest complete one"


def _resumed_from(case: Case) -> Ruling:
    if case.facts.resumed_by is None:
        return Effect.FORBID, "a live job may resume from it"
    if case.facts.resumed_by:
        return Effect.FORBID, f"{', '.join(case.facts.resumed_by)} resumes from it"
    return Effect.ALLOW, "no live job resumes from it"


def _young_checkpoint(case: Case) -> Ruling:
    if case.facts.created is None:
        return Effect.FORCE, "its age is not known", _with_force(case)
    age = case.now - case.facts.created
    if age < CHECKPOINT_YOUTH:
        return Effect.FORCE, f"it is {_duration(age)} old, younger than 1 h", _with_force(case)
    return Effect.ALLOW, f"it is {_duration(age)} old"


def dies(disk: Disk) -> bool:
    """Whether a volume is deleted with its instance: a persistent one never is, whatever EC2 was told."""
    return disk.dies_with_instance and not marked(disk.tags, TAG_PERSISTENT)


def _force_alone(case: Case, reason: str) -> Ruling:
    """Force where one resource is named; never in bulk."""
    if case.request.bulk:
        return Effect.FORBID, f"{reason}: never in bulk", _one_by_one(case)
    return Effect.FORCE, reason, _with_force(case)


def _command(case: Case) -> str:
    group = {
        ResourceKind.INSTANCE: f"runctl aws {case.action}",
        ResourceKind.VOLUME: "runctl aws ebs delete",
        ResourceKind.SNAPSHOT: "runctl aws ebs snapshot-delete",
        ResourceKind.CHECKPOINT: "runctl s3 cleanup",
    }
    return f"{group[case.facts.kind]} {case.resource}"


def _with_force(case: Case) -> str:
    return f"{_command(case)} --force"


def _one_by_one(case: Case) -> str:
    return f"{_command(case)} --explain --dry-run"


def _status(case: Case) -> str:
    return f"runctl resources graph {quoted(case.resource)}"


def _duration(time: timedelta) -> str:
    seconds = time.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


_STOP = frozenset({(Action.STOP, ResourceKind.INSTANCE)})
_TERMINATE = frozenset({(Action.TERMINATE, ResourceKind.INSTANCE)})
_DELETE_VOLUME = frozenset({(Action.DELETE, ResourceKind.VOLUME)})
_DELETE_SNAPSHOT = frozenset({(Action.DELETE, ResourceKind.SNAPSHOT)})
_DELETE_CHECKPOINT = frozenset({(Action.DELETE, ResourceKind.CHECKPOINT)})
_FOR_GOOD = _TERMINATE | _DELETE_VOLUME | _DELETE_SNAPSHOT
_ANY = _STOP | _FOR_GOOD

RULES = (
    Rule("unmanaged", _ANY, _unmanaged),
    Rule("another user's", _ANY, _another_user),
    Rule("protected tag", _ANY, _protected),
    Rule("young", _FOR_GOOD, _young),
    Rule("termination protection", _TERMINATE, _termination_protection),
    Rule("running training", _STOP | _TERMINATE, _running_training),
    Rule("made for a job", _STOP, _made_for_a_job),
    Rule("persistent volume", _TERMINATE, _persistent_disks),
    Rule("persistent volume", _DELETE_VOLUME, _persistent_volume),
    Rule("attached volume", _DELETE_VOLUME, _attached),
    Rule("volume with snapshots", _DELETE_VOLUME, _has_snapshots),
    Rule("only copy of checkpoints", _DELETE_VOLUME, _only_copy),
    Rule("snapshot of an image", _DELETE_SNAPSHOT, _image_needs_it),
    Rule("snapshot being restored", _DELETE_SNAPSHOT, _being_restored),
    Rule("checkpoint being written", _DELETE_CHECKPOINT, _being_written),
    Rule("newest complete checkpoint", _DELETE_CHECKPOINT, _newest_complete),
    Rule("checkpoint of a live job", _DELETE_CHECKPOINT, _resumed_from),
    Rule("young checkpoint", _DELETE_CHECKPOINT, _young_checkpoint),
)
"""Every rule, in the order in which users see them. An action that no rule is about does not exist."""
