"""An environment that was made once is kept in the job's prefix, and brought back by the next attempt.

A manifest names its files and the pieces that their bytes lie in, one after another, compressed; each piece
by its SHA-256, the whole under the job's seal. What does not prove is not used: it is installed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import seal
from .failures import StoreAway, StoreRefused

LARGEST = 8 * 1024**3
"""Bytes of an environment that is kept; a larger one is installed by each attempt."""
PIECE = 8 * 1024 * 1024
_KIND = "environment"
_FORMAT = 1
_LANES = 12
_LONGEST_MANIFEST = 256 * 1024**2
_LEAST_PRIORITY = 19
_PAUSE = 0.2

Range = Tuple[int, int, int]
"""Bytes of a file: its number in the manifest, where in it, how many."""


class _Listed(NamedTuple):
    """A file, a folder or a link (`link` is where to) below the home; `mtime` in ns."""

    path: str
    mode: int
    size: int
    mtime: int
    link: str = ""


class Refused(Exception):
    """What lies in the bucket is not this environment, or not whole."""


class Keeper:
    """Sends an environment to the store while the script runs, at the least priority.

    `may_go_on` is asked before each piece, and ends it; while `is_busy` it waits.
    """

    def __init__(
        self,
        store: Any,
        key: str,
        home: str,
        folder: str,
        may_go_on: Callable[[], bool],
        is_busy: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        """Lists the files before the script begins: what it changes is no longer what was made."""
        self._store = store
        self._key = key
        self._home = home
        self._name = os.path.basename(folder)
        self._may_go_on = may_go_on
        self._is_busy = is_busy
        self._tell = tell
        self._python = os.path.join(folder, "bin", "python3")
        roots = [folder, os.path.join(home, "pythons")]
        # Without the mark that it is whole: what comes back has that only when all of it is there.
        mark = os.path.relpath(os.path.join(folder, "ready"), home)
        self._listed = [one for root in roots for one in _below(home, root) if one.path != mark]

    def start(self) -> None:
        threading.Thread(target=self._run, name="environment", daemon=True).start()

    def _run(self) -> None:
        try:
            if hasattr(os, "setpriority"):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)
            self.keep()
        except (OSError, StoreAway, StoreRefused, Refused) as error:
            self._tell("the environment was not kept: %s" % error)

    def keep(self) -> None:
        """Raises OSError, StoreAway, StoreRefused, Refused."""
        size = sum(one.size for one in self._listed)
        if size > LARGEST:
            raise Refused("it has %d bytes, and at most %d are kept" % (size, LARGEST))
        pieces: List[Dict[str, Any]] = []
        sent = 0
        for raw, ranges in self._pieces():
            data = zlib.compress(raw, 1)
            while self._is_busy() and self._may_go_on():
                time.sleep(_PAUSE)
            if not self._may_go_on():
                raise Refused("the attempt ended before all of it was sent")
            self._store.put(_key_of(self._name, "%05d" % len(pieces)), data)
            pieces.append({"sha256": hashlib.sha256(data).hexdigest(), "raw": len(raw), "ranges": ranges})
            sent += len(data)
        manifest: Dict[str, Any] = {
            "format": _FORMAT,
            "name": self._name,
            "home": self._home,
            "base": os.path.realpath(self._python),
            "version": _version(self._python),
            "files": [list(one) for one in self._listed],
            "pieces": pieces,
        }
        manifest["seal"] = seal.of(self._key, manifest, _KIND)
        self._store.put(_key_of(self._name, "manifest"), zlib.compress(json.dumps(manifest).encode(), 1))
        self._tell("the environment was kept: %d files, %d bytes in %d" % (len(self._listed), size, sent))

    def _pieces(self) -> Iterator[Tuple[bytes, List[Range]]]:
        held: List[bytes] = []
        ranges: List[Range] = []
        have = 0
        for number, one in enumerate(self._listed):
            if one.link or not stat.S_ISREG(one.mode):
                continue
            with open(os.path.join(self._home, one.path), "rb") as file:
                at = 0
                while at < one.size:
                    chunk = file.read(min(PIECE - have, one.size - at))
                    if not chunk:
                        raise Refused("%s was cut" % one.path)
                    held.append(chunk)
                    ranges.append((number, at, len(chunk)))
                    at, have = at + len(chunk), have + len(chunk)
                    if have >= PIECE:
                        yield b"".join(held), ranges
                        held, ranges, have = [], [], 0
                found = os.fstat(file.fileno())
                if (found.st_size, found.st_mtime_ns) != (one.size, one.mtime):
                    raise Refused("the script changed %s" % one.path)
        if held:
            yield b"".join(held), ranges


def restore(store: Any, key: Optional[str], home: str, folder: str, tell: Callable[[str], None]) -> bool:
    """Bring an environment back; False, and nothing left of it, if there is none that can be used here."""
    name = os.path.basename(folder)
    if not key:
        return False
    try:
        data = store.get(_key_of(name, "manifest"))
        if data is None:
            return False
        _bring(store, _proven(data, key, name, home), home, name)
        return True
    except (StoreAway, StoreRefused, Refused, OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        tell("the kept environment is not used: %s" % error)
        shutil.rmtree(folder, ignore_errors=True)
        return False


def _proven(data: bytes, key: str, name: str, home: str) -> Dict[str, Any]:
    """The manifest, if it is this job's own and of a machine like this one. Raises Refused, ValueError."""
    manifest = json.loads(zlib.decompressobj().decompress(data, _LONGEST_MANIFEST))
    if not isinstance(manifest, dict) or not seal.holds(key, manifest, _KIND):
        raise Refused("its manifest does not carry the job's seal")
    if manifest["format"] != _FORMAT or manifest["name"] != name:
        raise Refused("it is another one")
    if manifest["home"] != home:
        raise Refused("it was made in %s, and here is %s" % (manifest["home"], home))
    base = str(manifest["base"])
    if not base.startswith(home + os.sep) and not os.access(base, os.X_OK):
        raise Refused("it needs %s, which is not here" % base)
    for path in (str(one[0]) for one in manifest["files"]):
        parts = path.split("/")
        if os.path.isabs(path) or ".." in parts or parts[0] not in ("environments", "pythons"):
            raise Refused("it names a file outside: %r" % path)
        if parts[0] == "environments" and parts[1] != name:
            raise Refused("it names a file of another one: %r" % path)
    return manifest


