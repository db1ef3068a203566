"""The graph of resources as a picture: SVG that stands alone, light and dark."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise

from runctl.render.graph import cost, facts
from runctl.render.graph_layout import BOX_HEIGHT, BOX_WIDTH, Layout, Point, place
from runctl.render.harmless import harmless
from runctl.safety.graph import Edge, Graph, Node

_MARGIN = 24
_STRIPE = 5
_TEXT_LEFT = 14
_CHARACTER = 6.6  # of the name's font, in pixels; wide ones take two
_SMALL_CHARACTER = 5.9
_DIGIT = 7.4


def svg(graph: Graph) -> str:
    """A file of its own. Raises ConfigError where the library for the layout is not installed."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + picture(graph, style=style()) + "\n"


def style() -> str:
    return asset("graph_page.css")


def asset(name: str) -> str:
    """A file that lies beside this module."""
    return (resources.files("runctl.render") / name).read_text(encoding="utf-8")


def picture(graph: Graph, *, style: str = "") -> str:
    """The `svg` element; `style` goes into it where the page around it does not have it."""
    layout = place(graph)
    width, height = round(layout.width + 2 * _MARGIN), round(layout.height + 2 * _MARGIN)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" {size}>',
            f"<style>{style}</style>" if style else "",
            f"<defs>{_arrow('points')}{_arrow('takes')}</defs>",
            f'<g id="stage" transform="translate({_MARGIN} {_MARGIN})">',
            *(_path(edge, layout) for edge in graph.edges),
            *(_box(node, layout.boxes[node.id]) for node in graph.nodes),
            "</g></svg>",
        )
    )


def escaped(text: str) -> str:
    """For text and attributes of SVG and HTML alike."""
    return html.escape(harmless(text), quote=True)


def shortened(text: str, room: float, character: float = _CHARACTER) -> str:
    """As much of a text as fits into `room` pixels."""
    used = 0.0
    for length, char in enumerate(text):
        used += character * (2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1)
        if used > room:
            return text[: max(length - 1, 0)] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _arrow(name: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"/></marker>'
    )


def _box(node: Node, at: Point) -> str:
    classes = ["box", f"kind-{node.kind}"]
    classes += ["held"] if node.protected_by else []
    classes += ["gone"] if node.gone else []
    where = f'tabindex="0" transform="translate({at[0]:.1f} {at[1]:.1f})"'
    return "".join(
        (
            f'<g class="{" ".join(classes)}" data-id="{escaped(node.id)}" {where}>',
            f"<title>{escaped(_tooltip(node))}</title>",
            f'<rect class="body" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>',
            f'<rect class="stripe" width="{_STRIPE}" height="{BOX_HEIGHT}" rx="2"/>',
            *_texts(node),
            "</g>",
        )
    )


def _texts(node: Node) -> Iterator[str]:
    paid = cost(node).removesuffix("/month")
    paid = "unknown" if paid == "cost unknown" else paid
    paid_room = len(paid) * _DIGIT + 12 if paid else 0
    lock_room = 16 if node.protected_by else 0
    room = BOX_WIDTH - _TEXT_LEFT - 8
    named = bool(node.name) and node.name not in node.id
    name = shortened(harmless(node.name if named else node.id), room - paid_room - lock_room)
    yield f'<text class="name" x="{_TEXT_LEFT}" y="17">{html.escape(name)}</text>'
    if paid:
        yield f'<text class="usd" x="{BOX_WIDTH - 8}" y="17">{html.escape(paid)}</text>'
    if node.protected_by:
        left = BOX_WIDTH - 14 - paid_room if paid else BOX_WIDTH - 20
        yield (
            f'<g class="lock" transform="translate({left:.1f} 7)"><path d="M2 5V3a2.5 2.5 0 0 1 5 0v2"/>'
            '<rect y="4.5" width="9" height="7" rx="1"/></g>'
        )
    kind_room = len(node.kind) * 7.2 + 6
    said = facts(node)
    if named:
        said = f"{harmless(node.id)}, {said}" if said else harmless(node.id)
    said = shortened(said, room - kind_room, _SMALL_CHARACTER)
    yield f'<text class="kind" x="{_TEXT_LEFT}" y="34">{node.kind}</text>'
    yield f'<text class="soft" x="{_TEXT_LEFT + kind_room:.1f}" y="34">{html.escape(said)}</text>'


def _tooltip(node: Node) -> str:
    lines = (
        f"{node.kind} {node.id}",
        node.name,
        facts(node),
        cost(node),
        f"project {node.project}" if node.project else "",
        f"held by the rule: {node.protected_by}" if node.protected_by else "",
    )
    return " \N{MIDDLE DOT} ".join(line for line in lines if line)


def _path(edge: Edge, layout: Layout) -> str:
    kind = "takes" if edge.ends_together else "needs" if edge.relation.binding else "origin"
    kind += " far" if (edge.source, edge.target) in layout.far else ""
    arrow = "takes" if edge.ends_together else "points"
    said = f"{edge.source} {edge.relation} {edge.target}"
    said += ", and takes it along when it ends" if edge.ends_together else ""
    return (
        f'<path class="edge {kind}" data-from="{escaped(edge.source)}" data-to="{escaped(edge.target)}"'
        f' marker-end="url(#{arrow})" d="{_curve(edge, layout)}"><title>{escaped(said)}</title></path>'
    )


def _curve(edge: Edge, layout: Layout) -> str:
    """From the right of one box to the left of the other, through the bends between."""
    start, end = layout.boxes[edge.source], layout.boxes[edge.target]
    begin = (start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2)
    finish = (end[0] - 2, end[1] + BOX_HEIGHT / 2)
    if finish[0] < begin[0]:  # an edge of a circle runs back: around the box
        finish = (end[0] + BOX_WIDTH + 2, finish[1])
        return f"M{begin[0]:.1f} {begin[1]:.1f}" + _bow(begin, finish, back=True)
    points = [begin]
    for x, y in layout.routes.get((edge.source, edge.target), ()):
        points += [(x - BOX_WIDTH / 2, y), (x + BOX_WIDTH / 2, y)]
    points.append(finish)
    path = f"M{begin[0]:.1f} {begin[1]:.1f}"
    return path + "".join(_bow(one, next_one) for one, next_one in pairwise(points))


def _bow(start: Point, end: Point, *, back: bool = False) -> str:
    reach = 60.0 if back else (end[0] - start[0]) / 2
    towards = end[0] + reach if back else end[0] - reach
    return f"C{start[0] + reach:.1f} {start[1]:.1f} {towards:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
