"""Files of a snapshot arriving in a folder of the user's, where nothing is lost to them.

What lies there and differs gets another name, what is the same is left alone. Links come last, and
stay inside. Nothing arrives where git would run it.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runctl.agent.digest import file_digest
from runctl.agent.snapshot import Entry
from runctl.errors import Conflict, NotFound, TransferError, ValidationError
from runctl.events import Emit, Progress
from runctl.jobs import proven, spans
from runctl.jobs.spans import Reads
from runctl.links import refuse_brought
from runctl.storage import claims, spelling
from runctl.storage.durable import sync_disk
from runctl.storage.objects import Store, inside, no_file, partial_file, rename_durably

AT_ONCE = 16
_TELL_SECONDS = 0.5
_FEW = 32
"""Files: more are put on the disk all at once, when they are there (ADR 17)."""
_JOINERS = str.maketrans("", "", "\u200c\u200d")
"""Some disks do not see these in a name; `names.unfit` lets them pass."""


class Wanted(msgspec.Struct, frozen=True):
    """An entry of a tree, where it goes below the folder, and the key of its bytes in the store."""

    entry: Entry
    path: str
    key: str


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What came: files and their bytes; `same` lay there already. By path: what was put aside, what was left.

    `aside` has the new names of files of the user's, `left` the reasons.
    """

    files: int
    bytes: int
    same: int
    aside: dict[str, str]
    left: dict[str, str]


def arrive(store: Store, folder: Path, wanted: Sequence[Wanted], *, executable: bool, emit: Emit) -> Arrived:
    """Bring files, links and empty folders below `folder`; one that cannot come is left with its reason.

    `executable` says whether files keep their right to be run.
    Raises CloudError, and TransferError where the disk takes no more.
    """
    return _Arrival(store, folder, executable, emit).bring(wanted)


class _Stopped(Exception):
    """Another file's trouble, or the user, ended the whole."""


