"""The graph of resources as text: a tree for people, DOT and Mermaid for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from runctl.render import figures, output
from runctl.render.harmless import harmless
from runctl.safety.graph import Edge, Graph, Node, NodeKind

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

LOCK = "\N{LOCK}"
_COLOURS = {
    NodeKind.JOB: "magenta",
    NodeKind.INSTANCE: "green",
    NodeKind.CHECKPOINT: "cyan",
    NodeKind.IMAGE: "blue",
    NodeKind.VOLUME: "yellow",
    NodeKind.SNAPSHOT: "bright_yellow",
    NodeKind.BUCKET: "cyan",
}
FREE = frozenset({NodeKind.JOB, NodeKind.IMAGE, NodeKind.CHECKPOINT})
"""Kinds that cost nothing themselves: what they stand on does."""


def cost(node: Node) -> str:
    """What a node costs a month, in words; empty for what never costs."""
    if node.gone or node.kind in FREE:
        return ""
    return month(node.usd_per_month)


def month(usd: Decimal | None) -> str:
    return "cost unknown" if usd is None else f"{figures.usd(usd)}/month"


def whole(graph: Graph) -> str:
    """How many resources, and what they cost together."""
    there = sum(not node.gone for node in graph.nodes)
    held = sum(bool(node.protected_by) for node in graph.nodes)
    parts = [f"{there} resource{'' if there == 1 else 's'}", f"${graph.usd_per_month:,.2f}/month"]
    parts += [f"{graph.unpriced} of unknown cost"] if graph.unpriced else []
    parts += [f"{held} protected"] if held else []
    return ", ".join(parts)


def title(node: Node) -> str:
    """Name and id, or the id alone."""
    return harmless(f"{node.name} ({node.id})" if node.name and node.name not in node.id else node.id)


def facts(node: Node) -> str:
    """What a node is, beyond its name."""
    said = ("gone",) if node.gone else (node.state, node.detail)
    return harmless(", ".join(part for part in said if part))


def tree(graph: Graph) -> Tree:
    """A tree from what nothing depends on, down to what everything stands on.

    A node that several others need is opened below the first and named below the rest.
    """
    from rich.text import Text
    from rich.tree import Tree

    below: dict[str, list[Edge]] = {node.id: [] for node in graph.nodes}
    needed: set[str] = set()
    for edge in graph.edges:
        below[edge.source].append(edge)
        needed.add(edge.target)
    nodes = {node.id: node for node in graph.nodes}
    shown: set[str] = set()
    top = Tree(Text(whole(graph)), guide_style="dim")

    def grow(parent: Tree, node: Node, edge: Edge | None) -> None:
        label = _label(node, edge)
        if node.id in shown:
            if below[node.id]:
                label.append("  (see above)", style="dim")
            parent.add(label)
            return
        shown.add(node.id)
        branch = parent.add(label)
        for further in below[node.id]:
            grow(branch, nodes[further.target], further)

    # What stands in a circle has no top: it is begun anywhere.
    for node in (*(node for node in graph.nodes if node.id not in needed), *graph.nodes):
        if node.id not in shown:
            grow(top, node, None)
    return top


def show_tree(graph: Graph) -> None:
    """The tree on stdout: in colour on a terminal, as wide as it needs in a pipe."""
    output.write_drawn(tree(graph))


def tree_text(graph: Graph) -> str:
    """The tree without colours, each node on one line."""
    return output.drawn_lines(tree(graph))


def _label(node: Node, edge: Edge | None) -> Text:
    from rich.text import Text

    label = Text()
    if edge is not None:
        label.append(f"{edge.relation} ", style="dim")
    label.append(f"{node.kind} ", style="dim" if node.gone else _COLOURS[node.kind])
    label.append(title(node), style="dim strike" if node.gone else "bold")
    if said := facts(node):
        label.append(f"  {said}", style="dim")
    if paid := cost(node):
        label.append(f"  {paid}")
    if node.protected_by:
        label.append(f"  {LOCK} {harmless(node.protected_by)}", style="yellow")
    if edge is not None and edge.ends_together:
        label.append("  ends with it", style="red")
    return label


def dot(graph: Graph) -> str:
    """The language of Graphviz."""
    return "\n".join(_dot(graph)) + "\n"


def _dot(graph: Graph) -> Iterator[str]:
    yield "digraph resources {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style="rounded", fontname="sans-serif", fontsize=10];'
    yield '  edge [fontname="sans-serif", fontsize=8];'
    for node in graph.nodes:
        label = "\\n".join(map(_in_dot, _lines(node)))
        style = "dashed" if node.gone else "rounded,bold" if node.protected_by else "rounded"
        yield f'  "{_in_dot(node.id)}" [label="{label}", style="{style}"];'
    for edge in graph.edges:
        style = "bold" if edge.ends_together else "solid" if edge.relation.binding else "dashed"
        ends = f'"{_in_dot(edge.source)}" -> "{_in_dot(edge.target)}"'
        yield f'  {ends} [label="{edge.relation}", style={style}];'
    yield "}"


def mermaid(graph: Graph) -> str:
    """A Mermaid flowchart, which many places show that show Markdown."""
    return "\n".join(_mermaid(graph)) + "\n"


def _mermaid(graph: Graph) -> Iterator[str]:
    number = {node.id: f"n{place}" for place, node in enumerate(graph.nodes)}
    yield "flowchart LR"
    for node in graph.nodes:
        label = "<br/>".join(map(_in_mermaid, _lines(node)))
        yield f'  {number[node.id]}["{label}"]:::{"gone" if node.gone else node.kind}'
    for edge in graph.edges:
        arrow = "==>" if edge.ends_together else "-->" if edge.relation.binding else "-.->"
        yield f'  {number[edge.source]} {arrow}|"{edge.relation}"| {number[edge.target]}'
    yield "  classDef gone stroke-dasharray: 4"


def _lines(node: Node) -> list[str]:
    lock = f"{LOCK} {node.protected_by}" if node.protected_by else ""
    lines = (f"{node.kind} {title(node)}", facts(node), " ".join(part for part in (cost(node), lock) if part))
    return [line for line in lines if line]


def _in_dot(text: str) -> str:
    return harmless(text).replace("\\", "\\\\").replace('"', '\\"')


def _in_mermaid(text: str) -> str:
    """Every character that means something to Mermaid or to the HTML that it makes, as a code."""
    return "".join(
        char if char.isalnum() or char in " .,-_/:()$=+" else f"#{ord(char)};" for char in harmless(text)
    )
