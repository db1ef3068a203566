"""The model behind `auto`: its arithmetic holds, more work never costs less, and nothing unknown is 0."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.datasets.arithmetic import Factor, Term, term
from runctl.datasets.situation import OwnVolume, Situation, machine_of
from runctl.datasets.strategy import Choice, Estimate, Strategy, choose
from runctl.errors import ValidationError

GIB = 2**30
TYPES = ["g5.xlarge", "g4dn.xlarge", "g6.12xlarge", "m7i.xlarge", "p5.48xlarge", "p3.2xlarge"]

sizes = st.integers(0, 400_000) | st.integers(0, 70_000 * GIB)
machines = st.sampled_from(TYPES).map(lambda name: machine_of(name, "us-east-1"))
situations = st.builds(
    Situation,
    bytes=sizes,
    files=st.integers(0, 20_000_000),
    epochs=st.integers(1, 200),
    runs=st.integers(1, 200),
    machine=machines,
    keep_days=st.decimals(0, 400, places=1),
    needs=st.none() | st.decimals("0.1", 20_000, places=1),
    volume=st.none()
    | st.builds(OwnVolume, id=st.just("vol-1"), zone=st.just("z"), mibs=st.just(Decimal(250))),
    warm=st.none() | st.builds(OwnVolume, id=st.just("vol-2"), zone=st.just("z"), mibs=st.just(Decimal(125))),
)


def situation(**changes: Any) -> Situation:
    usual: dict[str, Any] = {
        "bytes": 100 * GIB,
        "files": 1000,
        "epochs": 3,
        "runs": 5,
        "machine": machine_of("g5.xlarge", "us-east-1"),
    }
    return Situation(**{**usual, **changes})


def of(choice: Choice, strategy: Strategy) -> Estimate:
    return next(one for one in choice.estimates if one.strategy is strategy)


def terms(estimate: Estimate) -> Iterator[Term]:
    yield from (*estimate.rates, *estimate.preparing, *estimate.waiting, *estimate.costs)


@given(asked=situations)
@settings(max_examples=60)
def test_what_is_shown_is_what_was_calculated(asked: Situation) -> None:
    """Each term is its formula over its factors, each sum the sum of its terms, to the last place."""
    for estimate in estimates(asked):
        figures = {(factor.symbol, factor.value) for shown in terms(estimate) for factor in shown.factors}
        assert len(figures) == len({symbol for symbol, _ in figures}), "one symbol has two values"
        for shown in terms(estimate):
            values = {factor.symbol: factor.value for factor in shown.factors}
            assert len(values) == len(shown.factors), "two factors have one symbol"
            named = {n.id for n in ast.walk(ast.parse(shown.formula)) if isinstance(n, ast.Name)}
            assert named == {*values} | (named & {"min", "max", "ceil"})
            if shown.value is not None:
                known = {name: float(value or 0) for name, value in values.items()}
                calculated = eval(
                    shown.formula, {"ceil": lambda x: -(-x // 1), "min": min, "max": max}, known
                )
                assert float(shown.value) == pytest.approx(calculated, rel=1e-6, abs=2e-3)
        for total, parts in (
            (estimate.usd, estimate.costs),
            (estimate.seconds_waiting, estimate.waiting),
            (estimate.seconds_preparing, estimate.preparing),
        ):
            values = [part.value for part in parts]
            assert total == (None if None in values else sum(value or 0 for value in values))


def estimates(asked: Situation) -> tuple[Estimate, ...]:
    from runctl.datasets import strategy

    return strategy.estimates(asked)


MORE = st.sampled_from(["runs", "epochs", "keep_days", "bytes", "files"])


@given(asked=situations, what=MORE, more=st.integers(1, 10**9))
@settings(max_examples=80)
def test_more_of_anything_never_takes_less(asked: Situation, what: str, more: int) -> None:
    if what in {"bytes", "files"}:
        # Computing hides reading: of more bytes in as many files, it may hide more.
        asked = msgspec.structs.replace(asked, needs=None)
    larger = msgspec.structs.replace(asked, **{what: getattr(asked, what) + more})
    for before, after in zip(estimates(asked), estimates(larger), strict=True):
        for name in ("usd", "seconds_waiting"):
            least, most = getattr(before, name), getattr(after, name)
            assert (least is None) == (most is None)
            if least is not None:
                assert least <= most, (before.strategy, name)
        assert set(map(bool, [before.obstacles])) <= {False, bool(after.obstacles)}, (
            "what fits more fits less"
        )


@given(asked=situations)
@settings(max_examples=50)
def test_the_chosen_one_is_possible_and_no_other_possible_one_is_cheaper(asked: Situation) -> None:
    try:
        choice = choose(asked)
    except ValidationError:
        assert not any(one.feasible for one in estimates(asked))
        return
    assert choice.estimate.feasible
    for other in choice.estimates:
        if other.feasible and bool(other.slow) <= bool(choice.estimate.slow) and other.usd is not None:
            assert choice.estimate.usd is not None
            assert choice.estimate.usd <= other.usd
            if choice.estimate.usd == other.usd:
                assert (choice.estimate.seconds or 0) <= (other.seconds or 0)


def test_one_pass_streams_many_passes_are_kept_near() -> None:
    assert choose(situation(runs=1, epochs=1)).strategy is Strategy.DIRECT_S3
    assert choose(situation(runs=5, epochs=3)).strategy is Strategy.LOCAL_CACHE


def test_many_small_files_are_worth_a_volume() -> None:
    assert choose(situation(files=1_300_000)).strategy is Strategy.PREWARMED_EBS


def test_streaming_once_costs_what_one_calculates_by_hand() -> None:
    """100 GiB at 312.5 MB/s and 1,000 files at 0.1 s over 16 readers, one listing: 349.948 s of $1.006/h."""
    found = of(choose(situation(runs=1, epochs=1)), Strategy.DIRECT_S3)
    assert found.seconds_waiting == Decimal("349.948")
    by_name = {cost.name: cost.value for cost in found.costs}
    assert by_name["GET requests"] == Decimal("0.002960")  # 1,000 files and 6,400 parts of 16 MiB
    assert by_name["LIST requests"] == Decimal("0.000005")
    assert by_name["the waiting machine"] == Decimal("0.097792")
    assert found.usd == Decimal("0.100757")


def test_a_volume_between_runs_costs_its_gib_months() -> None:
    kept = of(choose(situation(runs=2, keep_days=Decimal(73))), Strategy.PREWARMED_EBS)
    unkept = of(choose(situation(runs=2, keep_days=Decimal(0))), Strategy.PREWARMED_EBS)
    assert kept.usd is not None
    assert unkept.usd is not None
    # 116 GiB (the dataset, 15% and what rounding takes), $0.08 a month, 73 days of 24 h in months of 730 h.
    assert kept.usd - unkept.usd == Decimal(116) * Decimal("0.08") * 73 * 24 / 730


def test_a_cache_that_is_bigger_than_the_disk_is_refused_with_both_sizes() -> None:
    found = of(choose(situation(bytes=500 * GIB)), Strategy.LOCAL_CACHE)
    assert found.obstacles == (
        "500.0 GiB do not fit: the instance store of g5.xlarge has room for 221.2 GiB",
    )


def test_a_stream_that_starves_the_gpu_is_not_chosen() -> None:
    fast = choose(situation(runs=1, epochs=1, needs=Decimal(450)))
    assert of(fast, Strategy.DIRECT_S3).slow == "S3 streams 307 MB/s, and the GPU needs 450"
    assert fast.strategy is Strategy.LOCAL_CACHE
    none = choose(situation(runs=1, epochs=1, needs=Decimal(4500)))
    assert none.why.startswith("none is fast enough")


def test_computing_hides_reading() -> None:
    calm = of(choose(situation(needs=Decimal(50))), Strategy.DIRECT_S3)
    assert calm.seconds_waiting == Decimal("0.5"), "nothing but the listings of five runs"


def test_unknown_prices_are_never_0() -> None:
    choice = choose(situation(machine=machine_of("p5e.48xlarge", "us-east-1")))
    for estimate in choice.estimates:
        assert estimate.usd is None
    assert choice.why == "it takes the least time; what it costs is not known"
    abroad = choose(situation(machine=machine_of("g5.xlarge", "eu-west-1"), region="eu-west-1"))
    assert all(estimate.usd is None for estimate in abroad.estimates)


def test_bytes_that_leave_a_region_cost_what_nobody_here_knows() -> None:
    choice = choose(situation(bucket_region="eu-west-1"))
    assert all(estimate.usd is None for estimate in choice.estimates)
    warm = OwnVolume(id="vol-1", zone="us-east-1a", mibs=Decimal(125))
    kept = choose(situation(bucket_region="eu-west-1", warm=warm))
    assert kept.strategy is Strategy.PREWARMED_EBS
    assert kept.why == "it is the only one whose cost is known"


def test_a_warm_volume_needs_no_filling() -> None:
    warm = OwnVolume(id="vol-1", zone="us-east-1a", mibs=Decimal(125))
    found = of(choose(situation(warm=warm)), Strategy.PREWARMED_EBS)
    assert found.preparing == ()
    assert {cost.name for cost in found.costs} == {"the volume", "the waiting machine"}


def test_a_volume_of_the_user_counts_only_where_there_is_one() -> None:
    assert Strategy.EXISTING_EBS not in {one.strategy for one in choose(situation()).estimates}
    stale = OwnVolume(id="vol-1", zone="us-east-1a", mibs=Decimal(1000), obstacle="it holds an older version")
    found = of(choose(situation(volume=stale)), Strategy.EXISTING_EBS)
    assert found.obstacles == ("it holds an older version",)


@pytest.mark.parametrize("changes", [{"runs": 0}, {"epochs": 0}, {"needs": Decimal(0)}, {"bytes": -1}])
def test_what_is_no_question_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        choose(situation(**changes))


def test_a_formula_does_no_more_than_arithmetic() -> None:
    with pytest.raises(ValueError, match="no part of a formula"):
        term("t", "s", "[x]", Factor("x", "x", Decimal(2), "", ""))
    with pytest.raises(KeyError):
        term("t", "s", "x + y", Factor("x", "x", Decimal(2), "", ""))
