"""Old checkpoints: what counts as one, what stays whatever is asked, and that no other object is touched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.config import Protection
from runctl.model import JobState
from runctl.safety.checkpoints import Jobs, Keep, Look, StoredCheckpoint, Told, found_in, plan
from runctl.safety.vocabulary import Request
from runctl.storage.entries import Entry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
JOB = "runctl/jobs/walk-1/"


def entry(key: str, *, hours: float = 5, size: int = 10) -> Entry:
    return Entry(key, size, int((NOW - timedelta(hours=hours)).timestamp() * 1e9), "e")


def commit(name: str, *, hours: float = 5, whole: bool = True) -> list[Entry]:
    files = [entry(f"{JOB}checkpoints/{name}/model.pt", hours=hours)]
    return files + [entry(f"{JOB}checkpoints/{name}/manifest.json", hours=hours)] * whole


def manifest(key: str) -> Told:
    """That of a snapshot of one file, in its own folder."""
    return Told({f"{key.split('/')[-2]}/model.pt": 10})


def look(entries: list[Entry], keep: int = 1, *, force: bool = False, **jobs: Any) -> dict[str, str]:
    """What becomes of each checkpoint: `kept`, `deleted`, or the rule that holds it."""
    found = found_in(entries, "", Look(NOW, manifest))
    request = Request(user="ann", force=force)
    planned = plan(found, Keep(keep), jobs=Jobs(**jobs), request=request, now=NOW, policy=Protection())
    fates = {one.name: "kept" for one in planned.kept}
    for item in planned.items:
        held = item.verdict.blocking
        fates[item.checkpoint.name] = held[0].rule if held else "deleted"
    return fates


def test_series_are_told_apart_by_all_but_their_steps() -> None:
    names = ("model-10.pt", "model-9.pt", "model-100.pt", "best.pt", "net-v2.h5", "net-v1.h5", "notes.txt")
    assert look([entry(name) for name in names], 2) == {
        "model-9.pt": "deleted",
        "model-10.pt": "kept",
        "model-100.pt": "kept",
        "best.pt": "kept",
        "net-v1.h5": "kept",
        "net-v2.h5": "kept",
    }
    lightning = [entry(f"epoch={number}-step={number * 100}.ckpt") for number in range(3)]
    assert sorted(look(lightning).values()) == ["deleted", "deleted", "kept"]
    losses = [entry("a-val_loss=0.25.ckpt"), entry("a-val_loss=1.75.ckpt")]
    assert set(look(losses).values()) == {"kept"}


def test_a_folder_goes_whole_and_one_without_weights_is_none() -> None:
    folder = ("model.safetensors", "config.json", "global_step5/rank_0.pt", "rng_1.pth")
    entries = [entry(f"run/checkpoint-{step}/{name}") for step in (500, 1000) for name in folder]
    entries += [entry(f"logs/step_{number}/loss.csv") for number in range(3)]
    found = found_in(entries, "", Look(NOW, lambda _: None))
    assert [(one.name, len(one.keys), one.order) for one in found] == [
        ("run/checkpoint-500", 4, (500,)),
        ("run/checkpoint-1000", 4, (1000,)),
    ]
    assert look(entries) == {"run/checkpoint-500": "deleted", "run/checkpoint-1000": "kept"}


def test_a_newest_folder_that_is_still_filled_does_not_cost_the_one_before() -> None:
    entries = [entry("checkpoint-1/model.pt"), entry("checkpoint-2/model.pt", hours=0.1)]
    assert look(entries) == {"checkpoint-1": "kept", "checkpoint-2": "kept"}


def test_the_commits_of_a_job_obey_every_rule() -> None:
    states = {"walk-1": JobState.RUNNING}
    entries = [*commit("1-a"), *commit("2-b"), *commit("3-c", whole=False), *commit("4-d")]
    base = f"{JOB}checkpoints/"
    assert look(entries) == {f"{base}4-d": "kept"} | {
        f"{base}{name}": "checkpoint of a live job" for name in ("1-a", "2-b", "3-c")
    }
    resumed = {"walk-1": frozenset({"2-b"})}
    assert look(entries, states=states, resumed=resumed) == {
        f"{base}1-a": "deleted",
        f"{base}2-b": "checkpoint of a live job",
        f"{base}3-c": "deleted",
        f"{base}4-d": "kept",
    }
    over = look(entries, states={"walk-1": JobState.SUCCEEDED}, resumed=resumed)
    assert over[f"{base}2-b"] == "deleted"


@pytest.mark.parametrize("force", [False, True])
def test_one_that_is_young_needs_force(force: bool) -> None:
    entries = [entry("m-1.pt", hours=0.5), entry("m-2.pt", hours=0.2)]
    assert look(entries, force=force)["m-1.pt"] == ("deleted" if force else "young checkpoint")


def test_a_manifest_that_lies_makes_nothing_whole() -> None:
    entries = [*commit("1-a"), *commit("2-b")]
    entries[2] = entry(f"{JOB}checkpoints/2-b/model.pt", size=9)
    fates = look(entries, states={"walk-1": JobState.FAILED})
    assert fates == {f"{JOB}checkpoints/1-a": "kept", f"{JOB}checkpoints/2-b": "kept"}


def test_the_manifest_goes_first() -> None:
    (found,) = found_in(commit("1-a"), "", Look(NOW, lambda _: Told({})))
    assert found.keys[0].endswith("/manifest.json")


NAMES = st.sampled_from(
    [f"m-{number}.pt" for number in range(5)]
    + [f"checkpoint-{number}/w.pt" for number in range(4)]
    + [f"{JOB}checkpoints/{number}-x/{file}" for number in range(4) for file in ("model.pt", "manifest.json")]
    + ["a.txt", "best.pt"]
)


@given(
    st.dictionaries(NAMES, st.tuples(st.floats(0, 9), st.integers(9, 10))),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, JobState.RUNNING, JobState.SUCCEEDED]),
)
def test_no_series_ever_loses_its_last_whole_ones(
    objects: dict[str, tuple[float, int]], keep: int, force: bool, state: JobState | None
) -> None:
    entries = [entry(key, hours=hours, size=size) for key, (hours, size) in sorted(objects.items())]
    found = found_in(entries, "", Look(NOW, manifest))
    jobs = Jobs(states={"walk-1": state} if state else {})
    request = Request(user="ann", force=force)
    planned = plan(found, Keep(keep), jobs=jobs, request=request, now=NOW, policy=Protection())
    gone = {item.checkpoint.name for item in planned.allowed}
    series: dict[str, list[StoredCheckpoint]] = {}
    for one in found:
        series.setdefault(one.series, []).append(one)
    for beside in series.values():
        whole = [one.name for one in beside if one.whole]
        assert not gone & set(whole[-keep:])
        if whole:
            newest = max((one for one in beside if one.whole), key=lambda one: (one.modified, one.order))
            assert newest.name not in gone
        else:
            assert not gone & {one.name for one in beside}
    assert len({key for one in found for key in one.keys}) == sum(len(one.keys) for one in found)
