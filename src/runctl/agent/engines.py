"""Ways to bring objects to a machine: our own client, which goes on within a file, and s5cmd for small ones.

Whichever brought them, the bytes are verified here: by size, and by MD5 where the ETag is one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from .failures import PreconditionFailed, StoreAway, StoreRefused
from .objects import MIB, Entry, composite, count_of_parts, is_md5, matches, part_size

RANGE = 16 * MIB
MOST_IN_MEMORY = 256 * MIB
SMALL = 64 * MIB
"""Below it s5cmd is faster; from it on our own client goes on in the middle of a file after a loss."""

NOTED_EVERY = 64 * MIB
PARALLEL = 16
S5CMD_WORKERS = 64
_PLAIN = re.compile(r"[A-Za-z0-9 _./=+,@:;~-]+")


class Fetched(NamedTuple):
    """What became of one object: where its bytes are, whether MD5 proved them, or why there are none.

    `away`: the store did not answer, and may do so later.
    """

    item: Entry
    path: str
    proved: bool = False
    why: str = ""
    changed: bool = False
    away: bool = False


class Stopped(Exception):
    """The staging was asked to end."""


class Fetcher:
    """Fetches objects of one prefix into a folder of parts, under names that tell their contents."""

    def __init__(
        self,
        bucket: Any,
        prefix: str,
        parts: str,
        stopping: threading.Event,
        came: Callable[[int], None],
        parallel: int = PARALLEL,
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._parts = parts
        self._stopping = stopping
        self._came = came
        self._parallel = parallel
        self.program = ""

    def use(self, program: str, environment: Callable[[], Dict[str, str]]) -> None:
        """Let s5cmd bring small files; `environment` has the keys and the endpoint."""
        self.program, self._environment = program, environment

    def fetch(self, batch: List[Entry]) -> List[Fetched]:
        """Fetch some objects. Raises Stopped, and OSError for a disk that takes no more."""
        by_program = [item for item in batch if self.program and item.size < SMALL and _is_plain(item)]
        if len(by_program) > 1:
            self._run(by_program)
        with ThreadPoolExecutor(self._parallel) as pool:
            small = [item for item in batch if item.size <= RANGE]
            jobs = [(item, pool.submit(self._one, item)) for item in small]
            found = {item.key: self._large(item, pool) for item in batch if item.size > RANGE}
            found.update({item.key: job.result() for item, job in jobs})
        return [found[item.key] for item in batch]

    def name(self, item: Entry) -> str:
        return name_of(self._parts, item)

    # Our own client

    def _one(self, item: Entry) -> Fetched:
        """An object in one request, hashed as it comes."""
        path = self.name(item)
        whole = os.path.exists(path) and os.path.getsize(path) == item.size
        if whole and not os.path.exists(path + ".done") and matches(path, item):
            return Fetched(item, path, proved=True)
        return self._guarded(item, lambda: self._get_whole(item, path))

    def _get_whole(self, item: Entry, path: str) -> Fetched:
        part = part_size(self._bucket, self._key(item), item) if "-" in item.etag else 0
        for last in (False, True):
            data, headers = self._range(item, 0, item.size) if item.size else self._empty(item)
            with open(path, "wb", buffering=0) as file:
                _write(file.fileno(), data, 0)
            if not is_md5(headers):
                return Fetched(item, path)
            proved = matches(path, item, part)
            if proved is not False:
                self._came(item.size)
                return Fetched(item, path, proved=bool(proved))
            if last:
                break
        return _wrong(item, path)

    def _empty(self, item: Entry) -> Tuple[bytes, Dict[str, str]]:
        _, headers, data = self._bucket.ask("GET", self._key(item), headers=_only(item))
        if data:
            raise StoreAway("%s has %d bytes, not none" % (item.key, len(data)))
        return data, headers

    def _large(self, item: Entry, pool: ThreadPoolExecutor) -> Fetched:
        return self._guarded(item, lambda: self._get_ranges(item, pool))

    def _get_ranges(self, item: Entry, pool: ThreadPoolExecutor) -> Fetched:
        """An object by ranges; those that are safe on the disk are not fetched again."""
        path, part = self.name(item), part_size(self._bucket, self._key(item), item)
        length = part if part and part <= SMALL else RANGE
        for last in (False, True):
            ranges = _Ranges(path, item.size, length)
            try:
                headers = self._fill(item, ranges, pool)
            finally:
                ranges.close()
            if not headers or is_md5(headers):
                digests = [bytes.fromhex(ranges.done[number]) for number in sorted(ranges.done)]
                by_parts = "-" in item.etag and length == part
                proved = composite(digests) == item.etag if by_parts else matches(path, item, part)
            else:
                proved = None
            if proved is not False:
                ranges.forget()
                return Fetched(item, path, proved=bool(proved))
            ranges.forget()
            self._came(-item.size)
            if last:
                break
        return _wrong(item, path)

    def _fill(self, item: Entry, ranges: _Ranges, pool: ThreadPoolExecutor) -> Dict[str, str]:
        self._came(sum(ranges.size(number) for number in ranges.done))
        room = threading.Semaphore(max(2, min(self._parallel, MOST_IN_MEMORY // ranges.length)))
        headers: Dict[str, str] = {}
        broken = threading.Event()

        def bring(number: int) -> None:
            try:
                start = number * ranges.length
                data, got = self._range(item, start, ranges.size(number))
                headers.update(got)
                ranges.write(number, start, data)
                self._came(len(data))
            except BaseException:
                broken.set()
                raise
            finally:
                room.release()

        jobs = []
        for number in range(ranges.count):
            if number not in ranges.done:
                room.acquire()
                if broken.is_set():
                    break
                jobs.append(pool.submit(bring, number))
        for job in jobs:
            job.result()
        return headers

    def _range(self, item: Entry, start: int, length: int) -> Tuple[bytes, Dict[str, str]]:
        if self._stopping.is_set():
            raise Stopped
        headers = _only(item)
        if length != item.size:
            headers["Range"] = "bytes=%d-%d" % (start, start + length - 1)
        _, got, data = self._bucket.ask("GET", self._key(item), headers=headers)
        if len(data) != length:
            raise StoreAway("%s: %d of %d bytes came" % (item.key, len(data), length))
        return data, got

    def _guarded(self, item: Entry, get: Callable[[], Fetched]) -> Fetched:
        """A fault of one object is that object's; a full disk, or the wish to end, is everybody's."""
        try:
            return get()
        except PreconditionFailed:
            return Fetched(item, "", why="it was changed meanwhile", changed=True)
        except StoreRefused as error:
            gone = "HTTP 404" in str(error)
            why = "it was removed meanwhile" if gone else str(error)
            return Fetched(item, "", why=why, changed=gone)
        except StoreAway as error:
            return Fetched(item, "", why=str(error), away=True)

    def _key(self, item: Entry) -> str:
        return self._prefix + item.key

    # s5cmd

    def _run(self, items: List[Entry]) -> None:
        """Let s5cmd bring what it can; what is missing or wrong afterwards is fetched by ourselves."""
        orders = os.path.join(self._parts, "orders")
        with open(orders, "w", encoding="utf-8") as file:
            for item in items:
                source = "s3://%s/%s" % (self._bucket.name, self._key(item))
                file.write('cp --raw "%s" "%s"\n' % (source, self.name(item)))
        command = [self.program, "--log", "error", "--numworkers", str(S5CMD_WORKERS), "run", orders]
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            self.program = ""  # it cannot be started: our own client does it all
            return
        while process.poll() is None:
            if self._stopping.wait(0.05):
                process.kill()
                process.wait()
                raise Stopped
        for item in items:
            if os.path.exists(self.name(item)):
                self._came(item.size if os.path.getsize(self.name(item)) == item.size else 0)


def name_of(parts: str, item: Entry) -> str:
    """Where the bytes of an object are kept until they are whole."""
    text = "%s\0%d\0%s" % (item.key, item.size, item.etag)
    return os.path.join(parts, hashlib.sha256(text.encode()).hexdigest()[:40])


class _Ranges:
    """Which ranges of a file are on the disk, with the MD5 of each; kept beside it."""

    def __init__(self, path: str, size: int, length: int) -> None:
        self.length = length
        self.count = -(-size // length)
        self.done: Dict[int, str] = {}
        self._size = size
        self._note = path + ".done"
        self._lock = threading.Lock()
        self._written: List[int] = []
        self._read()
        fresh = not self.done
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0), 0o644)
        os.ftruncate(self._file, size)
        self._log = open(self._note, "w" if fresh else "a", encoding="ascii")  # noqa: SIM115 (see close)
        if fresh:
            self._log.write("%d %d\n" % (size, length))

    def size(self, number: int) -> int:
        return min(self.length, self._size - number * self.length)

    def write(self, number: int, start: int, data: bytes) -> None:
        """Keep a range; it is noted once its bytes are on the disk."""
        _write(self._file, data, start)
        digest = hashlib.md5(data).hexdigest()  # noqa: S324 (S3's own form)
        with self._lock:
            self.done[number] = digest
            self._written.append(number)
            if len(self._written) * self.length >= NOTED_EVERY:
                self._note_down()

    def close(self) -> None:
        with self._lock:
            self._note_down()
        os.close(self._file)
        self._log.close()

    def forget(self) -> None:
        os.unlink(self._note)

    def _note_down(self) -> None:
        os.fdatasync(self._file)
        self._log.writelines("%d %s\n" % (number, self.done[number]) for number in self._written)
        self._log.flush()
        self._written.clear()

    def _read(self) -> None:
        try:
            with open(self._note, encoding="ascii") as file:
                lines = file.read().split("\n")[:-1]
        except OSError:  # it has noted nothing yet
            return
        if not lines or lines[0] != "%d %d" % (self._size, self.length):
            return
        for line in lines[1:]:
            number, _, digest = line.partition(" ")
            if number.isdigit() and len(digest) == 32:
                self.done[int(number)] = digest


def environment_of(credentials: Any, region: str) -> Callable[[], Dict[str, str]]:
    """The variables that lead s5cmd to the same store with the same keys; asked anew for each batch."""

    def found() -> Dict[str, str]:
        keys = credentials.get()
        variables = {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret}
        if keys.token:
            variables["AWS_SESSION_TOKEN"] = keys.token
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            variables["S3_ENDPOINT_URL"] = endpoint
        variables["AWS_REGION"] = region
        return variables

    return found


def find_program() -> str:
    """Where s5cmd is; empty where it is not."""
    return shutil.which("s5cmd") or ""


def _is_plain(item: Entry) -> bool:
    """Whether s5cmd reads the name as it is, and our check can prove what it brought."""
    return bool(_PLAIN.fullmatch(item.key)) and item.size > 0 and count_of_parts(item.etag) == 1


def _only(item: Entry) -> Dict[str, str]:
    return {"If-Match": '"%s"' % item.etag} if item.etag else {}


def _wrong(item: Entry, path: str) -> Fetched:
    os.unlink(path)
    return Fetched(item, "", why="its bytes are not those that its ETag names")


def _write(file: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, start)
        view = view[written:]
        start += written
