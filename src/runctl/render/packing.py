"""What a packing will write and what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runctl.render import figures, output
from runctl.render.transfer import show_left_out

if TYPE_CHECKING:
    from runctl.datasets.packing import PackPlan, PackReport
    from runctl.storage.listing import LeftOut


def show_plan(plan: PackPlan, *, json: bool, quiet: bool) -> None:
    files, packs = len(plan.source.entries), len(plan.packs)
    if json:
        body = {"files": files, "bytes": plan.size, "packs": packs, "left_out": plan.left_out}
        output.write_json({**body, "target": plan.place})
        return
    _left_out(plan.left_out, quiet=quiet)
    if not quiet:
        what = f"{figures.count(files, 'file')}, {figures.size(plan.size)}"
        output.write_line(f"Would pack {what}, in {figures.count(packs, 'pack')} at {plan.place}")


def show_report(report: PackReport, place: str, *, json: bool, quiet: bool) -> None:
    if json:
        output.write_json(report)
        return
    _left_out(report.left_out, quiet=quiet)
    if quiet:
        return
    packs = figures.count(report.packs, "pack")
    kept = f", {report.kept_packs} of them there before" if report.kept_packs else ""
    size = figures.size(report.bytes)
    output.write_line(f"Packed {figures.count(report.files, 'file')}, {size}, in {packs} at {place}{kept}")
    if report.other_packs:
        other = figures.count(report.other_packs, "pack")
        output.write_line(
            f"{other} of another state lie there too: readers of an earlier index may need them"
        )


def _left_out(items: Sequence[LeftOut], *, quiet: bool) -> None:
    if not quiet:
        show_left_out("left out", list(items))
