"""Single commits on a folder, where each moment can be chosen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.agent import multipart, s3
from runctl.agent.bucket_store import BucketStore
from runctl.agent.commit import Commit, Committer
from runctl.agent.digest import Digest, file_digest
from runctl.agent.failures import StoreAway, StoreRefused
from runctl.agent.imds import Metadata
from runctl.agent.restoring import CorruptCheckpoint, commit_names, restore
from runctl.agent.store import FolderStore
from runctl.errors import ValidationError
from runctl.jobs import checkpoints
from runctl.storage.folder import FolderStore as LocalObjects


class Watched(FolderStore):
    """A folder store that lets something happen after each file that it took."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.meanwhile = lambda: None

    def put_file(self, key: str, path: str, size: int) -> Digest:
        digest = super().put_file(key, path, size)
        self.meanwhile()
        return digest


@pytest.fixture
def store(tmp_path) -> Watched:
    return Watched(str(tmp_path / "job"))


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


@pytest.fixture
def committer(store, folder) -> Committer:
    return Committer(store, str(folder), 1, lambda commit: None, lambda text: None)


def save(folder: Path, step: int, content: str = "x", at: int = 0) -> Path:
    path = folder / f"step-{step}.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights", content)
    when = at or 1_000 + step
    os.utime(path, (when, when))
    return path


def committed(committer: Committer, final: bool = False) -> str | None:
    commit = committer.commit_newest(final=final)
    return None if commit is None else commit.manifest["source"]


def test_only_the_newest_is_committed_and_only_once(committer, folder):
    for step in (1, 2, 3):
        save(folder, step)
    assert committed(committer) == "step-3.pt"
    assert committed(committer) is None


def test_an_older_one_never_follows_a_newer_one(committer, folder):
    save(folder, 1)
    newest = save(folder, 2)
    assert committed(committer) == "step-2.pt"
    newest.unlink()
    assert committed(committer) is None


def test_a_new_version_under_an_old_name_is_a_new_commit(committer, folder, store):
    save(folder, 1)
    assert committed(committer) == "step-1.pt"
    save(folder, 1, "other", at=5_000)
    assert committed(committer) == "step-1.pt"
    assert commit_names(store) == ["000001-step-1.pt", "000002-step-1.pt"]


def test_a_torn_one_gives_way_to_the_one_before(committer, folder):
    save(folder, 1)
    torn = save(folder, 2)
    torn.write_bytes(torn.read_bytes()[:-5])
    assert committed(committer) == "step-1.pt"


def test_one_that_is_written_to_while_it_is_read_is_not_committed(committer, folder, store):
    path = save(folder, 1)
    store.meanwhile = lambda: path.write_bytes(path.read_bytes() + b"more")
    assert committed(committer) is None
    assert commit_names(store) == []


def test_one_that_is_removed_after_it_was_read_is_committed(committer, folder, store):
    path = save(folder, 1)
    store.meanwhile = path.unlink
    assert committed(committer) == "step-1.pt"


def test_a_refusal_by_the_store_of_a_file_that_changed_is_no_refusal(committer, folder, store):
    path = save(folder, 1)

    def refuse() -> None:
        path.write_bytes(b"PK")
        raise StoreRefused("BadDigest")

    store.meanwhile = refuse
    assert committed(committer) is None


def test_a_refusal_of_a_file_that_did_not_change_is_told(committer, folder, store):
    save(folder, 1)

    def refuse() -> None:
        raise StoreRefused("AccessDenied")

    store.meanwhile = refuse
    with pytest.raises(StoreRefused):
        committed(committer)


def test_an_upload_that_broke_off_goes_on_under_its_name(committer, folder, store):
    save(folder, 1)

    def break_off() -> None:
        raise StoreAway("gone")

    store.meanwhile = break_off
    with pytest.raises(StoreAway):
        committed(committer)
    store.meanwhile = lambda: None
    assert committed(committer) == "step-1.pt"
    assert commit_names(store) == ["000001-step-1.pt"]