class _Arrival:
    def __init__(self, store: Store, folder: Path, executable: bool, emit: Emit) -> None:
        self._store = store
        self._folder = folder
        self._executable = executable
        self._emit = emit
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._came = self._bytes = self._same = self._done = self._total = 0
        self._aside: dict[str, str] = {}
        self._left: dict[str, str] = {}
        self._durably = True
        self._names: spelling.Spelling | None = None
        self._parts = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stretch")

    def bring(self, wanted: Sequence[Wanted]) -> Arrived:
        with _told(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not spelling.tells_case_apart(self._folder):
            self._names = spelling.Spelling(self._folder)
        fit = [one for one in wanted if self._is_welcome(one)]
        files = [one for one in fit if one.entry.kind == "file"]
        self._total = sum(one.entry.size for one in files)
        self._durably = len(files) <= _FEW
        self._each(sorted(files, key=lambda one: -one.entry.size))
        for one in fit:
            if one.entry.kind == "folder":
                self._guarded(one, self._make_folder)
        self._link(one for one in fit if one.entry.kind == "link")
        if not self._durably and self._came:
            with _told(self._folder):
                sync_disk(self._folder)
        return Arrived(
            files=self._came, bytes=self._bytes, same=self._same, aside=self._aside, left=self._left
        )

    # Who is welcome

    def _is_welcome(self, one: Wanted) -> bool:
        why = _unwelcome(one.path) or self._in_the_way(one.path)
        if not why:
            return True
        self._leave(one, why)
        return False

    def _in_the_way(self, path: str) -> str:
        """What keeps an entry from its place: a link that leads out, a file where a folder should be."""
        try:
            if self._names is not None:
                self._names.claim(path)
            refuse_brought(inside(self._folder, path).parent)
        except (ValidationError, Conflict) as error:
            return error.why or error.what
        above = self._folder
        for part in path.split("/")[:-1]:
            above = above / part
            if os.path.lexists(above) and not above.is_dir():
                return f"{above} is no folder"
        return ""

    def _leave(self, one: Wanted, why: str) -> None:
        with self._lock:
            self._left[shown(one.path)] = why

    # Files

    def _each(self, files: list[Wanted]) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="arrival") as pool:
            try:
                groups = [
                    [files[number] for number in group] for group in spans.spans([one.entry for one in files])
                ]
                self._wait({pool.submit(self._bring_all, group) for group in groups})
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                self._parts.shutdown(wait=False, cancel_futures=True)

    def _wait(self, running: set[Future[None]]) -> None:
        """Until all have come, and tell how far it is. Raises what one of them raised."""
        told = time.monotonic()
        told_any = False
        while running:
            done, running = wait(running, timeout=_TELL_SECONDS, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()
            if time.monotonic() - told >= _TELL_SECONDS or (told_any and not running):
                told, told_any = time.monotonic(), True
                self._emit(Progress(task="fetching", done=self._done, total=self._total, unit="B"))

    def _guarded(self, one: Wanted, bring: Callable[[Wanted], None]) -> None:
        """What is the trouble of one file is told of that file."""
        try:
            bring(one)
        except (proven.NotAsCommitted, NotFound, ValidationError) as error:
            self._leave(one, error.why or error.what)

    def _bring_all(self, group: list[Wanted]) -> None:
        """Files that lie beside each other in one object, or one file."""
        store = spans.span(self._store, group[0].key, [one.entry for one in group])
        for one in group:
            self._guarded(one, lambda one: self._bring(one, store))

    def _bring(self, one: Wanted, store: Reads) -> None:
        path = self._folder / one.path
        if _is_file(path) and _is(path, one.entry):
            with self._lock:
                self._same += 1
                self._done += one.entry.size
            return
        if path.is_dir() and not path.is_symlink():
            raise ValidationError(f"{path} is a folder", why=f"{path} is a folder")
        with _told(path), partial_file(path) as partial:
            self._fetch(one, partial, store)
            self._dress(one.entry, partial)
            if os.path.lexists(path):
                self._put_aside(one, path)
            if self._durably:
                rename_durably(partial, path)
            else:
                partial.replace(path)
        with self._lock:
            self._came += 1
            self._bytes += one.entry.size

    def _fetch(self, one: Wanted, partial: Path, store: Reads) -> None:
        key, entry = one.key, one.entry
        with partial.open("r+b", buffering=0) as file:
            file.truncate(entry.size)

            def take(at: int, data: bytes) -> None:
                if self._stop.is_set():
                    raise _Stopped
                view = memoryview(data)
                while view:
                    wrote = os.pwrite(file.fileno(), view, at)
                    view, at = view[wrote:], at + wrote
                with self._lock:
                    self._done += len(data)

            stretches = proven.stretches(entry)
            if len(stretches) == 1:
                proven.receive(store, key, stretches[0], take)
                return
            parts = [
                self._parts.submit(proven.receive, self._store, key, stretch, take) for stretch in stretches
            ]
            try:
                for part in parts:
                    part.result()
            finally:
                for part in parts:
                    part.cancel()
                wait(parts)  # nobody writes to a file that is closed

    def _dress(self, entry: Entry, partial: Path) -> None:
        """Its time, and its right to be run for whoever may read it."""
        os.utime(partial, ns=(entry.mtime, entry.mtime))
        if self._executable and entry.mode & stat.S_IXUSR:
            mode = stat.S_IMODE(partial.stat().st_mode)
            partial.chmod(mode | (mode & 0o444) >> 2)

    def _put_aside(self, one: Wanted, path: Path) -> None:
        number = 1
        while os.path.lexists(aside := path.with_name(f"{path.name}.before-{number}")):
            number += 1
        path.rename(aside)
        with self._lock:
            self._aside[one.path] = aside.name

    # Folders and links

    def _make_folder(self, one: Wanted) -> None:
        path = self._folder / one.path
        if os.path.lexists(path) and not path.is_dir():
            raise ValidationError(f"{path} is no folder", why=f"{path} is no folder")
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)

    def _link(self, links: Iterable[Wanted]) -> None:
        """Last: through one that is there already, a file would go where it leads."""
        made: list[Wanted] = []
        for one in links:
            path = self._folder / one.path
            if path.is_symlink() and path.readlink() == Path(one.entry.link):
                self._same += 1
            elif path.is_dir() and not path.is_symlink():
                self._leave(one, f"{path} is a folder")
            elif not self._stays(path.parent / one.entry.link):
                self._leave(one, "it is a link that leads out of the folder")
            else:
                with _told(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if os.path.lexists(path):
                        self._put_aside(one, path)
                    path.symlink_to(one.entry.link)
                made.append(one)
                self._came += 1
        for one in made:  # another link may have changed where one leads
            path = self._folder / one.path
            if not self._stays(path):
                path.unlink()
                self._came -= 1
                self._leave(one, "it is a link that leads out of the folder")

    def _stays(self, path: Path) -> bool:
        try:
            return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._folder))
        except (OSError, ValueError):
            return False


def _unwelcome(path: str) -> str:
    """Why an entry may not be in a folder of the user's, by its name; empty if it may."""
    if why := no_file(path):
        return why
    if any(part.translate(_JOINERS).casefold() == ".git" for part in path.split("/")):
        return "git runs what lies in a folder of this name"
    return ""


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is(path: Path, entry: Entry) -> bool:
    """Whether a file is the one that was kept already."""
    try:
        return path.stat().st_size == entry.size and file_digest(str(path), entry.part) == entry.sha256
    except OSError:  # it cannot be read
        return False


def shown(path: str) -> str:
    """A path as people and JSON get it."""
    return claims.spelled(path.encode("utf-8", "backslashreplace").decode())


@contextmanager
def _told(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(f"{path} cannot be written", why=error.strerror or str(error)) from error
