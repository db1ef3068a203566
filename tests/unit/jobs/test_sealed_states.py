"""A state in a bucket that others can write to: only what the job's machine said is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapped import KEY

from runctl.agent import boot
from runctl.agent import seal as seals
from runctl.agent.attempt import Attempt
from runctl.agent.files import to_json
from runctl.events import Event, Notice
from runctl.jobs.attempt import AgentState, StoredAttempt, seal_of
from runctl.ledger import AttemptRecord, JobRecord
from runctl.model import JobId, JobState
from runctl.storage.claims import Unbelievable
from runctl.storage.folder import FolderStore

PLACE = "attempt-1/state.json"
STATE: dict[str, Any] = {
    "job": "walk-1",
    "attempt": 1,
    "phase": "running",
    "message": "half \ud7ff\U0001f600",
    "started": 1e9 + 0.1,
    "steps_per_second": 1e-7,
    "ended": None,
    "unknown": {"of": [1, 2.5, "a newer agent"]},
}
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def sealed(**changed: Any) -> dict[str, Any]:
    told = {**STATE, **changed}
    return {**told, "seal": seals.of(KEY, told, seals.STATE)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return FolderStore(tmp_path_factory.mktemp("job"))


def read(store: FolderStore, data: bytes) -> AgentState | None:
    store.write(PLACE, data)
    return StoredAttempt(store, 1, KEY).state()


def refused(store: FolderStore, data: bytes) -> None:
    with pytest.raises(Unbelievable, match="is not believed"):
        read(store, data)


def test_what_the_machine_sealed_is_read_however_it_is_written(store: FolderStore) -> None:
    for data in (to_json(sealed()), json.dumps(sealed(), ensure_ascii=False, indent=1).encode()):
        found = read(store, data)
        assert found is not None
        assert (found.phase, found.started, found.message) == ("running", STATE["started"], STATE["message"])


@pytest.mark.parametrize(
    "told",
    [
        STATE,
        {**STATE, "seal": ""},
        {**STATE, "seal": None},
        {**STATE, "seal": "\ud800"},
        {**STATE, "seal": seals.of("ab" * 32, STATE, seals.STATE)},
        {**STATE, "seal": seals.of(KEY, STATE)},
        sealed(attempt=2),
        {**sealed(), "deep": json.loads("[" * 500 + "]" * 500)},
    ],
    ids=[
        "none",
        "empty",
        "null",
        "half a character",
        "another key",
        "as a manifest",
        "of another attempt",
        "deep",
    ],
)
def test_a_seal_that_is_none_is_refused(store: FolderStore, told: dict[str, Any]) -> None:
    refused(store, json.dumps(told).encode())


@given(
    st.sampled_from(sorted(set(STATE) - {"unknown"})),
    st.none()
    | st.booleans()
    | st.integers(0, 9)
    | st.floats(0, 1e9)
    | st.sampled_from(["ended", "lost", "x"]),
)
def test_no_field_can_be_changed(store: FolderStore, field: str, value: Any) -> None:
    told = {**sealed(), field: value}
    if to_json(told) == to_json(sealed()):
        return
    with pytest.raises(Unbelievable):
        read(store, to_json(told))


@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_is_there_twice_is_used_as_it_was_sealed(store: FolderStore, first: bool) -> None:
    whole, more = to_json(sealed()).decode(), '"phase": "ended"'
    twice = "{" + more + ", " + whole[1:] if first else whole[:-1] + ", " + more + "}"
    if first:
        found = read(store, twice.encode())
        assert found is not None
        assert found.phase == "running"
    else:
        refused(store, twice.encode())


def test_an_agent_seals_its_states_and_why_it_refuses_to_start(tmp_path: Path) -> None:
    folder = tmp_path / "attempt-1"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"job": "walk-1", "attempt": 1}))
    (folder / seals.FILE).write_text(KEY)
    attempt, bucket = Attempt(str(folder)), FolderStore(tmp_path / "bucket")
    attempt.update(phase="running", message="é \u2028")
    found = read(bucket, attempt.snapshot())
    assert found is not None
    assert found.message == "é \u2028"

    class Told:
        def put(self, key: str, data: bytes) -> None:
            bucket.write(key, data)

    order = boot.Order("walk-1", 1, "0" * 64, disposable=False)
    boot.refuse(Told(), order, str(folder), "it is not what was launched")
    last = StoredAttempt(bucket, 1, KEY).state()
    assert last is not None
    assert (last.phase, last.cause, last.message) == (
        "ended",
        "prepare-failed",
        "it is not what was launched",
    )


def test_only_attempts_of_this_ledger_have_its_seal() -> None:
    job = JobRecord(
        id=JobId("walk-1"),
        name="walk",
        spec=b"{}",
        state=JobState.RUNNING,
        target="sandbox",
        cloud="sandbox:1",
        folder=None,
        store="s3://b/walk-1",
        project="p",
        user="u",
        created=NOW,
        updated=NOW,
        seal=KEY,
        adopted_at=NOW,
    )

    def at(seconds: float) -> AttemptRecord:
        return AttemptRecord(job=job.id, number=1, state="running", created=NOW + timedelta(seconds=seconds))

    assert [seal_of(job, at(seconds)) for seconds in (-1, 0, 1)] == ["", "", KEY]


def test_a_state_that_a_stranger_wrote_ends_no_job(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=-86_400.0)
    mine = attempt.place.store.read(PLACE)
    forged = {**json.loads(mine), "phase": "ended", "cause": "finished", "exit_code": 0}
    attempt.place.store.write(PLACE, to_json(forged))

    def heard(event: Event) -> None:
        if isinstance(event, Notice) and "is not believed" in event.text:
            assert attempt.ledger.jobs.get(attempt.job).state is JobState.RUNNING
            attempt.agent("ended", cause="failed", exit_code=3)  # as it does at its next beat
            attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])

    assert attempt.supervise(heard).state is JobState.FAILED
    assert any("its seal is missing or wrong" in text for text in attempt.warnings())
    assert attempt.ledger.jobs.attempts(attempt.job)[0].exit_code == 3
