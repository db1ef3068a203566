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
        (
            _spec("walk", "python3", "walk.py", checkpoint_pattern="ckpt *.pt", keep_written=2**30),
            ["walk.py", "--on", "sandbox", "--checkpoint-pattern", "ckpt *.pt", "--keep-written", "1GiB"],
        ),
        (
            _spec("walk", "python3", "walk.py", keep_written=0),
            ["walk.py", "--on", "sandbox", "--keep-written", "0"],
        ),
        (
            _spec("walk", "python3", "walk.py", keep_written=1001),
            ["walk.py", "--on", "sandbox", "--keep-written", "1001"],
        ),
    ],
    ids=[
        "its-name",
        "named-by-its-script",
        "a-command",
        "attempts-and-keep",
        "what-is-kept",
        "nothing-is-kept",
        "bytes",
    ],
)
def test_what_was_asked_for_is_asked_for_again(spec: JobSpec, wanted: list[str]) -> None:
    words = shlex.split(again(spec))
    assert words[:2] == ["runctl", "train"]
    assert words[2:] == wanted
