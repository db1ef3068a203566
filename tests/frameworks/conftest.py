"""The table of what interruptions cost with each framework, at the end of the run."""

from __future__ import annotations

from typing import Any

from frameworks_table import PROPERTY, table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        row
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, row in report.user_properties
        if name == PROPERTY and report.when == "call"
    ]
    if rows:
        terminalreporter.section(PROPERTY)
        for line in table(rows):
            terminalreporter.write_line(line)
