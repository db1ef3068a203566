"""Single snapshots of a folder, where each moment can be chosen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.agent import in_parts, outgoing
from runctl.agent.bucket_store import BucketStore
from runctl.agent.digest import file_digest
from runctl.agent.failures import StoreAway, StoreRefused
from runctl.agent.imds import Metadata
from runctl.agent.looking import Looking
from runctl.agent.placed import Outcome, ToPut
from runctl.agent.restoring import CorruptSnapshot, bring_back, read_manifest, snapshot_names
from runctl.agent.snapshots import Commit, Snapshots
from runctl.agent.store import FolderStore
from runctl.agent.trees import Tree


class Watched(FolderStore):
    """A folder store that lets something happen once it has read a file."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.meanwhile = lambda: None

    def send_files(self, items: Sequence[ToPut], *more: Any) -> Iterator[Outcome]:
        def ending(item: ToPut) -> ToPut:
            return item._replace(done=lambda: (self.meanwhile(), item.done())[1])

        return super().send_files([ending(item) for item in items], *more)


@pytest.fixture
def store(tmp_path) -> Watched:
    return Watched(str(tmp_path / "job"))


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


def snapshots_of(store, folder: Path, key: str | None = None, **trees: Path) -> Snapshots:
    looking = Looking(
        [Tree("checkpoints", str(folder)), *(Tree(name, str(path)) for name, path in trees.items())]
    )
    own = folder.parent / "own"
    own.mkdir(exist_ok=True)
    return Snapshots(store, looking, 1, str(own), lambda commit: None, print, key)


@pytest.fixture
def snapshots(store, folder) -> Snapshots:
    return snapshots_of(store, folder)


def restore(store, name: str, folder: Path, key: str | None = None, trusted: Any = None) -> str | None:
    """Bring a snapshot's checkpoints back into a folder; what a resume would be given."""
    manifest = read_manifest(store, name, key, trusted)
    bring_back(store, manifest, [Tree("checkpoints", str(folder))])
    return manifest.checkpoint and manifest.checkpoint[1]


def told(store, name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(store.get(f"committed/{name}/manifest.json"))
    return manifest


def save(folder: Path, step: int, content: str = "x", at: int = 0) -> Path:
    path = folder / f"step-{step}.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights", content)
    when = at or 1_000 + step
    os.utime(path, (when, when))
    return path


def committed(snapshots: Snapshots, final: bool = False) -> str | None:
    commit = snapshots.take(final=final)
    return None if commit is None else commit.name.partition("-")[2]


def look_twice(snapshots: Snapshots) -> str | None:
    """What a second look commits: the first one of a series is not taken at the first."""
    return committed(snapshots) or committed(snapshots)


def test_a_snapshot_holds_every_checkpoint_and_nothing_is_sent_twice(snapshots, folder, store):
    sent: list[str] = []
    store.meanwhile = lambda: sent.append("x")
    for step in (1, 2, 3):
        save(folder, step)
    assert committed(snapshots, final=True) == "step-3.pt"
    assert len(sent) == 3
    assert committed(snapshots, final=True) is None
    save(folder, 4)
    commit = snapshots.take(final=True)
    assert (len(sent), commit.name, commit.files) == (4, "000002-step-4.pt", 4)
    assert [entry["path"] for entry in told(store, commit.name)["entries"]] == [
        f"step-{step}.pt" for step in (1, 2, 3, 4)
    ]


def test_each_snapshot_of_a_folder_is_complete_by_itself(snapshots, folder, store, tmp_path):
    """The first one goes, and what the second one shares with it stays."""
    for step in (1, 2, 3, 4):
        save(folder, step)
        assert committed(snapshots, final=True) == f"step-{step}.pt"
    assert snapshot_names(store) == ["000003-step-3.pt", "000004-step-4.pt"]
    assert restore(store, "000004-step-4.pt", tmp_path / "back") == "step-4.pt"
    assert len(list((tmp_path / "back").iterdir())) == 4