def test_a_file_of_unknown_format_must_stand_still_for_two_polls(committer, folder):
    (folder / "a.pkl").write_bytes(b"x")
    assert [committed(committer) for _ in range(2)] == [None, None]
    (folder / "a.pkl").write_bytes(b"xy")
    assert [committed(committer) for _ in range(3)] == [None, None, "a.pkl"]


def test_a_folder_is_committed_and_restored_whole(committer, folder, store, tmp_path):
    inside = folder / "checkpoint-7" / "deep"
    inside.mkdir(parents=True)
    (inside / "rng.txt").write_text("r")
    (folder / "checkpoint-7" / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    commit = committer.commit_newest(final=True, whole=True)
    assert commit is not None
    assert (commit.step, commit.manifest["kind"]) == (7, "folder")
    back = tmp_path / "back"
    back.mkdir()
    restore(store, commit.name, str(back))
    assert (back / "checkpoint-7/deep/rng.txt").read_text() == "r"
    assert [path.name for path in back.iterdir()] == ["checkpoint-7"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda manifest: manifest["files"][0].update(sha256="0"),
        lambda manifest: manifest["files"][0].update(sha256="0" * 64),
        lambda manifest: manifest["files"][0].update(size=-1),
        lambda manifest: manifest["files"][0].update(size=1e308),
        lambda manifest: manifest["files"][0].update(part=-1),
        lambda manifest: manifest["files"][0].update(path="step-1.pt\0"),
        lambda manifest: manifest["files"][0].update(path="step-1.pt/" + "n" * 300),
        lambda manifest: manifest["files"].__setitem__(0, "step-1.pt"),
        lambda manifest: manifest.update(step="7"),
        lambda manifest: manifest.update(name="000009-step-1.pt"),
        lambda manifest: manifest["files"][0].update(size=1),
        lambda manifest: manifest["files"][0].update(path="../../evil"),
        lambda manifest: manifest["files"][0].update(path="/tmp/evil"),
        lambda manifest: manifest["files"][0].pop("sha256"),
        lambda manifest: manifest.update(source="../evil"),
        lambda manifest: manifest.update(files=None),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(source="another.pt"),
        lambda manifest: manifest.clear(),
    ],
)
def test_a_manifest_that_lies_is_a_corrupt_checkpoint(committer, folder, store, tmp_path, damage):
    save(folder, 1)
    commit = committer.commit_newest(final=False)
    assert commit is not None
    key = f"committed/{commit.name}/manifest.json"
    manifest = json.loads(store.get(key))
    damage(manifest)
    store.put(key, json.dumps(manifest).encode())
    back = tmp_path / "back"
    back.mkdir()
    with pytest.raises(CorruptCheckpoint):
        restore(store, commit.name, str(back))
    assert list(back.iterdir()) == []


KEY = "5e" * 32


def sealed(store, folder, key=KEY) -> Commit:
    commit = Committer(store, str(folder), 1, lambda _: None, print, key).commit_newest(final=True)
    assert commit is not None
    return commit


def test_a_commit_of_the_jobs_own_machines_comes_back(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder)
    assert KEY.encode() not in store.get(f"committed/{commit.name}/manifest.json")
    assert restore(store, commit.name, str(tmp_path / "back"), KEY).source == "step-1.pt"
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
    damage(manifest, other.manifest)
    store.put(key, json.dumps(manifest).encode())
    with pytest.raises(CorruptCheckpoint, match="no machine of this job committed it"):
        restore(store, mine.name, str(tmp_path / "back"), KEY)
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
    assert set(names) < set(commit_names(store))


def test_a_commit_of_another_job_is_not_resumed_from(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder, "aa" * 32)
    with pytest.raises(CorruptCheckpoint, match="no machine of this job committed it"):
        restore(store, commit.name, str(tmp_path / "back"), KEY)


