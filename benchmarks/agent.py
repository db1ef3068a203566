"""What the agent costs a machine, and how soon a script starts under it.

`python -m benchmarks.agent [seconds]` runs attempts at real speed: a script prints and saves while the
agent's own CPU time and memory are read from /proc. It must stay under 40 MB, under 1% of a core beside large
checkpoints, and under 2.5 ms of CPU for each MB of these; a script's first line may come 250 ms later.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.goals import Goals
from runctl.agent import archive

MB = 10**6
MOST_SHARE = 0.01
"""Of a core, beside large checkpoints."""
MOST_MS_A_MB = 2.5
MOST_MB = 40
MOST_LATER = 0.25

SCRIPT = """
import os, pathlib, sys, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
size, seconds, every = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
end, due, step = time.monotonic() + seconds, 0.0, 0
while time.monotonic() < end:
    step += 1
    print("step %d/100000 loss %.4f" % (step, 1 / step), flush=True)
    if size and time.monotonic() >= due:
        due = time.monotonic() + every
        path = folder / ("step-%06d.bin" % step)
        path.with_suffix(".tmp").write_bytes(os.urandom(1024) * (size // 1024))
        path.with_suffix(".tmp").rename(path)
        for old in sorted(folder.glob("*.bin"))[:-2]:
            old.unlink()
    time.sleep(0.05)
"""


class Cost(NamedTuple):
    """Of an agent over a while: CPU seconds, the while in seconds, bytes at the peak, checkpoints sent."""

    cpu: float
    seconds: float
    memory: float
    sent: int

    @property
    def share(self) -> float:
        return self.cpu / self.seconds


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    goals = Goals()
    print(f"{'script':44} {'CPU of a core':>14} {'max RSS':>9}   must: under {MOST_SHARE:.0%}, {MOST_MB} MB")
    beside = 0.0
    for label, size, every, bucket in (
        ("prints 20 lines/s, folder", 0, 1.0, False),
        ("prints, 1 MB checkpoint every 5 s, folder", MB, 5.0, False),
        ("prints, notices, 1 MB every 5 s, bucket", MB, 5.0, True),
    ):
        cost = _measure(size, every, seconds, bucket)
        told = f"{goals.under(cost.share, MOST_SHARE)}, {goals.under(cost.memory, MOST_MB * MB)}"
        print(f"{label:44} {cost.share:13.2%} {cost.memory / MB:6.1f} MB   {told}")
        beside = max(beside, cost.share)
    for label, size, bucket in (
        ("prints, 50 MB every 10 s, folder", 50 * MB, False),
        ("prints, notices, 100 MB every 10 s, bucket", 100 * MB, True),
    ):
        cost = _measure(size, 10.0, seconds, bucket)
        if not cost.sent:
            raise SystemExit(f"no checkpoint was sent in {seconds:g} s: measure for longer")
        each = 1000 * (cost.cpu - beside * cost.seconds) / (cost.sent * size / MB)
        told = f"{goals.under(each, MOST_MS_A_MB)}, {goals.under(cost.memory, MOST_MB * MB)}"
        print(f"{label:44} {cost.share:13.2%} {cost.memory / MB:6.1f} MB")
        print(
            f"{'  for each MB of it':44} {each:10.2f} ms              must: under {MOST_MS_A_MB} ms  {told}"
        )
    direct, under = _starts()
    print("\nuntil the script's first line (median, fastest)")
    for label, times in (("directly", direct), ("under the agent", under)):
        print(f"{label:44} {statistics.median(times) * 1000:5.0f} ms {min(times) * 1000:5.0f} ms")
    later = statistics.median(under) - statistics.median(direct)
    told = goals.under(later, MOST_LATER)
    print(f"{'later':44} {later * 1000:5.0f} ms   must: under {MOST_LATER * 1000:.0f} ms  {told}")
    return goals.exit_code


def _measure(size: int, every: float, seconds: float, bucket: bool) -> Cost:
    with tempfile.TemporaryDirectory() as root:
        environment, services = _surroundings(Path(root), bucket)
        try:
            command = [sys.executable, "script.py", str(size), str(seconds + 3), str(every)]
            spec = _write(Path(root), command, bucket)
            agent = subprocess.Popen([sys.executable, Path(root) / "agent.py", "run", spec], env=environment)
            time.sleep(2.0)
            before, sent, begun = _cpu(agent.pid), _sent(spec), time.monotonic()
            time.sleep(seconds)
            now = time.monotonic()
            cost = Cost(_cpu(agent.pid) - before, now - begun, _peak(agent.pid), _sent(spec) - sent)
            agent.wait()
        finally:
            for service in services:
                service.terminate()
                service.wait()
    return cost


def _sent(spec: Path) -> int:
    """How many checkpoints were committed by now."""
    events = spec.parent / "events.jsonl"
    return events.read_text().count('"kind": "committed"') if events.exists() else 0


def _surroundings(root: Path, bucket: bool) -> tuple[dict[str, str], list[subprocess.Popen[bytes]]]:
    """A home, and for a bucket an S3 and a metadata service that answers 404 to all but tokens."""
    (root / "agent.py").write_bytes(archive.build())
    environment = {"HOME": str(root), "PATH": os.environ["PATH"]}
    if not bucket:
        return environment, []
    store, metadata = _free_port(), _free_port()
    services = [
        subprocess.Popen([sys.executable, "-c", _SERVER, str(port)], stderr=subprocess.DEVNULL)
        for port in (store, metadata)
    ]
    for port in (store, metadata):
        _await(port)
    environment |= {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store}",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{metadata}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    return environment, services


_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def serve(self):
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        status, body = 200, b""
        if self.command == "GET":
            status, body = (200, b"<ListBucketResult/>") if "list-type" in self.path else (404, b"")
        if self.path.endswith("?uploads="):
            body = b"<UploadId>1</UploadId>"
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_PUT = do_POST = do_DELETE = serve
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _write(root: Path, command: list[str], bucket: bool) -> Path:
    folder = root / "job/attempt-1"
    folder.mkdir(parents=True)
    (root / "script.py").write_text(SCRIPT)
    store = {"kind": "s3", "bucket": "b", "prefix": "runctl/jobs/job", "region": "us-east-1"}
    spec = {
        "format": 1,
        "job": "job",
        "attempt": 1,
        "command": command,
        "workdir": str(root),
        "checkpoint_dir": "checkpoints",
        "output_dir": "outputs",
        "store": store if bucket else {"kind": "folder", "path": str(root / "job")},
        "machine": {"disposable": False, "watch_notice": bucket},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder / "spec.json"


def _starts(runs: int = 15) -> tuple[list[float], list[float]]:
    """Seconds of interleaved runs: the script by itself, and under a local attempt."""
    direct, under = [], []
    for _ in range(runs):
        direct.append(_first_line([sys.executable, "-c", "import time; print(time.time())"]))
        with tempfile.TemporaryDirectory() as root:
            command = [sys.executable, "-c", "import time; print(time.time())"]
            spec = _write(Path(root), command, bucket=False)
            begun = time.time()
            subprocess.run([sys.executable, "-m", "runctl.agent", "run", spec], check=True)
            under.append(float((spec.parent / "output.log").read_text()) - begun)
    return direct, under


def _first_line(command: list[str]) -> float:
    begun = time.time()
    return float(subprocess.run(command, check=True, capture_output=True).stdout) - begun


def _cpu(pid: int) -> float:
    """User and system seconds of one process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1024
    return 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("a service did not start")


if __name__ == "__main__":
    sys.exit(main())