def test_a_new_version_under_an_old_name_is_a_new_snapshot(snapshots, folder, store):
    save(folder, 1)
    assert committed(snapshots, final=True) == "step-1.pt"
    save(folder, 1, "other", at=5_000)
    assert committed(snapshots) == "step-1.pt"
    assert snapshot_names(store) == ["000001-step-1.pt", "000002-step-1.pt"]


def test_a_torn_one_gives_way_to_the_one_before(snapshots, folder, store):
    save(folder, 1)
    torn = save(folder, 2)
    torn.write_bytes(torn.read_bytes()[:-5])
    commit = snapshots.take(final=True)
    assert commit.name == "000001-step-1.pt"
    assert [entry["path"] for entry in told(store, commit.name)["entries"]] == ["step-1.pt"]


def test_one_that_is_torn_now_stays_as_it_was_in_the_snapshot_before(snapshots, folder, store, tmp_path):
    """A script that writes over its only file is killed in the middle of it."""
    path = save(folder, 1)
    assert committed(snapshots, final=True) == "step-1.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    (folder / "epoch-2.npz").write_bytes(b"PK")
    save(folder, 3)
    commit = snapshots.take(final=True)
    restore(store, commit.name, tmp_path / "back")
    assert (tmp_path / "back/step-1.pt").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["step-1.pt", "step-3.pt"]


def test_a_checkpoint_that_the_script_removed_stays_until_there_is_another(snapshots, folder, store):
    path = save(folder, 1)
    assert committed(snapshots, final=True) == "step-1.pt"
    path.unlink()
    (folder / "step-2.pt").write_bytes(b"PK\x03\x04 it was being written")
    (folder / "log.csv").write_text("1,2")
    commit = snapshots.take(final=True)
    assert (commit.name, commit.checkpoint) == ("000002-step-1.pt", ("checkpoints", "step-1.pt"))
    save(folder, 2)
    assert snapshots.take(final=True).checkpoint == ("checkpoints", "step-2.pt")


def test_one_that_is_written_to_while_it_is_sent_is_given_up(snapshots, folder, store):
    path = save(folder, 1)
    store.meanwhile = lambda: path.write_bytes(path.read_bytes() + b"more")
    assert snapshots.take(final=True) is None
    assert snapshot_names(store) == []


def test_one_that_is_removed_once_it_was_chosen_is_kept(snapshots, folder, store, tmp_path):
    """Scripts keep only their newest files: what is held open outlives that."""
    paths = [save(folder, step) for step in (1, 2)]
    whole = paths[1].read_bytes()
    store.meanwhile = lambda: [path.unlink(missing_ok=True) for path in paths]
    assert snapshots.take(final=True).files == 2
    restore(store, "000001-step-2.pt", tmp_path / "back")
    assert (tmp_path / "back/step-2.pt").read_bytes() == whole


def test_a_log_that_grows_while_it_is_sent_has_the_state_of_one_moment(snapshots, folder, store, tmp_path):
    save(folder, 1)
    log = folder / "metrics.csv"
    log.write_text("1,0.5\n")

    def grow() -> None:
        with log.open("a") as file:
            file.write("2,0.4\n")

    store.meanwhile = grow
    assert snapshots.take(final=True) is not None
    restore(store, "000001-step-1.pt", tmp_path / "back")
    assert (tmp_path / "back/metrics.csv").read_text() == "1,0.5\n"


def test_an_error_of_the_store_is_told(snapshots, folder, store):
    save(folder, 1)

    def refuse() -> None:
        raise StoreRefused("AccessDenied")

    store.meanwhile = refuse
    with pytest.raises(StoreRefused):
        committed(snapshots, final=True)


def test_an_upload_that_broke_off_goes_on_under_its_name(snapshots, folder, store):
    save(folder, 1)

    def break_off() -> None:
        raise StoreAway("gone")

    store.meanwhile = break_off
    with pytest.raises(StoreAway):
        committed(snapshots, final=True)
    store.meanwhile = lambda: None
    assert committed(snapshots, final=True) == "step-1.pt"
    assert snapshot_names(store) == ["000001-step-1.pt"]


