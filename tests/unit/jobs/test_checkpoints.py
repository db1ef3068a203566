"""A commit is read piece by piece, whatever its size, and every byte of it counts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

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
