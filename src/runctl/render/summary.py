"""What things cost, as people read it: sums, and the arithmetic behind them."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.quoting import quoted
from runctl.render import figures, output
from runctl.resources.costs import Account, Summary, Sums
from runctl.resources.kept import Kept

_MOST_JOBS = 10


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


def show_kept(found: Kept) -> None:
    """What jobs keep in S3: the sum, and the largest of them."""
    if not found.jobs:
        return
    least = "at least " if found.at_least else ""
    output.write_line("")
    cost = figures.usd(found.usd_per_month)
    output.write_line(f"jobs keep {least}{figures.size(found.bytes)} in S3, {least}{cost} a month")
    largest = found.jobs[:_MOST_JOBS]
    rows = [(one.job, one.project, figures.size(one.bytes), _share(found, one.bytes)) for one in largest]
    if rest := found.jobs[_MOST_JOBS:]:
        size = sum(one.bytes for one in rest)
        rows.append((f"{len(rest)} more", "", figures.size(size), _share(found, size)))
    output.write_table(("job", "project", "kept", "a month"), rows, right=("kept", "a month"))
    output.talk(f"less of it: runctl checkpoint cleanup {quoted(largest[0].job)} --keep-last N --dry-run")


def _share(found: Kept, size: int) -> str:
    if found.usd_per_month is None:
        return "unknown"
    return figures.usd(found.usd_per_month * size / found.bytes)


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
