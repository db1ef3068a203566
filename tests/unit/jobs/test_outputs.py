"""Outputs arrive in the user's folder, where nothing is lost to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.events import Event, Notice
from runctl.jobs.outputs import deliver
from runctl.jobs.place import Place, local_place
from runctl.jobs.spec import JobSpec


class Arrival:
    """A job whose outputs lie in a store, and the folder that they are to come to."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.target = folder / "bucket", folder / "results"
        remote: Any = object()
        self.place: Place = msgspec.structs.replace(local_place(self.bucket), session=remote)
        self.told: list[str] = []
        self.spec = JobSpec(
            name="walk",
            on="sandbox",
            root=str(folder),
            workdir=".",
            command=("python3", "train.py"),
            output=str(self.target),
        )

    def output(self, key: str, text: str) -> None:
        path = self.bucket / "outputs" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def mine(self, name: str, text: str) -> None:
        (self.target / name).parent.mkdir(parents=True, exist_ok=True)
        (self.target / name).write_text(text)

    def deliver(self) -> dict[str, str]:
        """Everything in the folder afterwards."""
        record: Any = None
        self.told.clear()
        deliver(self.place, self.spec, record, emit=self._hear)
        found = (path for path in self.target.rglob("*") if path.is_file())
        return {str(path.relative_to(self.target)): path.read_text() for path in found}

    def _hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)


@pytest.fixture
def arrival(tmp_path: Path) -> Arrival:
    return Arrival(tmp_path)


def test_a_file_that_lies_there_and_differs_is_kept_and_told(arrival: Arrival) -> None:
    arrival.output("model.txt", "new")
    arrival.output("fine.txt", "fine")
    arrival.mine("model.txt", "mine")
    expected = {"model.txt": "new", "model.txt.before-1": "mine", "fine.txt": "fine"}
    assert arrival.deliver() == expected
    assert [text for text in arrival.told if "model.txt.before-1" in text]
    assert arrival.deliver() == expected  # what is the same already is left alone
    assert arrival.told == []
    arrival.output("model.txt", "newer")
    assert arrival.deliver() == {**expected, "model.txt": "newer", "model.txt.before-2": "new"}


def test_a_link_that_lies_there_is_not_followed(arrival: Arrival, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("unpublished")
    arrival.target.mkdir()
    (arrival.target / "model.txt").symlink_to(tmp_path / "thesis.txt")
    arrival.output("model.txt", "new")
    arrival.deliver()
    assert (tmp_path / "thesis.txt").read_text() == "unpublished"
    assert not (arrival.target / "model.txt").is_symlink()


@pytest.mark.parametrize("key", [".git/hooks/pre-commit", ".GIT/config", "a/.git/config"])
def test_no_output_arrives_where_git_would_run_it(arrival: Arrival, key: str) -> None:
    arrival.output(key, "touch x")
    arrival.output("fine.txt", "fine")
    assert arrival.deliver() == {"fine.txt": "fine"}
    assert [text for text in arrival.told if key in text]


def test_a_folder_in_the_way_stays(arrival: Arrival) -> None:
    arrival.output("model", "new")
    arrival.mine("model/a.txt", "mine")
    assert arrival.deliver() == {"model/a.txt": "mine"}
    assert [text for text in arrival.told if "is a folder" in text]
