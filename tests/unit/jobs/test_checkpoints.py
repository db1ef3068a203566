"""A snapshot is read piece by piece, whatever its size, and every byte of it counts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from snapped import KEY, take

from runctl.agent.digest import file_digest
from runctl.errors import NotFound, ValidationError
from runctl.jobs import checkpoints, proven
from runctl.jobs.place import local_place

NAME = "000001-step-00007.bin"
FILE = f"committed/{NAME}/checkpoints/step-00007.bin"


def commit(folder: Path, data: bytes, part: int = 0) -> Path:
    take(folder, NAME, {"checkpoints/step-00007.bin": data}, part=part)
    return folder / FILE


@pytest.mark.parametrize("part", [0, 1, 7, 10, 64, 100])
@pytest.mark.parametrize("size", [0, 1, 10, 64, 65])
def test_the_digest_is_the_agents_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, part: int
) -> None:
    monkeypatch.setattr(proven, "READ", 10)
    data = (hashlib.sha512(b"seed").digest() + b"x")[:size]
    path = commit(tmp_path, data, part)
    found = checkpoints.verify(local_place(tmp_path), "000001", "")
    assert (found.name, found.manifest.entries[0].sha256) == (NAME, file_digest(str(path), part))
    if size:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ValidationError, match="is corrupt"):
            checkpoints.verify(local_place(tmp_path), NAME, "")


def test_a_commit_that_lost_a_file_or_bytes_is_corrupt(tmp_path: Path) -> None:
    path = commit(tmp_path, b"0123456789")
    for data in (b"0123", b"01234567890"):
        path.write_bytes(data)
        with pytest.raises(ValidationError) as refused:
            checkpoints.verify(local_place(tmp_path), NAME, "")
        assert "is not what was committed" in refused.value.why
    path.unlink()
    with pytest.raises(ValidationError) as refused:
        checkpoints.verify(local_place(tmp_path), NAME, "")
    assert "is missing" in refused.value.why
    with pytest.raises(NotFound):
        checkpoints.verify(local_place(tmp_path), "000002", "")


def test_a_file_is_looked_for_where_an_earlier_snapshot_has_it(tmp_path: Path) -> None:
    before = take(tmp_path, "000001-a.pt", {"checkpoints/a.pt": "aa", "outputs/log.csv": "1"})
    take(tmp_path, "000002-b.pt", {"checkpoints/b.pt": "bb"}, more=tuple(before.entries))
    place = local_place(tmp_path)
    assert checkpoints.verify(place, "000002", "").name == "000002-b.pt"
    (tmp_path / "committed/000001-a.pt/outputs/log.csv").write_text("2")
    with pytest.raises(ValidationError) as refused:
        checkpoints.verify(place, "000002", "")
    assert "log.csv is not what was committed" in refused.value.why
    assert refused.value.next == "resume from the one before it: --from 000001-a.pt"


def test_files_that_share_an_object_are_proven_one_by_one(tmp_path: Path) -> None:
    take(
        tmp_path,
        "000001-a.pt",
        {"checkpoints/a.pt": "aa", "outputs/log.csv": "12", "outputs/x": ""},
        pack=True,
    )
    place = local_place(tmp_path)
    assert checkpoints.verify(place, "000001", "").name == "000001-a.pt"
    (pack,) = (tmp_path / "committed/000001-a.pt/.packs").iterdir()
    for torn, why in ((b"aa13", "log.csv is not"), (b"aa1", "a.pt is not"), (b"aa123", "a.pt is not")):
        pack.write_bytes(torn)
        with pytest.raises(ValidationError) as refused:
            checkpoints.verify(place, "000001", "")
        assert why in refused.value.why
    pack.unlink()
    with pytest.raises(ValidationError, match="corrupt") as refused:
        checkpoints.verify(place, "000001", "")
    assert "a.pt is missing" in refused.value.why


def test_a_manifest_under_another_name_is_none(tmp_path: Path) -> None:
    take(tmp_path, "000002-b.pt", {"checkpoints/b.pt": "b"})
    (tmp_path / "committed/000002-b.pt").rename(tmp_path / "committed/000001-a.pt")
    with pytest.raises(ValidationError, match="is corrupt"):
        checkpoints.verify(local_place(tmp_path), "000001", "")


def test_the_newest_is_one_of_our_machines_whatever_number_others_chose(tmp_path: Path) -> None:
    take(tmp_path, "000001-a.pt", seal=None)
    take(tmp_path, "000002-b.pt")
    take(tmp_path, "999999999-c.pt", seal=None)
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is not None
    assert (found.name, found.ours) == ("000002-b.pt", True)


def test_without_one_of_ours_it_is_the_newest_of_all(tmp_path: Path) -> None:
    take(tmp_path, "000001-a.pt", seal=None)
    take(tmp_path, "000002-b.pt", seal="00")
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is not None
    assert (found.name, found.ours) == ("000002-b.pt", False)


@pytest.mark.parametrize("seal", ["\ud800", "\x00", "é", [], {"deep": [[]]}, 10**400, True])
def test_a_seal_that_is_none_is_nobodys(tmp_path: Path, seal: object) -> None:
    take(tmp_path, "000001-a.pt", seal=seal)
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is None or not found.ours


@pytest.mark.parametrize("odd", ["1" + "0" * 5000, "[" * 900 + "]" * 900, "[" * 100_000, "NaN", '"\\ud800"'])
def test_a_field_that_no_manifest_has_breaks_nothing(tmp_path: Path, odd: str) -> None:
    take(tmp_path, "000001-a.pt", seal=None)
    path = tmp_path / "committed/000001-a.pt/manifest.json"
    path.write_text(path.read_text()[:-1] + f', "odd": {odd}}}')
    found = checkpoints.newest(local_place(tmp_path), KEY)
    assert found is None or not found.ours
