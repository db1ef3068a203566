"""Where the boxes of a graph stand: layers from left to right, what depends before what it depends on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from runctl.errors import ConfigError
from runctl.safety.graph import Edge, Graph, order

BOX_WIDTH = 232
BOX_HEIGHT = 44
_COLUMN = BOX_WIDTH + 72
_ROW = BOX_HEIGHT + 14
_GAP = 36
_LANE = 0.3  # of a row: the room of an edge that passes through a layer
_ASPECT = 1.5
_CAREFUL = 500
HUB = 6
"""What more than so many depend on, such as a bucket, stands apart: it would tie all into one knot."""

Point = tuple[float, float]


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Top left corners of boxes, and points that edges pass on their way, in pixels.

    `far` edges lead to a hub and shape nothing; all others run from left to right, unless in a circle.
    """

    boxes: Mapping[str, Point]
    routes: Mapping[tuple[str, str], tuple[Point, ...]]
    far: frozenset[tuple[str, str]]
    width: float
    height: float


class _Component(msgspec.Struct, frozen=True, kw_only=True):
    boxes: Mapping[str, Point]
    routes: Mapping[tuple[str, str], tuple[Point, ...]]
    width: float
    height: float


def place(graph: Graph) -> Layout:
    """Place every node. Raises ConfigError where the library for it is not installed."""
    many = Counter(edge.target for edge in graph.edges)
    far = frozenset((edge.source, edge.target) for edge in graph.edges if many[edge.target] > HUB)
    components = _layered(graph, far)
    placed = {node_id for component in components for node_id in component.boxes}
    alone = [node.id for node in graph.nodes if node.id not in placed]
    components.sort(key=lambda component: (-component.height, min(component.boxes)))
    components += [
        _Component(boxes={node_id: (0.0, 0.0)}, routes={}, width=BOX_WIDTH, height=BOX_HEIGHT)
        for node_id in alone
    ]
    return _stacked(components, far)


def _layered(graph: Graph, far: Container[tuple[str, str]]) -> list[_Component]:
    try:
        from fast_sugiyama import from_edges
    except ImportError as error:
        raise ConfigError(
            "Pictures need one more package",
            why="fast-sugiyama is not installed",
            next="pip install 'runctl[graph]', or --format mermaid",
        ) from error
    ordered = order(graph)
    rank = {node_id: place for place, node_id in enumerate(ordered)}
    # Forward edges alone: in them there is no circle, on which the library would end the process.
    forward = [
        edge
        for edge in graph.edges
        if rank[edge.source] < rank[edge.target] and (edge.source, edge.target) not in far
    ]
    components: list[_Component] = []
    # One call for each: in a call with several, the library numbers the bends of one like nodes of another.
    for pairs in _connected(forward):
        # Numbers without gaps: the library gives those that follow to the bends of edges.
        names = sorted({end for pair in pairs for end in pair}, key=rank.__getitem__)
        number = {node_id: place for place, node_id in enumerate(names)}
        found = from_edges(
            sorted((number[source], number[target]) for source, target in pairs),
            vertex_spacing=_ROW,
            dummy_vertices=True,
            dummy_size=_LANE,
            # The last crossings cost ninety seconds with 9,000 nodes, and nobody counts them there.
            transpose=len(names) <= _CAREFUL,
        )
        for positions, _, _, links in found:
            components.append(_component(names, positions, links or []))  # pyright: ignore[reportArgumentType]
    return components


def _connected(edges: Iterable[Edge]) -> list[set[tuple[str, str]]]:
    """The pairs of nodes, apart where no way leads from one to the other."""
    beside: dict[str, set[tuple[str, str]]] = {}
    for edge in edges:
        pair = (edge.source, edge.target)
        for end in pair:
            beside.setdefault(end, set()).add(pair)
    groups: list[set[tuple[str, str]]] = []
    while beside:
        group: set[tuple[str, str]] = set()
        ahead = [next(iter(beside))]
        while ahead:
            pairs = beside.pop(ahead.pop(), set())
            group |= pairs
            ahead += [end for pair in pairs for end in pair if end in beside]
        groups.append(group)
    return groups


def _component(
    names: Sequence[str],
    positions: Sequence[tuple[int, Point]],
    links: Iterable[tuple[int, int]],
) -> _Component:
    """One component, turned so that its layers are columns; numbers beyond the names are bends of edges."""
    at = {node: (round((-y) / _ROW) * _COLUMN, x) for node, (x, y) in positions}
    left, top = min(x for x, _ in at.values()), min(y for _, y in at.values())
    at = {node: (x - left, y - top) for node, (x, y) in at.items()}
    boxes = {names[node]: point for node, point in at.items() if node < len(names)}
    after: dict[int, list[int]] = {}
    for source, target in links:
        after.setdefault(source, []).append(target)
    routes: dict[tuple[str, str], tuple[Point, ...]] = {}
    for source, targets in after.items():
        if source >= len(names):
            continue
        for step in targets:
            bends: list[int] = []
            while step >= len(names):
                bends.append(step)
                step = after[step][0]  # noqa: PLW2901 (a bend has one way on)
            if bends:
                routes[names[source], names[step]] = tuple(_bend(at[bend]) for bend in bends)
    return _Component(
        boxes=boxes,
        routes=routes,
        width=max(x for x, _ in at.values()) + BOX_WIDTH,
        height=max(y for _, y in at.values()) + BOX_HEIGHT,
    )


def _bend(point: Point) -> Point:
    """The middle of where a box would stand."""
    return point[0] + BOX_WIDTH / 2, point[1] + BOX_HEIGHT / 2


def _stacked(components: Sequence[_Component], far: frozenset[tuple[str, str]]) -> Layout:
    """Components one below the other, in as many columns as give the page its shape."""
    area = sum((component.width + _GAP) * (component.height + _GAP) for component in components)
    tall = max([(area / _ASPECT) ** 0.5, *(component.height for component in components)], default=0.0)
    boxes: dict[str, Point] = {}
    routes: dict[tuple[str, str], tuple[Point, ...]] = {}
    left = top = widest = lowest = 0.0
    for component in components:
        if top and top + component.height > tall:
            left, top, widest = left + widest + 2 * _GAP, 0.0, 0.0
        for node_id, (x, y) in component.boxes.items():
            boxes[node_id] = (x + left, y + top)
        for ends, points in component.routes.items():
            routes[ends] = tuple((x + left, y + top) for x, y in points)
        lowest = max(lowest, top + component.height)
        widest = max(widest, component.width)
        top += component.height + (_GAP if component.routes or len(component.boxes) > 1 else _GAP / 2)
    return Layout(boxes=boxes, routes=routes, far=far, width=left + widest, height=lowest)
