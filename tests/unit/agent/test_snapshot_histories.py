"""Random histories of a script's files against a model: a snapshot is a state that the tree really had.

One or two scripts save in one of many ways, log, link, rotate, pause and are killed; ranks and a logger write
at the same time. Looks come at any moment, and the scripts go on in the middle of each: between two names of
the walk, before a file is opened, while it is sent. What the model remembers is what lay there after every
single write.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from runctl.agent import clock, files, holding, looking, restoring
from runctl.agent.failures import SourceChanged
from runctl.agent.looking import Looking
from runctl.agent.placed import Outcome, ToPut
from runctl.agent.progress import LATE_SECONDS, Steps
from runctl.agent.restoring import bring_back, read_manifest
from runctl.agent.snapshots import Commit, Snapshots
from runctl.agent.store import FolderStore
from runctl.agent.trees import Tree

State = dict[str, str]
"""By path: SHA-256 of a file, `-> target` of a link."""
PLAIN = (".csv", ".log", ".1", ".png")
"""Ends of names of files that are of no checkpoint."""
NPY_HEADER = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (2000,), }".ljust(117)
    + b"\n"
)
PIECE = 500
"""Bytes that are read of a file until the scripts go on."""
LONGEST_PAUSE = 8.0
"""Seconds between two writes of a save."""


class World:
    """Time, and a folder with a model of it. Every operation is done to both, and takes a millisecond."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.wall = time.time()
        self.files: dict[str, bytearray] = {}
        self.links: dict[str, str] = {}
        self.past: list[State] = []
        self.open: dict[int, bytearray] = {}
        self.place: dict[int, int] = {}
        self.remember()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def remember(self) -> None:
        self.passes(0.001)
        digests = {id(data): hashlib.sha256(data).hexdigest() for data in self.files.values()}
        files = {path: digests[id(data)] for path, data in self.files.items()}
        self.past.append(files | {path: f"-> {target}" for path, target in self.links.items()})

    def create(self, path: str, *, append: bool = False, cut: bool = True) -> int:
        """Open a file for writing at its end, or at its beginning; what it has is cut off then, or not."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC if cut else 0)
        number = os.open(self.root / path, flags, 0o644)
        is_new = path not in self.files
        data = self.files.setdefault(path, bytearray())
        self.open[number] = data
        self.place[number] = len(data) if append else 0
        if is_new or (cut and not append):
            del data[:]
            self._touch(number)
        self.remember()
        return number

    def write(self, number: int, data: bytes) -> None:
        os.write(number, data)
        place = self.place[number]
        self.open[number][place : place + len(data)] = data
        self.place[number] += len(data)
        self._touch(number)
        self.remember()

    def close(self, number: int) -> None:
        os.close(number)
        del self.open[number]

    def truncate(self, path: str, size: int) -> None:
        with (self.root / path).open("r+b") as file:
            file.truncate(size)
            self._touch(file.fileno())
        del self.files[path][size:]
        self.remember()

    def rename(self, old: str, new: str) -> None:
        """A file or a folder."""
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / old).rename(self.root / new)
        for path in [path for path in self.files if path == old or path.startswith(old + "/")]:
            self.files[new + path[len(old) :]] = self.files.pop(path)
        self.remember()

    def link(self, old: str, new: str) -> None:
        (self.root / new).hardlink_to(self.root / old)
        self.files[new] = self.files[old]
        self.remember()

    def symlink(self, target: str, path: str) -> None:
        """As careful scripts do it: made beside its place, then moved there."""
        (self.root / (path + ".tmp")).symlink_to(target)
        (self.root / (path + ".tmp")).rename(self.root / path)
        self.links[path] = target
        self.remember()

    def unlink(self, path: str) -> None:
        (self.root / path).unlink()
        self.files.pop(path, None)
        self.links.pop(path, None)
        self.remember()

    def is_modelled(self) -> bool:
        lies: State = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                lies[name] = f"-> {path.readlink()}"
            elif path.is_file():
                lies[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return lies == self.past[-1]

    def _touch(self, number: int) -> None:
        os.utime(number, (self.wall, self.wall))


class Save:
    """One checkpoint: what each of its files has when it is whole. `ended` on the world's wall clock."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.files: dict[str, str] = {}
        self.ended: float | None = None


