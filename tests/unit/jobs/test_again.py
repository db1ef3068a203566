"""The command that begins a job anew asks for the same job."""

from __future__ import annotations

import shlex

import pytest

from runctl.jobs.spec import JobSpec, again


def _spec(name: str, *command: str, **more: object) -> JobSpec:
    return JobSpec(name=name, on="sandbox", root="/p", workdir="", command=command, **more)  # pyright: ignore


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (
            _spec("lr 1", "python3", "a/walk.py", "--x", "1"),
            ["a/walk.py", "--name", "lr 1", "--on", "sandbox", "--", "--x", "1"],
        ),
        (_spec("walk", "python3", "a/walk.py"), ["a/walk.py", "--on", "sandbox"]),
        (_spec("sh", "sh", "-c", "true"), ["--on", "sandbox", "--", "sh", "-c", "true"]),
        (
            _spec("walk", "python3", "walk.py", max_attempts=3, keep=True),
            ["walk.py", "--on", "sandbox", "--max-attempts", "3", "--keep"],
        ),
    ],
    ids=["its-name", "named-by-its-script", "a-command", "attempts-and-keep"],
)
def test_what_was_asked_for_is_asked_for_again(spec: JobSpec, wanted: list[str]) -> None:
    words = shlex.split(again(spec))
    assert words[:2] == ["runctl", "train"]
    assert words[2:] == wanted
