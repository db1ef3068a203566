"""Filling a volume: what is refused, which machine is worth its money, what a machine's words mean."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from cloud_values import SetClock, ValueSession

from runctl.errors import (
    CloudError,
    ConfigError,
    Conflict,
    Interrupted,
    TrainctlError,
    ValidationError,
)
from runctl.events import Event, Notice
from runctl.model import TAG_DATASET, TAG_DATASET_LEFT_OUT, TAG_DATASET_VERSION
from runctl.pricing import catalog
from runctl.providers.aws import instances, shell
from runctl.resources import fillers, filling, prefixes, stager, warming
from runctl.resources.fillers import Work
from runctl.resources.prefixes import Dataset
from runctl.resources.stager import Stager, State
from runctl.resources.steps import Surroundings
from runctl.resources.warming import Target, WarmRequest
from runctl.safety.saga import Call

GIB = 2**30
LOCATION = "s3://bucket/imagenet"


def dataset(size: int = GIB, **changes: Any) -> Dataset:
    made = Dataset(
        location=LOCATION,
        bucket="bucket",
        prefix="imagenet/",
        region="us-east-1",
        files=10,
        bytes=size,
        version="a" * 64,
    )
    return msgspec.structs.replace(made, **changes)


def target(**changes: Any) -> Target:
    made = Target(id="vol-1", subject="vol-1", zone="us-east-1a", size_gib=100, mibs=125.0, tags={})
    return msgspec.structs.replace(made, **changes)


def test_a_dataset_that_does_not_fit_is_refused_with_a_size_that_does() -> None:
    with pytest.raises(ValidationError) as caught:
        warming.check(dataset(94 * GIB), target(), WarmRequest())
    assert "--size 110" in caught.value.next
    warming.check(dataset(94 * GIB), target(size_gib=110), WarmRequest())


def test_another_dataset_is_refused_unless_it_may_go() -> None:
    other = target(tags={TAG_DATASET: "s3://bucket/other"})
    with pytest.raises(Conflict, match="another dataset"):
        warming.check(dataset(), other, WarmRequest())
    warming.check(dataset(), other, WarmRequest(delete=True))
    warming.check(dataset(), target(tags={TAG_DATASET: LOCATION}), WarmRequest())


def test_a_volume_in_use_is_filled_where_it_is_alone() -> None:
    used = target(attached=(("i-1", "/dev/sdf"),))
    for request in (WarmRequest(), WarmRequest(instance="i-2")):
        with pytest.raises(Conflict, match="attached to i-1"):
            warming.check(dataset(), used, request)
    warming.check(dataset(), used, WarmRequest(instance="i-1"))


@pytest.mark.parametrize(
    ("changes", "refused", "warm"),
    [
        ({}, (), True),
        ({TAG_DATASET_VERSION: "b" * 64}, (), False),
        ({TAG_DATASET: "s3://bucket/other"}, (), False),
        ({TAG_DATASET_LEFT_OUT: "1"}, (), False),
        ({TAG_DATASET_LEFT_OUT: "1"}, (("../x", "why"),), True),
        ({}, (("../x", "why"),), False),
    ],
)
def test_a_volume_holds_a_dataset_by_place_version_and_completeness(
    changes: dict[str, str], refused: tuple[tuple[str, str], ...], warm: bool
) -> None:
    tags = {TAG_DATASET: LOCATION, TAG_DATASET_VERSION: "a" * 64, **changes}
    assert warming.holds(tags, dataset(refused=refused)) is warm


def test_a_location_that_no_tag_can_hold_is_cut_and_stays_one_of_a_kind() -> None:
    long = "s3://bucket/" + "x" * 300
    assert filling.dataset_tag(LOCATION) == LOCATION
    assert len(filling.dataset_tag(long)) == 256
    assert filling.dataset_tag(long) != filling.dataset_tag(long + "y")


def test_s3_prefixes_alone_are_datasets() -> None:
    assert str(prefixes.place_of("s3://bucket/imagenet/")) == LOCATION
    with pytest.raises(ValidationError, match="no place in S3"):
        prefixes.place_of("./imagenet")


# Which machine


def test_little_is_copied_by_a_cheap_machine_and_much_by_one_that_fills_the_volume() -> None:
    little = fillers.fitting(Work(files=10, bytes=GIB, volume_mibs=125.0))
    much = fillers.fitting(Work(files=10, bytes=2000 * GIB, volume_mibs=1000.0))
    assert little[0].name in {"m7i.large", "c7g.xlarge"}
    assert much[0].vcpus >= 16
    assert all(not kind.gpus and not kind.name.startswith("t") for kind in [*little, *much])


def test_the_choice_is_the_least_of_cost_and_waiting() -> None:
    work = Work(files=1000, bytes=200 * GIB, volume_mibs=250.0)

    def worth(name: str) -> Decimal:
        found = fillers.estimate(work, name, catalog.on_demand(name, "us-east-1"))
        assert found.usd is not None
        return found.usd + fillers.VALUE_OF_AN_HOUR * Decimal(found.seconds) / 3600

    chosen = fillers.fitting(work)[0].name
    plain = [
        kind.name for kind in catalog.instance_types() if not kind.gpus and not kind.name.startswith("t")
    ]
    assert worth(chosen) == min(map(worth, plain))


def test_an_estimate_is_bounded_by_the_slowest_of_volume_network_and_files() -> None:
    price = catalog.on_demand("m7i.4xlarge", "us-east-1")
    by_volume = fillers.estimate(Work(files=1, bytes=100 * GIB, volume_mibs=125), "m7i.4xlarge", price)
    assert by_volume.mibs == pytest.approx(125 * 0.85)
    assert by_volume.seconds == pytest.approx(75 + 30 + 100 * 1024 / (125 * 0.85))
    assert by_volume.usd == pytest.approx(price.usd_per_hour * Decimal(by_volume.seconds) / 3600)  # type: ignore[union-attr]
    by_network = fillers.estimate(Work(files=1, bytes=100 * GIB, volume_mibs=2000), "m7i.4xlarge", None)
    assert by_network.mibs == pytest.approx(5e9 / 8 / 2**20 * 0.85)
    assert by_network.usd is None
    by_files = fillers.estimate(Work(files=400_000, bytes=GIB, volume_mibs=125), "m7i.4xlarge", price)
    assert by_files.seconds == pytest.approx(75 + 30 + 1000)


# What a machine says


def shown(**changes: Any) -> str:
    body = {"phase": "copying", "files": 3, "now": 1.0, "left_out": [["a\nb", "why"]], **changes}
    return f"noise\nrunctl: state {base64.b64encode(msgspec.json.encode(body)).decode()}\n"


def test_a_state_is_read_whole_or_not_at_all() -> None:
    state = stager.parse(shown())
    assert state is not None
    assert (state.phase, state.files, state.left_out, state.ended) == (
        "copying",
        3,
        (("a\nb", "why"),),
        False,
    )
    assert [stager.parse(shown(phase=phase)).ended for phase in ("done", "stopped")] == [True, True]  # type: ignore[union-attr]
    assert stager.parse("") is None
    assert stager.parse("Terminated\n") is None
    with pytest.raises(CloudError) as caught:
        stager.parse("runctl: error not-mounted /mnt/x\n")
    assert (caught.value.code, caught.value.why) == ("not-mounted", "/mnt/x")


def test_names_that_were_left_out_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(f"{number:04}\n" + "é" * 100, "its name holds a control character") for number in range(150)]
    data = b"".join(msgspec.json.encode(name) + b"\n" for name in names)

    def run(self: Stager, script: str, comment: str, seconds: float) -> shell.ShellResult:
        start = int(script.split("tail -c +")[1].split(maxsplit=1)[0])
        piece = base64.b64encode(data[start - 1 : start - 1 + 14_000]).decode()
        return shell.ShellResult("Success", 0, f"runctl: piece {piece}\n", "")

    monkeypatch.setattr(Stager, "_run", run)
    made = Stager(None, "i-1", "token", "bucket", "/mnt", {})  # type: ignore[arg-type]
    assert made.left_out(State(phase="done", left_out_files=150)) == names
    assert len(made.left_out(State(phase="done", left_out_files=5000))) == 150
    assert made.left_out(State(phase="done", left_out_files=1, left_out=(("a", "b"),))) == [("a", "b")]


def looked(monkeypatch: pytest.MonkeyPatch, *answers: State | Exception) -> tuple[Any, list[Event]]:
    """A staging step whose looks have these answers; what it says."""
    left, said = list(answers), list[Event]()

    def look(self: Stager, *, fresh: bool = False, looks: int = 8) -> State | None:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Stager, "look", look)
    monkeypatch.setattr(instances, "get", lambda *_: None)
    session = ValueSession(SetClock())
    step = filling.StageDataset(Surroundings(session, None, said.append))  # type: ignore[arg-type]
    request = {
        "instance": "i-1",
        "volume": "vol-1",
        "agent_bucket": "b",
        "path": "/mnt",
        "location": LOCATION,
        "spec": {"machine": {"disposable": True}},
    }
    return lambda: step.do(Call(request, "token", "tx-1")), said


def away() -> CloudError:
    return CloudError("no answer", service="ssm", operation="send_command", code="Timeout", retryable=True)


def test_a_network_that_is_away_for_a_while_ends_no_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    done = State(phase="done", version="v", files=3)
    do, said = looked(monkeypatch, State(phase="copying"), away(), ConfigError("expired"), done)
    assert do()["version"] == "v"
    assert [event.text for event in said if isinstance(event, Notice)] == [
        "no answer: the machine works on meanwhile"
    ]


def test_a_network_that_stays_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "OUTAGE_SECONDS", 0.0)
    do, _ = looked(monkeypatch, State(phase="copying"), away())
    with pytest.raises(CloudError, match="no answer"):
        do()


def test_a_refusal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = CloudError("no", service="ssm", operation="send_command", code="AccessDenied")
    do, _ = looked(monkeypatch, State(phase="copying"), refusal)
    with pytest.raises(CloudError, match="no"):
        do()


def test_a_program_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    do, _ = looked(monkeypatch, *(State(phase="copying", starts=number) for number in range(1, 9)))
    with pytest.raises(CloudError, match="stay alive"):
        do()


@pytest.mark.parametrize("phase", ["interrupted", "stopped"])
def test_a_temporary_machine_that_is_going_down_is_lost(monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    do, said = looked(monkeypatch, State(phase="copying"), State(phase=phase))
    assert do().keys() == {"lost"}
    assert any(isinstance(event, Notice) and event.warning for event in said)


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        (State(phase="stopped"), Interrupted, "stopped"),
        (State(phase="failed", code="no-room", message="no room"), Conflict, "no room"),
        (State(phase="failed", code="other-dataset", message="another"), Conflict, "another"),
        (State(phase="failed", code="incomplete", message="2 files"), CloudError, "not staged"),
    ],
)
def test_every_end_but_done_is_an_error(state: State, error: type[TrainctlError], words: str) -> None:
    found = filling.not_staged(state, [("a", "b")])
    assert isinstance(found, error)
    assert words in found.what
