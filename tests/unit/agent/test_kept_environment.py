"""An environment that one attempt made comes back for the next, whole, or is made anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from runctl.agent import kept_environment, seal
from runctl.agent.kept_environment import Keeper, restore
from runctl.agent.store import FolderStore

KEY = "5a" * 32


class Kept:
    """A machine with an environment, and the store that it was kept in."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home/.runctl"
        self.environment = self.home / "environments/abc"
        self.bucket = folder / "bucket"
        self.store = FolderStore(str(self.bucket))
        self.told: list[str] = []
        (self.environment / "bin").mkdir(parents=True)
        (self.environment / "bin/python3").symlink_to(os.path.realpath(sys.executable))
        (self.environment / "lib/pkg").mkdir(parents=True)
        (self.environment / "lib64").symlink_to("lib")
        (self.environment / "lib/pkg/big.so").write_bytes(os.urandom(3000) * 7000)
        (self.environment / "lib/pkg/empty.py").write_text("")
        (self.environment / "lib/pkg/run").write_text("#!/bin/sh\n")
        (self.environment / "lib/pkg/run").chmod(0o755)
        for number in range(40):
            (self.environment / f"lib/pkg/m{number}.py").write_text(f"x = {number}\n")
        self.before = self.tree()

    def keep(self, may_go_on=lambda: True) -> None:
        home, folder = str(self.home), str(self.environment)
        keeper = Keeper(self.store, KEY, home, folder, may_go_on, lambda: False, self.told.append)
        keeper._run()

    def bring(self, key: str = KEY, home: Path | None = None) -> bool:
        home = home or self.home
        return restore(self.store, key, str(home), str(home / "environments/abc"), self.told.append)

    def lose(self) -> None:
        shutil.rmtree(self.home)

    def tree(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(self.home.rglob("*")):
            name = str(path.relative_to(self.home))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        return found

    def change(self, **changes: object) -> None:
        """Write another manifest, with a seal that is right."""
        path = self.bucket / "environments/abc/manifest"
        manifest = {**json.loads(zlib.decompress(path.read_bytes())), **changes}
        manifest["seal"] = seal.of(KEY, manifest, "environment")
        path.write_bytes(zlib.compress(json.dumps(manifest).encode()))


@pytest.fixture
def kept(tmp_path) -> Kept:
    return Kept(tmp_path)


def test_it_comes_back_to_the_byte_and_to_its_times(kept):
    kept.keep()
    kept.lose()
    assert kept.bring(), kept.told
    assert kept.tree() == kept.before
    subprocess.run([kept.environment / "bin/python3", "-c", ""], check=True)


def test_one_that_comes_back_is_not_called_whole_before_all_of_it_is_there(kept):
    (kept.environment / "ready").touch()
    kept.keep()
    kept.lose()
    assert kept.bring()
    assert not (kept.environment / "ready").exists()


def test_a_torn_piece_is_refused_and_nothing_is_left(kept):
    kept.keep()
    kept.lose()
    piece = kept.bucket / "environments/abc/00001"
    piece.write_bytes(piece.read_bytes()[:-1])
    assert not kept.bring()
    assert "piece 1 of it is missing or is another one" in kept.told[-1]
    assert not kept.environment.exists()
    piece.unlink()
    assert not kept.bring()


def test_a_strangers_environment_is_refused(kept):
    kept.keep()
    kept.lose()
    assert not kept.bring("6b" * 32)
    assert "does not carry the job's seal" in kept.told[-1]
    (kept.bucket / "environments/abc/manifest").write_bytes(b"no zlib")
    assert not kept.bring()
    assert not kept.environment.exists()


def test_one_of_another_folder_or_another_python_is_refused(kept, tmp_path):
    kept.keep()
    assert not kept.bring(home=tmp_path / "elsewhere")
    assert "it was made in" in kept.told[-1]
    kept.lose()
    kept.change(version="2.7.18")
    assert not kept.bring()
    assert "its Python was 2.7.18 and is 3." in kept.told[-1]
    kept.change(base="/opt/gone/python3.11")
    assert not kept.bring()
    assert "needs /opt/gone/python3.11, which is not here" in kept.told[-1]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "jobs/x", "environments/other/x", "environments/../../x"])
def test_a_file_outside_is_refused(kept, path):
    kept.keep()
    kept.lose()
    kept.change(files=[[path, 0o100644, 1, 1, ""]])
    assert not kept.bring()
    assert "names a file" in kept.told[-1]


def test_what_is_not_sent_whole_is_not_there(kept):
    """An attempt that ends meanwhile leaves pieces, and no manifest."""
    turns = iter([True, False])
    kept.keep(lambda: next(turns, False))
    assert "the attempt ended before all of it was sent" in kept.told[-1]
    kept.lose()
    assert not kept.bring()


def test_what_the_script_changed_is_not_kept(kept):
    home, folder = str(kept.home), str(kept.environment)
    keeper = Keeper(kept.store, KEY, home, folder, lambda: True, lambda: False, kept.told.append)
    (kept.environment / "lib/pkg/m7.py").write_text("x = 8\n")
    keeper._run()
    assert "the script changed environments/abc/lib/pkg/m7.py" in kept.told[-1]
    assert not (kept.bucket / "environments/abc/manifest").exists()


def test_one_that_is_too_large_is_not_kept(kept, monkeypatch):
    monkeypatch.setattr(kept_environment, "LARGEST", 1000)
    kept.keep()
    assert "at most 1000 are kept" in kept.told[-1]


def test_it_waits_while_a_snapshot_is_taken(kept):
    asked: list[bool] = []

    def is_busy() -> bool:
        asked.append(True)
        return len(asked) < 3

    home, folder = str(kept.home), str(kept.environment)
    Keeper(kept.store, KEY, home, folder, lambda: True, is_busy, kept.told.append)._run()
    assert len(asked) >= 3
    assert (kept.bucket / "environments/abc/manifest").exists()
