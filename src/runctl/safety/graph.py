"""A graph of what depends on what, and what a deletion in it means. Pure.

An edge runs from what needs to what is needed. A deletion takes the nodes of a `binding` edge's source
first; the other edges tell where something came from.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum

import msgspec

from runctl.errors import NotFound, ValidationError

NOTHING = Decimal(0)


class NodeKind(StrEnum):
    """In the order in which they are shown: what works first, what it stands on last."""

    JOB = "job"
    INSTANCE = "instance"
    CHECKPOINT = "checkpoint"
    IMAGE = "image"
    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    BUCKET = "bucket"


class Relation(StrEnum):
    """How the source of an edge depends on its target."""

    RUNS_ON = "runs on"
    RAN_ON = "ran on"
    KEEPS_IN = "keeps its checkpoints in"
    STORED_IN = "is stored in"
    RESUMES_FROM = "may resume from"
    WROTE = "wrote"
    USES = "uses"
    NEEDS = "needs"
    STARTED_FROM = "was started from"
    RESTORED_FROM = "was restored from"
    MADE_FROM = "was made from"

    @property
    def binding(self) -> bool:
        """Whether the target cannot go before the source has gone or let go of it."""
        return self in _BINDING


_BINDING = frozenset(
    {
        Relation.RUNS_ON,
        Relation.KEEPS_IN,
        Relation.STORED_IN,
        Relation.RESUMES_FROM,
        Relation.USES,
        Relation.NEEDS,
    }
)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One resource. USD a month of its own, None where unknown; `protected_by` is a rule's name or empty.

    `gone`: another resource names it, and the cloud shows it no more.
    """

    id: str
    kind: NodeKind
    name: str = ""
    detail: str = ""
    state: str = ""
    region: str = ""
    project: str = ""
    user: str = ""
    managed: bool = True
    usd_per_month: Decimal | None = None
    protected_by: str = ""
    gone: bool = False


class Edge(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """`source` depends on `target`; `ends_together`: a deletion of the source takes the target along."""

    source: str
    target: str
    relation: Relation
    ends_together: bool = False


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """What the deletion of one node means: `first` has to go before, `leaves` stays and may cost on.

    USD a month saved with what is taken along; None where a price of these is unknown.
    """

    node: str
    takes: tuple[str, ...]
    leaves: tuple[str, ...]
    first: tuple[str, ...]
    saves_per_month: Decimal | None


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes by kind and id, edges in order; every edge's ends are nodes."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, node_id: str) -> Node:
        """Raises NotFound."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise NotFound(f"There is no {node_id} in the graph", next="runctl resources graph")

    @property
    def usd_per_month(self) -> Decimal:
        """What all of it costs whose price is known."""
        return sum((node.usd_per_month for node in self.nodes if node.usd_per_month), NOTHING)

    @property
    def unpriced(self) -> int:
        """How many nodes have a price that is unknown."""
        return sum(node.usd_per_month is None for node in self.nodes)


def total(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """A sum in which one unknown makes the whole unknown."""
    whole = NOTHING
    for amount in amounts:
        if amount is None:
            return None
        whole += amount
    return whole


def order(graph: Graph) -> tuple[str, ...]:
    """Every node, what depends before what it depends on: the order in which deletions are possible.

    A circle, which only a cloud that contradicts itself can show, is cut at what says no more than where
    something came from.
    """
    try:
        return _order(graph.nodes, graph.edges)
    except graphlib.CycleError:
        return _order(graph.nodes, [edge for edge in graph.edges if edge.relation.binding])


def deletion(graph: Graph, node_id: str) -> Deletion:
    """What the deletion of a node would take along, leave, and need to go first. Raises NotFound."""
    graph.node(node_id)
    return deletions(graph, [node_id])[node_id]


def deletions(graph: Graph, of: Iterable[str] | None = None) -> dict[str, Deletion]:
    """`deletion` of many nodes, or of all."""
    by_id = {node.id: node for node in graph.nodes}
    out: dict[str, list[Edge]] = {node.id: [] for node in graph.nodes}
    into: dict[str, list[Edge]] = {node.id: [] for node in graph.nodes}
    for edge in graph.edges:
        out[edge.source].append(edge)
        into[edge.target].append(edge)

    def one(node_id: str) -> Deletion:
        takes = {edge.target for edge in out[node_id] if edge.ends_together}
        first = {edge.source for edge in into[node_id] if edge.relation.binding}
        others = {edge.target for edge in out[node_id]} | {edge.source for edge in into[node_id]}

        def there(ids: set[str]) -> tuple[str, ...]:
            return tuple(sorted(other for other in ids if not by_id[other].gone))

        return Deletion(
            node=node_id,
            takes=there(takes),
            leaves=there(others - takes - first),
            first=there(first),
            saves_per_month=total(by_id[gone].usd_per_month for gone in (node_id, *there(takes))),
        )

    return {node_id: one(node_id) for node_id in (by_id if of is None else of)}


def around(graph: Graph, reference: str) -> Graph:
    """What one node needs and what needs it, however far. Its id, the beginning of it, or its name.

    Raises NotFound with the nearest ids, ValidationError where several fit.
    """
    node = _find(graph, reference)
    kept = _reach(node.id, _neighbours(graph, forward=True)) | _reach(
        node.id, _neighbours(graph, forward=False)
    )
    return Graph(
        nodes=tuple(found for found in graph.nodes if found.id in kept),
        edges=tuple(edge for edge in graph.edges if edge.source in kept and edge.target in kept),
    )


def _order(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[str, ...]:
    before: dict[str, list[str]] = {node.id: [] for node in nodes}
    for edge in edges:
        before[edge.target].append(edge.source)
    return tuple(graphlib.TopologicalSorter(before).static_order())


def _neighbours(graph: Graph, *, forward: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {node.id: [] for node in graph.nodes}
    for edge in graph.edges:
        start, end = (edge.source, edge.target) if forward else (edge.target, edge.source)
        found[start].append(end)
    return found


def _reach(start: str, neighbours: Mapping[str, Sequence[str]]) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        for neighbour in neighbours[waiting.pop()]:
            if neighbour not in seen:
                seen.add(neighbour)
                waiting.append(neighbour)
    return seen


def _find(graph: Graph, reference: str) -> Node:
    if not reference:
        raise ValidationError("No resource is named", why="its id is empty", next="runctl resources graph")
    by_id = [node for node in graph.nodes if node.id == reference]
    by_name = [node for node in graph.nodes if node.name == reference]
    by_beginning = [node for node in graph.nodes if node.id.startswith(reference)]
    for found in (by_id, by_name, by_beginning):
        if len(found) == 1:
            return found[0]
        if found:
            raise ValidationError(
                f"{reference!r} fits several resources", why=", ".join(node.id for node in found[:5])
            )
    import difflib

    known = [node.id for node in graph.nodes] + [node.name for node in graph.nodes if node.name]
    near = difflib.get_close_matches(reference, known, n=3, cutoff=0.5)
    raise NotFound(
        f"There is no resource {reference!r}",
        why=f"the nearest: {', '.join(near)}" if near else "",
        next="runctl resources list",
    )
