"""Bars of a benchmark's table as SVG, without a library."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _BAR, _STEP, _GAP = 760, 200, 430, 18, 16
_COLORS = ("#2f6fde", "#9aa5b1", "#c3a06b", "#7fa08a", "#b58aa5")


def bars(title: str, table: list[dict[str, Any]], value: str, tools: list[str]) -> str:
    """A group for each workload and way, a bar for each tool; each group has its own scale."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault(f"{row['workload']} {row['way']}", []).append(row)
    parts = [f'<text x="10" y="22" font-size="15">{escape(title)}</text>']
    top = 44
    for name, rows in groups.items():
        most = max(row[value] for row in rows)
        parts.append(f'<text x="10" y="{top + 13}">{escape(name)}</text>')
        for row in rows:
            width = max(1.0, _BAR * row[value] / most)
            color = _COLORS[tools.index(row["tool"]) % len(_COLORS)]
            label = f"{row[value]:,.{0 if most >= 100 else 2}f} {escape(row['tool'])}"
            parts.append(
                f'<rect x="{_LABEL}" y="{top + 2}" width="{width:.1f}" height="{_STEP - 4}" fill="{color}"/>'
                f'<text x="{_LABEL + width + 6:.1f}" y="{top + 13}">{label}</text>'
            )
            top += _STEP
        top += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
