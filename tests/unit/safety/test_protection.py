from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl import config
from runctl.safety.protection import (
    RULES,
    Action,
    Activity,
    Disk,
    Effect,
    Facts,
    Finding,
    Request,
    ResourceKind,
    Verdict,
    evaluate,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD = NOW - timedelta(days=1)
MINE = {"runctl:managed": "true", "runctl:user": "ada"}

INSTANCE = Facts(
    kind=ResourceKind.INSTANCE,
    tags=MINE,
    created=OLD,
    activity=Activity.IDLE,
    reachable=True,
    termination_protected=False,
    disks=(),
)
VOLUME = Facts(
    kind=ResourceKind.VOLUME, tags=MINE, created=OLD, attached_to=(), snapshots=(), only_copy_of=()
)
SNAPSHOT = Facts(kind=ResourceKind.SNAPSHOT, tags=MINE, created=OLD, images=(), restoring=())
CHECKPOINT = Facts(
    kind=ResourceKind.CHECKPOINT, created=OLD, being_written=False, newest_complete=False, resumed_by=()
)
HARMLESS = {
    ResourceKind.INSTANCE: INSTANCE,
    ResourceKind.VOLUME: VOLUME,
    ResourceKind.SNAPSHOT: SNAPSHOT,
    ResourceKind.CHECKPOINT: CHECKPOINT,
}
DELETE, STOP, TERMINATE = Action.DELETE, Action.STOP, Action.TERMINATE


def tagged(facts: Facts, **tags: str) -> Facts:
    return but(facts, tags={**MINE, **{f"runctl:{key}": value for key, value in tags.items()}})


def but(facts: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(facts, **changes)


def judged(action: Action, facts: Facts, *, minutes: int = 5, **asked: Any) -> Verdict:
    request = Request(**{"user": "ada", **asked})
    return evaluate(action, "r-1", facts, request, NOW, config.Protection(young_minutes=minutes))


def said(verdict: Verdict, rule: str) -> Finding:
    return next(finding for finding in verdict.findings if finding.rule == rule)


DISK = Disk(volume="vol-9", device="/dev/sdf", dies_with_instance=True, tags=MINE)

# rule, actions, facts, alone, in bulk
TABLE: list[tuple[str, tuple[Action, ...], Facts, Effect, Effect]] = [
    ("persistent volume", (DELETE,), tagged(VOLUME, persistent="true"), Effect.FORCE, Effect.FORBID),
    (
        "persistent volume",
        (TERMINATE,),
        but(INSTANCE, disks=(but(DISK, tags={"runctl:persistent": "true"}),)),
        Effect.WARN,
        Effect.WARN,
    ),
    ("persistent volume", (TERMINATE,), but(INSTANCE, disks=None), Effect.FORBID, Effect.FORBID),
    ("protected tag", (STOP, TERMINATE), tagged(INSTANCE, protected="true"), Effect.FORCE, Effect.FORBID),
    ("protected tag", (STOP, TERMINATE), tagged(INSTANCE, important="true"), Effect.FORCE, Effect.FORBID),
    ("protected tag", (DELETE,), tagged(VOLUME, protected="true"), Effect.FORCE, Effect.FORBID),
    ("protected tag", (DELETE,), tagged(SNAPSHOT, important="true"), Effect.FORCE, Effect.FORBID),
    (
        "protected tag",
        (TERMINATE,),
        but(INSTANCE, disks=(but(DISK, tags={"runctl:protected": "true"}),)),
        Effect.FORCE,
        Effect.FORBID,
    ),
    ("young", (TERMINATE,), but(INSTANCE, created=NOW - timedelta(minutes=4)), Effect.FORCE, Effect.FORBID),
    ("young", (DELETE,), but(VOLUME, created=NOW - timedelta(minutes=4)), Effect.FORCE, Effect.FORBID),
    ("young", (DELETE,), but(SNAPSHOT, created=NOW + timedelta(minutes=4)), Effect.FORCE, Effect.FORBID),
    ("young", (DELETE,), but(VOLUME, created=NOW - timedelta(minutes=5)), Effect.ALLOW, Effect.ALLOW),
    ("young", (TERMINATE,), but(INSTANCE, created=None), Effect.FORCE, Effect.FORBID),
    ("attached volume", (DELETE,), but(VOLUME, attached_to=("i-1",)), Effect.FORBID, Effect.FORBID),
    ("attached volume", (DELETE,), but(VOLUME, attached_to=None), Effect.FORBID, Effect.FORBID),
    ("volume with snapshots", (DELETE,), but(VOLUME, snapshots=("snap-1",)), Effect.WARN, Effect.WARN),
    ("only copy of checkpoints", (DELETE,), but(VOLUME, only_copy_of=("job-1",)), Effect.FORCE, Effect.FORCE),
    ("only copy of checkpoints", (DELETE,), but(VOLUME, only_copy_of=None), Effect.FORCE, Effect.FORCE),
    (
        "only copy of checkpoints",
        (DELETE,),
        but(VOLUME, only_copy_of=("job-1",), snapshots=("snap-1",)),
        Effect.ALLOW,
        Effect.ALLOW,
    ),
    ("snapshot of an image", (DELETE,), but(SNAPSHOT, images=("ami-1",)), Effect.FORBID, Effect.FORBID),
    ("snapshot of an image", (DELETE,), but(SNAPSHOT, images=None), Effect.FORBID, Effect.FORBID),
    ("snapshot being restored", (DELETE,), but(SNAPSHOT, restoring=("vol-1",)), Effect.FORBID, Effect.FORBID),
    ("snapshot being restored", (DELETE,), but(SNAPSHOT, restoring=None), Effect.FORBID, Effect.FORBID),
    (
        "running training",
        (STOP, TERMINATE),
        but(INSTANCE, activity=Activity.BUSY),
        Effect.GRACEFUL,
        Effect.GRACEFUL,
    ),
    (
        "running training",
        (STOP, TERMINATE),
        but(INSTANCE, activity=Activity.UNKNOWN),
        Effect.GRACEFUL,
        Effect.GRACEFUL,
    ),
    ("running training", (STOP, TERMINATE), but(INSTANCE, activity=None), Effect.GRACEFUL, Effect.GRACEFUL),
    (
        "checkpoint being written",
        (DELETE,),
        but(CHECKPOINT, being_written=True),
        Effect.FORBID,
        Effect.FORBID,
    ),
    (
        "newest complete checkpoint",
        (DELETE,),
        but(CHECKPOINT, newest_complete=True),
        Effect.FORBID,
        Effect.FORBID,
    ),
    ("checkpoint of a live job", (DELETE,), but(CHECKPOINT, resumed_by=("j",)), Effect.FORBID, Effect.FORBID),
    ("young checkpoint", (DELETE,), but(CHECKPOINT, created=NOW), Effect.FORCE, Effect.FORCE),
    ("young checkpoint", (DELETE,), but(CHECKPOINT, created=None), Effect.FORCE, Effect.FORCE),
    (
        "termination protection",
        (TERMINATE,),
        but(INSTANCE, termination_protected=True),
        Effect.FORBID,
        Effect.FORBID,
    ),
    (
        "termination protection",
        (TERMINATE,),
        but(INSTANCE, termination_protected=None),
        Effect.FORBID,
        Effect.FORBID,
    ),
    ("another user's", (STOP, TERMINATE), tagged(INSTANCE, user="bob"), Effect.FORCE, Effect.FORBID),
    ("another user's", (DELETE,), tagged(VOLUME, user=""), Effect.FORCE, Effect.FORBID),
    ("another user's", (DELETE,), tagged(SNAPSHOT, user="bob"), Effect.FORCE, Effect.FORBID),
]


@pytest.mark.parametrize(("rule", "actions", "facts", "alone", "in_bulk"), TABLE)
def test_each_rule_of_the_table(
    rule: str, actions: tuple[Action, ...], facts: Facts, alone: Effect, in_bulk: Effect
) -> None:
    for action in actions:
        for bulk, effect in ((False, alone), (True, in_bulk)):
            verdict = judged(action, facts, bulk=bulk)
            assert said(verdict, rule).effect is effect
            assert said(verdict, rule).reason
            others = [found for found in verdict.findings if found.effect is not Effect.ALLOW]
            assert {found.rule for found in others} - {rule} <= {"volume with snapshots"}
            assert verdict.allowed == (effect not in {Effect.FORCE, Effect.FORBID})
            forced = judged(action, facts, bulk=bulk, force=True)
            assert forced.allowed == (effect is not Effect.FORBID)


@pytest.mark.parametrize("kind", ResourceKind)
@pytest.mark.parametrize("bulk", [False, True])
def test_what_is_harmless_is_allowed_and_every_rule_says_so(kind: ResourceKind, bulk: bool) -> None:
    for action in Action:
        verdict = judged(action, HARMLESS[kind], bulk=bulk)
        assert verdict.allowed
        assert [found.effect for found in verdict.findings] == [Effect.ALLOW] * len(verdict.findings)
        assert len(verdict.findings) == sum((action, kind) in rule.about for rule in RULES)


@pytest.mark.parametrize("facts", [INSTANCE, VOLUME, SNAPSHOT])
def test_unmanaged_needs_both_words_and_is_never_for_bulk(facts: Facts) -> None:
    """The original deleted exactly what it had not made, and spared what it had."""
    action = TERMINATE if facts.kind is ResourceKind.INSTANCE else DELETE
    for tags in (None, {}, {"runctl:user": "ada"}, {"runctl:managed": "no", "runctl:user": "ada"}):
        foreign = but(facts, tags=tags)
        assert not judged(action, foreign).allowed
        assert not judged(action, foreign, force=True).allowed
        assert not judged(action, foreign, unmanaged=True).allowed
        assert not judged(action, foreign, bulk=True, force=True, unmanaged=True).allowed
        assert judged(action, foreign, force=True, unmanaged=True).allowed
    assert judged(action, facts, bulk=True).allowed


def test_ending_training_without_saving_needs_force() -> None:
    busy = but(INSTANCE, activity=Activity.BUSY)
    for action in (STOP, TERMINATE):
        assert judged(action, busy).graceful
        assert not judged(action, busy, graceful=False).allowed
        forced = judged(action, busy, graceful=False, force=True)
        assert forced.allowed
        assert not forced.graceful
        assert "--now --force" in said(judged(action, busy, graceful=False), "running training").next
        # Force alone does not take from training the time to save.
        assert judged(action, busy, force=True).graceful


def test_a_machine_that_cannot_be_asked_is_taken_to_train() -> None:
    """The original terminated when its check failed: "no training jobs detected"."""
    for activity in (Activity.UNKNOWN, Activity.BUSY, None):
        for reachable in (False, None):
            deaf = but(INSTANCE, activity=activity, reachable=reachable)
            assert not judged(TERMINATE, deaf).allowed
            assert not judged(STOP, deaf, bulk=True).allowed
            assert judged(TERMINATE, deaf, force=True).allowed
    assert judged(TERMINATE, but(INSTANCE, reachable=False)).allowed  # it is known to be idle


def test_termination_protection_names_the_command_that_lifts_it() -> None:
    verdict = judged(TERMINATE, but(INSTANCE, termination_protected=True), force=True)
    assert not verdict.allowed
    (finding,) = verdict.blocking
    assert finding.next == "aws ec2 modify-instance-attribute --instance-id r-1 --no-disable-api-termination"
    assert judged(STOP, but(INSTANCE, termination_protected=True)).allowed


def test_a_protected_disk_that_outlives_its_instance_does_not_hold_it() -> None:
    kept = but(DISK, dies_with_instance=False, tags={"runctl:protected": "true"})
    assert judged(TERMINATE, but(INSTANCE, disks=(kept,))).allowed
    both = but(DISK, tags={"runctl:protected": "true", "runctl:persistent": "true"})
    assert judged(TERMINATE, but(INSTANCE, disks=(both,))).allowed


@pytest.mark.parametrize("word", ["true", "True", "yes", "1", "", "until the paper is out"])
def test_a_tag_that_somebody_set_by_hand_protects(word: str) -> None:
    assert not judged(DELETE, tagged(VOLUME, protected=word)).allowed
    assert not judged(DELETE, tagged(VOLUME, persistent=word)).allowed


@pytest.mark.parametrize("word", ["false", "No", " off ", "0"])
def test_a_tag_that_says_no_does_not_protect(word: str) -> None:
    assert judged(DELETE, tagged(VOLUME, protected=word, persistent=word)).allowed


def test_how_young_is_a_setting() -> None:
    facts = but(INSTANCE, created=NOW - timedelta(minutes=10))
    assert judged(TERMINATE, facts).allowed
    assert not judged(TERMINATE, facts, minutes=11).allowed
    assert judged(STOP, facts, minutes=11).allowed


def test_a_checkpoint_of_an_hour_is_old_enough() -> None:
    assert judged(DELETE, but(CHECKPOINT, created=NOW - timedelta(hours=1))).allowed
    assert not judged(DELETE, but(CHECKPOINT, created=NOW - timedelta(minutes=59))).allowed


UNKNOWABLE = [name for name in Facts.__struct_fields__ if name not in {"kind", "activity_reason"}]


@given(
    kind=st.sampled_from(ResourceKind),
    action=st.sampled_from(Action),
    forgotten=st.sets(st.sampled_from(UNKNOWABLE)),
    bulk=st.booleans(),
    force=st.booleans(),
    unmanaged=st.booleans(),
    graceful=st.booleans(),
)
def test_to_know_less_never_allows_more(
    kind: ResourceKind, action: Action, forgotten: set[str], **asked: bool
) -> None:
    known = judged(action, HARMLESS[kind], **asked)
    less = judged(action, but(HARMLESS[kind], **dict.fromkeys(forgotten)), **asked)
    severity = list(Effect)
    for before, after in zip(known.findings, less.findings, strict=True):
        assert severity.index(after.effect) >= severity.index(before.effect)
    if less.allowed:
        assert known.allowed
