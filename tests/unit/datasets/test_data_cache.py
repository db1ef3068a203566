"""`runctl data cache` shows what scripts keep, and removes what was not read for longest."""

from __future__ import annotations

import json
import os
import time
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from runctl.cli.main import run
from runctl.datasets.cache import LocalCache
from runctl.datasets.items import Item
from runctl.datasets.opening import default_root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCache:
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNCTL_CONFIG", str(tmp_path / "user.toml"))
    monkeypatch.chdir(tmp_path)
    made = LocalCache(default_root(), 100_000)
    for number in range(4):
        data = bytes([number]) * 1000
        item = Item("bucket", str(number), md5(data).hexdigest(), 1000)
        file = made.add(item, lambda file, data=data: os.write(file, data))
        assert file is not None
        os.close(file)
        os.utime(made.root / "objects" / item.name, (time.time() - 100 + number,) * 2)
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(["data", "cache", *words, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list(cache: LocalCache, capsys: pytest.CaptureFixture[str]) -> None:
    (bucket,) = said(capsys, "list")["buckets"]
    assert (bucket["place"], bucket["files"], bucket["bytes"]) == ("bucket", 4, 4000)
    assert run(["data", "cache", "list"]) == 0
    assert "bucket" in capsys.readouterr().out


def test_prune(cache: LocalCache, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"files": 2, "bytes": 2000, "left": 2000}
    assert said(capsys, "prune", "--max-size", "2kB", "--dry-run") == expected
    assert cache.holdings()[0].files == 4
    assert said(capsys, "prune", "--max-size", "2kB") == expected
    assert not cache.holds(Item("bucket", "0", md5(bytes(1000)).hexdigest(), 1000))
    assert said(capsys, "prune")["left"] == 0


def test_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "list")["buckets"] == []
    assert said(capsys, "prune")["files"] == 0
    assert not (tmp_path / "cache").exists()
    assert run(["data", "cache", "list", "--folder", str(tmp_path)]) == 1
    assert run(["data", "cache", "prune", "--max-size", "lots"]) == 1