def test_a_commit_that_the_user_accepted_is_resumed_from_by_its_digest_alone(folder, store, tmp_path):
    save(folder, 1)
    commit = sealed(store, folder, "aa" * 32)
    data = store.get(f"committed/{commit.name}/manifest.json")
    accepted = {commit.name: hashlib.sha256(data).hexdigest()}
    assert restore(store, commit.name, str(tmp_path / "back"), KEY, accepted).source == "step-1.pt"
    store.put(f"committed/{commit.name}/manifest.json", data + b" ")
    with pytest.raises(CorruptCheckpoint, match="no machine of this job committed it"):
        restore(store, commit.name, str(tmp_path / "again"), KEY, accepted)


@pytest.mark.parametrize(
    "name", ["../x", "no-number", "1-", "0000000000000001-x", "1-a\nb", "1-" + "n" * 300]
)
def test_what_is_no_commits_name_is_left_out(store, name):
    with contextlib.suppress(OSError, ValueError):
        store.put(f"committed/{name}/manifest.json", b"{}")
    assert commit_names(store) == []
    with pytest.raises(CorruptCheckpoint):
        restore(store, name, "/nowhere", KEY)


@pytest.mark.parametrize("latest", [b"", b"[" * 100_000, b"[]", b'{"name": 7}', b'{"name": "999999-x\\n"}'])
def test_a_hostile_latest_does_not_stop_commits(committer, folder, store, latest):
    store.put("committed/latest.json", latest)
    save(folder, 1)
    assert committer.commit_newest(final=False) is not None
    assert json.loads(store.get("committed/latest.json"))["name"] == "000001-step-1.pt"


def test_what_went_in_parts_is_known_again_by_its_parts(request, bucket, monkeypatch, tmp_path, folder):
    """Each byte was hashed once: the manifest has the digest of the parts' digests, as has whoever reads."""
    monkeypatch.setattr(multipart, "PART", 64 * 1024)
    monkeypatch.setattr(s3, "MULTIPART_FROM", 128 * 1024)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = BucketStore("bucket", "job", "us-east-1", Metadata())
    request.addfinalizer(store._bucket.close)
    data = os.urandom(300 * 1024 + 17)
    (folder / "model.bin").write_bytes(data)
    committed: list[Commit] = []
    Committer(store, str(folder), 1, committed.append, print).commit_newest(final=True, whole=True)
    [commit] = committed
    assert commit.manifest["files"][0]["part"] == 64 * 1024

    incoming = tmp_path / "incoming"
    incoming.mkdir()
    restore(store, commit.name, str(incoming))
    assert (incoming / "model.bin").read_bytes() == data
    job = tmp_path / "job"
    place = SimpleNamespace(store=LocalObjects(job), commits=lambda: "checkpoints/")
    for key, content in bucket.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(content)
    assert checkpoints.verify(place, commit.name, "").name == commit.name

    torn = bytearray(data)
    torn[200_000] ^= 1
    bucket.objects[f"job/checkpoints/{commit.name}/model.bin"] = bytes(torn)
    (job / "checkpoints" / commit.name / "model.bin").write_bytes(torn)
    (incoming / "model.bin").unlink()
    with pytest.raises(CorruptCheckpoint):
        restore(store, commit.name, str(incoming))
    with pytest.raises(ValidationError, match="corrupt"):
        checkpoints.verify(place, commit.name, "")


@settings(max_examples=60)
@given(data=st.binary(max_size=300), part=st.integers(0, 70))
def test_all_who_read_parts_make_the_same_of_them(tmp_path_factory, data: bytes, part: int) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(data)
    cut = [data[at : at + part] for at in range(0, len(data), part)] if part else []
    wanted = b"".join(hashlib.sha256(piece).digest() for piece in cut) if part else data
    assert file_digest(str(path), part) == hashlib.sha256(wanted).hexdigest()
    named = checkpoints.ManifestFile(path="digested", size=len(data), sha256="", part=part)
    assert (
        checkpoints._digest(LocalObjects(path.parent), "digested", named)
        == hashlib.sha256(wanted).hexdigest()
    )
