"""Staging: a folder made equal to a dataset in S3, whatever happens on the way."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

import pytest

from runctl.agent import archive, objects
from runctl.storage.entries import Entry, dataset_version

MIB = 1024 * 1024
PROGRAM = archive.build()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()


class Store:
    """A bucket of S3 that lists, serves ranges of pinned objects, and can be made to lie."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, int] = {}  # part size of objects that were sent in parts
        self.asked: list[tuple[str, str]] = []  # key and range of each GET
        self.before: Callable[[str], None] = lambda key: None
        self.spoil: Callable[[str, bytes], bytes] = lambda key, data: data
        self.kms = False
        self._kept: list[bytes] = []  # so that an id names one object for good
        self._etags: dict[tuple[int, int | None], str] = {}
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.store = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def etag(self, key: str) -> str:
        data, part = self.objects[key], self.parts.get(key)
        known = self._etags.get((id(data), part))
        if known is None:
            known = hashlib.md5(data).hexdigest()
            if part is not None:
                pieces = [md5(data[at : at + part]) for at in range(0, len(data), part)]
                known = f"{hashlib.md5(b''.join(pieces)).hexdigest()}-{len(pieces)}"
            self._kept.append(data)
            self._etags[(id(data), part)] = known
        return known

    def version(self, prefix: str) -> str:
        return dataset_version(
            Entry(key.removeprefix(prefix), len(data), 0, self.etag(key))
            for key, data in self.objects.items()
            if key.startswith(prefix) and (data or not key.endswith("/"))
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: Store


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        key = unquote_plus(parts.path.replace("+", "%2B")).removeprefix("/bucket/")
        store = self.server.store
        if "list-type" in query:
            self.list(query)
            return
        if self.command == "GET":
            store.asked.append((key, self.headers["Range"] or ""))
            store.before(key)
        data = store.objects.get(key)
        if data is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        etag = store.etag(key)
        if self.headers["If-Match"] not in (None, f'"{etag}"'):
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        more = {"x_amz_server_side_encryption": "aws:kms"} if store.kms else {}
        if "partNumber" in query:
            self.answer(206, length=min(store.parts.get(key, len(data)), len(data)), ETag=f'"{etag}"')
            return
        status = 200
        if wanted := self.headers["Range"]:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            data, status = data[int(start) : int(end) + 1], 206
        self.answer(status, store.spoil(key, data), ETag=f'"{etag}"', **more)

    def list(self, query: dict[str, str]) -> None:
        store = self.server.store
        keys = sorted((key for key in store.objects if key.startswith(query["prefix"])), key=str.encode)
        keys = [key for key in keys if key > query.get("continuation-token", "")]
        page, rest = keys[:5], keys[5:]
        items = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(store.objects[key])}</Size>"
            f"<ETag>&quot;{store.etag(key)}&quot;</ETag>"
            "<LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if rest else ""
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        inner = f"<EncodingType>url</EncodingType>{items}{more}"
        text = f'<ListBucketResult xmlns="{space}">{inner}</ListBucketResult>'
        self.answer(200, text.encode())


