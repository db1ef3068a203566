"""`runctl resources`: everything that costs, in one place; its commands are loaded when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from runctl.cli.root import LazyGroup


class _Resources(LazyGroup):
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "list": ("runctl.cli.resources_list:list_", "List instances, volumes, snapshots and jobs."),
        "summary": ("runctl.cli.resources_summary:summary", "What runs, and what it costs."),
        "insights": ("runctl.cli.resources_insights:insights", "What could be saved, and how."),
        "cleanup": ("runctl.cli.resources_cleanup:cleanup", "Plan and remove what is not needed."),
        "stop-all": ("runctl.cli.resources_cleanup:stop_all", "Stop every running instance of yours."),
        "graph": ("runctl.cli.resources_graph:graph", "What depends on what."),
        "export": ("runctl.cli.resources_list:export", "Write the list as CSV, HTML or JSON."),
        "adopt": ("runctl.cli.resources_adopt:adopt", "Rebuild the ledger from the cloud's tags."),
    }


@click.group(cls=_Resources)
def resources() -> None:
    """Everything that costs money or holds data: seen, summed up, cleaned up.

    \b
    Examples:
      runctl resources list
      runctl resources cleanup --dry-run
    """
