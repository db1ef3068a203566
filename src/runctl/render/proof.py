"""What `runctl prove` found, as sentences and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.render import output
from runctl.render.figures import count

if TYPE_CHECKING:
    from runctl.jobs.prove import Proof
    from runctl.proving.judgement import Cut

_HOW = {
    "notice": "a notice and SIGTERM",
    "lost": "killed",
    "save": "killed in the middle of a save",
}


def show(found: Proof, *, json: bool, quiet: bool, folder: str | None) -> None:
    """Cuts and findings. `folder` is where the runs were left, None if they are gone."""
    if json:
        output.write_json({"proof": found, "survives": found.survives, "folder": folder})
        return
    if not quiet:
        _show_runs(found)
    for one in found.findings:
        output.write_line(f"culprit     {one.culprit}")
        output.write_line(f"  seen      {one.evidence}")
        output.write_line(f"  next      {one.next}")
    if folder is not None:
        output.write_line(f"kept at     {folder}")


def _show_runs(found: Proof) -> None:
    write = output.write_line
    write("")
    said = "survives" if found.survives else "does NOT survive" if found.findings else "is not proven"
    write(f"the script  {said}: {count(len(found.cuts), 'cut')}")
    write(f"straight    {count(found.steps, 'step')} in {found.seconds:.1f} s")
    if found.compared:
        write(f"compared    {', '.join(found.compared)}, and the files it left")
    elif found.straight_succeeded:
        why = (
            "nothing that it prints by step is the same in two straight runs"
            if found.steps
            else "it names no steps"
        )
        write(f"compared    the files it left; {why}")
    for cut in found.cuts:
        write(f"cut         {_cut(cut)}")


def _cut(cut: Cut) -> str:
    at = f" at step {cut.step:g}" if cut.step is not None and cut.step >= 0 else ""
    newest = f"; {cut.whole[-1].name} lay there" if cut.whole else "; no whole checkpoint lay there"
    torn = f"; {cut.torn[0]} was torn" if cut.torn else ""
    return f"{_HOW.get(cut.kind, cut.kind)}{at}{newest}{torn}"
