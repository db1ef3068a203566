"""What a verification found, and which volumes hold what S3 holds now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runctl.quoting import quoted
from runctl.render import figures, output

if TYPE_CHECKING:
    from runctl.datasets.freshness import Holder
    from runctl.datasets.verifying import Verification

_SHOWN = 20


def show_verification(found: Verification, *, quiet: bool) -> None:
    """A line for each thing that is wrong, some of each kind, and the sum."""
    kinds = (
        ("missing", found.missing),
        ("different", found.different),
        ("extra", found.extra),
        ("unverifiable", found.unverifiable),
        ("left out", found.left_out),
    )
    for word, items in kinds:
        for item in items if quiet else items[:_SHOWN]:
            output.write_line(item.name if quiet else f"{word}: {item.name}: {item.why}")
        if len(items) > _SHOWN and not quiet:
            output.write_line(f"{word}: and {len(items) - _SHOWN} more; --output json names all")
    if quiet:
        return
    equal = f"{figures.count(found.equal_files, 'file')} equal, {figures.size(found.equal_bytes)}"
    rest = [f"{len(items)} {word}" for word, items in kinds if items]
    output.write_line(f"{found.source} and {found.target}: {', '.join([equal, *rest])}")


def show_holders(found: Sequence[Holder]) -> None:
    """One line a volume or snapshot; what is stale with the command that helps."""
    if not found:
        output.write_line("no volume or snapshot of this region was filled from it")
        return
    rows = [
        [holder.id, holder.zone or "every zone", holder.staged, holder.version[:12] or "none", _word(holder)]
        for holder in found
    ]
    output.write_line(f"{found[0].location} is at version {found[0].now[:12]}")
    output.write_table(("resource", "zone", "filled", "version", ""), rows)
    for holder in found:
        if holder.stale and holder.kind == "volume":
            output.talk(f"next: runctl aws ebs pre-warm {quoted(holder.id)} {quoted(holder.location)}")


def _word(holder: Holder) -> str:
    return "stale" if holder.stale else "current"
