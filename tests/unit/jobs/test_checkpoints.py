"""A commit is read piece by piece, whatever its size, and every byte of it counts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from runctl.agent import seal as seals
from runctl.agent.digest import file_digest
from runctl.errors import NotFound, ValidationError
from runctl.jobs import checkpoints
from runctl.jobs.checkpoints import Manifest, ManifestFile
from runctl.jobs.place import local_place

NAME = "000001-step-00007.bin"


def commit(folder: Path, data: bytes, part: int) -> Path:
    """A commit of one file, whose manifest tells the agent's digest of it."""
    place = folder / "committed" / NAME
    place.mkdir(parents=True)
    path = place / "step-00007.bin"
    path.write_bytes(data)
    file = ManifestFile(path=path.name, size=len(data), sha256=file_digest(str(path), part), part=part)
    manifest = Manifest(name=NAME, source=path.name, step=7, files=(file,))
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return path


@pytest.mark.parametrize("part", [0, 1, 7, 10, 64, 100])
@pytest.mark.parametrize("size", [0, 1, 10, 64, 65])
def test_the_digest_is_the_agents_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, part: int
) -> None:
    monkeypatch.setattr(checkpoints, "_CHUNK", 10)
    data = hashlib.sha512(b"seed").digest() + b"x"
    path = commit(tmp_path, data[:size], part)
    assert checkpoints.verify(local_place(tmp_path), "000001", "").name == NAME
    if size:
        path.write_bytes(data[: size - 1] + bytes([data[size - 1] ^ 1]))
        with pytest.raises(ValidationError, match="is corrupt"):
            checkpoints.verify(local_place(tmp_path), NAME, "")


def test_a_commit_that_lost_a_file_or_bytes_is_corrupt(tmp_path: Path) -> None:
    path = commit(tmp_path, b"0123456789", 0)
    path.write_bytes(b"0123")
    with pytest.raises(ValidationError) as refused:
        checkpoints.verify(local_place(tmp_path), NAME, "")
    assert "is not what was committed" in refused.value.why
    path.unlink()
    with pytest.raises(ValidationError) as refused:
        checkpoints.verify(local_place(tmp_path), NAME, "")
    assert "is missing" in refused.value.why
    with pytest.raises(NotFound):
        checkpoints.verify(local_place(tmp_path), "000002", "")


KEY = "5e" * 32


def plant(folder: Path, name: str, seal: object = None, **more: object) -> str:
    """A manifest under a name; with a key as `seal` it is sealed, else it carries what is given."""
    told: dict[str, object] = {"name": name, "source": name.partition("-")[2], "step": 1, "files": [], **more}
    told["seal"] = seals.of(KEY, told) if seal == KEY else seal
    place = folder / "committed" / name
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps(told))
    return name


def test_the_newest_is_one_of_our_machines_whatever_number_others_chose(tmp_path: Path) -> None:
    plant(tmp_path, "000001-a.pt")
    ours = plant(tmp_path, "000002-b.pt", KEY)
    plant(tmp_path, "999999999-c.pt")
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is not None
    assert (found.name, found.ours) == (ours, True)


def test_without_one_of_ours_it_is_the_newest_of_all(tmp_path: Path) -> None:
    plant(tmp_path, "000001-a.pt")
    other = plant(tmp_path, "000002-b.pt", "00")
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is not None
    assert (found.name, found.ours) == (other, False)


@pytest.mark.parametrize("seal", ["\ud800", "\x00", "é", [], {"deep": [[]]}, 10**400, True])
def test_a_seal_that_is_none_is_nobodys(tmp_path: Path, seal: object) -> None:
    plant(tmp_path, "000001-a.pt", seal)
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is None or not found.ours


@pytest.mark.parametrize("odd", ["1" + "0" * 5000, "[" * 900 + "]" * 900, "[" * 100_000, "NaN", '"\\ud800"'])
def test_a_field_that_no_manifest_has_breaks_nothing(tmp_path: Path, odd: str) -> None:
    name = plant(tmp_path, "000001-a.pt")
    path = tmp_path / "committed" / name / "manifest.json"
    path.write_text(path.read_text()[:-1] + f', "odd": {odd}}}')
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is None or not found.ours
