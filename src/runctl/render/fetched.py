"""What was brought home of a job, and what was not, as sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.quoting import quoted
from runctl.render import output
from runctl.render.figures import count, size

if TYPE_CHECKING:
    from runctl.jobs.outputs import Fetched


def show(json: bool, found: Fetched, *, quiet: bool) -> None:
    """One object as JSON, or sentences."""
    if json:
        output.write_json(found)
    else:
        show_fetched(found, quiet=quiet)


def show_fetched(found: Fetched, *, quiet: bool) -> None:
    """Names that were given and left on stderr, then one line for the whole."""
    for path, aside in found.aside.items():
        output.talk(f"[note] another {path} lay there: it is {aside} now", style="yellow")
    for path, why in found.left.items():
        output.talk(f"[warning] {path} was left where it is: {why}", style="yellow")
    if quiet:
        return
    same = f"; {count(found.same, 'file')} lay there already" if found.same else ""
    origin = f" from {found.snapshot} of {found.created}" if found.snapshot else ""
    files = f"{count(found.files, 'file')}, {size(found.bytes)}"
    output.talk(f"fetched {files}, to {found.folder}{origin}{same}")
    for tree, files in found.not_asked.items():
        way = f"runctl jobs fetch {quoted(found.job)} {quoted(found.folder)} --tree {quoted(tree)}"
        output.talk(f"{count(files, 'file')} of {tree} stay in the store: {way}")
