"""The graph in every format: nothing lost, nothing obeyed of what names say, boxes that do not overlap."""

from __future__ import annotations

import builtins
import html.parser
import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runctl.errors import ConfigError
from runctl.ledger import AttemptRecord, JobRecord
from runctl.model import JobId, JobState, Market, Price
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import MachineImage, Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.render import graph as text
from runctl.render.graph_layout import BOX_HEIGHT, BOX_WIDTH, HUB, place
from runctl.render.graph_page import page
from runctl.render.graph_svg import shortened, svg
from runctl.render.harmless import harmless
from runctl.safety.dependencies import graph_of, marks
from runctl.safety.graph import Edge, Graph, Node, NodeKind, Relation

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
EVIL = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    'it\'s "quoted" & <b>bold</b>',
    ']]> --> */ \\N \\" `code` #quot; {x} |pipe|',
    "line\nbreak\x1b[31mred\x00",
    "日本語のとても長い名前のボリューム" * 3,
)
SVG = "{http://www.w3.org/2000/svg}"


def fleet(instances: int = 40, seed: int = 4) -> Graph:
    """A team's account as it may be: jobs with checkpoints, machines with disks, snapshots, images."""
    chance = random.Random(seed)
    own = {"runctl:managed": "true", "runctl:user": "ada", "runctl:project": "digits"}
    machines: list[Instance] = []
    disks: list[Volume] = []
    copies: list[Snapshot] = []
    images: list[MachineImage] = []
    jobs: list[JobRecord] = []
    attempts: list[AttemptRecord] = []

    def hexa() -> str:
        return f"{chance.getrandbits(68):017x}"

    def disk(at: str | None, name: str, size: int, *, dies: bool, persistent: bool) -> Volume:
        volume_id = f"vol-{hexa()}"
        attachment = Attachment(
            volume=volume_id,
            instance=at or "",
            device="/dev/sdf",
            state="attached",
            delete_on_termination=dies,
        )
        tags = own | {"Name": name} | ({"runctl:persistent": "true"} if persistent else {})
        return Volume(
            id=volume_id,
            region="us-east-1",
            zone="us-east-1a",
            volume_type="gp3",
            size_gib=size,
            iops=3000,
            throughput_mibs=125,
            encrypted=True,
            state="in-use" if at else "available",
            created=NOON,
            snapshot=chance.choice(copies[:3]).id if copies and chance.random() < 0.35 else None,
            attachments=(attachment,) if at else (),
            tags=tags,
        )

    for number in range(instances):
        machine = f"i-{hexa()}"
        with_job = number % 3 == 0
        tags = own | {"Name": f"worker-{number}"} if number % 7 else {"Name": "somebody's"}
        if with_job:
            job = f"resnet-{number:02d}{hexa()[:4]}"
            tags = own | {"Name": job, "runctl:job": job}
            state = chance.choice([JobState.RUNNING, JobState.SUCCEEDED])
            jobs.append(
                JobRecord(
                    id=JobId(job),
                    name="resnet",
                    spec=b"{}",
                    state=state,
                    target="aws",
                    cloud="aws",
                    folder=None,
                    store=f"s3://team-training-{number % 2}/runctl/jobs/{job}",
                    project="digits",
                    user="ada",
                    created=NOON,
                    updated=NOON,
                )
            )
            attempts += [
                AttemptRecord(
                    job=JobId(job),
                    number=attempt,
                    state="ended",
                    created=NOON,
                    instance_id=machine,
                    committed_name=f"step-{attempt * 1000}",
                    committed_step=attempt * 1000,
                )
                for attempt in (1, 2)
            ]
        found = [disk(machine, f"root-{number}", 50, dies=True, persistent=False)]
        if number % 2:
            found.append(disk(machine, f"dataset-{number}", 500, dies=False, persistent=number % 4 == 1))
        machines.append(
            Instance(
                id=machine,
                region="us-east-1",
                zone="us-east-1a",
                instance_type=chance.choice(["g5.xlarge", "p4d.24xlarge", "c6i.large"]),
                state=chance.choice(["running", "stopped"]),
                market=chance.choice(list(Market)),
                launched=NOON,
                image=images[-1].id if images and number % 5 == 0 else "ami-public",
                root_device="/dev/xvda",
                architecture="x86_64",
                disks=tuple(volume.attachments[0] for volume in found),
                tags=tags,
            )
        )
        disks += found
        for volume in found:
            if chance.random() < 0.4:
                copies.append(  # noqa: PERF401
                    Snapshot(
                        id=f"snap-{hexa()}",
                        region="us-east-1",
                        volume=volume.id,
                        size_gib=volume.size_gib,
                        state="completed",
                        progress="100%",
                        started=NOON - timedelta(days=number),
                        encrypted=True,
                        description="",
                        tags=own | {"Name": f"before-change-{number}"},
                    )
                )
        if copies and number % 9 == 4:
            images.append(
                MachineImage(
                    id=f"ami-{hexa()}",
                    region="us-east-1",
                    name=f"golden-{number}",
                    created=NOON,
                    snapshots=(copies[-1].id,),
                    tags=own,
                )
            )
    disks += [
        disk(None, EVIL[number % len(EVIL)], 100, dies=False, persistent=number % 3 == 0)
        for number in range(8)
    ]
    rates: dict[str, Price | None] = {
        found.id: Price(Decimal(chance.randrange(5, 3000)) / 1000, "test", NOON)
        for found in (*machines, *disks)
    }
    protected = marks(
        instances=machines, volumes=disks, snapshots=copies, images=images, user="ada", now=NOON
    )
    return graph_of(
        instances=machines,
        volumes=disks,
        snapshots=copies,
        images=images,
        jobs=jobs,
        attempts=attempts,
        rates=rates,
        protected=protected,
    )


