"""How fast training reads a dataset, beside s3torchconnector, s3fs, fsspec's cache and mosaicml-streaming.

Run with `make bench-loading`, or `python -m benchmarks.loading --python PYTHON` where PYTHON has torch, the
others and what runctl needs; `--quick` for a small one. Figures and a plot go to `--output`. One real S3
server on the same machine, which takes its share of it; its data is in the page cache for all. Every run is a
process of its own with a PyTorch DataLoader of 4 workers: one epoch, timed from the start of the workers to
the last sample. Rounds are interleaved and begin with another loader each; medians. A cold run of a loader
that keeps data locally begins with an empty folder, the warm one after it finds what the cold one left.
Memory is the most that one process of a run held.

Compared are, for each workload, the fastest way of runctl and the fastest of all others from S3 without
anything local (cold), and from what an epoch before left on the local disk (warm). Exits with 1 where runctl
reads fewer samples per second.

Images are files of random bytes of about 100 KiB, shuffled; they are not decoded. Token shards are files of
32 MiB, read in order as windows of 16 KiB. `runctl packed` reads what `runctl data pack` made of the same
files, in packs of 64 MiB, and mosaicml-streaming files of its own form, of 32 MiB; the others read the
objects as they are. Counts and bytes of each run are checked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.s3_server import S3Server, running

from benchmarks import drawing

MIB = 1 << 20
WORKERS = 4
ENGINES = {
    "runctl direct": False,
    "runctl cache": True,
    "runctl packed": True,
    "s3torchconnector": False,
    "s3fs": False,
    "fsspec filecache": True,
    "mosaicml-streaming": True,
}
"""Whether a loader keeps data locally."""
READERS = Path(__file__).with_name("loading_readers.py")
SOURCE = Path(__file__).parents[1] / "src"


@dataclass(frozen=True)
class Workload:
    """Files of `size` bytes, read whole, or as windows of `window` bytes."""

    name: str
    files: int
    size: int
    window: int = 0


FULL = (
    Workload("images", files=6000, size=100 * 1024),
    Workload("token shards", files=24, size=32 * MIB, window=16 * 1024),
)
QUICK = (
    Workload("images", files=600, size=100 * 1024),
    Workload("token shards", files=4, size=32 * MIB, window=16 * 1024),
)


class Bench:
    """A server with the workloads, and the interpreter that has the loaders."""

    def __init__(self, server: S3Server, folder: Path, python: str) -> None:
        self.server, self.folder, self.python = server, folder, python
        self.environment = {**os.environ, **server.environment(), "PYTHONPATH": str(SOURCE)}
        self.bucket = server.new_bucket()
        self._runs = 0

    def prepare(self, load: Workload) -> dict[str, Any]:
        """Make the files and have them in the bucket in both forms; answers what all runs are told."""
        source = self.folder / load.name
        source.mkdir()
        choice = random.Random(load.name)
        names = [f"{number:06}.bin" for number in range(load.files)]
        for name in names:
            size = load.size if load.window else choice.randrange(load.size // 2, load.size * 3 // 2)
            (source / name).write_bytes(choice.randbytes(size))
        prefix = load.name.replace(" ", "-")
        job = {"source": str(source), "names": names, "window": load.window, "workers": WORKERS}
        job |= {"bucket": self.bucket, "prefix": prefix, "mds": f"{prefix}-mds", "packed": f"{prefix}-packed"}
        self.send(source, prefix)
        self.pack(source, job["packed"])
        out = self.folder / f"{load.name}.mds"
        self.reader({**job, "out": str(out)})
        self.send(out, job["mds"])
        total = sum((source / name).stat().st_size for name in names)
        job["expected"] = (total // load.window if load.window else load.files, total)
        shutil.rmtree(source)
        shutil.rmtree(out)
        return job

    def send(self, source: Path, prefix: str) -> None:
        client = self.server.client(max_pool_connections=8)
        paths = [path for path in source.rglob("*") if path.is_file()]

        def put(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(source).as_posix()}"
            client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, paths))
        client.close()

    def pack(self, source: Path, prefix: str) -> None:
        command = [
            sys.executable,
            "-m",
            "runctl",
            "data",
            "pack",
            str(source),
            f"s3://{self.bucket}/{prefix}",
        ]
        environment = {**self.environment, "RUNCTL_HOME": str(self.folder / "home")}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

    def reader(self, job: dict[str, Any]) -> dict[str, Any] | None:
        path = self.folder / "job.json"
        path.write_text(json.dumps(job))
        done = subprocess.run(
            [self.python, str(READERS), str(path)],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{job.get('engine', 'the writer')} failed: {done.stderr[-2000:]}")
        return None if "out" in job else json.loads(done.stdout.splitlines()[-1])

    def epoch(self, job: dict[str, Any], engine: str, local: Path) -> dict[str, Any]:
        """One run, whose samples and bytes are checked."""
        figures = self.reader({**job, "engine": engine, "local": str(local)})
        assert figures is not None
        if (got := (figures["samples"], figures["bytes"])) != tuple(job["expected"]):
            raise RuntimeError(f"{engine} read {got}, not {job['expected']}")
        return figures

    def round(self, job: dict[str, Any], engine: str) -> list[tuple[str, dict[str, Any]]]:
        """The cold run, and the warm one where there is one."""
        self._runs += 1
        local = self.folder / f"local-{self._runs}"
        try:
            found = [("cold", self.epoch(job, engine, local))]
            if ENGINES[engine]:
                os.sync()
                found.append(("warm", self.epoch(job, engine, local)))
            return found
        finally:
            shutil.rmtree(local, ignore_errors=True)
            os.sync()


def measure(bench: Bench, load: Workload, engines: list[str], rounds: int) -> list[dict[str, Any]]:
    job = bench.prepare(load)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for number in range(rounds):
        at = number % len(engines)
        for engine in engines[at:] + engines[:at]:
            if engine in failed:
                continue
            try:
                for state, figures in bench.round(job, engine):
                    found.setdefault((engine, state), []).append(figures)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed[engine] = str(error)
                print(f"{load.name}: {error}", file=sys.stderr)
    samples, total = job["expected"]
    rows: list[dict[str, Any]] = []
    for (engine, state), runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        rows.append(
            {
                "workload": load.name,
                "loader": engine,
                "state": state,
                "seconds": round(seconds, 3),
                "samples_per_second": round(samples / seconds),
                "mib_per_second": round(total / MIB / seconds, 1),
                "processor_seconds": round(statistics.median(run["processor"] for run in runs), 2),
                "memory_mib": round(statistics.median(run["memory"] for run in runs) / MIB),
                "runs": [round(run["seconds"], 3) for run in runs],
            }
        )
    return rows + [{"workload": load.name, "loader": engine, "failed": why} for engine, why in failed.items()]


def show(rows: list[dict[str, Any]]) -> None:
    titles = f"{'samples/s':>10}{'MiB/s':>9}{'seconds':>9}{'CPU s':>8}{'MiB':>7}"
    print(f"{'workload':14}{'loader':20}{'state':7}{titles}")
    for row in sorted(rows, key=lambda one: (one["workload"], one.get("state", "~"), one.get("seconds", 0))):
        if "failed" in row:
            print(f"{row['workload']:14}{row['loader']:20}failed: {row['failed'][:80]!r}")
            continue
        print(
            f"{row['workload']:14}{row['loader']:20}{row['state']:7}{row['samples_per_second']:>10}"
            f"{row['mib_per_second']:>9.1f}{row['seconds']:>9.2f}{row['processor_seconds']:>8.2f}"
            f"{row['memory_mib']:>7}"
        )


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each workload and state the fastest of runctl beside the fastest of the others."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "failed" not in row:
            groups.setdefault((row["workload"], row["state"]), []).append(row)
    found: list[dict[str, Any]] = []
    for (workload, state), group in sorted(groups.items()):
        ours = [row for row in group if row["loader"].startswith("runctl")]
        others = [row for row in group if row not in ours]
        if ours and others:
            mine, best = (max(some, key=lambda row: row["samples_per_second"]) for some in (ours, others))
            share = mine["samples_per_second"] / best["samples_per_second"]
            names = {"ours": mine["loader"], "best": best["loader"]}
            found.append({"workload": workload, "state": state, **names, "share": share})
    return found


def plot(rows: list[dict[str, Any]]) -> str:
    bars = [
        {**row, "way": row["state"], "tool": row["loader"], "rate": row["samples_per_second"]}
        for row in rows
        if "failed" not in row
    ]
    return drawing.bars("Samples per second", bars, "rate", list(ENGINES))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure loaders of training data.")
    parser.add_argument("--python", default=sys.executable, help="An interpreter that has the loaders.")
    parser.add_argument("--quick", action="store_true", help="A tenth of the data, one round.")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", action="append", choices=list(ENGINES), help="Only this loader.")
    parser.add_argument("--workload", choices=[load.name for load in FULL])
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="Where JSON and plot go.")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 5)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="runctl-loading-") as name, running(Path(name)) as server:
        for load in QUICK if asked.quick else FULL:
            if asked.workload in {None, load.name}:
                bench = Bench(server, Path(name), asked.python)
                rows += measure(bench, load, asked.only or list(ENGINES), rounds)
    show(rows)
    compared = compare(rows)
    print()
    for one in compared:
        print(
            f"{one['workload']}, {one['state']}: {one['ours']} reads {one['share']:.0%} of the samples per"
            f" second of {one['best']}   must: at least 100%"
        )
    asked.output.mkdir(parents=True, exist_ok=True)
    body = {"workers": WORKERS, "rounds": rounds, "figures": rows, "compared": compared}
    (asked.output / "loading.json").write_text(json.dumps(body, indent=1))
    (asked.output / "loading.svg").write_text(plot(rows))
    print(f"\n{asked.output}/loading.json and .svg")
    ours_failed = any("failed" in row and row["loader"].startswith("runctl") for row in rows)
    if ours_failed or any(one["share"] < 1 for one in compared):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
