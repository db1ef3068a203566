# pyright: reportPrivateUsage=false
"""What lies in a bucket is a claim: nothing hostile in it is written, sent or run, and each is named.

The kinds of objects and their fields are found from the types; a kind without a use here is a failure.
"""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile
import msgspec
import pytest

import runctl
from runctl.agent import restoring, tree
from runctl.agent.store import FolderStore as AgentStore
from runctl.agent.trees import Tree
from runctl.errors import NotFound, TrainctlError, TransferError, ValidationError
from runctl.jobs import adopted, checkpoints, outcomes, outputs, retrying, start
from runctl.jobs import spec as specs
from runctl.jobs.attempt import AgentState, StoredAttempt
from runctl.jobs.claimed import ClaimedSpec, as_adopted, unnamed
from runctl.jobs.closing import Closing
from runctl.jobs.judge import Sighting, judge
from runctl.jobs.place import Place, local_place
from runctl.jobs.report import report
from runctl.jobs.script import environment_digest
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState
from runctl.render.adopted import show_claims
from runctl.render.job import show_report
from runctl.resources import carrying, old_checkpoints, sides
from runctl.safety import activity
from runctl.storage import claims
from runctl.storage.folder import FolderStore
from runctl.storage.manifests import Manifest
from runctl.storage.objects import ObjectInfo, TooLarge

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NAME = "000001-step.pt"
SPEC = specs.JobSpec(name="digits", on="sandbox", root="", workdir=".", command=("true",))


class World:
    """A laptop with a home, a folder it stands in, a ledger, and a job whose folder is its bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "bucket" / "digits-7f3a2c"
        for name in ("home", "here", "code"):
            (folder / name).mkdir()
        (folder / "home/.bashrc").write_text("# mine\n")
        (folder / "here/thesis.txt").write_text("unpublished\n")
        self.place: Place = local_place(self.job)
        self.store = FolderStore(self.job)
        self.ledger = Ledger.open(folder / "ledger")
        self.record = JobRecord(
            id=JobId("digits-7f3a2c"),
            name="digits",
            spec=b"{}",
            state=JobState.STOPPED,
            target="sandbox",
            cloud="sandbox:x",
            folder=None,
            store="s3://bucket/runctl/jobs/digits-7f3a2c",
            project="p",
            user="ada",
            created=NOW,
            updated=NOW,
            adopted_at=NOW,
            seal="5e" * 32,
        )

    def plant(self, key: str, data: bytes) -> None:
        path = self.job / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def outside(self) -> dict[str, bytes]:
        """All that lies beside the job's own folder and the ledger."""
        found: dict[str, bytes] = {}
        for parent, _, leaves in os.walk(self.folder):
            if not Path(parent).is_relative_to(self.job) and Path(parent).name != "ledger":
                found |= {f"{parent}/{leaf}": Path(parent, leaf).read_bytes() for leaf in leaves}
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "system", _never)
    monkeypatch.setattr("subprocess.Popen.__init__", _never)
    yield made
    made.ledger.close()


def _never(*arguments: Any, **_: Any) -> Any:
    raise AssertionError(f"something was run: {arguments}")


# What the product does with each kind of object, once it is planted. Raises TrainctlError where it refuses.


def follows_a_state(world: World, data: bytes) -> None:
    world.plant("attempt-1/state.json", data)
    state = StoredAttempt(world.store, 1).state()
    assert state is not None
    sighting = Sighting(agent=state, store_answered=True, machine=None, cloud_answered=True, launched=NOW)
    judge(sighting, NOW)
    outcomes.cause_of(state)
    retrying.failed_at_once(state)
    if not world.ledger.jobs.list():
        world.ledger.jobs.add(msgspec.structs.replace(world.record, spec=b"{}"), "adopted")
    attempt = AttemptRecord(job=world.record.id, number=1, state="running", created=NOW)
    Closing(world.ledger, world.place, lambda _: None).save(attempt, state, state="ended")
    show_report(report(world.ledger, world.record, NOW))


def takes_a_job_in(world: World, data: bytes) -> None:
    said = claims.decode(data, ClaimedSpec, "spec.json")
    try:
        spec = specs.check(as_adopted(said, on="sandbox"))
    except TrainctlError as error:  # so adopting tells it
        raise ValidationError(f"job digits-7f3a2c, spec.json: {error}", why=error.why) from error
    assert (spec.root, spec.output, spec.code, spec.resume_from) == ("", None, None, None)
    assert spec.data is None or spec.data.startswith("s3://")
    assert spec.on in {"sandbox", said.on}
    for inner in (spec.workdir, spec.checkpoints or "."):
        assert Path(os.path.normpath(Path("/job/code", inner))).is_relative_to("/job/code")
    assert not any(need.startswith("-") for need in spec.python.requirements)
    assert set(spec.python.digest) <= set("0123456789abcdef")
    assert spec.python.digest or not spec.python.requirements
    show_claims(world.record, spec)
    record = msgspec.structs.replace(world.record, spec=specs.encode(spec))
    with pytest.raises(ValidationError, match="name the code that it runs"):
        adopted.require_code(record, spec, unnamed(said))
    with pytest.raises(NotFound):
        start.stage(world.ledger, world.place, record)


