"""Which steps were really done and done again, by what the attempts themselves said. Pure.

A checkpoint's name may count epochs where the log counts steps, and a script may begin anew whatever it was
offered. So what was lost is counted by the steps that the attempts named, and by a checkpoint's step only if
the next attempt went on from it by its own words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runctl.agent.progress import step_of_name
from runctl.ledger import AttemptRecord

PREEMPTIONS = frozenset({"notice", "lost", "silent", "shutdown"})
"""Causes that are the cloud's, and not the script's."""


def began_anew(attempts: Sequence[AttemptRecord], index: int) -> bool:
    """Whether an attempt that was offered a checkpoint named the script's first step again."""
    attempt = attempts[index]
    began, first = attempt.began_step, _first_step(attempts[:index])
    if attempt.resumed_from is None or began is None or first is None:
        return False
    before = [one.last_step for one in attempts[:index] if one.last_step is not None]
    came_further = bool(before) and max(before) > first
    return began <= first and came_further and began != attempt.resumed_step and not _counts_anew(attempt)


def lost(attempts: Sequence[AttemptRecord], index: int) -> int | None:
    """The steps that an attempt did and a later one did again; None if nobody can know."""
    attempt, later = attempts[index], attempts[index + 1 :]
    following = next((one for one in later if one.began_step is not None), None)
    if attempt.cause == "finished":
        return 0
    if attempt.state not in {"ended", "lost"}:
        return None
    if attempt.last_step is None:
        # A notice before the script began, or before the first step of one that names its steps, cost none.
        none_done = attempt.exit_code is None or following is not None
        return 0 if attempt.cause in {"notice", "shutdown"} and none_done else None
    if following is not None:
        return _between(attempt.last_step, following, _first_step(attempts))
    nothing_was_left = any(one.cause == "finished" for one in later)
    return 0 if nothing_was_left else None


def made_progress(attempts: Sequence[AttemptRecord], index: int) -> bool:
    """Whether an attempt left the job further than it found it."""
    attempt = attempts[index]
    if attempt.committed_name is None or began_anew(attempts, index):
        return False
    steps = attempt.committed_step, attempt.resumed_step
    return None in steps or steps[0] != steps[1]


def used(attempts: Sequence[AttemptRecord], retried: Collection[str] = ()) -> int:
    """How many attempts count against `--max-attempts`: those that failed, or came no further.

    The cloud's interruptions cost none as long as each attempt leaves the job further than it found it; nor
    does one that failed from a snapshot in `retried`, whose place another one took.
    """
    return sum(
        not (one.cause in PREEMPTIONS and made_progress(attempts, index))
        and not (one.cause == "failed" and one.resumed_from in retried)
        for index, one in enumerate(attempts)
    )


def _between(last: int, following: AttemptRecord, first: int | None) -> int | None:
    """From the last step that was done to where the next attempt really began; its first is `first`."""
    began, resumed = following.began_step, following.resumed_step
    assert began is not None  # noqa: S101 (asked before)
    if _counts_anew(following):
        return None
    stride = max(1, first or 1)  # every how many steps it names one
    if following.resumed_from is not None and resumed is not None:
        # It says where it goes on, or names a step before it does it. A step that the checkpoint's name does
        # not have was taken from the log when it was written, and may be one of the next ones.
        is_known = resumed == last or _names_a_step(following.resumed_from)
        says_it = began == resumed and (not first or began > first) and is_known
        if says_it or began - stride <= resumed < began:
            return max(0, last - resumed)
    return max(0, last + stride - began)


def _names_a_step(snapshot: str) -> bool:
    """Whether the checkpoint that gave a snapshot its name (`000012-step_120.pt`) has a step in its own."""
    return step_of_name(snapshot.partition("-")[2]) is not None


def _counts_anew(attempt: AttemptRecord) -> bool:
    """Whether its log counts from 0 again while its checkpoints count on, as XGBoost's does."""
    committed, resumed, last = attempt.committed_step, attempt.resumed_step, attempt.last_step
    if committed is None or resumed is None or last is None:
        return False
    return committed > last and committed > resumed > last - (attempt.began_step or 0)


def _first_step(attempts: Sequence[AttemptRecord]) -> int | None:
    """What the script calls its first step, by an attempt that began at the beginning."""
    anew = (one.began_step for one in attempts if one.resumed_from is None)
    return next((step for step in anew if step is not None), None)
