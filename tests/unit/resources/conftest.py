from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_values import SetClock, ValueSession

from runctl.ledger import Ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where prices are kept."""
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def session(clock: SetClock) -> ValueSession:
    return ValueSession(clock)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger") as opened:
        yield opened
