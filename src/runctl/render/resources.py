"""Rows of resources for people, spreadsheets and browsers."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from runctl.render import figures, output
from runctl.render.harmless import harmless
from runctl.resources.listing import Row

LOCK = "\N{LOCK}"
_COLUMNS = Row.__struct_fields__


def show_rows(rows: Sequence[Row], now: datetime) -> None:
    """One row each; below, what is known of the sum. `now` is the cloud's."""
    output.write_table(
        ("", "id", "kind", "name", "state", "what", "zone", "project", "age", "an hour", "so far"),
        [
            (
                LOCK if row.protected else "",
                row.id,
                row.kind,
                row.name,
                row.state,
                row.what,
                row.zone or row.region,
                row.project,
                figures.duration(now - row.created) if row.created else "",
                "" if row.kind in {"job", "image"} else figures.usd(row.usd_per_hour),
                "" if row.kind in {"job", "image"} else figures.usd(row.usd_so_far),
            )
            for row in rows
        ],
        right=("an hour", "so far"),
    )
    priced = [row for row in rows if row.kind not in {"job", "image"}]
    known = sum((row.usd_per_hour for row in priced if row.usd_per_hour is not None), Decimal(0))
    unknown = sum(row.usd_per_hour is None for row in priced)
    more = f", and {unknown} at unknown prices" if unknown else ""
    output.talk(f"{len(rows)} shown, {figures.usd(known)} an hour{more}")


def write_csv(rows: Sequence[Row]) -> None:
    """RFC 4180, a header first; an unknown price is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in _COLUMNS])
    output.write_document(text.getvalue())


def write_json(rows: Sequence[Row], failures: Sequence[str]) -> None:
    output.write_json({"resources": rows, "failures": failures})


def write_html(rows: Sequence[Row], failures: Sequence[str]) -> None:
    """One self-contained page; everything that came from a cloud is escaped."""
    heads = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in _COLUMNS)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{_in_html(getattr(row, name))}</td>" for name in _COLUMNS) + "</tr>"
        for row in rows
    )
    missing = "".join(f"<p>not read: {html.escape(harmless(failure))}</p>" for failure in failures)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>runctl resources</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #8884; white-space: nowrap; }}
th {{ position: sticky; top: 0; background: Canvas; }}
</style></head><body><h1>Resources</h1><p>{len(rows)} resources</p>{missing}
<table><thead><tr>{heads}</tr></thead><tbody>
{lines}
</tbody></table></body></html>
"""
    output.write_document(page)


def _cell(value: object) -> str:
    """A spreadsheet runs what begins like a formula: such text is quoted."""
    text = "" if value is None else value.isoformat() if isinstance(value, datetime) else harmless(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _in_html(value: object) -> str:
    return html.escape(harmless(_shown(value)))


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return figures.moment(value)
    if isinstance(value, Decimal):
        return figures.usd(value)
    return "" if value is None else str(value)
