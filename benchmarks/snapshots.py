"""How long the agent's snapshots take over a network with distance, beside s5cmd and `runctl transfer`.

`python -m benchmarks.snapshots` runs whole attempts against a real server behind `pacing`: 20 ms a request,
20 MB/s a connection. Times are those of the machine: from the script's end to the agent's end, by when the
snapshot is committed, and from the agent's start to the script's start, by when all was brought back and
proven. s5cmd and `runctl transfer` are whole commands with their defaults, on the same bytes. Everything lies
in memory where there is room, and the server takes its share of the machine: with few cores it is what is
measured in the end, and `server` tells the CPU seconds that it took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.s3_server import S3Server, running

from benchmarks.goals import Goals
from benchmarks.pacing import Network, paced
from benchmarks.transfers import RUNCTL, in_memory
from runctl.agent import archive

MIB = 1024 * 1024
MB = 10**6
_SCRIPT = """
import os, pathlib, sys, time
checkpoints = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
outputs = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
notes, what, source = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(notes / "begun").write_text(repr(time.time()))
model = checkpoints / "step_1.pt"
if what == "first":
    os.rename(source, model)
elif what == "tenth":
    size = model.stat().st_size
    with model.open("r+b") as file:
        file.seek(size // 3)
        for _ in range(size // 10 // 2**20):
            file.write(os.urandom(2**20))
elif what == "tree":
    os.rename(source, outputs / "data")
(notes / "ended").write_text(repr(time.time()))
"""


@dataclass
class Cost:
    """Seconds, bytes sent, the agent's peak in bytes, CPU seconds of the server."""

    seconds: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, server: S3Server, network: Network, folder: Path, s5cmd: str) -> None:
        self.server = server
        self.network = network
        self.folder = folder
        self.s5cmd = s5cmd
        self.client = server.client(retries={"total_max_attempts": 4})
        self.costs: dict[str, Cost] = {}
        self.agent = folder / "agent.py"
        self.agent.write_bytes(archive.build())
        endpoint = f"http://127.0.0.1:{network.port}"
        ours = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        self.environment = {
            **ours,
            **server.environment(endpoint),
            "S3_ENDPOINT_URL": endpoint,
            "RUNCTL_HOME": str(folder / "home"),
            "RUNCTL_CONFIG": str(folder / "none.toml"),
        }

    def timed(self, label: str, do: Callable[[], tuple[float, int]]) -> None:
        """Note what it took: `do` returns seconds and the peak of memory."""
        (up, _), cpu = self.network.moved(), _cpu(self.server.pid)
        seconds, peak = do()
        cost = self.costs.setdefault(label, Cost())
        cost.seconds.append(seconds)
        cost.sent.append(self.network.moved()[0] - up)
        cost.peak.append(peak)
        cost.server.append(_cpu(self.server.pid) - cpu)
        told = f"{label}: {seconds:.2f} s, {cost.sent[-1] / MB:.0f} MB sent, server {cost.server[-1]:.1f} s"
        print(told, file=sys.stderr, flush=True)

    def command(self, label: str, *command: str) -> None:
        def do() -> tuple[float, int]:
            began = time.perf_counter()
            subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - began, 0

        self.timed(label, do)

    def attempt(self, bucket: str, number: int, what: str, source: Path | None) -> tuple[float, float, int]:
        """Seconds until the script began, seconds after it ended, the agent's peak."""
        root = self.folder / f"machine-{number}"
        job = root / "job" / f"attempt-{number}"
        job.mkdir(parents=True)
        (root / "script.py").write_text(_SCRIPT)
        spec = {
            "format": 1,
            "job": "job",
            "attempt": number,
            "command": [sys.executable, "script.py", str(root), what, str(source)],
            "workdir": str(root),
            "checkpoint_dir": "checkpoints",
            "output_dir": "outputs",
            "store": {"kind": "s3", "bucket": bucket, "prefix": "runctl/jobs/job", "region": "us-east-1"},
            "machine": {"disposable": False, "watch_notice": False},
        }
        (job / "spec.json").write_text(json.dumps(spec))
        began = time.time()
        with (root / "agent.out").open("wb") as out:
            agent = subprocess.Popen(
                [sys.executable, str(self.agent), "run", str(job / "spec.json")],
                env={**self.environment, "HOME": str(root)},
                stdout=out,
                stderr=out,
            )
            peaks: list[int] = []
            watch = threading.Thread(target=_watch, args=(agent.pid, peaks))
            watch.start()
            agent.wait()
        ended = time.time()
        watch.join()
        state = json.loads((job / "state.json").read_bytes())
        if state.get("exit", {}).get("code", 0) != 0 or not (root / "ended").exists():
            raise RuntimeError(f"the attempt failed: {state} {(root / 'agent.out').read_text()}")
        times = [float((root / name).read_text()) for name in ("begun", "ended")]
        shutil.rmtree(root)
        return times[0] - began, ended - times[1], max(peaks, default=0)

    def bucket(self) -> str:
        return self.server.new_bucket()


def main() -> int:
    arguments = _arguments()
    goals = Goals()
    with tempfile.TemporaryDirectory(prefix="runctl-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        with running(folder) as server, paced(server.port) as network:
            bench = Bench(server, network, folder, arguments.s5cmd)
            for _ in range(arguments.rounds):
                if "large" in arguments.only:
                    _large(bench, arguments.size * MIB)
                if "tree" in arguments.only:
                    _tree(bench, arguments.files)
            _report(bench, goals)
    return goals.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the agent's snapshots.")
    parser.add_argument("--size", type=int, default=2048, help="MiB of the large checkpoint")
    parser.add_argument("--files", type=int, default=20_000, help="files of 4 KiB in the tree")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="large,tree")
    beside = Path(sys.executable).parent / "s5cmd"
    parser.add_argument("--s5cmd", default=str(beside) if beside.exists() else "s5cmd", help="its program")
    parser.add_argument("--folder", type=Path, default=in_memory(), help="where everything lies")
    return parser.parse_args()


def _large(bench: Bench, size: int) -> None:
    source = bench.folder / "source"
    source.mkdir()
    model = source / "model.pt"
    with model.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    target = bench.folder / "target"
    for tool in ("s5cmd", "transfer"):
        bucket = bench.bucket()
        place = f"s3://{bucket}/data"
        if tool == "s5cmd":
            bench.command("s5cmd up", bench.s5cmd, "--log", "error", "cp", str(model), f"{place}/model.pt")
            bench.command(
                "s5cmd down", bench.s5cmd, "--log", "error", "cp", f"{place}/model.pt", f"{target}/"
            )
        else:
            bench.command("transfer up", RUNCTL, "transfer", str(source), place, "--quiet")
            bench.command("transfer down", RUNCTL, "transfer", place, str(target), "--quiet")
        shutil.rmtree(target)
        bench.client.delete_bucket(Bucket=bucket)
    bucket = bench.bucket()
    for number, (label, what) in enumerate(
        (("final snapshot", "first"), ("nothing changed", "none"), ("a tenth changed", "tenth")), 1
    ):
        found: list[float] = []

        def after(number: int = number, what: str = what, found: list[float] = found) -> tuple[float, int]:
            before, seconds, peak = bench.attempt(bucket, number, what, model)
            found.append(before)
            return seconds, peak

        bench.timed(label, after)
        if number > 1:
            bench.costs.setdefault("restore", Cost()).seconds.append(found[0])
    bench.client.delete_bucket(Bucket=bucket)
    shutil.rmtree(source)


def _tree(bench: Bench, files: int) -> None:
    source = bench.folder / "tree"
    for number in range(files):
        path = source / f"{number // 100:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(4096))
    bucket = bench.bucket()
    bench.command("s5cmd tree", bench.s5cmd, "--log", "error", "cp", f"{source}/", f"s3://{bucket}/data/")
    bench.client.delete_bucket(Bucket=bucket)
    bucket = bench.bucket()
    bench.timed("snapshot of a tree", lambda: bench.attempt(bucket, 9, "tree", source)[1:])
    bench.client.delete_bucket(Bucket=bucket)


def _report(bench: Bench, goals: Goals) -> None:
    costs = bench.costs

    def seconds(label: str) -> float:
        return statistics.median(costs[label].seconds)

    print(f"{'':24}{'seconds':>9}{'MB sent':>9}{'server CPU s':>14}{'peak MB':>9}")
    for label, cost in costs.items():
        sent = f"{statistics.median(cost.sent) / MB:9.1f}" if cost.sent else f"{'':9}"
        server = f"{statistics.median(cost.server):14.1f}" if cost.server else f"{'':14}"
        peak = f"{max(cost.peak) / MB:9.1f}" if any(cost.peak) else ""
        print(f"{label:24}{seconds(label):9.2f}{sent}{server}{peak}")
    for label, beside, bound in (
        ("final snapshot", "s5cmd up", 0.5),
        ("final snapshot", "transfer up", 1.2),
        ("restore", "s5cmd down", 0.35),
        ("restore", "transfer down", 1.2),
        ("a tenth changed", "s5cmd up", 0.2),
        ("snapshot of a tree", "s5cmd tree", 0.8),
    ):
        if label in costs and beside in costs:
            share = seconds(label) / seconds(beside)
            print(f"{label} / {beside}: {share:.2f}, must: under {bound}  {goals.under(share, bound)}")
    for label, bound in (("a tenth changed", 0.2), ("nothing changed", 0.001)):
        if label in costs:
            share = statistics.median(costs[label].sent) / statistics.median(costs["s5cmd up"].sent)
            print(
                f"bytes of {label} / s5cmd up: {share:.4f}, must: under {bound}  {goals.under(share, bound)}"
            )


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _watch(pid: int, peaks: list[int]) -> None:
    """Note the peak of a process's memory until it ends."""
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
        if not found:
            return
        peaks.append(found[0])
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
