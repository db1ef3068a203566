"""What a script wrote arrives in the user's folder, where nothing is lost to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapped import KEY, MTIME, take

from runctl.agent.snapshot import Entry
from runctl.errors import NotFound, ValidationError
from runctl.events import Event, Notice, Progress
from runctl.jobs import arriving, outputs, proven
from runctl.jobs.outputs import Fetched, deliver, fetch
from runctl.jobs.place import Place, local_place
from runctl.jobs.spec import JobSpec
from runctl.model import JobId

NAME = "000001-files"
TREES = tuple(f"{tree}/" for tree in outputs.TREES)


class Arrival:
    """A job whose snapshots lie in a store, and the folder that its files are to come to."""

    def __init__(self, folder: Path, **asked: Any) -> None:
        self.bucket, self.target = folder / "bucket", folder / "results"
        remote: Any = object()
        self.place: Place = msgspec.structs.replace(local_place(self.bucket), session=remote)
        self.told: list[str] = []
        self.bars: list[Progress] = []
        self.spec = JobSpec(
            name="walk",
            on="sandbox",
            root=str(folder),
            workdir=".",
            command=("python3", "train.py"),
            output=str(self.target),
            **asked,
        )
        self.job: Any = msgspec.defstruct(
            "Job", ["id", "seal", ("adopted_at", Any, None), ("store", str, "s3://b/runctl/jobs/walk")]
        )(JobId("walk"), KEY)

    def take(self, files: Mapping[str, str], name: str = NAME, **how: Any) -> None:
        """A snapshot of what the script wrote, by tree and path; without a tree, as outputs."""
        named = {path if path.startswith(TREES) else f"outputs/{path}": text for path, text in files.items()}
        take(self.bucket, name, named, under=self.place.commits(), **how)

    def object(self, path: str) -> Path:
        """Where the first snapshot has an output."""
        return self.bucket / self.place.commits() / NAME / "outputs" / path

    def mine(self, name: str, text: str) -> None:
        (self.target / name).parent.mkdir(parents=True, exist_ok=True)
        (self.target / name).write_text(text)

    def deliver(self) -> dict[str, str]:
        """Everything in the folder afterwards."""
        self.told.clear()
        deliver(self.place, self.spec, self.job, emit=self.hear)
        return self.found()

    def fetch(self, *trees: str, **how: Any) -> Fetched:
        return fetch(
            self.place, self.spec, self.job, self.target, trees=trees or outputs.TREES, emit=self.hear, **how
        )

    def found(self) -> dict[str, str]:
        found = (path for path in self.target.rglob("*") if path.is_file())
        return {str(path.relative_to(self.target)): path.read_text() for path in found}

    def hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)
        if isinstance(event, Progress):
            self.bars.append(event)


@pytest.fixture
def arrival(tmp_path: Path) -> Arrival:
    return Arrival(tmp_path)


def test_a_file_that_lies_there_and_differs_is_kept_and_told(arrival: Arrival) -> None:
    arrival.take({"model.txt": "new", "fine.txt": "fine"})
    arrival.mine("model.txt", "mine")
    expected = {"model.txt": "new", "model.txt.before-1": "mine", "fine.txt": "fine"}
    assert arrival.deliver() == expected
    assert [text for text in arrival.told if "model.txt.before-1" in text]
    assert arrival.deliver() == expected  # what is the same already is left alone
    assert not [text for text in arrival.told if "model.txt" in text]
    arrival.take({"model.txt": "newer"}, "000002-files")
    assert arrival.deliver() == {**expected, "model.txt": "newer", "model.txt.before-2": "new"}


def test_what_is_the_same_is_not_even_read_in_the_store(arrival: Arrival) -> None:
    arrival.take({"model.txt": "new"})
    arrival.deliver()
    arrival.object("model.txt").unlink()
    again = arrival.fetch()
    assert (again.files, again.same, again.left) == (0, 1, {})


def test_files_that_share_an_object_come_each_by_itself(arrival: Arrival) -> None:
    arrival.take({"a.txt": "first", "empty": "", "b.txt": "second"}, pack=True)
    assert arrival.deliver() == {"a.txt": "first", "empty": "", "b.txt": "second"}


def test_each_tree_comes_to_its_place(arrival: Arrival) -> None:
    arrival.spec = msgspec.structs.replace(arrival.spec, workdir="sub", checkpoints="out")
    files = {"outputs/score.txt": "1", "work/sub/runs/a": "2", "checkpoints/step_5.pt": "3"}
    arrival.take(files)
    usual = fetch(arrival.place, arrival.spec, arrival.job, arrival.target)
    assert arrival.found() == {"score.txt": "1", "sub/runs/a": "2"}
    assert (usual.files, usual.bytes, usual.not_asked) == (2, 2, {"checkpoints": 1})
    assert arrival.fetch("checkpoints").files == 1
    assert arrival.found()["sub/out/step_5.pt"] == "3"


@pytest.mark.parametrize(
    ("checkpoints", "place"),
    [
        (None, "checkpoints/a"),
        ("x/y", "x/y/a"),
        (".", "a"),
        ("../z", "checkpoints/a"),
        ("/z", "checkpoints/a"),
    ],
)
def test_checkpoints_come_to_where_the_script_has_them(
    arrival: Arrival, checkpoints: str | None, place: str
) -> None:
    arrival.spec = msgspec.structs.replace(arrival.spec, checkpoints=checkpoints)
    arrival.take({"checkpoints/a": "1"})
    arrival.fetch()
    assert arrival.found() == {place: "1"}


def test_two_trees_with_one_name_are_told_and_neither_is_lost(arrival: Arrival) -> None:
    files = {"outputs/log.csv": "out", "work/log.csv": "work", "outputs/same": "1", "work/same": "1"}
    arrival.take({**files, "outputs/a": "file", "work/a/b": "below", "work/x/y": "1"})
    found = arrival.fetch("outputs", "work")
    assert arrival.found() == {"log.csv": "out", "same": "1", "a": "file", "x/y": "1"}
    assert set(found.left) == {"work/log.csv", "work/a/b"}
    assert "--tree work" in found.left["work/log.csv"]
    arrival.target = arrival.target / "other"
    arrival.fetch("work")
    assert arrival.found()["log.csv"] == "work"


def test_what_is_left_can_be_told_as_json_whatever_its_name(arrival: Arrival) -> None:
    arrival.take({"outputs/caf\udce9": "1", "work/caf\udce9": "2", "work/a\udce9/b": "3"})
    found = arrival.fetch()
    assert len(found.left) == 3
    assert b"caf" in msgspec.json.encode(found)


def test_an_empty_folder_of_one_tree_is_in_nobodys_way(arrival: Arrival) -> None:
    folder = Entry("outputs", "runs", "folder")
    arrival.take({"work/runs/a": "1"}, more=(folder, Entry("work", "empty", "folder")))
    assert arrival.fetch().left == {}
    assert arrival.found() == {"runs/a": "1"}
    assert (arrival.target / "empty").is_dir()


def test_a_link_that_lies_there_is_not_followed(arrival: Arrival, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("unpublished")
    arrival.target.mkdir()
    (arrival.target / "model.txt").symlink_to(tmp_path / "thesis.txt")
    arrival.take({"model.txt": "new"})
    arrival.deliver()
    assert (tmp_path / "thesis.txt").read_text() == "unpublished"
    assert not (arrival.target / "model.txt").is_symlink()


def test_a_folder_that_leads_out_takes_nothing(arrival: Arrival, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    arrival.target.mkdir()
    (arrival.target / "link").symlink_to(tmp_path / "elsewhere")
    arrival.take({"link/stolen": "2", "fine.txt": "fine"})
    assert arrival.deliver() == {"fine.txt": "fine"}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert [text for text in arrival.told if "link/stolen" in text]


@pytest.mark.parametrize(
    "path", [".git/hooks/pre-commit", ".GIT/config", "a/.git/config", ".g\u200cit/config"]
)
def test_no_output_arrives_where_git_would_run_it(arrival: Arrival, path: str) -> None:
    arrival.take({path: "touch x", "fine.txt": "fine"})
    assert arrival.deliver() == {"fine.txt": "fine"}
    assert [text for text in arrival.told if "git runs" in text]


def test_what_is_in_the_way_stays(arrival: Arrival) -> None:
    arrival.take({"model": "new", "file/inner": "new"})
    arrival.mine("model/a.txt", "mine")
    arrival.mine("file", "mine")
    assert arrival.deliver() == {"model/a.txt": "mine", "file": "mine"}
    assert [text for text in arrival.told if "is a folder" in text]
    assert [text for text in arrival.told if "is no folder" in text]


def test_a_name_that_no_file_here_should_have_is_left_and_named(arrival: Arrival) -> None:
    odd = ("caf\udce9.txt", "esc\x1b[2J", "t\u202e.exe")
    for number, name in enumerate(odd):
        arrival.take({name: "1", "good": "1"}, f"00000{number}-files")
        left = arrival.fetch().left
        assert list(left)
        assert not set(str(left)) & {"\x1b", "\u202e", "\udce9"}
    assert arrival.found() == {"good": "1"}


def test_a_file_is_what_its_manifest_says_or_does_not_come(
    arrival: Arrival, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proven, "READ", 3)
    arrival.take({f"outputs/{name}": "0123456789" for name in "abcd"}, part=4)
    arrival.object("a").write_text("0123456780")
    arrival.object("b").write_text("01234")
    arrival.object("c").unlink()
    found = arrival.fetch()
    assert arrival.found() == {"d": "0123456789"}
    assert set(found.left) == {"a", "b", "c"}
    assert not [path for path in arrival.target.iterdir() if path.name != "d"]


def test_time_and_the_right_to_be_run_come_along(arrival: Arrival) -> None:
    arrival.take({"work/run.sh": "true"}, mode=0o755)
    arrival.fetch()
    about = (arrival.target / "run.sh").stat()
    assert about.st_mtime_ns == MTIME
    assert about.st_mode & 0o100


def test_how_far_it_is_is_told_to_the_last_byte(arrival: Arrival, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "_TELL_SECONDS", 0.0)
    arrival.take({f"f{number}": "x" * number for number in range(50)})
    arrival.fetch()
    assert (arrival.bars[-1].done, arrival.bars[-1].total) == (1225, 1225)


# Links


def links(arrival: Arrival, **targets: str) -> None:
    more = tuple(Entry("work", path, "link", link=target) for path, target in targets.items())
    arrival.take({"work/runs/epoch=5.ckpt": "5", "work/d/x": "x"}, more=more)


def test_links_that_stay_inside_come_as_links(arrival: Arrival) -> None:
    links(arrival, **{"runs/last.ckpt": "epoch=5.ckpt", "newest": "runs", "later": "not/yet"})
    assert arrival.fetch().left == {}
    assert (arrival.target / "runs/last.ckpt").readlink() == Path("epoch=5.ckpt")
    assert (arrival.target / "newest/last.ckpt").read_text() == "5"
    assert arrival.fetch().same == 5


@pytest.mark.parametrize(
    "targets",
    [
        {"a": "s/../../thesis.txt", "s": "."},  # inside by its letters, not by where it leads
        {"b": "mine/thesis.txt"},
        {"s": ".", "z": "s/../thesis.txt"},
        {"m": "mine"},
    ],
)
def test_no_link_leads_out_of_the_folder(arrival: Arrival, tmp_path: Path, targets: dict[str, str]) -> None:
    (tmp_path / "thesis.txt").write_text("unpublished")
    arrival.target.mkdir()
    (arrival.target / "mine").symlink_to(tmp_path)
    try:
        links(arrival, **targets)
        left = arrival.fetch().left
    except NotFound:  # a manifest that says so is none
        return
    made = [name for name in targets if (arrival.target / name).is_symlink()]
    assert all((arrival.target / name).resolve().is_relative_to(arrival.target) for name in made)
    assert left


def test_a_link_takes_no_file_of_the_users_without_a_word(arrival: Arrival) -> None:
    links(arrival, newest="runs", taken="runs")
    arrival.mine("newest", "mine")
    arrival.mine("taken/a", "mine")
    found = arrival.fetch()
    assert found.aside == {"newest": "newest.before-1"}
    assert set(found.left) == {"taken"}
    assert arrival.found()["newest.before-1"] == "mine"


# Whose it is


def test_only_what_a_machine_of_the_job_made_is_fetched(arrival: Arrival) -> None:
    arrival.take({"outputs/evil": "evil"}, "000007-files", seal="00")
    with pytest.raises(ValidationError, match="No machine of job walk made"):
        arrival.fetch()
    arrival.take({"good": "1"})
    assert arrival.fetch().snapshot == NAME
    assert arrival.found() == {"good": "1"}
    with pytest.raises(ValidationError, match="No machine of job walk made"):
        arrival.fetch(name="000007")


def test_of_an_adopted_job_it_is_told_that_nobody_vouches_for_it(arrival: Arrival) -> None:
    arrival.job.adopted_at = "now"
    arrival.take({"outputs/run.sh": "1"}, seal="00", mode=0o755)
    arrival.fetch()
    assert arrival.found() == {"run.sh": "1"}
    assert not (arrival.target / "run.sh").stat().st_mode & 0o111
    assert [text for text in arrival.told if "has no seal" in text]


def test_a_job_that_kept_nothing_says_so(arrival: Arrival) -> None:
    with pytest.raises(NotFound, match="Nothing of job walk was kept"):
        arrival.fetch()
    assert arrival.deliver() == {}
    assert [text for text in arrival.told if "Nothing of job walk was kept" in text]


def test_an_earlier_snapshot_can_be_named(arrival: Arrival) -> None:
    arrival.take({"a": "old"})
    arrival.take({"a": "new"}, "000002-files")
    assert arrival.fetch(name="000001").snapshot == NAME
    assert arrival.found() == {"a": "old"}


@pytest.mark.parametrize("pack", [False, True])
def test_a_checkpoint_is_pulled_with_all_that_belongs_to_it(arrival: Arrival, pack: bool) -> None:
    files = {
        "work/runs/G_10.pth": "g",
        "work/runs/D_10.pth": "d",
        "work/runs/G_5.pth": "old",
        "outputs/log.csv": "1",
    }
    arrival.take(files, pack=pack, checkpoint=("work", "runs/G_10.pth"))
    outputs.pull(arrival.place, arrival.job, arrival.target)
    assert arrival.found() == {"G_10.pth": "g", "D_10.pth": "d"}


@pytest.mark.parametrize("pack", [False, True])
def test_a_checkpoint_that_is_a_folder_comes_with_its_name(arrival: Arrival, pack: bool) -> None:
    files = {"checkpoints/a/checkpoint-5/model.safetensors": "m", "checkpoints/a/checkpoint-4/x": "old"}
    arrival.take(files, pack=pack, checkpoint=("checkpoints", "a/checkpoint-5"))
    outputs.pull(arrival.place, arrival.job, arrival.target)
    assert arrival.found() == {"checkpoint-5/model.safetensors": "m"}


def test_a_job_without_a_checkpoint_has_none_to_pull(arrival: Arrival) -> None:
    arrival.take({"log.csv": "1"})
    with pytest.raises(NotFound, match="No checkpoint of job walk was kept"):
        outputs.pull(arrival.place, arrival.job, arrival.target)


PATHS = st.lists(st.sampled_from(["a", "b", ".git", "x.txt", "d"]), min_size=1, max_size=3).map("/".join)
TEXTS = st.sampled_from(["", "1", "22"])


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.tuples(st.sampled_from(outputs.TREES), PATHS), TEXTS), st.dictionaries(PATHS, TEXTS)
)
def test_nothing_of_the_users_is_ever_lost_and_nothing_kept_goes_untold(
    tmp_path_factory: pytest.TempPathFactory, kept: dict[tuple[str, str], str], mine: dict[str, str]
) -> None:
    arrival = Arrival(tmp_path_factory.mktemp("arrival"))
    arrival.place = local_place(arrival.bucket)
    fitting: dict[str, str] = {}
    for (tree, path), text in kept.items():
        above = [f"{tree}/{path}".rsplit("/", depth)[0] for depth in range(1, path.count("/") + 1)]
        below = any(known.startswith(f"{tree}/{path}/") for known in fitting)
        if not below and not any(one in fitting for one in above):
            fitting[f"{tree}/{path}"] = text
    arrival.take(fitting)
    for path, text in mine.items():
        try:
            arrival.mine(path, text)
        except OSError:
            continue
    before = arrival.found()
    found = arrival.fetch()
    after = arrival.found()
    for path, text in before.items():
        assert text in {after.get(path), after.get(f"{path}.before-1")}, path
        assert after[path] == text or found.aside[path] == f"{Path(path).name}.before-1"
    for key, text in fitting.items():
        tree, _, path = key.partition("/")
        place = f"checkpoints/{path}" if tree == "checkpoints" else path
        assert after.get(place) == text or place in found.left or f"{tree}/{place}" in found.left
    assert not [path for path in set(after) - set(before) if ".git" in path.split("/")]