def test_the_first_of_a_series_is_taken_at_the_second_look_and_later_ones_at_the_first(snapshots, folder):
    save(folder, 1)
    assert [committed(snapshots) for _ in range(2)] == [None, "step-1.pt"]
    save(folder, 2)
    assert committed(snapshots) == "step-2.pt"


def test_a_pair_is_one_checkpoint_and_half_of_one_waits(snapshots, folder):
    for step in (10, 20):
        save(folder, step).rename(folder / f"G_{step}.pth")
        save(folder, step).rename(folder / f"D_{step}.pth")
    assert committed(snapshots) == "G_10.pth", "the newer one shows that it is whole"
    assert snapshots.take(final=True, whole=True).name == "000002-G_20.pth"
    save(folder, 30).rename(folder / "G_30.pth")
    assert [committed(snapshots) for _ in range(5)] == [None] * 5
    save(folder, 30).rename(folder / "D_30.pth")
    assert committed(snapshots) is None, "nothing says yet that these are all"
    assert committed(snapshots, final=True) == "G_30.pth", (
        "who was cut off had written all that those before had"
    )


def test_a_pair_that_is_being_removed_is_not_resumed_from(snapshots, folder, store):
    for step in (10, 20):
        save(folder, step).rename(folder / f"G_{step}.pth")
        save(folder, step).rename(folder / f"D_{step}.pth")
    assert snapshots.take(final=True, whole=True).name == "000001-G_20.pth"
    (folder / "G_20.pth").unlink()
    (folder / "log.csv").write_text("1")
    assert [committed(snapshots) for _ in range(3)] == [None] * 3
    commit = snapshots.take(final=True)
    assert commit.checkpoint == ("checkpoints", "G_20.pth")
    kept = [entry["path"] for entry in told(store, commit.name)["entries"]]
    assert kept == ["D_10.pth", "D_20.pth", "G_10.pth", "G_20.pth", "log.csv"]


def test_an_older_checkpoint_is_not_gone_back_to_while_a_newer_one_is_on_its_way(snapshots, folder):
    for step in (1, 2):
        save(folder, step)
    assert look_twice(snapshots) == "step-2.pt"
    (folder / "step-2.pt").unlink()
    save(folder, 3)
    os.truncate(folder / "step-3.pt", 50)
    assert [committed(snapshots) for _ in range(3)] == [None] * 3
    commit = snapshots.take(final=True)
    assert commit is None or commit.checkpoint == ("checkpoints", "step-2.pt")


def test_who_removes_the_newest_checkpoint_means_the_one_before_it(snapshots, folder):
    for step in (1, 2):
        save(folder, step)
    assert look_twice(snapshots) == "step-2.pt"
    (folder / "step-2.pt").unlink()
    (folder / "log.csv").write_text("1")
    assert committed(snapshots) is None
    assert committed(snapshots, final=True) == "step-1.pt"


