"""What things cost, as people read it: sums, and the arithmetic behind them."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.render import figures, output
from runctl.resources.costs import Account, Summary, Sums


def show_summary(found: Summary) -> None:
    """The whole first, then by kind, project and user."""
    total = found.total
    output.write_line(
        f"{figures.count(found.running, 'running instance')}, "
        f"{figures.usd(total.usd_per_hour)} an hour{_unknown(total)}"
    )
    rows: list[tuple[str, ...]] = [("all", *_cells(total))]
    for title, sums in (("kind", found.by_kind), ("project", found.by_project), ("user", found.by_user)):
        rows += [(f"{title} {name}", *_cells(sums[name])) for name in sorted(sums)]
    columns = ("", "an hour", "last 24 h", "this month", "in all", "unknown")
    output.write_table(columns, rows, right=columns[1:])


def show_accounts(accounts: Sequence[Account]) -> None:
    """Every stretch of every bill: seconds x USD/h = USD, with the price's source."""
    for account in accounts:
        if not account.stretches:
            continue
        resource = account.resource
        name = f" {resource.name!r}" if resource.name else ""
        output.write_line(f"{resource.kind} {resource.id}{name}: {figures.usd(account.sums.usd_total)}")
        output.write_table(
            ("from", "seconds", "USD/h", "USD", "price from"),
            [
                (
                    figures.moment(stretch.start),
                    f"{stretch.seconds:.0f}",
                    "unknown" if stretch.usd_per_hour is None else f"{stretch.usd_per_hour:f}"[:12],
                    "unknown" if stretch.usd_per_hour is None else f"{stretch.usd:.6f}",
                    stretch.source,
                )
                for stretch in account.stretches
            ],
            right=("seconds", "USD/h", "USD"),
        )


def _cells(sums: Sums) -> tuple[str, ...]:
    return (
        figures.usd(sums.usd_per_hour),
        figures.usd(sums.usd_last_day),
        figures.usd(sums.usd_month),
        figures.usd(sums.usd_total),
        str(sums.unknown) if sums.unknown else "",
    )


def _unknown(sums: Sums) -> str:
    return f", and {figures.count(sums.unknown, 'resource')} of unknown price" if sums.unknown else ""