def _bring(store: Any, manifest: Dict[str, Any], home: str, name: str) -> None:
    listed = [_Listed(*one) for one in manifest["files"]]
    pythons = os.path.join(home, "pythons")
    have_pythons = os.path.isdir(pythons)  # others run from these
    places = {
        number: os.path.join(home, one.path)
        for number, one in enumerate(listed)
        if not (have_pythons and one.path.startswith("pythons"))
    }
    try:
        for number, path in places.items():
            _begin(listed[number], path)

        def fetch(number: int) -> None:
            data = store.get(_key_of(name, "%05d" % number))
            piece = manifest["pieces"][number]
            if data is None or hashlib.sha256(data).hexdigest() != piece["sha256"]:
                raise Refused("piece %d of it is missing or is another one" % number)
            _spread(memoryview(zlib.decompress(data)), piece["ranges"], places)

        with ThreadPoolExecutor(_LANES, "environment") as pool:
            for _ in pool.map(fetch, range(len(manifest["pieces"]))):
                pass
        for number, path in places.items():
            _finish(listed[number], path)
        version = _version(os.path.join(home, "environments", name, "bin", "python3"))
        if version != manifest["version"]:
            raise Refused("its Python was %s and is %s here" % (manifest["version"], version or "none"))
    except BaseException:
        if not have_pythons:
            shutil.rmtree(pythons, ignore_errors=True)
        raise


def _begin(one: _Listed, path: str) -> None:
    """Make a folder, or an empty file, of which no piece has anything."""
    if stat.S_ISDIR(one.mode):
        os.makedirs(path, exist_ok=True)
    elif stat.S_ISREG(one.mode) and not one.size:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))


def _spread(raw: memoryview, ranges: List[Range], places: Dict[int, str]) -> None:
    """Write the bytes of a piece to where they belong. Links come last: none is followed."""
    for number, at, length in ranges:
        if number in places:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(places[number], flags, 0o600)
            try:
                left, offset = raw[:length], at
                while left:
                    count = os.pwrite(file, left, offset)
                    left, offset = left[count:], offset + count
            finally:
                os.close(file)
        raw = raw[length:]


def _finish(one: _Listed, path: str) -> None:
    if one.link:
        os.symlink(one.link, path)
    elif stat.S_ISREG(one.mode):
        os.chmod(path, stat.S_IMODE(one.mode))
        os.utime(path, ns=(one.mtime, one.mtime))


def _below(home: str, root: str) -> Iterator[_Listed]:
    """Everything at and below a folder, folders before what is in them; what a script writes is left out."""
    if not os.path.isdir(root):
        return
    for parent, folders, leaves in os.walk(root):
        found = os.lstat(parent)
        yield _Listed(os.path.relpath(parent, home), found.st_mode, 0, 0)
        for name in [*(one for one in folders if os.path.islink(os.path.join(parent, one))), *leaves]:
            path = os.path.join(parent, name)
            found = os.lstat(path)
            relative = os.path.relpath(path, home)
            if stat.S_ISLNK(found.st_mode):
                yield _Listed(relative, found.st_mode, 0, 0, os.readlink(path))
            elif stat.S_ISREG(found.st_mode):
                yield _Listed(relative, found.st_mode, found.st_size, found.st_mtime_ns)


def _version(python: str) -> str:
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import sys; print(sys.version)"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _key_of(name: str, leaf: str) -> str:
    return "environments/%s/%s" % (name, leaf)
