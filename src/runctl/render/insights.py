"""What could be saved, as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.render import figures, output
from runctl.resources.insights import Insight, saving


def show_insights(found: Sequence[Insight]) -> None:
    """One row each, the greatest saving first, and the sum of what is known."""
    if not found:
        output.talk("there is nothing to save")
        return
    output.write_table(
        ("what", "id", "name", "why", "saves a month"),
        [(one.topic, one.resource, one.name, one.reason, figures.usd(one.usd_per_month)) for one in found],
        right=("saves a month",),
    )
    output.write_line("")
    for one in found:
        output.write_line(f"  {one.command}")
    usd, unknown = saving(found)
    more = f", and {unknown} at unknown prices" if unknown else ""
    output.talk(f"{len(found)} things to do save {figures.usd(usd)} a month{more}")
