"""The model behind `auto`: what each way of loading a dataset takes and costs, and which is worth its money.

Money decides, and a machine whose GPU waits for data costs as much as one that trains. Figures are what a
machine sustains; the time that the training itself computes is no part of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from enum import StrEnum

import msgspec

from runctl.datasets.arithmetic import Term, total
from runctl.datasets.situation import Situation
from runctl.errors import ValidationError


class Strategy(StrEnum):
    """How training reads a dataset."""

    PREWARMED_EBS = "prewarmed-ebs"
    EXISTING_EBS = "existing-ebs"
    DIRECT_S3 = "direct-s3"
    LOCAL_CACHE = "local-cache"
    AUTO = "auto"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy takes over all runs, with the arithmetic of every figure.

    `preparing` comes before the first run and keeps no GPU waiting; `waiting` is what the GPU waits for in
    all runs. Seconds and USD are the sums of their terms, None where one is unknown. `obstacles` are why it
    cannot be; `slow` is why it cannot keep the GPU busy.
    """

    strategy: Strategy
    rates: tuple[Term, ...]
    preparing: tuple[Term, ...] = ()
    waiting: tuple[Term, ...] = ()
    costs: tuple[Term, ...] = ()
    seconds_preparing: Decimal | None = None
    seconds_waiting: Decimal | None = None
    usd: Decimal | None = None
    obstacles: tuple[str, ...] = ()
    slow: str = ""
    notes: tuple[str, ...] = ()

    @property
    def feasible(self) -> bool:
        return not self.obstacles

    @property
    def seconds(self) -> Decimal | None:
        """Until the last epoch is read, without what the training computes."""
        if self.seconds_preparing is None or self.seconds_waiting is None:
            return None
        return self.seconds_preparing + self.seconds_waiting


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Every strategy's estimate, the chosen one's name, and why."""

    strategy: Strategy
    why: str
    estimates: tuple[Estimate, ...]

    @property
    def estimate(self) -> Estimate:
        return next(one for one in self.estimates if one.strategy is self.strategy)


def choose(situation: Situation, *, among: Collection[Strategy] = tuple(Strategy)) -> Choice:
    """Estimate all and take the cheapest of `among`; of equals, the faster. Raises ValidationError for none.

    What keeps the GPU busy comes before what does not, and a cost that is known before one that is not.
    """
    check(situation)
    found = estimates(situation)
    allowed = [one for one in found if one.strategy in among]
    ranked = sorted((one for one in allowed if one.feasible), key=_rank)
    if not ranked:
        raise ValidationError(
            "No loading strategy is possible",
            why="; ".join(f"{one.strategy}: {one.obstacles[0]}" for one in allowed),
            next="another type of machine",
        )
    return Choice(strategy=ranked[0].strategy, why=_why(ranked), estimates=found)


def estimates(situation: Situation) -> tuple[Estimate, ...]:
    """What each strategy takes; an existing volume is one only where the user has it."""
    from runctl.datasets import estimating

    found = [estimating.direct(situation), estimating.cached(situation), estimating.prewarmed(situation)]
    if situation.volume is not None:
        found.append(estimating.existing(situation, situation.volume))
    return tuple(found)


def check(situation: Situation) -> None:
    """Raises ValidationError for what is no question."""
    if min(situation.epochs, situation.runs) < 1:
        raise ValidationError("There must be at least one run and one epoch")
    if min(situation.bytes, situation.files, situation.keep_days) < 0:
        raise ValidationError("Sizes, files and days are not below 0")
    if situation.needs is not None and situation.needs <= 0:
        raise ValidationError("What the GPU needs must be above 0 MB/s", next="leave it out where unknown")


def complete(estimate: Estimate) -> Estimate:
    """An estimate with its sums."""
    return msgspec.structs.replace(
        estimate,
        seconds_preparing=total(estimate.preparing),
        seconds_waiting=total(estimate.waiting),
        usd=total(estimate.costs),
    )


def _rank(estimate: Estimate) -> tuple[bool, bool, Decimal, bool, Decimal]:
    usd, seconds = estimate.usd, estimate.seconds
    return (
        bool(estimate.slow),
        usd is None,
        usd if usd is not None else Decimal(0),
        seconds is None,
        seconds if seconds is not None else Decimal(0),
    )


def _why(ranked: Sequence[Estimate]) -> str:
    first = ranked[0]
    said = "none is fast enough for the GPU, and of these " if first.slow else ""
    others = [one for one in ranked[1:] if bool(one.slow) == bool(first.slow)]
    if not others:
        return said + ("it is the only one that is possible" if len(ranked) == 1 else "it is fast enough")
    second = others[0]
    if first.usd is None:
        return f"{said}it takes the least time; what it costs is not known"
    if second.usd is None:
        return f"{said}it is the only one whose cost is known"
    if first.usd == second.usd:
        return f"{said}it costs as much as {second.strategy} and is no slower"
    less = f"${second.usd - first.usd:.4f} less than {second.strategy}"
    return f"{said}it costs the least: ${first.usd:.4f}, {less}"