def test_three_trees_have_one_moment_and_come_back_with_their_links_modes_and_order(tmp_path, store, folder):
    work, outputs = tmp_path / "code", tmp_path / "outputs"
    (work / "checkpoints").mkdir(parents=True)
    (work / "empty").mkdir()
    (work / "__pycache__").mkdir()
    (work / "__pycache__/x.pyc").write_bytes(b"x")
    outputs.mkdir()
    (outputs / "metrics.csv").write_text("1\n")
    (outputs / os.fsdecode(b"caf\xe9")).write_text("x")
    for step in (3, 1, 2):
        save(work / "checkpoints", step)
    (work / "checkpoints/last").symlink_to("step-3.pt")
    (work / "run.sh").write_text("#!/bin/sh")
    (work / "run.sh").chmod(0o755)
    store.links = False  # as in a bucket
    snapshots = snapshots_of(store, folder, work=work, outputs=outputs)
    commit = snapshots.take(final=True, whole=True)
    assert (commit.name, commit.checkpoint) == ("000001-step-3.pt", ("work", "checkpoints/step-3.pt"))
    back = tmp_path / "there"
    trees = [Tree(name, str(back / name)) for name in ("checkpoints", "outputs", "work")]
    bring_back(store, read_manifest(store, commit.name, None), trees)
    again = back / "work/checkpoints"
    assert (again / "last").readlink() == Path("step-3.pt")
    assert os.access(back / "work/run.sh", os.X_OK)
    assert (back / "work/empty").is_dir()
    assert not (back / "work/__pycache__").exists()
    assert (back / "outputs" / os.fsdecode(b"caf\xe9")).read_text() == "x"
    newest = max((path for path in again.iterdir() if not path.is_symlink()), key=os.path.getctime)
    assert newest.name == "step-3.pt", "scripts look for the newest by its change time"
    assert (again / "step-2.pt").stat().st_mtime == 1002


def test_what_came_with_the_code_is_not_kept_unless_the_script_changed_it(tmp_path, store, folder):
    work = tmp_path / "code"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    (work / "config.json").write_text("{}")
    looking = Looking([Tree("checkpoints", str(folder)), Tree("work", str(work))])
    looking.trees[1].leave_what_lies_there()
    snapshots = Snapshots(store, looking, 1, str(tmp_path), lambda _: None, print)
    (work / "config.json").write_text('{"lr": 1}')
    (work / "model.pt").write_bytes(save(tmp_path, 1).read_bytes())
    commit = snapshots.take(final=True)
    assert [entry["path"] for entry in told(store, commit.name)["entries"]] == ["config.json", "model.pt"]


def test_what_exceeds_the_bound_is_named_and_checkpoints_come_first(tmp_path, store, folder):
    work = tmp_path / "code"
    work.mkdir()
    save(work, 1)
    (work / "huge.bin").write_bytes(bytes(5000))
    left: list[str] = []
    looking = Looking([Tree("work", str(work), most=2000)])
    snapshots = Snapshots(
        store, looking, 1, str(tmp_path), lambda _: None, print, leave_out=lambda path, _: left.append(path)
    )
    commit = snapshots.take(final=True)
    assert [entry["path"] for entry in told(store, commit.name)["entries"]] == ["step-1.pt"]
    assert left == ["work/huge.bin"]