def html_page(graph: Graph) -> str:
    return page(graph, title="resources")


FORMATS: dict[str, Callable[[Graph], str]] = {
    "tree": text.tree_text,
    "dot": text.dot,
    "mermaid": text.mermaid,
    "svg": svg,
    "html": html_page,
}


class Elements(html.parser.HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def node(node_id: str, **more: object) -> Node:
    return Node(id=node_id, kind=NodeKind.VOLUME, **more)  # pyright: ignore[reportArgumentType]


def seen_in(output: str, name: str) -> set[str]:
    """The ids of the nodes that an output shows."""
    if name == "html":
        return {str(found.get("data-id")) for tag, found in Elements(output).found if tag == "tr"} - {"None"}
    if name == "svg":
        return {
            box.attrib["data-id"] for box in ET.fromstring(output).iter(f"{SVG}g") if "data-id" in box.attrib
        }
    if name == "dot":
        return set(re.findall(r'^  "([^"]+)" \[', output, re.MULTILINE))
    decoded = re.sub(r"#(\d+);", lambda match: chr(int(match[1])), output)
    return set(re.findall(r"(?:vol|snap|i|ami)-\w+|s3://[\w-]+|resnet-\w+(?:/step-\d+)?", decoded))


@pytest.mark.parametrize("name", FORMATS)
def test_no_node_is_lost_in_any_format(name: str) -> None:
    graph = fleet()
    ids = {found.id for found in graph.nodes}
    assert len(ids) > 150
    assert ids <= seen_in(FORMATS[name](graph), name)


@pytest.mark.parametrize("name", ["svg", "html"])
@pytest.mark.parametrize("evil", EVIL)
def test_a_name_from_the_cloud_is_shown_and_never_obeyed(name: str, evil: str) -> None:
    graph = Graph(nodes=(node("vol-1", name=evil, detail=evil, project=evil),), edges=())
    plain = Graph(nodes=(node("vol-1", name="x", detail="x", project="x"),), edges=())
    output = FORMATS[name](graph)
    if name == "svg":
        ET.fromstring(output)
    tags = [tag for tag, _ in Elements(output).found]
    assert tags == [tag for tag, _ in Elements(FORMATS[name](plain)).found]
    assert not [key for _, attributes in Elements(output).found for key in attributes if key.startswith("on")]
    shown = "".join(Elements(output).texts)
    assert harmless(evil)[:12] in shown


@pytest.mark.parametrize("name", FORMATS)
def test_no_control_character_reaches_a_reader(name: str) -> None:
    graph = Graph(nodes=(node("vol-1", name="line\nbreak\x1b[31mred\x00\u202e"),), edges=())
    output = FORMATS[name](graph)
    assert not {"\x1b", "\x00", "\u202e"} & set(output)
    assert "line\nbreak" not in output


def test_quotes_and_backslashes_stay_inside_of_dot_strings() -> None:
    output = text.dot(Graph(nodes=(node('vol-"1\\', name='a"] evil ["'),), edges=()))
    for line in output.splitlines()[4:-1]:
        strings = re.findall(r'"(?:[^"\\]|\\.)*"', line)
        assert len(strings) == 3, line  # id, label and style: nothing has broken out
        assert "evil" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", line)


def test_mermaid_labels_hold_no_character_that_mermaid_obeys() -> None:
    for evil in EVIL:
        output = text.mermaid(Graph(nodes=(node("vol-1", name=evil),), edges=()))
        label = output.splitlines()[1].partition('["')[2].rpartition('"]')[0].replace("<br/>", "")
        assert not set(label) & set("<>\"'`|{}[]&\\")


def test_the_page_asks_no_network_and_lets_no_script_run_but_its_own() -> None:
    output = html_page(fleet(4))
    loads = [attributes for _, attributes in Elements(output).found if {"src", "href"} & attributes.keys()]
    assert loads == []
    assert "@import" not in output
    assert "url(http" not in output
    import base64
    import hashlib

    script = output.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in output
    assert "default-src 'none'" in output


def test_a_circle_in_what_the_cloud_says_loses_no_node() -> None:
    nodes = (node("vol-1"), Node(id="snap-1", kind=NodeKind.SNAPSHOT), node("vol-2"))
    edges = (
        Edge(source="snap-1", target="vol-1", relation=Relation.MADE_FROM),
        Edge(source="vol-1", target="snap-1", relation=Relation.RESTORED_FROM),
        Edge(source="vol-2", target="vol-2", relation=Relation.RESTORED_FROM),
    )
    graph = Graph(nodes=nodes, edges=edges)
    for name, render in FORMATS.items():
        assert {"vol-1", "snap-1", "vol-2"} <= seen_in(render(graph), name), name


def test_what_is_needed_twice_is_opened_once_in_the_tree() -> None:
    nodes = (node("snap-1"), node("vol-1"), node("vol-2"), node("vol-3"))
    edges = (
        Edge(source="snap-1", target="vol-1", relation=Relation.MADE_FROM),
        Edge(source="vol-1", target="vol-3", relation=Relation.RESTORED_FROM),
        Edge(source="vol-2", target="vol-1", relation=Relation.RESTORED_FROM),
    )
    output = text.tree_text(Graph(nodes=nodes, edges=edges))
    assert output.count("vol-3") == 1
    assert "volume vol-1  cost unknown  (see above)" in output


def test_an_unknown_price_is_shown_as_unknown_and_never_as_nothing() -> None:
    graph = Graph(nodes=(node("vol-1"), node("vol-2", usd_per_month=Decimal("8.40"))), edges=())
    for name, render in FORMATS.items():
        output = render(graph)
        assert "unknown" in output, name
        assert "8.40" in output.replace("#36;", "$"), name


RUNS = Relation.RUNS_ON
ROUNDING = 1e-6
"""Pixels."""


@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14), st.sampled_from(list(Relation))), max_size=40)
)
@example(
    [
        (0, 6, Relation.RUNS_ON),
        (1, 2, Relation.RUNS_ON),
        (1, 4, Relation.RUNS_ON),
        (2, 3, Relation.RUNS_ON),
        (3, 4, Relation.RUNS_ON),
    ]
)
def test_boxes_never_overlap_and_edges_run_from_left_to_right(
    pairs: list[tuple[int, int, Relation]],
) -> None:
    nodes = tuple(node(f"vol-{number}") for number in range(15))
    edges = tuple(
        Edge(source=f"vol-{low}", target=f"vol-{high}", relation=relation)
        for low, high, relation in pairs
        if low < high
    )
    graph = Graph(nodes=nodes, edges=edges)
    layout = place(graph)
    assert layout.boxes.keys() == {found.id for found in nodes}
    for (left, top), (x, y) in itertools.combinations(layout.boxes.values(), 2):
        assert abs(left - x) >= BOX_WIDTH or abs(top - y) >= BOX_HEIGHT
    for edge in edges:
        if (edge.source, edge.target) not in layout.far:
            assert layout.boxes[edge.source][0] + BOX_WIDTH < layout.boxes[edge.target][0]
    many = Counter(edge.target for edge in edges)
    assert layout.far == {(edge.source, edge.target) for edge in edges if many[edge.target] > HUB}
    assert all(
        0 <= x <= layout.width - BOX_WIDTH + ROUNDING and 0 <= y <= layout.height - BOX_HEIGHT + ROUNDING
        for x, y in layout.boxes.values()
    )


def test_the_same_graph_is_drawn_the_same_way_each_time() -> None:
    assert svg(fleet()) == svg(fleet())


def test_without_the_library_pictures_say_what_to_install_and_text_needs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: object, **more: object) -> object:
        if name == "fast_sugiyama":
            raise ImportError(name)
        return real(name, *arguments, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", refuse)
    graph = fleet(3)
    with pytest.raises(ConfigError) as raised:
        svg(graph)
    assert "runctl[graph]" in raised.value.next
    assert text.dot(graph)
    assert text.mermaid(graph)
    assert text.tree_text(graph)


def test_a_long_name_is_shortened_to_its_box() -> None:
    assert shortened("short", 100, 5) == "short"
    assert shortened("a" * 50, 100, 5) == "a" * 19 + "\N{HORIZONTAL ELLIPSIS}"
    assert shortened("名" * 50, 100, 5) == "名" * 9 + "\N{HORIZONTAL ELLIPSIS}"
