"""An attempt on this machine, as its files and its agent's process tell of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from runctl.agent import output as output_module
from runctl.agent.output import Output
from runctl.jobs.attempt import AgentState
from runctl.jobs.place import Place, local_place
from runctl.providers.local import LocalLaunch


def launched(place: Place, folder: Path, spec: dict[str, Any] | str) -> None:
    """Start an agent on a spec, which may be none that it can read, and wait until it has ended."""
    attempt = folder / "attempt-1"
    attempt.mkdir()
    (attempt / "spec.json").write_bytes(spec.encode() if isinstance(spec, str) else msgspec.json.encode(spec))
    request: Any = SimpleNamespace(
        parameters=msgspec.json.encode(LocalLaunch(spec=str(attempt / "spec.json"))).decode()
    )
    machine = place.provider.launch(request)
    until = time.monotonic() + 60
    while place.provider.describe(machine.id).state.value == "running" and time.monotonic() < until:  # type: ignore[union-attr]
        time.sleep(0.05)


def test_an_agent_that_dies_at_its_start_is_no_lost_machine_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "sitecustomize.py").write_text(
        "import sys\nif 'runctl.agent' in sys.orig_argv: raise SystemExit('boom: nothing starts here')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    place = local_place(tmp_path)
    launched(place, tmp_path, "{}")
    state = place.view(1).state()
    assert state is not None
    assert (state.phase, state.cause) == ("ended", "prepare-failed")
    assert "boom: nothing starts here" in (state.message or "")


def test_a_spec_that_the_agent_cannot_use_is_told_of_in_the_same_way(tmp_path: Path) -> None:
    place = local_place(tmp_path)
    launched(place, tmp_path, "{")
    state = place.view(1).state()
    assert state is not None
    assert "the spec cannot be used" in (state.message or "")


def test_an_agent_that_was_killed_before_it_said_a_word_is_a_lost_machine(tmp_path: Path) -> None:
    place = local_place(tmp_path)
    attempt = tmp_path / "attempt-1"
    attempt.mkdir()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (attempt / "agent.json").write_text(f'{{"pid": {child}, "born": 1.0, "launched": 1.0}}')
    (attempt / "agent.log").touch()
    assert place.view(1).state() is None


def test_what_was_given_back_to_the_disk_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST_KEPT", 1 << 20), ("NEWEST_KEPT", 1 << 18), ("FIRST_KEPT", 1 << 16)):
        monkeypatch.setattr(output_module, name, value)
    (tmp_path / "attempt-1").mkdir()
    log = tmp_path / "attempt-1" / "output.log"
    text = b"".join(b"line %09d\n" % number for number in range(500_000))
    log.write_bytes(text)
    output = Output(str(log))
    assert output.keep_within_bounds()
    first, end = output.hole
    state = AgentState(job="j", attempt=1, phase="running", log_hole=output.zeros)
    (tmp_path / "attempt-1" / "state.json").write_bytes(msgspec.json.encode(state))
    pieces = list(local_place(tmp_path).view(1).log(0))
    read = b"".join(piece.data for piece in pieces)
    assert read.startswith(text[:first] + b"\n[runctl: %d bytes of output are left out here]" % (end - first))
    assert read.endswith(text[end:])
    assert len(read) == first + 4096 + len(text) - end
    assert pieces[-1].end == len(text)