class Script:
    """Saves its state again and again in one way. Every `yield` is a moment between two system calls.

    `at` is the folder of its own, empty where it has all for itself.
    """

    def __init__(
        self, world: World, chance: random.Random, steps: Steps, at: str, is_alone: Callable[[], bool]
    ) -> None:
        """`is_alone`: whether no other one is in the middle of a save, so that time may pass."""
        self.world, self.chance, self.steps, self.at = world, chance, steps, at
        self.is_alone = is_alone
        self.saves: list[Save] = []
        self.way: Callable[[Save], Iterator[None]] = chance.choice(
            [
                self._single,
                self._moved,
                self._pair,
                self._ranks,
                self._folder,
                self._folder_of_ranks,
                self._moved_folder,
                self._over,
                self._over_pair,
                self._over_bytes,
            ]
        )
        self.suffix = chance.choice([".pt", ".pt", ".npz", ".bin"])
        self.keep = chance.choice([1, 2, 3, 100])
        extras = [self._last, self._best, self._metrics, self._log, self._spoil]
        self.extras = chance.sample(extras, chance.randrange(len(extras)))
        self.tells_steps = chance.random() < 0.7
        self.in_a_thread = self.tells_steps and not self.is_in_place and chance.random() < 0.3
        self.archives = chance.random() < 0.3
        self.spoilt: set[str] = set()
        self.step = 0
        self.trained = 10**6
        self.written_at = 0.0

    @property
    def is_saving(self) -> bool:
        return bool(self.saves) and self.saves[-1].ended is None

    @property
    def is_in_place(self) -> bool:
        return self.way == self._over_pair

    @property
    def format_tells(self) -> bool:
        return self.suffix != ".bin"

    def run(self) -> Iterator[None]:
        while True:
            for _ in range(self.chance.randrange(1, 4)):
                self.step += 10
                self.world.passes(self.chance.choice([0.3, 2.0, 20.0] if self.is_alone() else [0.3, 2.0]))
                if self.tells_steps:
                    self.steps.name(self.world.wall, self.step)
                yield
            save, self.written_at = Save(self.step), self.world.now
            self.saves.append(save)
            yield from self.way(save)
            save.ended = self.world.wall
            for extra in self.extras:
                yield from extra(save)
            yield from self._rotate()

    def _data(self) -> bytes:
        if self.way == self._over_bytes:
            return NPY_HEADER + self.chance.randbytes(2000)
        weights = self.chance.randbytes(self.chance.randrange(10, 3000))
        if not self.format_tells:
            return b"RAW" + weights
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("archive/weights", weights)
        return buffer.getvalue()

    def _write(self, save: Save, path: str, at: str = "") -> Iterator[None]:
        """In two or three pieces, with pauses, to a path or to where it lies until it is moved there."""
        data = self._data()
        save.files[path] = hashlib.sha256(data).hexdigest()
        number = self.world.create(at or path, cut=self.way != self._over_bytes)
        yield
        self.written_at = self.world.now
        self._train_on()
        cut = sorted(self.chance.randrange(len(data)) for _ in range(2))
        for piece in (data[: cut[0]], data[cut[0] : cut[1]], data[cut[1] :]):
            self.world.write(number, piece)
            self.written_at = self.world.now
            self._train_on()
            self.world.passes(self.chance.choice([0.0, 0.0, 0.0, 0.1, 3.0, 7.0]))
            yield
        self.world.close(number)
        yield

    def _train_on(self) -> None:
        """While a thread saves, the steps go on."""
        if self.in_a_thread and self.chance.random() < 0.3:
            self.trained += 1
            self.steps.name(self.world.wall, self.trained)

    def _together(self, writes: list[Iterator[None]]) -> Iterator[None]:
        """Several processes write at once."""
        while writes:
            one = self.chance.choice(writes)
            if next(one, writes) is writes:
                writes.remove(one)
            yield

    def _single(self, save: Save) -> Iterator[None]:
        yield from self._write(save, f"{self.at}step_{save.step}{self.suffix}")

    def _ranks(self, save: Save) -> Iterator[None]:
        paths = [f"{self.at}step_{save.step}_rank{rank}{self.suffix}" for rank in range(3)]
        yield from self._together([self._write(save, path) for path in paths])

    def _folder_of_ranks(self, save: Save) -> Iterator[None]:
        paths = [f"{self.at}step_{save.step}/rank{rank}{self.suffix}" for rank in range(2)]
        yield from self._together([self._write(save, path) for path in paths])

    def _moved(self, save: Save) -> Iterator[None]:
        path = f"{self.at}ckpt/step_{save.step}{self.suffix}"
        yield from self._write(save, path, path + ".tmp")
        self.world.rename(path + ".tmp", path)
        yield

    def _pair(self, save: Save) -> Iterator[None]:
        for name in ("G", "D"):
            yield from self._write(save, f"{self.at}{name}_{save.step}{self.suffix}")
            self.world.passes(self.chance.choice([0.0, 0.1, 5.0]))
            yield

    def _folder(self, save: Save, folder: str = "") -> Iterator[None]:
        for name in ("model", "optimizer", "scheduler"):
            path = f"{self.at}checkpoint-{save.step}/{name}{self.suffix}"
            yield from self._write(save, path, folder and f"{folder}/{name}{self.suffix}")
            self.world.passes(self.chance.choice([0.0, 0.1, 5.0]))
            yield

    def _moved_folder(self, save: Save) -> Iterator[None]:
        yield from self._folder(save, self.at + "tmp-checkpoint.tmp")
        self.world.rename(self.at + "tmp-checkpoint.tmp", f"{self.at}checkpoint-{save.step}")
        yield

    def _over(self, save: Save) -> Iterator[None]:
        yield from self._write(save, f"{self.at}latest{self.suffix}")

    def _over_bytes(self, save: Save) -> Iterator[None]:
        """A file that is mapped has its size, and its form is good, all the time."""
        yield from self._write(save, self.at + "state.npy")

    def _over_pair(self, save: Save) -> Iterator[None]:
        for name in ("model", "optimizer"):
            yield from self._write(save, f"{self.at}{name}{self.suffix}")
            self.world.passes(self.chance.choice([0.0, 0.1, 5.0]))
            yield

    def _last(self, save: Save) -> Iterator[None]:
        folder, name = os.path.split(min(save.files))
        if folder == self.at.rstrip("/"):
            self.world.symlink(name, self.at + "last.ckpt")
            yield

    def _best(self, save: Save) -> Iterator[None]:
        if len(save.files) == 1 and self.chance.random() < 0.4:
            for path in save.files:
                best = self.at + "best" + Path(path).suffix
                if best in self.world.files:
                    self.world.unlink(best)
                    yield
                self.world.link(path, best)
                yield

    def _metrics(self, save: Save) -> Iterator[None]:
        path = self.at + "metrics.csv"
        number = self.world.create(path, append=True)
        self.world.write(number, b"%d,0.5\n" % save.step)
        yield
        self.world.close(number)
        if self.chance.random() < 0.1:
            self.world.truncate(path, len(self.world.files[path]) // 2)
            yield

    def _log(self, save: Save) -> Iterator[None]:
        path = self.at + "logs/train.log"
        number = self.world.create(path, append=True)
        self.world.write(number, b"saved %d\n" % save.step)
        self.world.close(number)
        if self.chance.random() < 0.2:
            self.world.rename(path, path + ".1")
            yield

    def _spoil(self, _save: Save) -> Iterator[None]:
        """A file of an old checkpoint is cut off: its format denies it from then on."""
        old = [path for save in self.saves if len(save.files) == 1 for path in save.files]
        path = self.chance.choice([path for path in old if path not in self.saves[-1].files] or [""])
        is_alone = self.format_tells and self._best not in self.extras
        if is_alone and path in self.world.files and self.chance.random() < 0.1:
            self.world.truncate(path, len(self.world.files[path]) // 2)
            self.spoilt.add(path)
            yield

    def _rotate(self) -> Iterator[None]:
        now = set(self.saves[-1].files)
        for save in self.saves[: -self.keep]:
            for path in [path for path in save.files if self._is_to_go(path, now)]:
                if self.archives and len(save.files) == 1:
                    kept = f"{self.at}archive/{Path(path).name}"
                    self.world.rename(path, kept)
                    save.files[kept] = save.files.pop(path)
                    if path in self.spoilt:
                        self.spoilt.add(kept)
                else:
                    self.world.unlink(path)
                yield
            for path in save.files:
                with contextlib.suppress(OSError):
                    if "/" in path:
                        (self.world.root / path).parent.rmdir()

    def _is_to_go(self, path: str, now: set[str]) -> bool:
        return path in self.world.files and path not in now and "archive/" not in path


class Logger:
    """Another process: it holds its log open, and makes and removes pictures whenever it likes."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance

    def run(self) -> Iterator[None]:
        log = self.world.create("logger.log", append=True)
        for count in itertools.count():
            self.world.write(log, b"line %d\n" % count)
            yield
            picture = self.world.create(f"samples/{count % 5}.png")
            self.world.write(picture, self.chance.randbytes(100))
            yield
            self.world.close(picture)
            if self.chance.random() < 0.3:
                self.world.unlink(f"samples/{count % 5}.png")
            yield


class Busy(FolderStore):
    """A store during whose uploads the script goes on."""

    keeps = 0

    def __init__(self, folder: str, go_on: Callable[[], None]) -> None:
        super().__init__(folder)
        self._go_on = go_on

    def _note(self) -> None:
        super()._note()
        self._go_on()

    def send_files(
        self, items: Sequence[ToPut], is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Outcome]:
        """One after the other: the model knows no two things at once."""
        for number, item in enumerate(items):
            done = item._replace(done=lambda item=item: (self._go_on(), item.done())[1])
            yield number, self._send(is_over, done)


class History:
    """Scripts, the looks at them, and what must be true of each snapshot."""

    def __init__(self, seed: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(seed)
        root, own = folder / "tree", folder / "own"
        root.mkdir(parents=True)
        own.mkdir()
        self.folder, self.world, self.steps = folder, World(root), Steps()
        ats = self.chance.choice([[""], [""], ["run_a/", "run_b/"]])
        self.scripts = [
            Script(self.world, self.chance, self.steps, at, lambda: not self.is_saving()) for at in ats
        ]
        if len(self.scripts) > 1 and any(script.is_in_place for script in self.scripts):
            for script in self.scripts:  # a step that one names tells nothing of what another writes over
                script.tells_steps = script.in_a_thread = False
        self.stories = [script.run() for script in self.scripts]
        if self.chance.random() < 0.4:
            self.stories.append(Logger(self.world, self.chance).run())
        self.busy = 0.0
        self.store = Busy(str(folder / "job"), self.maybe_go_on)
        self.store.links = self.chance.random() < 0.3
        tree = Tree("checkpoints", str(root))
        look = Looking([tree], self.steps, lambda: [os.getpid()])
        self.snapshots = Snapshots(self.store, look, 1, str(own), lambda _: None, self._told)
        self.before: dict[str, dict[str, Any]] = {}
        self.newest = dict.fromkeys(self.scripts, -1)
        self.count = 0
        self._interrupt(tree, patch)

    def _told(self, text: str) -> None:
        raise AssertionError(text)

    def _interrupt(self, tree: Tree, patch: pytest.MonkeyPatch) -> None:
        """The scripts go on between two names of a walk, before a file is opened, while it is read."""
        skipped, opened, world = tree._is_skipped, holding.open_regular, self.world

        def skip(path: str, entry: os.DirEntry[str]) -> bool:
            self.maybe_go_on()
            return skipped(path, entry)

        def opening(path: str) -> Any:
            self.maybe_go_on()
            return opened(path)

        times = SimpleNamespace(
            time=lambda: world.wall,
            sleep=lambda _: None,
            monotonic=lambda: world.now,
            thread_time=time.thread_time,
        )

        def copying(source: IO[bytes], target: IO[bytes], size: int) -> bool:
            for at in range(0, size, PIECE):
                target.write(source.read(min(PIECE, size - at)))
                self.maybe_go_on()
            return True

        patch.setattr(files, "PIECE", PIECE)
        patch.setattr(holding, "_copied", copying)
        patch.setattr(tree, "_is_skipped", skip)
        patch.setattr(holding, "open_regular", opening)
        patch.setattr(holding, "time", times)
        patch.setattr(looking, "time", times)
        patch.setattr(clock, "now", lambda: world.now)

    def go_on(self) -> None:
        """Whose save pauses for long has the next turn: none pauses for as long as what counts as rest."""
        next(self.chance.choice(self.late() or self.stories))

    def late(self) -> list[Iterator[None]]:
        return [
            story
            for script, story in zip(self.scripts, self.stories, strict=False)
            if script.is_saving and self.world.now - script.written_at > LONGEST_PAUSE
        ]

    def is_saving(self) -> bool:
        return any(script.is_saving for script in self.scripts)

    def maybe_go_on(self) -> None:
        if self.chance.random() < self.busy:
            self.go_on()

    def finish_saves(self) -> None:
        for script, story in zip(self.scripts, self.stories, strict=False):
            while script.is_saving:
                next(story)

    def tell(self) -> int:
        """Play it; how many snapshots there were."""
        for _ in range(self.chance.randrange(5, 40)):
            for _ in range(self.chance.choice([0, 1, 1, 3, 10, 40])):
                self.go_on()
            self.world.passes(self.chance.choice([0.05, 2.0, 2.0, 4.0]))
            while self.late():
                self.go_on()
            self.busy = self.chance.choice([0.0, 0.0, 0.05, 0.3])
            self.look(final=False)
            if self.chance.random() < 0.05:
                self.stand_still()
        if self.chance.random() < 0.5:
            self.end()
        else:
            self.kill()
        assert self.world.is_modelled()
        return self.count

    def look(self, final: bool, **how: Any) -> None:
        since = len(self.world.past) - 1
        commit = self.snapshots.take(final=final, **how)
        self.busy = 0.0
        if commit is not None:
            self.count += 1
            self.check(commit, since)

    def stand_still(self) -> None:
        """A script that saves nothing for long, between two saves: all that is whole is kept."""
        self.finish_saves()
        for _ in range(4):
            self.world.passes(20.0)
            self.look(final=False)
        for path, digest in self._whole().items():
            assert self.before.get(path, {}).get("sha256") == digest, f"{path} stood still and is not kept"

    def end(self) -> None:
        """It ends by itself after a save: all that lies there is kept, and nothing else."""
        self.finish_saves()
        self._close()
        self.look(final=True, whole=True)
        spoilt = {path for script in self.scripts for path in script.spoilt}
        lies = {path: what for path, what in self.world.past[-1].items() if not path.endswith(".tmp")}
        kept = {path: entry.get("sha256") or f"-> {entry['link']}" for path, entry in self.before.items()}
        assert {path: what for path, what in kept.items() if path not in spoilt} == {
            path: what for path, what in lies.items() if path not in spoilt
        }

    def kill(self) -> None:
        """What was whole by its own format, and was no longer written, is not lost by it."""
        cut = {(about.st_dev, about.st_ino) for about in map(os.fstat, self.world.open)}
        self._close()
        self.look(final=True, whole=False, suspect=frozenset(cut))
        named = self.steps.changed_at or 0
        kept = {path: entry.get("sha256") for path, entry in self.before.items()}
        for script in self.scripts:
            for save in script.saves if script.format_tells and not script.in_a_thread else []:
                over = save.ended is not None and save.ended + LATE_SECONDS < named
                over = over and not (script.is_saving and save.files.keys() & script.saves[-1].files.keys())
                if over and save.files.items() <= self.world.past[-1].items():
                    assert save.files.items() <= kept.items(), f"step {save.step} was whole and is lost"

    def _close(self) -> None:
        for story in self.stories:
            story.close()
        for number in list(self.world.open):
            self.world.close(number)

    def _whole(self) -> State:
        """Files of checkpoints that are complete and lie there as they were saved."""
        now = self.world.past[-1]
        return {
            path: digest
            for script in self.scripts
            for save in script.saves
            if save.ended is not None and save.files.items() <= now.items()
            for path, digest in save.files.items()
        }

    def check(self, commit: Commit, since: int) -> None:
        told = json.loads(self.store.get(f"committed/{commit.name}/manifest.json") or b"")
        entries = {entry["path"]: entry for entry in told["entries"] if not entry.get("folder")}
        states = self.world.past[since:]
        self._check_each_file(entries, states, told["final"])
        self._check_sets(entries, states)
        self._check_checkpoint(told, entries)
        self._check_restore(commit.name, entries)
        self.before = entries

    def _check_each_file(self, entries: dict[str, dict[str, Any]], states: list[State], final: bool) -> None:
        """In the end what a resume needs stays, if the script removed its only checkpoint."""
        for path, entry in entries.items():
            what = entry.get("sha256") or f"-> {entry['link']}"
            carried = self.before.get(path, {}).get("sha256") == entry.get("sha256")
            assert carried or any(state.get(path) == what for state in states), f"{path} never was so"
            if path.endswith(PLAIN) and not final:
                assert any(path in state for state in states), f"{path} is gone"
        for path in set.intersection(*map(set, states)):
            assert path in entries or not path.endswith(PLAIN), f"{path} is missing"

    def _check_sets(self, entries: dict[str, dict[str, Any]], states: list[State]) -> None:
        """All that was new in them was there at one moment, each is whole, and none is of two saves."""
        new = {
            path: entry["sha256"]
            for path, entry in entries.items()
            if entry.get("sha256") not in (None, self.before.get(path, {}).get("sha256"))
            and not path.endswith(PLAIN)
        }
        assert any(new.items() <= state.items() for state in states), "two moments are mixed"
        saves = [save for script in self.scripts for save in script.saves]
        digests = {digest for save in saves for digest in save.files.values()}
        assert set(new.values()) <= digests, "a torn file"
        for save in saves:
            for other in saves:
                mine = {
                    path for path in save.files if entries.get(path, {}).get("sha256") == save.files[path]
                }
                theirs = {
                    path for path in other.files if entries.get(path, {}).get("sha256") == other.files[path]
                }
                same = save.files.keys() == other.files.keys()
                assert save is other or not (same and mine and theirs), "two saves are mixed"

    def _check_checkpoint(self, told: dict[str, Any], entries: dict[str, dict[str, Any]]) -> None:
        """What a resume is given is one whole save, and never an older one than before."""
        if told["checkpoint"] is None:
            return
        path = told["checkpoint"]["path"]
        sha = entries[path]["sha256"] if path in entries else None
        of_it = [
            (script, save)
            for script in self.scripts
            for save in script.saves
            if sha in save.files.values()
            or (sha is None and any(at.startswith(path + "/") for at in save.files))
        ]
        assert len(of_it) == 1, f"{path} is of no save"
        script, save = of_it[0]
        for at, digest in save.files.items():
            is_it = entries.get(at, {}).get("sha256") == digest or len(save.files) == 1
            assert is_it, f"{path} is named, and {at} is not as it was saved with it"
        assert save.step >= self.newest[script], "an older checkpoint than before"
        self.newest[script] = save.step

    def _check_restore(self, name: str, entries: dict[str, dict[str, Any]]) -> None:
        back = self.folder / "back"
        bring_back(self.store, read_manifest(self.store, name, None), [Tree("checkpoints", str(back))])
        for path, entry in entries.items():
            if "link" in entry:
                assert (back / path).readlink() == Path(entry["link"])
            else:
                assert hashlib.sha256((back / path).read_bytes()).hexdigest() == entry["sha256"]
        shutil.rmtree(back)


def histories(seeds: Sequence[int], tmp_path: Path, patch: pytest.MonkeyPatch) -> int:
    patch.setattr(os, "fsync", lambda _: None)
    patch.setattr(restoring, "APART_SECONDS", 0.0)
    taken = 0
    for seed in seeds:
        with patch.context() as own:
            try:
                taken += History(seed, tmp_path / str(seed), own).tell()
            except (AssertionError, OSError, KeyError, SourceChanged) as error:
                raise AssertionError(f"history {seed}: {error}") from error
            shutil.rmtree(tmp_path / str(seed))
    return taken


@pytest.mark.parametrize("fifth", range(5))
def test_every_snapshot_is_a_state_that_the_tree_really_had(fifth, tmp_path, monkeypatch):
    assert histories(range(5 * fifth, 5 * fifth + 5), tmp_path, monkeypatch) > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", range(100))
def test_every_snapshot_of_a_thousand_histories_is_a_state_that_the_tree_really_had(
    part, tmp_path, monkeypatch
):
    assert histories(range(1000 + 10 * part, 1010 + 10 * part), tmp_path, monkeypatch) > 0