def test_a_folder_is_kept_and_brought_back_whole(snapshots, folder, store, tmp_path):
    inside = folder / "checkpoint-7" / "deep"
    inside.mkdir(parents=True)
    (inside / "rng.txt").write_text("r")
    (folder / "checkpoint-7" / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    commit = snapshots.take(final=True, whole=True)
    assert commit is not None
    assert (commit.step, commit.checkpoint) == (7, ("checkpoints", "checkpoint-7"))
    assert restore(store, commit.name, tmp_path / "back") == "checkpoint-7"
    assert (tmp_path / "back/checkpoint-7/deep/rng.txt").read_text() == "r"
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["checkpoint-7"]


def test_what_lies_in_its_place_and_differs_is_kept_beside_it(snapshots, folder, store):
    path = save(folder, 1)
    whole = path.read_bytes()
    commit = snapshots.take(final=True)
    path.write_bytes(b"torn")
    assert restore(store, commit.name, folder) == "step-1.pt"
    assert path.read_bytes() == whole
    assert (folder / "step-1.pt.corrupt-1").read_bytes() == b"torn"


def test_nothing_is_written_through_a_link_that_leads_out(snapshots, folder, store, tmp_path):
    (folder / "deep").mkdir()
    save(folder / "deep", 1)
    commit = snapshots.take(final=True)
    back, outside = tmp_path / "back", tmp_path / "outside"
    back.mkdir()
    outside.mkdir()
    (back / "deep").symlink_to(outside)
    restore(store, commit.name, back)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda manifest: manifest["entries"][0].update(sha256="0"),
        lambda manifest: manifest["entries"][0].update(sha256="0" * 64),
        lambda manifest: manifest["entries"][0].update(size=-1),
        lambda manifest: manifest["entries"][0].update(size=1e308),
        lambda manifest: manifest["entries"][0].update(part=-1),
        lambda manifest: manifest["entries"][0].update(path="step-1.pt\0"),
        lambda manifest: manifest["entries"][0].update(path="step-1.pt/" + "n" * 300),
        lambda manifest: manifest["entries"][0].update(at="000001-x/../../evil"),
        lambda manifest: manifest["entries"].append(dict(manifest["entries"][0])),
        lambda manifest: manifest["entries"].__setitem__(0, "step-1.pt"),
        lambda manifest: manifest.update(step="7"),
        lambda manifest: manifest.update(name="000009-step-1.pt"),
        lambda manifest: manifest["entries"][0].update(size=1),
        lambda manifest: manifest["entries"][0].update(path="../../evil"),
        lambda manifest: manifest["entries"][0].update(path="/tmp/evil"),
        lambda manifest: manifest["entries"][0].pop("sha256"),
        lambda manifest: manifest.update(entries=None),
        lambda manifest: manifest.update(checkpoint={"tree": "checkpoints", "path": "../evil"}),
        lambda manifest: manifest.clear(),
    ],
)
def test_a_manifest_that_lies_is_a_corrupt_snapshot(snapshots, folder, store, tmp_path, damage):
    save(folder, 1)
    commit = snapshots.take(final=True)
    assert commit is not None
    key = f"committed/{commit.name}/manifest.json"
    manifest = json.loads(store.get(key))
    damage(manifest)
    store.put(key, json.dumps(manifest).encode())
    back = tmp_path / "back"
    back.mkdir()
    with pytest.raises(CorruptSnapshot):
        restore(store, commit.name, back)
    assert list(back.iterdir()) == []


KEY = "5e" * 32


def sealed(store, folder, key=KEY) -> Commit:
    commit = snapshots_of(store, folder, key).take(final=True)
    assert commit is not None
    return commit


def test_a_commit_of_the_jobs_own_machines_comes_back(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder)
    assert KEY.encode() not in store.get(f"committed/{commit.name}/manifest.json")
    assert restore(store, commit.name, tmp_path / "back", KEY) == "step-1.pt"
    assert (tmp_path / "back/step-1.pt").read_bytes() == (folder / "step-1.pt").read_bytes()


def no_seal(manifest, other):
    manifest.pop("seal")


def seal_of_another_commit(manifest, other):
    manifest["seal"] = other["seal"]


def seal_is_no_text(manifest, other):
    manifest["seal"] = {"deep": [[]]}


def one_field_differs(manifest, other):
    manifest["step"] = 999


def seal_is_half_a_character(manifest, other):
    manifest["seal"] = "\ud800"


@pytest.mark.parametrize(
    "damage", [no_seal, seal_of_another_commit, seal_is_no_text, seal_is_half_a_character, one_field_differs]
)
def test_a_commit_that_somebody_else_wrote_is_not_resumed_from(folder, store, tmp_path, damage):
    """A checkpoint is code for whoever unpickles it, and the bucket is not only ours to write to."""
    save(folder, 1)
    mine = sealed(store, folder)
    save(folder, 2)
    other = sealed(store, folder)
    key = f"committed/{mine.name}/manifest.json"
    manifest = json.loads(store.get(key))
    damage(manifest, told(store, other.name))
    store.put(key, json.dumps(manifest).encode())
    with pytest.raises(CorruptSnapshot, match="no machine of this job committed it"):
        restore(store, mine.name, tmp_path / "back", KEY)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("number", ["999999999", "999999998", "500000000"])
