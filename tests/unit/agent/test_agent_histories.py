"""Random histories of a folder against a model of it: a snapshot is a state that the tree really had."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import IO

import pytest

from runctl.agent import clock, restoring
from runctl.agent.looking import Looking
from runctl.agent.placed import Placed
from runctl.agent.progress import Steps
from runctl.agent.restoring import bring_back, read_manifest, snapshot_names
from runctl.agent.snapshots import Snapshots
from runctl.agent.store import FolderStore
from runctl.agent.trees import Tree

MOVES = ["save", "save", "begin", "write", "write", "close", "log", "rotate", "rename", "link", "cut", "over"]


class Busy(FolderStore):
    """A store during whose uploads the script goes on."""

    links = False  # as in a bucket: an entry tells where its bytes lie
    keeps = 0

    def __init__(self, folder: str, story: Story) -> None:
        super().__init__(folder)
        self._story = story

    def send_file(self, at: str, file: IO[bytes], size: int, base: Placed | None = None) -> Placed:
        self._story.maybe_go_on()
        placed = super().send_file(at, file, size, base)
        self._story.maybe_go_on()
        return placed


class Story:
    """A script that saves, logs, rotates and is killed; `past` are the states of its folder, in order."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.past: list[dict[str, str]] = []
        self.whole: set[str] = set()
        self.open: dict[Path, tuple[IO[bytes], bytes]] = {}
        self.step = 0
        self.busy = False
        self._remember()

    def go_on(self) -> None:
        getattr(self, "_" + self.random.choice(MOVES))()
        self._remember()

    def maybe_go_on(self) -> None:
        if self.busy and self.random.random() < 0.4:
            self.go_on()

    def kill(self) -> frozenset[tuple[int, int]]:
        """Cut off what is being written; which files these were."""
        cut = set()
        for path, (file, _) in self.open.items():
            about = os.fstat(file.fileno())
            cut.add((about.st_dev, about.st_ino))
            file.close()
            assert path
        self.open.clear()
        self._remember()
        return frozenset(cut)

    def _data(self) -> bytes:
        """A checkpoint whose format tells whether it is whole."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("weights", self.random.randbytes(self.random.randrange(4000)))
        data = buffer.getvalue()
        self.whole.add(hashlib.sha256(data).hexdigest())
        return data

    def _next(self) -> Path:
        self.step += 1
        name = self.random.choice([f"step-{self.step}.pt", "last.ckpt", f"deep/epoch-{self.step}.npz"])
        (self.folder / name).parent.mkdir(exist_ok=True)
        return self.folder / name

    def _save(self) -> None:
        path = self._next()
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(self._data())
        temporary.rename(path)

    def _over(self) -> None:
        path = self._next()
        if path not in self.open:
            path.write_bytes(self._data())

    def _begin(self) -> None:
        path = self._next()
        if path not in self.open:
            self.open[path] = path.open("wb", buffering=0), self._data()

    def _write(self) -> None:
        for path, (file, left) in list(self.open.items()):
            half = len(left) // 2 + 1
            file.write(left[:half])
            self.open[path] = file, left[half:]

    def _close(self) -> None:
        for file, left in self.open.values():
            file.write(left)
            file.close()
        self.open.clear()

    def _log(self) -> None:
        with (self.folder / "metrics.csv").open("a") as file:
            file.write(f"{self.step},{self.random.random()}\n")

    def _rotate(self) -> None:
        for path in sorted(self.folder.glob("step-*.pt"), key=os.path.getmtime)[:-2]:
            path.unlink()

    def _rename(self) -> None:
        for path in self.folder.glob("deep/*.npz"):
            path.rename(self.folder / f"kept-{path.name}")
            break

    def _link(self) -> None:
        found = sorted(self.folder.glob("step-*.pt"))
        link = self.folder / "newest"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        if found:
            link.symlink_to(self.random.choice(found).name)

    def _cut(self) -> None:
        log = self.folder / "metrics.csv"
        if log.exists():
            os.truncate(log, log.stat().st_size // 2)

    def _remember(self) -> None:
        state = {}
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            if path.is_symlink():
                state[name] = "-> " + str(path.readlink())
            elif path.is_file():
                state[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.past.append(state)


class History:
    """One story, and the snapshots that are taken while it is told."""

    def __init__(self, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seed = seed
        self.root = tmp_path / str(seed)
        folder, own = self.root / "tree", self.root / "own"
        folder.mkdir(parents=True)
        own.mkdir()
        self.story, self.steps = Story(folder, seed), Steps()
        self.store = Busy(str(own), self.story)
        looking = Looking([Tree("checkpoints", str(folder))], self.steps, lambda: [os.getpid()])
        self.snapshots = Snapshots(self.store, looking, 1, str(own), lambda _: None, lambda _: None)
        self.now = 1000.0
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(restoring, "APART_SECONDS", 0.0)

    def tell(self) -> int:
        """Play it; how many snapshots there were."""
        chance = self.story.random
        for turn in range(30):
            self.story.go_on()
            self.now += chance.choice([0.1, 2.0, 40.0])
            if chance.random() < 0.3:
                self.steps.name(self.now, turn)
            if chance.random() < 0.5:
                since, self.story.busy = len(self.story.past) - 1, True
                commit = self.snapshots.take(final=False)
                self.story.busy = False
                if commit is not None:
                    self.check(since, commit.name)
        whole = chance.random() < 0.5
        if whole:
            self.story._close()
            self.story._remember()
        cut = self.story.kill()
        commit = self.snapshots.take(final=True, whole=whole, suspect=cut)
        if commit is not None:
            self.check(len(self.story.past) - 1, commit.name)
        if whole:
            self.check_nothing_is_missing()
        return len(snapshot_names(self.store))

    def files(self, name: str) -> dict[str, dict]:
        told = json.loads(self.store.get(f"committed/{name}/manifest.json") or b"")
        return {entry["path"]: entry for entry in told["entries"] if "sha256" in entry}

    def check(self, since: int, name: str) -> None:
        files, past = self.files(name), self.story.past
        new = {path: entry["sha256"] for path, entry in files.items() if "at" not in entry}
        assert any(new.items() <= state.items() for state in past[max(0, since) :]), f"{name} mixes moments"
        for path, entry in files.items():
            assert any(state.get(path) == entry["sha256"] for state in past), f"{path} never was so"
            if not path.endswith(".csv"):
                assert entry["sha256"] in self.story.whole, f"{path} in {name} is torn"
        back = self.root / f"back-{name}"
        bring_back(self.store, read_manifest(self.store, name, None), [Tree("checkpoints", str(back))])
        came = [path for path in back.rglob("*") if path.is_file() and not path.is_symlink()]
        assert {
            str(path.relative_to(back)): hashlib.sha256(path.read_bytes()).hexdigest() for path in came
        } == {path: entry["sha256"] for path, entry in files.items()}
        shutil.rmtree(back)

    def check_nothing_is_missing(self) -> None:
        newest = json.loads(self.store.get("committed/latest.json") or b"{}").get("name")
        kept = {path: entry["sha256"] for path, entry in (self.files(newest) if newest else {}).items()}
        for path, digest in self.story.past[-1].items():
            assert digest not in self.story.whole or kept.get(path) == digest, f"{path} is whole and not kept"


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(12, 62))]
)
def test_every_snapshot_is_a_state_that_the_tree_really_had(seed, tmp_path, monkeypatch):
    """Twenty histories each: a thousand in the slow run."""
    numbers = range(20 * seed, 20 * seed + (2 if seed < 12 else 20))
    taken = sum(History(number, tmp_path, monkeypatch).tell() for number in numbers)
    assert taken > 0
