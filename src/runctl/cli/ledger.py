"""`runctl ledger`: is it sound, which copies are there, and the way back from damage."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import click

from runctl.cli import acting
from runctl.cli.options import Context, common


@click.group()
def ledger() -> None:
    """This user's memory of jobs, resources and operations: check it, and bring it back from its copies.

    \b
    Examples:
      runctl ledger check
      runctl ledger restore --dry-run
    """


@ledger.command()
@common
def check(context: Context) -> None:
    """Read the whole ledger: its structure, and the sum of each row.

    \b
    Examples:
      runctl ledger check
      runctl ledger check --output json
    """
    from runctl.errors import LedgerDamaged
    from runctl.ledger import copies, inspection
    from runctl.render import output

    path = _path()
    found = inspection.state(path)
    if found.damage:
        raise LedgerDamaged("; ".join(found.damage[:3]), path=path)
    known = copies.of(path, _now().date())
    if context.json:
        output.write_json(
            {
                "path": str(path),
                "bytes": found.bytes,
                "rows": found.rows,
                "copies": [copy.day for copy in known],
            }
        )
        return
    newest = f"the newest copy is of {known[0].day}" if known else "there is no copy yet"
    output.write_line(f"{path} is sound: {_counts(found.rows)}; {newest}")


@ledger.command("copies")
@common
def copies_(context: Context) -> None:
    """List the daily copies, the newest first, each read in full.

    \b
    Examples:
      runctl ledger copies
      runctl ledger copies --output json
    """
    from runctl.ledger import inspection
    from runctl.render import output

    known = inspection.states(_path(), _now().date())
    if context.json:
        output.write_json(
            [
                {
                    "day": one.day,
                    "path": str(one.state.path),
                    "bytes": one.state.bytes,
                    "damage": one.state.damage,
                    "rows": one.state.rows,
                }
                for one in known
            ]
        )
    elif context.quiet:
        for one in known:
            output.write_line(str(one.day))
    elif not known:
        output.talk("there is no copy yet")
    else:
        rows = [
            (str(one.day), f"{one.state.bytes / 1024:.0f} KiB", _words(one.state.damage, one.state.rows))
            for one in known
        ]
        output.write_table(("DAY", "SIZE", "HOLDS"), rows, right=("SIZE",))


@ledger.command()
@click.option(
    "--copy", "named", metavar="DAY|PATH", help="The copy to start from.  [default: the newest sound]"
)
@acting.planned
@common
def restore(context: Context, named: str | None, dry_run: bool) -> None:
    """Put a sound ledger in the place of a damaged one.

    The newest sound copy comes first, then every row of the damaged file that can be read and is later. The
    damaged file is kept in ledger-damaged/. A ledger that is sound gets what it lacks of the copy, and loses
    nothing.

    \b
    Examples:
      runctl ledger restore --dry-run
      runctl ledger restore
      runctl ledger restore --copy 2026-11-30
    """
    from runctl.ledger import restoring
    from runctl.render import output

    done = restoring.restore(_path(), now=_now(), copy=_copy(named), dry_run=dry_run)
    if context.json:
        output.write_json(
            {
                "damage": done.damage,
                "copy": None if done.copy is None else str(done.copy),
                "rows": done.rows,
                "added": done.added,
                "unreadable": done.unreadable,
                "unfinished": done.unfinished,
                "aside": None if done.aside is None else str(done.aside),
                "dry_run": dry_run,
            }
        )
        return
    from runctl.render.restored import show_restored

    show_restored(done, dry_run=dry_run)


def _path() -> Path:
    from runctl.clouds import home
    from runctl.ledger.store import FILE_NAME

    return home() / FILE_NAME


def _now() -> datetime:
    return datetime.now(UTC)


def _copy(named: str | None) -> Path | None:
    """A day, or the path of a file."""
    from runctl.ledger import copies

    if named is None:
        return None
    try:
        return copies.path_of(_path(), date.fromisoformat(named))
    except ValueError:
        return Path(named)


def _words(damage: tuple[str, ...], rows: dict[str, int]) -> str:
    return f"damaged: {damage[0]}" if damage else _counts(rows)


def _counts(rows: dict[str, int]) -> str:
    from runctl.render.restored import counts

    return counts(rows)
