"""What became of a damaged ledger, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runctl.render import output

if TYPE_CHECKING:
    from runctl.ledger.restoring import Restored

_NAMES = {
    "jobs": "jobs",
    "resources": "resources",
    "transactions": "operations",
    "verdicts": "verdicts",
}
"""The tables that a user knows by name; the others hang on them."""


def show_restored(done: Restored, *, dry_run: bool) -> None:
    """Line by line on stdout; what to do next as talk."""
    if done.aside is None:
        output.write_line("the ledger is sound, and its newest copy holds nothing that it lacks")
        return
    if done.damage:
        output.write_line(f"damaged: {done.damage}")
    source = f"from the copy {done.copy}" if done.copy else "there is no sound copy to start from"
    output.write_line(f"{'would restore' if dry_run else 'restored'}: {counts(done.rows)} ({source})")
    if any(done.added.values()):
        source = "the damaged file, newer than the copy" if done.damage else "the copy"
        output.write_line(f"of these from {source}: {counts(done.added, every=True)}")
    if done.unreadable and done.damage:
        output.write_line(f"not all could be read of: {', '.join(done.unreadable)}")
    output.write_line(f"the former file {'would be' if dry_run else 'is'} kept in {done.aside}")
    if done.unfinished:
        output.talk(
            f"unfinished, as far as is known: {', '.join(done.unfinished)};"
            " look with runctl tx show before you resume or undo them"
        )
    if not dry_run and done.damage:
        output.talk("next: runctl resources adopt brings in what the cloud knows since")


def counts(rows: Mapping[str, int], *, every: bool = False) -> str:
    """`2 jobs, 1 resource`."""
    names: Sequence[tuple[str, str]] = (
        [(name, name.replace("_", " ")) for name, number in rows.items() if number]
        if every
        else list(_NAMES.items())
    )
    return ", ".join(
        f"{rows.get(table, 0)} {name[:-1] if rows.get(table, 0) == 1 else name}" for table, name in names
    )