class Volume:
    """A folder that is staged to by the shipped program, as often as one likes."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder, self.root = store, folder, folder / "volume"
        self.root.mkdir()
        self.agent = folder / "agent.py"
        self.agent.write_bytes(PROGRAM)
        self.runs = 0
        self.path = os.environ["PATH"]

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        self.runs += 1
        run = self.folder / f"run-{self.runs}"
        run.mkdir()
        spec = {
            "bucket": "bucket",
            "prefix": "data",
            "folder": str(self.root),
            "region": "us-east-1",
            **options,
        }
        (run / "spec.json").write_text(json.dumps(spec))
        environment = {
            "PATH": self.path,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.store.server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        command = [sys.executable, str(self.agent), "stage", str(run / "spec.json")]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / f"run-{self.runs}" / "state.json").read_bytes())

    def left_out(self) -> dict[str, str]:
        lines = (self.folder / f"run-{self.runs}" / "left-out.jsonl").read_text().splitlines()
        return dict(map(json.loads, lines))

    def stage(self, **options: Any) -> dict[str, Any]:
        process = self.start(**options)
        _, said = process.communicate(timeout=60)
        state = self.state()
        assert process.returncode == (0 if state["phase"] == "done" else 1), said
        assert said == b""
        return state

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.root / ".runctl")
        }

    def own(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".runctl").rglob("*"))


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


@pytest.fixture
def volume(store: Store, tmp_path: Path) -> Volume:
    store.objects.update(
        {f"data/train/{number:02}.bin": bytes([number]) * (number * 100) for number in range(12)}
    )
    store.objects["data/ünï ✓+%41.txt"] = b"names"
    store.objects["data/folder/"] = b""
    store.objects["data-of-others/x"] = b"no"
    return Volume(store, tmp_path)


def expected(store: Store) -> dict[str, bytes]:
    return {
        key.removeprefix("data/"): data
        for key, data in store.objects.items()
        if key.startswith("data/") and not key.endswith("/")
    }


def test_a_blank_volume_gets_the_dataset_and_the_digest_that_the_laptop_computes(store, volume):
    state = volume.stage()
    assert volume.files() == expected(store)
    assert (state["phase"], state["version"]) == ("done", store.version("data/"))
    assert (state["copied_files"], state["proved_files"], state["equal_files"]) == (13, 13, 0)
    assert volume.own() == ["dataset.jsonl", "lock", "parts"]
    assert volume.root.joinpath("train/01.bin").stat().st_mtime == 1767323045


def test_a_warm_volume_is_left_as_it_is(store, volume):
    volume.stage()
    before = {path: path.stat().st_mtime_ns for path in volume.root.rglob("*")}
    store.asked.clear()
    state = volume.stage()
    assert (state["phase"], state["copied_files"], state["equal_files"]) == ("done", 0, 13)
    assert store.asked == []
    assert {path: path.stat().st_mtime_ns for path in volume.root.rglob("*")} == before


def test_only_what_changed_is_copied(store, volume):
    volume.stage()
    store.objects["data/train/03.bin"] = b"\xee" * 300  # as long as it was
    store.objects["data/train/99.bin"] = b"new file"
    del store.objects["data/train/05.bin"]
    store.asked.clear()
    state = volume.stage()
    assert sorted(key for key, _ in store.asked) == ["data/train/03.bin", "data/train/99.bin"]
    assert (state["copied_files"], state["equal_files"], state["extra_files"]) == (2, 11, 1)
    assert volume.files() == {**expected(store), "train/05.bin": bytes([5]) * 500}
    state = volume.stage(delete=True)
    assert (state["copied_files"], state["deleted_files"], state["extra_files"]) == (0, 1, 0)
    assert volume.files() == expected(store)


def test_what_others_put_on_the_volume_is_never_touched(store, volume):
    (volume.root / "train").mkdir()
    (volume.root / "train/03.bin").write_bytes(b"mine")
    (volume.root / "train/04.bin").write_bytes(store.objects["data/train/04.bin"])
    (volume.root / "notes.txt").write_bytes(b"mine too")
    state = volume.stage(delete=True)
    assert state["phase"] == "done"
    assert list(volume.left_out()) == ["train/03.bin"]
    assert volume.files() == {**expected(store), "train/03.bin": b"mine", "notes.txt": b"mine too"}
    assert (state["copied_files"], state["equal_files"]) == (11, 1)


def test_a_deletion_keeps_what_was_changed_since(store, volume):
    volume.stage()
    (volume.root / "train/05.bin").write_bytes(b"changed by hand")
    del store.objects["data/train/05.bin"], store.objects["data/train/06.bin"]
    state = volume.stage(delete=True)
    assert state["deleted_files"] == 1
    assert (volume.root / "train/05.bin").read_bytes() == b"changed by hand"
    assert list(volume.left_out()) == ["train/05.bin"]


HOSTILE = [
    "../escaped",
    "a/../../escaped",
    "/absolute",
    "two//slashes",
    "./here",
    "new\nline",
    "bell\x07",
    ".runctl/dataset.jsonl",
    "lost+found/x",
    "n" * 256,
    "train/01.bin/inside-a-file",
]


def test_hostile_names_are_refused_with_a_reason_each_and_the_rest_is_staged(store, volume):
    wanted = expected(store)
    store.objects.update({f"data/{name}": b"hostile" for name in HOSTILE})
    store.objects["data/" + "long/" * 100 + "fine"] = b"fine"
    state = volume.stage()
    assert (state["phase"], state["left_out_files"]) == ("done", len(HOSTILE))
    assert set(volume.left_out()) == set(HOSTILE)
    assert all(volume.left_out().values())
    assert volume.files() == {**wanted, "long/" * 100 + "fine": b"fine"}
    assert sorted(path.name for path in volume.folder.iterdir()) == ["agent.py", "run-1", "volume"]
    assert state["version"] == store.version("data/")


def test_a_link_on_the_volume_leads_nowhere(store, volume):
    outside = volume.folder / "outside"
    outside.mkdir()
    (volume.root / "train").symlink_to(outside)
    state = volume.stage()
    assert list(outside.iterdir()) == []
    assert state["left_out_files"] == 12


@pytest.mark.parametrize("part", [None, 5 * MIB])
def test_a_large_object_comes_in_ranges_and_is_proved_by_its_parts(store, volume, part):
    store.objects = {"data/large": os.urandom(17 * MIB + 7)}
    if part:
        store.parts["data/large"] = part
    state = volume.stage()
    assert (state["phase"], state["proved_files"]) == ("done", 1)
    assert volume.files() == expected(store)
    assert len(store.asked) == -(-(17 * MIB + 7) // (part or 16 * MIB))


def test_a_flipped_byte_never_arrives(store, volume):
    flipped = threading.Event()

    def once(key: str, data: bytes) -> bytes:
        if key.endswith("07.bin") and not flipped.is_set():
            flipped.set()
            return b"\xff" + data[1:]
        return data

    store.spoil = once
    state = volume.stage()
    assert (state["phase"], flipped.is_set()) == ("done", True)
    assert volume.files() == expected(store)


def test_bytes_that_stay_wrong_are_reported_and_the_volume_is_not_called_whole(store, volume):
    store.spoil = lambda key, data: b"\xff" + data[1:] if key.endswith("07.bin") else data
    state = volume.stage()
    assert (state["phase"], state["code"], state["version"]) == ("failed", "incomplete", None)
    assert list(volume.left_out()) == ["train/07.bin"]
    assert "train/07.bin" not in volume.files()
    store.spoil = lambda key, data: data
    store.asked.clear()
    state = volume.stage()
    assert (state["phase"], [key for key, _ in store.asked]) == ("done", ["data/train/07.bin"])


def test_an_outage_is_waited_for(store, volume):
    """Longer than a request is repeated for."""
    gone = [6]

    def away(key: str) -> None:
        if key.endswith("07.bin") and gone[0]:
            gone[0] -= 1
            raise ConnectionError

    store.before = away
    state = volume.stage()
    assert (state["phase"], gone[0]) == ("done", 0)
    assert volume.files() == expected(store)


def test_an_object_that_cannot_be_proved_is_taken_by_its_size(store, volume):
    store.kms = True
    store.spoil = lambda key, data: data[::-1] if data else data  # whatever the key service makes of it
    state = volume.stage()
    assert (state["phase"], state["copied_files"]) == ("done", 13)
    assert state["proved_files"] < 13


def test_a_dataset_that_changes_meanwhile_is_staged_as_it_is_in_the_end(store, volume):
    def change(key: str) -> None:
        if key.endswith("07.bin"):
            store.before = lambda key: None
            store.objects["data/train/07.bin"] = b"changed in the middle"
            store.objects["data/train/50.bin"] = b"added in the middle"

    store.before = change
    state = volume.stage()
    assert state["phase"] == "done"
    assert volume.files() == expected(store)
    assert state["version"] == store.version("data/")


def test_ranges_of_two_objects_are_never_mixed(store, volume):
    """Where no MD5 could tell, the ETag of each request does."""
    store.kms = True
    first, second = os.urandom(34 * MIB), os.urandom(34 * MIB)
    store.objects = {"data/large": first}

    def change(_: str) -> None:
        if len(store.asked) == 2:
            store.objects["data/large"] = second

    store.before = change
    assert volume.stage()["phase"] == "done"
    assert volume.files() == {"large": second}


def test_another_dataset_is_refused_unless_the_first_may_go(store, volume):
    volume.stage()
    store.objects["other/a"] = b"a"
    state = volume.stage(prefix="other")
    assert (state["phase"], state["code"]) == ("failed", "other-dataset")
    assert volume.files() == expected(store)
    state = volume.stage(prefix="other", delete=True)
    assert (state["phase"], state["deleted_files"]) == ("done", 13)
    assert volume.files() == {"a": b"a"}


def test_nothing_there_is_an_error(store, volume):
    assert volume.stage(prefix="no/such")["code"] == "nothing"


@pytest.mark.parametrize(
    "seed", [0, 2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_kill_at_any_moment_is_gone_on_from(store, volume, seed):
    """SIGKILL after so many requests; what was whole is not fetched again, and no part file is left."""
    store.objects = {f"data/{number}": os.urandom(200_000) for number in range(30)}
    store.objects["data/large"] = os.urandom(18 * MIB)
    store.parts["data/large"] = MIB
    last = (3, 12, 25, 40)[seed]
    process: list[subprocess.Popen[bytes]] = []
    reached = threading.Event()

    def count(_: str) -> None:
        if len(store.asked) >= last and not reached.is_set():
            reached.set()
            process[0].send_signal(signal.SIGKILL)

    store.before = count
    process.append(volume.start())
    process[0].communicate(timeout=60)
    assert process[0].returncode == -signal.SIGKILL
    store.before = lambda key: None
    first = len(store.asked)
    state = volume.stage()
    assert state["phase"] == "done"
    assert volume.files() == expected(store)
    assert volume.own() == ["dataset.jsonl", "lock", "parts"]
    assert len(store.asked) - first <= 48 + 16  # those in flight come again, and no more


def test_a_stop_file_ends_it_and_the_next_goes_on(store, volume):
    gate = threading.Event()
    store.objects = {"data/large": os.urandom(20 * MIB)}
    store.parts["data/large"] = MIB
    store.before = lambda key: (gate.wait(20), None)[1]
    process = volume.start()
    run = volume.folder / "run-1"
    until(lambda: len(store.asked) == 16)
    until((run / "state.json").exists)
    (run / "stop").touch()
    for _ in range(2):  # it looks for the file before it writes its state
        seen = (run / "state.json").stat().st_ino
        until(lambda seen=seen: (run / "state.json").stat().st_ino != seen)
    gate.set()
    process.communicate(timeout=30)
    assert (volume.state()["phase"], len(store.asked)) == ("stopped", 16)
    state = volume.stage()
    assert (state["phase"], len(store.asked)) == ("done", 20)
    assert volume.files() == expected(store)


def test_two_stagings_of_a_volume_do_not_mix(store, volume):
    (volume.root / ".runctl").mkdir()
    with (volume.root / ".runctl/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert volume.stage()["code"] == "busy"
    assert volume.files() == {}
    assert volume.stage()["phase"] == "done"


def test_one_stages_at_a_time_and_a_final_state_stays(store, volume):
    volume.stage()
    again = subprocess.run(
        [sys.executable, str(volume.agent), "stage", str(volume.folder / "run-1/spec.json")], check=False
    )
    assert again.returncode == 3


S5CMD = """#!{python}
import os, shlex, sys, urllib.parse, urllib.request

