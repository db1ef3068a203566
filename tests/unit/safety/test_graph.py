"""The graph of what depends on what, and what it says of a deletion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.errors import NotFound, ValidationError
from runctl.ledger import AttemptRecord, JobRecord
from runctl.model import JobId, JobState, Market, Price
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import MachineImage, Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.safety import graph
from runctl.safety.dependencies import graph_of, marks
from runctl.safety.graph import Edge, Graph, Node, NodeKind, Relation

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
OWN = {"runctl:managed": "true", "runctl:user": "ada"}
PERSISTENT = OWN | {"runctl:persistent": "true"}


def instance(instance_id: str = "i-1", *, tags: dict[str, str] = OWN, image: str = "ami-public") -> Instance:
    return Instance(
        id=instance_id,
        region="us-east-1",
        zone="us-east-1a",
        instance_type="c6i.large",
        state="running",
        market=Market.SPOT,
        launched=NOON,
        image=image,
        root_device="/dev/xvda",
        architecture="x86_64",
        disks=(),
        tags=tags,
    )


def volume(
    volume_id: str = "vol-1",
    *,
    at: str | None = None,
    dies: bool = False,
    tags: dict[str, str] = OWN,
    snapshot: str | None = None,
) -> Volume:
    attachment = Attachment(
        volume=volume_id, instance=at or "", device="/dev/sdf", state="attached", delete_on_termination=dies
    )
    return Volume(
        id=volume_id,
        region="us-east-1",
        zone="us-east-1a",
        volume_type="gp3",
        size_gib=100,
        iops=3000,
        throughput_mibs=125,
        encrypted=True,
        state="in-use" if at else "available",
        created=NOON,
        snapshot=snapshot,
        attachments=(attachment,) if at else (),
        tags=tags,
    )


def snapshot(snapshot_id: str = "snap-1", *, of: str = "vol-1", tags: dict[str, str] = OWN) -> Snapshot:
    return Snapshot(
        id=snapshot_id,
        region="us-east-1",
        volume=of,
        size_gib=100,
        state="completed",
        progress="100%",
        started=NOON,
        encrypted=True,
        description="",
        tags=tags,
    )


def image(image_id: str = "ami-1", *, snapshots: tuple[str, ...] = ("snap-1",)) -> MachineImage:
    return MachineImage(
        id=image_id, region="us-east-1", name="mine", created=NOON, snapshots=snapshots, tags=OWN
    )


def job(state: JobState = JobState.RUNNING) -> JobRecord:
    return JobRecord(
        id=JobId("digits-1"),
        name="digits",
        spec=b"{}",
        state=state,
        target="aws",
        cloud="aws",
        folder=None,
        store="s3://bucket/runctl/jobs/digits-1",
        project="digits",
        user="ada",
        created=NOON,
        updated=NOON,
    )


def attempt() -> AttemptRecord:
    return AttemptRecord(
        job=JobId("digits-1"),
        number=1,
        state="running",
        created=NOON,
        instance_id="i-1",
        committed_name="step-100",
        committed_step=100,
    )


def built(**resources: Sequence[object]) -> Graph:
    return graph_of(rates={}, protected={}, **resources)  # pyright: ignore[reportArgumentType]


def usd(per_hour: str) -> Price:
    return Price(Decimal(per_hour), "test", NOON)


def test_every_kind_of_dependency_is_an_edge() -> None:
    found = built(
        instances=[instance(image="ami-1")],
        volumes=[volume(at="i-1", snapshot="snap-0")],
        snapshots=[snapshot("snap-0", of="vol-0"), snapshot("snap-1", of="vol-1")],
        images=[image()],
        jobs=[job()],
        attempts=[attempt()],
    )
    assert {(edge.source, str(edge.relation), edge.target) for edge in found.edges} == {
        ("i-1", "uses", "vol-1"),
        ("i-1", "was started from", "ami-1"),
        ("vol-1", "was restored from", "snap-0"),
        ("snap-0", "was made from", "vol-0"),
        ("snap-1", "was made from", "vol-1"),
        ("ami-1", "needs", "snap-1"),
        ("digits-1", "runs on", "i-1"),
        ("digits-1", "may resume from", "digits-1/step-100"),
        ("digits-1/step-100", "is stored in", "s3://bucket"),
    }
    assert found.node("vol-0").gone


def test_a_termination_takes_the_volumes_that_end_with_it_and_leaves_the_persistent() -> None:
    found = graph_of(
        instances=[instance()],
        volumes=[
            volume("vol-root", at="i-1", dies=True),
            volume("vol-data", at="i-1"),
            volume("vol-kept", at="i-1", dies=True, tags=PERSISTENT),
        ],
        rates={"i-1": usd("0.1"), "vol-root": usd("0.01"), "vol-data": usd("0.5")},
        protected={},
    )
    deletion = graph.deletion(found, "i-1")
    assert deletion.takes == ("vol-root",)
    assert deletion.leaves == ("vol-data", "vol-kept")
    assert deletion.saves_per_month == Decimal("80.3")  # (0.1 + 0.01) USD/h over 730 h


def test_what_has_to_go_first_is_said() -> None:
    found = built(
        volumes=[volume(at="i-1")], instances=[instance()], snapshots=[snapshot()], images=[image()]
    )
    assert graph.deletion(found, "vol-1").first == ("i-1",)
    assert graph.deletion(found, "vol-1").leaves == ("snap-1",)
    assert graph.deletion(found, "snap-1").first == ("ami-1",)


def test_a_job_that_is_over_holds_no_instance() -> None:
    running = built(instances=[instance()], jobs=[job()], attempts=[attempt()])
    over = built(instances=[instance()], jobs=[job(JobState.SUCCEEDED)], attempts=[attempt()])
    assert graph.deletion(running, "i-1").first == ("digits-1",)
    assert graph.deletion(over, "i-1").first == ()


def test_a_job_without_checkpoints_keeps_its_bucket_and_a_live_one_its_newest_checkpoint() -> None:
    bare = built(jobs=[job()])
    assert graph.deletion(bare, "s3://bucket").first == ("digits-1",)
    live = built(jobs=[job()], attempts=[attempt()])
    assert graph.deletion(live, "digits-1/step-100").first == ("digits-1",)
    over = built(jobs=[job(JobState.SUCCEEDED)], attempts=[attempt()])
    assert graph.deletion(over, "digits-1/step-100").first == ()


def test_an_unknown_price_is_told_and_never_counted_as_nothing() -> None:
    found = graph_of(
        instances=[instance()], volumes=[volume()], rates={"i-1": usd("1"), "vol-1": None}, protected={}
    )
    assert found.node("vol-1").usd_per_month is None
    assert (found.usd_per_month, found.unpriced) == (730, 1)
    assert graph.deletion(found, "vol-1").saves_per_month is None
    assert graph.deletion(found, "i-1").saves_per_month == 730


def test_a_subgraph_is_what_a_node_needs_and_what_needs_it() -> None:
    found = built(
        instances=[instance("i-1"), instance("i-2")],
        volumes=[volume("vol-1", at="i-1"), volume("vol-2", at="i-2")],
        snapshots=[snapshot("snap-1", of="vol-1")],
    )
    near = graph.around(found, "vol-1")
    assert [node.id for node in near.nodes] == ["i-1", "vol-1", "snap-1"]
    assert all(edge in found.edges for edge in near.edges)


def test_a_reference_may_be_a_name_or_a_beginning_and_must_be_clear() -> None:
    found = built(volumes=[volume("vol-abc", tags=OWN | {"Name": "imagenet"}), volume("vol-abd")])
    assert graph.around(found, "imagenet").nodes[0].id == "vol-abc"
    assert graph.around(found, "vol-abd").nodes[0].id == "vol-abd"
    with pytest.raises(ValidationError, match="fits several"):
        graph.around(found, "vol-a")
    with pytest.raises(NotFound) as raised:
        graph.around(found, "imagnet")
    assert "imagenet" in raised.value.why


def test_what_lasts_is_marked_with_the_name_of_its_rule() -> None:
    found = marks(
        instances=[instance("i-2", tags={})],
        volumes=[
            volume("vol-1"),
            volume("vol-2", tags=PERSISTENT),
            volume("vol-3", tags=OWN | {"runctl:important": "true"}),
            volume("vol-4", tags={"runctl:managed": "true", "runctl:user": "bob"}),
        ],
        snapshots=[snapshot("snap-1"), snapshot("snap-2")],
        images=[image(snapshots=("snap-2",))],
        user="ada",
        now=NOON,
    )
    assert found == {
        "i-2": "unmanaged",
        "vol-2": "persistent volume",
        "vol-3": "protected tag",
        "vol-4": "another user's",
        "snap-2": "snapshot of an image",
    }


IDS = st.integers(0, 6)


@st.composite
def clouds(draw: st.DrawFn) -> tuple[list[Instance], list[Volume], list[Snapshot], list[MachineImage]]:
    """Any mesh of resources, those that point at what is gone and at each other in circles included."""
    instances = [instance(f"i-{number}") for number in sorted(draw(st.sets(IDS)))]
    volumes = [
        volume(
            f"vol-{number}",
            at=draw(st.none() | st.builds("i-{}".format, IDS)),
            dies=draw(st.booleans()),
            tags=draw(st.sampled_from([OWN, PERSISTENT])),
            snapshot=draw(st.none() | st.builds("snap-{}".format, IDS)),
        )
        for number in sorted(draw(st.sets(IDS)))
    ]
    snapshots = [
        snapshot(f"snap-{number}", of=draw(st.builds("vol-{}".format, IDS)))
        for number in sorted(draw(st.sets(IDS)))
    ]
    images = [
        image(f"ami-{number}", snapshots=tuple(draw(st.lists(st.builds("snap-{}".format, IDS), max_size=2))))
        for number in sorted(draw(st.sets(IDS, max_size=3)))
    ]
    return instances, volumes, snapshots, images


@given(clouds())
def test_a_deletion_never_takes_a_persistent_volume_along(
    cloud: tuple[list[Instance], list[Volume], list[Snapshot], list[MachineImage]],
) -> None:
    instances, volumes, snapshots, images = cloud
    found = built(instances=instances, volumes=volumes, snapshots=snapshots, images=images)
    persistent = {one.id for one in volumes if one.tags == PERSISTENT}
    for deletion in graph.deletions(found).values():
        assert not persistent & set(deletion.takes)
        assert not set(deletion.takes) & {*deletion.leaves, *deletion.first}


@given(clouds())
def test_the_order_names_each_node_once_and_what_binds_before_what_it_binds(
    cloud: tuple[list[Instance], list[Volume], list[Snapshot], list[MachineImage]],
) -> None:
    instances, volumes, snapshots, images = cloud
    found = built(instances=instances, volumes=volumes, snapshots=snapshots, images=images)
    place = {node_id: place for place, node_id in enumerate(graph.order(found))}
    assert sorted(place) == sorted(node.id for node in found.nodes)
    for edge in found.edges:
        if edge.relation.binding:
            assert place[edge.source] < place[edge.target]


@given(st.lists(st.tuples(IDS, IDS).filter(lambda pair: pair[0] < pair[1])))
def test_without_circles_the_order_is_topological_over_every_edge(pairs: list[tuple[int, int]]) -> None:
    nodes = tuple(Node(id=str(number), kind=NodeKind.VOLUME) for number in range(7))
    edges = tuple(Edge(source=str(a), target=str(b), relation=Relation.MADE_FROM) for a, b in pairs)
    place = {node_id: place for place, node_id in enumerate(graph.order(Graph(nodes=nodes, edges=edges)))}
    assert all(place[edge.source] < place[edge.target] for edge in edges)


@given(clouds())
def test_no_resource_is_lost_in_the_graph_and_every_edge_has_two_ends(
    cloud: tuple[list[Instance], list[Volume], list[Snapshot], list[MachineImage]],
) -> None:
    instances, volumes, snapshots, images = cloud
    found = built(instances=instances, volumes=volumes, snapshots=snapshots, images=images)
    ids = {node.id for node in found.nodes}
    assert {one.id for group in cloud for one in group} <= ids
    assert {node.id for node in found.nodes if not node.gone} == {one.id for group in cloud for one in group}
    assert all({edge.source, edge.target} <= ids for edge in found.edges)
