"""What loading strategies take and cost, as a table and with their arithmetic."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from runctl.render import figures, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.datasets.arithmetic import Factor, Term
    from runctl.datasets.situation import Situation
    from runctl.datasets.strategy import Choice, Estimate


def show_choice(location: str | None, situation: Situation, choice: Choice, *, explain: bool = False) -> None:
    """The question, one line a strategy, the answer with its reason; on request every figure."""
    write = output.write_line
    amount = f"{figures.count(situation.files, 'file')}, {figures.size(situation.bytes)}"
    write(f"{location or 'a dataset'}: {amount}")
    price = situation.machine.price
    rent = f"{figures.usd(price.usd_per_hour)}/h ({price.source}, {price.as_of:%Y-%m-%d})" if price else ""
    often = f"{figures.count(situation.runs, 'run')} of {figures.count(situation.epochs, 'epoch')}"
    write(f"{often} on {situation.machine.instance_type}, {rent or 'whose price is unknown'}")
    write("")
    rows = [_row(one, chosen=one.strategy is choice.strategy) for one in choice.estimates]
    columns = ("strategy", "prepared in", "training waits", "cost", "")
    output.write_table(columns, rows, right=columns[1:4])
    write("")
    write(f"{choice.strategy}: {choice.why}")
    if situation.needs is None:
        write(
            "All that is read counts as waiting; --gpu-needs MB/S counts only what computing does not hide."
        )
    if explain:
        for one in choice.estimates:
            _explain(one)
    else:
        write("--explain shows the arithmetic of every figure.")


def _row(estimate: Estimate, *, chosen: bool) -> list[str]:
    remark = "; ".join([*estimate.obstacles, *([estimate.slow] if estimate.slow else [])])
    return [
        f"{'*' if chosen else ' '} {estimate.strategy}",
        _seconds(estimate.seconds_preparing),
        _seconds(estimate.seconds_waiting),
        figures.usd(estimate.usd),
        ("cannot be: " if estimate.obstacles else "") + remark,
    ]


def _explain(estimate: Estimate) -> None:
    write = output.write_line
    write("")
    write(f"{estimate.strategy}: {_seconds(estimate.seconds)}, {figures.usd(estimate.usd)}")
    for title, terms, sum_of in (
        ("rates", estimate.rates, None),
        ("before the first run", estimate.preparing, estimate.seconds_preparing),
        ("what training waits for", estimate.waiting, estimate.seconds_waiting),
        ("cost", estimate.costs, estimate.usd),
    ):
        if not terms:
            continue
        write(f"  {title}")
        for item in terms:
            write(f"    {item.name:<22} {_amount(item):>16} = {item.formula}")
        if sum_of is not None and len(terms) > 1:
            write(f"    {'sum':<22} {_value(sum_of, terms[0].unit):>16}")
    for note in estimate.notes:
        write(f"  note: {note}")
    write("  with")
    for factor in _factors([*estimate.rates, *estimate.preparing, *estimate.waiting, *estimate.costs]):
        value = _value(factor.value, factor.unit)
        write(f"    {factor.symbol:<8} {value:>22}  {factor.name} ({factor.source})")


def _factors(terms: Sequence[Term]) -> list[Factor]:
    """Each once, where it is not a term that is shown itself."""
    found: dict[tuple[str, Decimal | None, str], Factor] = {}
    for item in terms:
        for factor in item.factors:
            found.setdefault((factor.symbol, factor.value, factor.unit), factor)
    return list(found.values())


def _amount(item: Term) -> str:
    return _value(item.value, item.unit)


def _value(value: Decimal | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if unit == "USD":
        return f"${value:f}"
    return f"{value:f} {unit}".rstrip()


def _seconds(value: Decimal | None) -> str:
    return figures.duration(None if value is None else timedelta(seconds=float(value)))
