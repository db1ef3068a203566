"""The graph of resources as one page of HTML: a picture to move in, a legend, a table. It asks no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from string import Template

from runctl.render.graph import FREE, facts, whole
from runctl.render.graph_svg import asset, escaped, picture
from runctl.safety.graph import Deletion, Graph, Node, NodeKind, deletions


def page(graph: Graph, *, title: str) -> str:
    """The whole page. Raises ConfigError where the library for the layout is not installed."""
    script = asset("graph_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(asset("graph_page.html")).substitute(
        title=escaped(title),
        summary=escaped(whole(graph)),
        style=asset("graph_page.css"),
        picture=picture(graph),
        legend="\n".join(_legend()),
        rows="\n".join(_rows(graph)),
        # The page's policy lets this very script run and no other.
        script=script,
        hash=digest,
    )


def _legend() -> Iterator[str]:
    for kind in NodeKind:
        yield f'<span class="kind-{kind}"><span class="swatch"></span>{kind}</span>'
    yield '<span><i class="takes"></i>its deletion takes that along</span>'
    yield "<span><i></i>needs it: that cannot go first</span>"
    yield '<span><i class="origin"></i>where it came from</span>'
    yield "<span><b></b>protected by a rule</span>"
    yield '<span><b class="gone"></b>gone from the cloud</span>'


def _rows(graph: Graph) -> Iterator[str]:
    means = deletions(graph)
    for node in graph.nodes:
        cells = (
            ("", node.kind),
            ("id", node.id),
            ("", node.name),
            ("", facts(node)),
            ("", node.project),
            ("usd", "" if node.gone or node.kind in FREE else _usd(node.usd_per_month)),
            ("usd", _saves(node, means[node.id])),
            ("", node.protected_by),
            ("ids", ", ".join(means[node.id].takes)),
            ("ids", ", ".join(means[node.id].leaves)),
            ("ids", ", ".join(means[node.id].first)),
        )
        inside = "".join(
            f'<td class="{name}">{escaped(text)}</td>' if name else f"<td>{escaped(text)}</td>"
            for name, text in cells
        )
        yield f'<tr data-id="{escaped(node.id)}">{inside}</tr>'


def _saves(node: Node, deletion: Deletion) -> str:
    return "" if node.gone or not deletion.takes else _usd(deletion.saves_per_month)


def _usd(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount.quantize(Decimal('0.01'), ROUND_HALF_UP):,}"