assert sys.argv[1:-1] == ["--log", "error", "--numworkers", "64", "run"], sys.argv
assert os.environ["AWS_ACCESS_KEY_ID"] == "AKIATEST"
with open(sys.argv[-1]) as orders, open({log!r}, "a") as log:
    for line in orders:
        verb, raw, source, target = shlex.split(line)
        assert (verb, raw) == ("cp", "--raw")
        path = urllib.parse.quote(source[len("s3:/"):])
        data = urllib.request.urlopen(os.environ["S3_ENDPOINT_URL"] + path).read()
        log.write(source + "\\n")
        if "/05" in source:
            data = b"wrong"
        if "/06" not in source:
            open(target, "wb").write(data)
sys.exit(1)
"""


def test_what_s5cmd_brings_is_verified_and_the_rest_is_fetched(store, volume, tmp_path):
    programs, log = tmp_path / "bin", tmp_path / "s5cmd.log"
    programs.mkdir()
    program = programs / "s5cmd"
    program.write_text(S5CMD.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    volume.path = f"{programs}:{volume.path}"
    state = volume.stage()
    assert (state["phase"], state["engine"], state["proved_files"]) == ("done", "s5cmd", 13)
    assert volume.files() == expected(store)
    brought = log.read_text().splitlines()
    # Empty ones, and names that it would read otherwise than they are, are not for it.
    assert brought == [f"s3://bucket/data/train/{number:02}.bin" for number in range(1, 12)]
    assert volume.own() == ["dataset.jsonl", "lock", "parts"]
    asked = [key.rpartition("/")[2] for key, _ in store.asked]
    assert [asked.count(name) for name in ("04.bin", "05.bin", "06.bin")] == [1, 2, 2]


def test_an_s5cmd_that_cannot_run_is_done_without(store, volume, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "s5cmd").write_bytes(b"\x7fELF of another machine")
    (programs / "s5cmd").chmod(0o755)
    volume.path = f"{programs}:{volume.path}"
    assert (volume.stage()["phase"], volume.files()) == ("done", expected(store))


def test_keys_that_can_be_files(store):
    assert [key for key in ("a", "a b/c", "ünï", "a..b", "..a", "-x", "a\\b") if objects.fault(key)] == []