def test_a_number_that_somebody_else_chose_leaves_room_for_ours(store, folder, number):
    store.keeps = 0  # as in a bucket
    store.put(store.checkpoints + number + "-x/manifest.json", b"{}")
    names: list[str] = []
    for step in (1, 2):
        save(folder, step)
        names.append(sealed(store, folder).name)
    assert names == ["000001-step-1.pt", "000002-step-2.pt"]
    assert set(names) < set(snapshot_names(store))


def test_a_commit_of_another_job_is_not_resumed_from(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder, "aa" * 32)
    with pytest.raises(CorruptSnapshot, match="no machine of this job committed it"):
        restore(store, commit.name, tmp_path / "back", KEY)


def test_a_commit_that_the_user_accepted_is_resumed_from_by_its_digest_alone(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder, "aa" * 32)
    data = store.get(f"committed/{commit.name}/manifest.json")
    accepted = {commit.name: hashlib.sha256(data).hexdigest()}
    assert restore(store, commit.name, tmp_path / "back", KEY, accepted) == "step-1.pt"
    store.put(f"committed/{commit.name}/manifest.json", data + b" ")
    with pytest.raises(CorruptSnapshot, match="no machine of this job committed it"):
        restore(store, commit.name, tmp_path / "again", KEY, accepted)


@pytest.mark.parametrize(
    "name", ["../x", "no-number", "1-", "0000000000000001-x", "1-a\nb", "1-" + "n" * 300]
)
def test_what_is_no_commits_name_is_left_out(store, name):
    with contextlib.suppress(OSError, ValueError):
        store.put(f"committed/{name}/manifest.json", b"{}")
    assert snapshot_names(store) == []
    with pytest.raises(CorruptSnapshot):
        restore(store, name, Path("/nowhere"), KEY)


@pytest.mark.parametrize("latest", [b"", b"[" * 100_000, b"[]", b'{"name": 7}', b'{"name": "999999-x\\n"}'])
def test_a_hostile_latest_does_not_stop_commits(snapshots, folder, store, latest):
    store.put("committed/latest.json", latest)
    save(folder, 1)
    assert snapshots.take(final=True) is not None
    assert json.loads(store.get("committed/latest.json"))["name"] == "000001-step-1.pt"


def test_what_went_in_parts_is_known_again_by_its_parts(request, bucket, monkeypatch, tmp_path, folder):
    """Each byte was hashed once: the manifest has the digest of the parts' digests, as has whoever reads."""
    monkeypatch.setattr(in_parts, "PART", 64 * 1024)
    monkeypatch.setattr(outgoing, "IN_PARTS_FROM", 128 * 1024)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = BucketStore("bucket", "job", "us-east-1", Metadata())
    request.addfinalizer(store._bucket.close)
    data = os.urandom(300 * 1024 + 17)
    (folder / "model.bin").write_bytes(data)
    commit = snapshots_of(store, folder).take(final=True, whole=True)
    manifest = json.loads(bucket.objects[f"job/checkpoints/{commit.name}/manifest.json"])
    assert manifest["entries"][0]["part"] == 64 * 1024

    incoming = tmp_path / "incoming"
    restore(store, commit.name, incoming)
    assert (incoming / "model.bin").read_bytes() == data
    torn = bytearray(data)
    torn[200_000] ^= 1
    bucket.objects[f"job/checkpoints/{commit.name}/checkpoints/model.bin"] = bytes(torn)
    (incoming / "model.bin").unlink()
    with pytest.raises(CorruptSnapshot):
        restore(store, commit.name, incoming)


@settings(max_examples=60)
@given(data=st.binary(max_size=300), part=st.integers(0, 70))
def test_a_digest_of_parts_is_that_of_their_digests(tmp_path_factory, data: bytes, part: int) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(data)
    cut = [data[at : at + part] for at in range(0, len(data), part)] if part else []
    wanted = b"".join(hashlib.sha256(piece).digest() for piece in cut) if part else data
    assert file_digest(str(path), part) == hashlib.sha256(wanted).hexdigest()
