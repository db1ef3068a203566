"""How much memory a plan over a million keys takes: `python -m benchmarks.planning`.

A server on loopback answers ListObjectsV2 with 1,000,000 keys of 43 letters, page by page, and nothing else;
`runctl transfer --dry-run` plans their download into an empty folder, and the sync of a folder that has none
of them with `--delete`. Then a folder has all of them, and the sync is repeated to its end: with what it
remembers in the order of the walk, and in another. Each is a process of its own; memory is the most that it
held. Exits with 1 where that is too much.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.goals import Goals
from runctl.storage.memory import Memory, memory_file

KEYS = 1_000_000
LIMIT = 500 * 10**6
PAGE = 1000
RUNCTL = str(Path(sys.executable).parent / "runctl")
_OBJECT = (
    "<Contents><Key>set/{key}</Key>"
    "<LastModified>2026-11-24T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<EncodingType>url</EncodingType>{token}{objects}</ListBucketResult>"
)


class _Listings(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(start + PAGE, KEYS)
        objects = "".join(
            _OBJECT.format(key=_key(number), etag=f"{number:032x}", size=number % 100_000)
            for number in range(start, end)
        )
        token = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < KEYS else ""
        self._answer(200, _LISTING.format(token=token, objects=objects).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _key(number: int) -> str:
    return f"images/train/n{number // 1000:05}/picture_{number:09}.jpeg"


def main() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as name:
            return _measure(Path(name), f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


def _measure(folder: Path, endpoint: str) -> int:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | {
        "RUNCTL_HOME": str(folder / "home"),
        "RUNCTL_CONFIG": str(folder / "none.toml"),
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_ENDPOINT_URL_S3": endpoint,
    }
    here = folder / "here"
    here.mkdir()
    (here / "new").write_bytes(b"new")
    plans = {
        "download": ["transfer", "s3://bucket/set", str(folder / "empty"), "--dry-run"],
        "upload, delete the rest": ["transfer", str(here), "s3://bucket/set", "--delete", "--dry-run"],
    }
    same = folder / "same"
    repeated = ["s3", "sync", str(same), "s3://bucket/set"]
    print(f"{KEYS:,} keys planned{'':20}{'seconds':>10}{'MB':>8}")
    most = 0
    for name, words in plans.items():
        most = max(most, _shown(name, [RUNCTL, *words], environment, folder / "out"))
    _make_files(same)
    for name, order in {"nothing changed": 1, "nothing changed, other order": -1}.items():
        _remember(same, endpoint, folder / "home" / "transfers", order)
        most = max(most, _shown(name, [RUNCTL, *repeated], environment, folder / "out"))
    goals = Goals()
    print(f"must: under {LIMIT // 10**6} MB  {goals.under(most, LIMIT)}")
    return goals.exit_code


def _make_files(folder: Path) -> None:
    for number in range(KEYS):
        path = folder / _key(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(number % 100_000)
        os.utime(path, (1_700_000_000, 1_700_000_000))


def _remember(folder: Path, endpoint: str, state: Path, order: int) -> None:
    """What a sync of all of them leaves behind."""
    path = memory_file(state, folder, f"{endpoint}/bucket/set")
    path.unlink(missing_ok=True)
    memory = Memory(path)
    for number in range(KEYS)[::order]:
        memory.note(_key(number), number % 100_000, 1_700_000_000 * 10**9, f"{number:032x}")
    memory.close(complete=True)


def _shown(name: str, command: list[str], environment: dict[str, str], out: Path) -> int:
    seconds, memory = _planned(command, environment, out)
    print(f"{name:38}{seconds:>10.1f}{memory / 10**6:>8.0f}", flush=True)
    return memory


def _planned(command: list[str], environment: dict[str, str], out: Path) -> tuple[float, int]:
    """Seconds and bytes at the peak of a plan over all keys."""
    began = time.perf_counter()
    with out.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = out.read_text()
    if process.returncode or str(KEYS) not in text.replace(",", ""):
        raise RuntimeError(f"{command} ended with {process.returncode}: {text[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