def reads_a_checkpoint_back(world: World, data: bytes) -> None:
    world.plant(f"committed/{NAME}/manifest.json", data)
    back = world.job / "back"
    trees = [Tree(name, str(back / name)) for name in outputs.TREES]
    with contextlib.suppress(restoring.CorruptSnapshot, OSError):
        store = AgentStore(str(world.job))
        restoring.bring_back(store, restoring.read_manifest(store, NAME, None), trees)
    world.plant(f"committed/{NAME}/outputs/a", b"x")
    found = old_checkpoints._manifest(world.store, f"committed/{NAME}/manifest.json", "")  # type: ignore[arg-type]
    for at in found.files if found else ():
        assert (world.job / at).resolve().is_relative_to(world.job)
    job, home = world.record, world.job / "home"
    with contextlib.suppress(NotFound, TransferError):
        fetched = outputs.fetch(world.place, SPEC, job, home, trees=outputs.TREES)
        assert Path(fetched.folder) == home
    for link in filter(Path.is_symlink, [*home.rglob("*"), *back.rglob("*")]):
        assert link.resolve().is_relative_to(world.job)
    checkpoints.newest(world.place, "")
    checkpoints.verify(world.place, NAME, "")


def asks_whether_an_agent_lives(world: World, data: bytes) -> None:
    def read(most: int) -> bytes:
        return data[:most]

    def call(*_: Any, **__: Any) -> Any:
        return {"Body": SimpleNamespace(read=read)}

    clock = SimpleNamespace(now=lambda: NOW)
    session: Any = SimpleNamespace(call=call, account=lambda: "1" * 12, cloud=SimpleNamespace(clock=clock))
    if not world.ledger.jobs.list():
        world.ledger.jobs.add(msgspec.structs.replace(world.record, spec=b"{}"), "adopted")
    activity._heartbeat(session, world.ledger, activity.AgentAt(world.record.id, 1))
    claims.decode(data, activity._State, "attempt-1/state.json")


def plans_a_transfer(world: World, data: bytes) -> None:
    side = sides.side_of(_json(data), "list-1")
    root = world.job / "received"
    root.mkdir(parents=True, exist_ok=True)
    for file in side.files:
        try:
            target = tree.place(str(root), file.key, {})
        except (tree.Refused, OSError):
            continue
        assert Path(os.path.realpath(target)).is_relative_to(root)


def hears_of_a_transfer(world: World, data: bytes) -> None:
    word = claims.converted(_json(data), sides.Worked, "status-1")
    assert sides.numbers(word.parcels, 3) <= {0, 1, 2}
    assert sides.numbers(word.files, 3) <= {0, 1, 2}


def clears_a_transfer_up(world: World, data: bytes) -> None:
    told = claims.converted(_json(data), sides.Upload, "uploads/1")
    request = {"source": "i-0123456789abcdef0:/x", "destination": "s3://mine/set"}
    session: Any = SimpleNamespace(call=_never)
    if told.bucket != "mine":
        carrying._abort(session, request, told, lambda _: None)


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise claims.Unbelievable("list-1: it is torn", why=str(error)) from error


USES: dict[type[Any], Callable[[World, bytes], None]] = {
    AgentState: follows_a_state,
    ClaimedSpec: takes_a_job_in,
    Manifest: reads_a_checkpoint_back,
    activity._State: asks_whether_an_agent_lives,
    sides.Listed: plans_a_transfer,
    sides.Worked: hears_of_a_transfer,
    sides.Upload: clears_a_transfer_up,
}


def test_every_kind_that_is_read_from_a_bucket_is_used_here() -> None:
    assert set(USES) == set(hostile.KINDS)


