"""`runctl resources list|export`."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud

if TYPE_CHECKING:
    from runctl.resources.listing import Filters, Row

WATCH_SECONDS = 5.0


def filtered(function: Any) -> Any:
    """The filters of every listing."""
    for option in reversed(
        (
            click.option("--kind", type=click.Choice(["instance", "volume", "snapshot", "image", "job"])),
            click.option("--platform", type=click.Choice(["local", "aws", "sandbox"]), help="There alone."),
            click.option("--project", help="Of this project."),
            click.option("--user", help="Of this user."),
            click.option("--state", help="In this state, such as running."),
            click.option("--unmanaged", is_flag=True, help="What runctl did not make, too."),
            click.option(
                "--sort",
                type=click.Choice(["age", "cost", "kind", "name"]),
                default="kind",
                show_default=True,
            ),
            click.option("--limit", type=click.IntRange(1), help="So many at most."),
            click.option("--regions", help="Such as us-east-1,eu-west-1, or all."),
        )
    ):
        function = option(function)
    return function


@click.command("list")
@filtered
@click.option("--watch", is_flag=True, help="Again every five seconds, until Ctrl-C.")
@click.option("--export", type=click.Choice(["csv", "html", "json"]), help="In this form, on stdout.")
@on_cloud
@common
def list_(context: Context, on: str | None, watch: bool, export: str | None, **filters: Any) -> None:
    """List what costs money or holds data, read from the cloud now and noted in the ledger.

    Of jobs those that have not ended; with --kind job, all.

    \b
    Examples:
      runctl resources list
      runctl resources list --kind volume --sort cost --limit 10
      runctl resources list --platform local
      runctl resources list --regions all --export csv > resources.csv
    """
    while True:
        rows, failures, now = _rows(context, on, filters)
        if export:
            _export(rows, failures, export)
        else:
            _show(context, rows, failures, now)
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


@click.command()
@filtered
@click.option("--format", "form", type=click.Choice(["csv", "html", "json"]), default="csv")
@on_cloud
@common
def export(context: Context, on: str | None, form: str, **filters: Any) -> None:
    """Write the list as CSV, HTML or JSON on stdout.

    \b
    Examples:
      runctl resources export --format csv > resources.csv
      runctl resources export --format html > resources.html
    """
    rows, failures, _ = _rows(context, on, filters)
    _export(rows, failures, form)


def _rows(
    context: Context, on: str | None, filters: dict[str, Any]
) -> tuple[list[Row], tuple[str, ...], datetime]:
    from runctl.resources import listing

    with acting.operation(context, on) as operation:
        sessions = acting.sessions(context, operation, filters["regions"])
        rows, failures = listing.rows(operation, sessions, _filters(filters))
        return rows, failures, operation.session.cloud.clock.now()


def _filters(given: dict[str, Any]) -> Filters:
    from runctl.resources.listing import Filters

    return Filters(**{name: value for name, value in given.items() if name != "regions"})


def _export(rows: list[Row], failures: tuple[str, ...], form: str) -> None:
    """What could not be read is a part of JSON and HTML; a table of CSV has no place for it but stderr."""
    from runctl.render import resources as render

    if form == "csv":
        render.write_csv(rows)
    else:
        {"html": render.write_html, "json": render.write_json}[form](rows, failures)


def _show(context: Context, rows: list[Row], failures: tuple[str, ...], now: datetime) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"resources": rows, "failures": failures})
    elif context.quiet:
        for row in rows:
            output.write_line(row.id)
    elif not rows:
        output.talk("there is nothing: runctl aws create, or runctl train SCRIPT --on aws")
    else:
        from runctl.render import resources as render

        render.show_rows(rows, now)