@pytest.mark.parametrize("kind", hostile.KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_hostile_value_in_any_field_writes_sends_and_runs_nothing_and_is_named(
    world: World, kind: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before, refused, taken = world.outside(), 0, 0
    for planted in hostile.planted(kind):
        data = msgspec.json.encode(planted.whole)
        error = _refusal(lambda data=data: USES[kind](world, data))
        refused += error is not None
        taken += error is None  # it is a value that the field may have
        assert error is None or _names(error), (planted.path, str(planted.value)[:80], error, error.why)
    assert world.outside() == before
    assert refused > taken
    said = capsys.readouterr()
    assert len(said.out) + len(said.err) < 50_000_000


@pytest.mark.parametrize("kind", hostile.KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_what_is_no_object_of_its_kind_is_named_and_left(world: World, kind: type[Any]) -> None:
    before = world.outside()
    for data in hostile.RAW:
        with pytest.raises(TrainctlError) as refused:
            USES[kind](world, data)
        assert _names(refused.value)
    assert world.outside() == before


def _refusal(use: Callable[[], None]) -> TrainctlError | None:
    try:
        use()
    except TrainctlError as error:
        return error
    return None


def _names(error: TrainctlError) -> bool:
    """Which object it is, or which of its checkpoints."""
    told = f"{error.what} {error.why}"
    places = ("state.json", "spec.json", "manifest.json", "list-1", "status-1", "uploads/1", NAME)
    assert len(told) < 2000
    assert not set(told) & {"\n", "\0", "\x1b", "\u202e"}
    return any(place in told for place in places)


def test_an_example_of_each_kind_is_believed(world: World) -> None:
    """Else every refusal above would be for nothing."""
    for kind in hostile.KINDS:
        msgspec.convert(hostile.example(kind), kind)


def test_an_object_that_is_too_large_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.job / "attempt-1/state.json"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: reading it would take a terabyte
    with pytest.raises(TooLarge, match=r"state\.json"):
        StoredAttempt(world.store, 1).state()


class Listing(FolderStore):
    """A store whose listing has keys that no folder could hold."""

    keys: tuple[str, ...] = ()

    def list(self, prefix: str = "", *, after: str | None = None) -> list[ObjectInfo]:
        return [ObjectInfo(prefix + key, 1, "", NOW) for key in self.keys]


KEYS = (
    "../../x",
    "/etc/x",
    "a/../../x",
    "a//b",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    "9" * 400,
    "-1",
    "1e5",
    "0x10",
    " 7",
)


def test_keys_that_no_agent_writes_are_no_pieces_of_a_log(world: World) -> None:
    store = Listing(world.job)
    store.keys = KEYS
    assert list(StoredAttempt(store, 1).log(0)) == []


def test_keys_that_no_agent_writes_are_no_commits(world: World) -> None:
    store = Listing(world.job)
    store.keys = tuple(f"{key}/manifest.json" for key in KEYS)
    assert checkpoints.commits(msgspec.structs.replace(world.place, store=store)) == []


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_an_environment_is_called_by_what_is_in_it_and_not_as_somebody_says(digest: str) -> None:
    told = hostile.example(ClaimedSpec)
    told["python"] = {"kind": "requirements", "requirements": ["numpy", "evil"], "digest": digest}
    spec = as_adopted(claims.converted(told, ClaimedSpec, "spec.json"), on="sandbox")
    assert spec.python.digest == environment_digest(["numpy", "evil"], None)


# Nothing else decodes what lies in a bucket.

OWN = {
    "clock": "the sandbox's clock, a file of this computer",
    "clouds": "the sandbox's record, a file of this computer",
    "trust": "what the user said yes to, a file of this computer",
    "config": "configuration files",
    "processes": "/proc",
    "ledger": "rows of the ledger",
    "jobs.accounting": "facts in the ledger",
    "jobs.report": "the ledger",
    "jobs.supervise": "the ledger",
    "jobs.spec": "the ledger",
    "jobs.launch": "the journal",
    "jobs.claimed": "what was decoded and checked before",
    "jobs.ended_cloud": "the ledger",
    "providers": "AWS's own answers, and local processes",
    "pricing": "the price list of AWS",
    "safety.saga": "the journal",
    "safety.cleanup": "the journal",
    "safety.cleanup_plan": "a plan of the user's, a file of this computer",
    "storage.partial": "records beside files of this computer",
    "storage.upload": "records in the user's home",
    "storage.copying": "records in the user's home",
    "storage.claims": "the one place that decodes what lies in buckets",
    "storage.manifests": "a manifest, after claims: as machines read it, and for its seal",
    "resources.costs": "facts in the ledger",
    "resources.prices": "a file of this computer",
    "resources.steps": "the journal",
    "resources.stager": "what a machine's shell printed",
    "resources.carrying": "the journal",
    "resources.sides": "a thread of this process",
    "resources.legs": "the journal",
    "resources.instances": "the journal",
    "resources.volumes": "the journal",
    "resources.warming": "the journal",
    "datasets.packs": "an index of MessagePack, whose CRC and names it checks itself",
    "datasets": "files of this computer's cache",
    "jobs.prove": "a state on this computer",
    "proving": "what a script printed and left here",
    "partitions": "the SDK's own data",
    "safety.metrics": "numbers by name and step in a snapshot's own files, which are only compared",
    "cli.demo": "what the demo's own script wrote here",
    "cli.drill": "what the drill's own script wrote here",
    "cli": "files of this computer",
}
"""Modules that decode JSON, and what of: none of it lies in a job bucket."""
_DECODERS = {("json", "loads"), ("json", "load"), ("msgspec", "convert")}


def test_nothing_else_decodes_json() -> None:
    root = Path(runctl.__file__).parent
    unknown: list[str] = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module.startswith(("agent.", "sandbox.")):
            continue
        if _decodes(ast.parse(path.read_text())) and not any(
            module == known or module.startswith(known + ".") for known in OWN
        ):
            unknown.append(module)
    assert unknown == []


def _decodes(code: ast.AST) -> bool:
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            value, name = node.func.value, node.func.attr
            if isinstance(value, ast.Name) and (value.id, name) in _DECODERS:
                return True
            if name == "decode" and isinstance(value, ast.Attribute) and value.attr in {"json", "msgpack"}:
                return True
    return False
