"""How long folders take to S3 and back, beside s5cmd, the AWS CLI and rclone, on one real server.

Run with `make bench-transfer`, or `python -m benchmarks.transfers --competitors FOLDER` where FOLDER holds
their programs. Every tool is a process of its own that does the whole command; rounds are interleaved and
begin with another tool each; medians. CPU is user and system time of the process and its children, memory the
most that one of them held. Each upload goes into a bucket of its own and each download into an empty folder;
sources are in the page cache for all, and what is dirty is written out before each run. Objects to download
were sent by the AWS CLI, in parts of 8 MiB and without a SHA-256, unless `--seeded-by` names another tool.
s5cmd and runctl run as they come; the others get as many requests at once as runctl (16), and rclone the
flags that its manual advises for S3, else it asks for each object's own time. The server runs on the same
machine and takes its share of it. Everything lies in memory (/dev/shm) where there is room.

What arrives is counted after each run, in files and bytes, and in the first round read.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.e2e.s3_server import S3Server, running

from benchmarks import drawing

MIB = 1024 * 1024
RUNCTL = str(Path(sys.executable).parent / "runctl")
TOOLS = ("runctl", "s5cmd", "aws", "rclone")
SYNCED = "20,000 x 4 KiB"
# A process begins with its starter's memory as its own peak: the starter is small.
_LAUNCHER = """
import os, sys, time
out = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
began = time.perf_counter()
actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
actions += [(os.POSIX_SPAWN_DUP2, out, number) for number in (1, 2)]
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, file_actions=actions)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - began
unit = 1 if sys.platform == "darwin" else 1024
print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)
"""


@dataclass(frozen=True)
class Workload:
    """Some files of one size in bytes."""

    name: str
    files: int
    size: int


WORKLOADS = (
    Workload("1 x 1 GiB", 1, 1024 * MIB),
    Workload("4 x 256 MiB", 4, 256 * MIB),
    Workload("5,000 x 16 KiB", 5000, 16 * 1024),
    Workload(SYNCED, 20_000, 4 * 1024),
)


@dataclass(frozen=True)
class Run:
    """What one command took: seconds on the clock, seconds of CPU, bytes at its peak."""

    workload: str
    way: str
    tool: str
    wall: float
    cpu: float
    memory: int


def main() -> None:
    arguments = _arguments()
    workloads = [_smaller(one, arguments.quick) for one in WORKLOADS if arguments.only in one.name]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="runctl-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        with running(folder) as server:
            tools = arguments.tools.split(",")
            bench = Bench(server, folder, arguments.competitors, tools, arguments.seeded_by)
            for workload in workloads:
                runs += _measured(bench, workload, arguments.rounds)
    table = rows(runs)
    print(text(table))
    arguments.output.mkdir(parents=True, exist_ok=True)
    body = {
        "table": table,
        "runs": [asdict(run) for run in runs],
        "versions": bench.versions(),
        "seeded_by": bench.seeder,
    }
    (arguments.output / "transfers.json").write_bytes(msgspec.json.format(msgspec.json.encode(body)))
    (arguments.output / "transfers.svg").write_text(drawing.bars("Seconds", table, "wall", list(TOOLS)))
    print(f"\n{arguments.output}/transfers.json and .svg")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure transfers to and from S3.")
    parser.add_argument("--competitors", type=Path, default=None, help="the folder of their programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the sizes and files")
    parser.add_argument("--only", default="", help="the workloads whose name holds this")
    parser.add_argument("--tools", default=",".join(TOOLS), help="names of tools, with commas")
    parser.add_argument("--seeded-by", default="aws", help="the tool that sends what is downloaded")
    parser.add_argument("--folder", type=Path, default=in_memory(), help="where the server and all files lie")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="where JSON and plot go")
    return parser.parse_args()


def in_memory() -> Path | None:
    """A file system in memory with room for all: a disk's moods are not what is measured. None: the disk."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 8 * 1024 * MIB else None


def _smaller(workload: Workload, quick: bool) -> Workload:
    if not quick:
        return workload
    if workload.files > 100:
        return Workload(workload.name, workload.files // 16, workload.size)
    return Workload(workload.name, workload.files, workload.size // 16)


class Bench:
    """The server, the tools, and what they move."""

    def __init__(
        self, server: S3Server, folder: Path, competitors: Path | None, tools: list[str], seeder: str
    ) -> None:
        self.server = server
        self.folder = folder
        self.client = server.client(retries={"total_max_attempts": 4})
        path = f"{competitors}{os.pathsep}{os.environ['PATH']}" if competitors else os.environ["PATH"]
        asked = dict.fromkeys([*tools, seeder])
        found = {name: RUNCTL if name == "runctl" else shutil.which(name, path=path) for name in asked}
        for name, program in found.items():
            if program is None:
                print(f"{name} is not installed: left out", file=sys.stderr)
        self.programs = {name: program for name, program in found.items() if program is not None}
        self.tools = [name for name in tools if name in self.programs]
        self.seeder = seeder if seeder in self.programs else self.tools[0]
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        config = self.folder / "aws.config"
        config.write_text("[default]\ns3 =\n  max_concurrent_requests = 16\n  addressing_style = path\n")
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RCLONE_"))}
        return (
            ours
            | self.server.environment()
            | {
                "AWS_CONFIG_FILE": str(config),
                "S3_ENDPOINT_URL": self.server.endpoint,
                "RUNCTL_HOME": str(self.folder / "home"),
                "RUNCTL_CONFIG": str(self.folder / "none.toml"),
                "RCLONE_CONFIG": str(self.folder / "rclone.conf"),
                "RCLONE_CONFIG_S_TYPE": "s3",
                "RCLONE_CONFIG_S_PROVIDER": "SeaweedFS",
                "RCLONE_CONFIG_S_ENV_AUTH": "true",
                "RCLONE_CONFIG_S_ENDPOINT": self.server.endpoint,
                "RCLONE_CONFIG_S_NO_CHECK_BUCKET": "true",
            }
        )

    def versions(self) -> dict[str, str]:
        asked = {"runctl": "--version", "s5cmd": "version", "aws": "--version", "rclone": "version"}
        found = {}
        for name, program in self.programs.items():
            command = [program, asked[name]]
            done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True)
            found[name] = next(iter(done.stdout.splitlines()), "")
        return found

    def command(self, tool: str, source: str, target: str, *, repeated: bool = False) -> list[str]:
        """Copy everything from one place to another; `repeated` asks for what changed alone."""
        program = self.programs[tool]
        if tool == "runctl":
            return [program, "transfer", source, target, "--quiet"]
        if tool == "s5cmd":
            pattern = f"{source}/*" if source.startswith("s3://") or not repeated else f"{source}/"
            return [program, "--log", "error", "sync" if repeated else "cp", pattern, f"{target}/"]
        if tool == "aws":
            words = ["sync"] if repeated else ["cp", "--recursive"]
            return [program, "s3", *words, "--only-show-errors", source, target]
        places = [place.replace("s3://", "S:") for place in (source, target)]
        flags = ["--transfers", "16", "--checkers", "16", "--fast-list", "--update", "--use-server-modtime"]
        return [program, "sync" if repeated else "copy", *places, *flags]

    def timed(self, command: list[str]) -> tuple[float, float, int]:
        """Wall seconds, CPU seconds and peak bytes of a command that must succeed."""
        os.sync()
        log = self.folder / "command.log"
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(log), *command]
        done = subprocess.run(launcher, env=self.environment, check=True, capture_output=True, text=True)
        code, wall, cpu, memory = done.stdout.split()
        if int(code):
            raise RuntimeError(f"{command} ended with {code}: {log.read_text()[-2000:]}")
        return float(wall), float(cpu), int(memory)

    def remove(self, bucket: str) -> None:
        """With all that is in it: the server frees the room at once."""
        self.client.delete_bucket(Bucket=bucket)

    def objects(self, bucket: str) -> Iterator[tuple[str, int]]:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="data/"):
            for one in page.get("Contents", []):
                yield one["Key"].removeprefix("data/"), one["Size"]


def _measured(bench: Bench, workload: Workload, rounds: int) -> list[Run]:
    source = bench.folder / "source"
    _fill(source, workload)
    runs: list[Run] = []
    tools = bench.tools
    filled = bench.server.new_bucket()
    bench.timed(bench.command(bench.seeder, str(source), f"s3://{filled}/data"))
    jobs: list[tuple[str, Callable[[str, bool], tuple[float, float, int]]]] = [
        ("up", lambda tool, read: _up(bench, tool, source, read=read)),
        ("down", lambda tool, read: _down(bench, tool, source, filled, read=read)),
    ]
    if workload.name == SYNCED:
        up = {tool: _synced_bucket(bench, tool, source) for tool in tools}
        down = {tool: _synced_folder(bench, tool, filled) for tool in tools}
        jobs.append(("up again", lambda tool, _: bench.timed(_again(bench, tool, str(source), up[tool]))))
        jobs.append(
            (
                "down again",
                lambda tool, _: bench.timed(_again(bench, tool, f"s3://{filled}/data", down[tool])),
            )
        )
    for number in range(rounds):
        turn = number % len(tools)
        for way, job in jobs:
            for tool in tools[turn:] + tools[:turn]:
                runs.append(Run(workload.name, way, tool, *job(tool, number == 0)))
                print(f"{workload.name} {way} {tool}: {runs[-1].wall:.2f} s", file=sys.stderr, flush=True)
    shutil.rmtree(source)
    bench.remove(filled)
    return runs


def _up(bench: Bench, tool: str, source: Path, *, read: bool) -> tuple[float, float, int]:
    bucket = bench.server.new_bucket()
    taken = bench.timed(bench.command(tool, str(source), f"s3://{bucket}/data"))
    found = dict(bench.objects(bucket))
    _expect(found == _sizes(source), f"{tool} did not send everything")
    if read:
        for key in list(found)[:: max(1, len(found) // 100)]:
            body = bench.client.get_object(Bucket=bucket, Key=f"data/{key}")["Body"]
            digest = hashlib.sha256()
            for piece in body.iter_chunks(MIB):
                digest.update(piece)
            _expect(digest.digest() == _digest(source / key), f"{tool} sent another {key}")
    bench.remove(bucket)
    return taken


def _down(bench: Bench, tool: str, source: Path, bucket: str, *, read: bool) -> tuple[float, float, int]:
    target = bench.folder / "target"
    target.mkdir()
    taken = bench.timed(bench.command(tool, f"s3://{bucket}/data", str(target)))
    _expect(_sizes(target) == _sizes(source), f"{tool} did not fetch everything")
    if read:
        for key in _sizes(source):
            _expect(_digest(target / key) == _digest(source / key), f"{tool} fetched another {key}")
    shutil.rmtree(target)
    return taken


def _synced_bucket(bench: Bench, tool: str, source: Path) -> str:
    """Where this tool has put everything."""
    place = f"s3://{bench.server.new_bucket()}/data"
    bench.timed(bench.command(tool, str(source), place))
    return place


def _synced_folder(bench: Bench, tool: str, bucket: str) -> str:
    target = bench.folder / f"synced-{tool}"
    target.mkdir()
    bench.timed(bench.command(tool, f"s3://{bucket}/data", str(target)))
    return str(target)


def _again(bench: Bench, tool: str, source: str, target: str) -> list[str]:
    return bench.command(tool, source, target, repeated=True)


def _fill(folder: Path, workload: Workload) -> None:
    for number in range(workload.files):
        path = folder / f"{number // 100:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, workload.size, 16 * MIB):
                file.write(os.urandom(min(16 * MIB, workload.size - start)))


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


def rows(runs: list[Run]) -> list[dict[str, Any]]:
    """A row for each workload, way and tool: medians, with the slowest and the fastest wall time."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.workload, run.way, run.tool), []).append(run)
    order = {(one.workload, one.way): number for number, one in enumerate(runs)}
    return [
        {
            "workload": workload,
            "way": way,
            "tool": tool,
            "wall": statistics.median(run.wall for run in group),
            "fastest": min(run.wall for run in group),
            "slowest": max(run.wall for run in group),
            "cpu": statistics.median(run.cpu for run in group),
            "memory": statistics.median(run.memory for run in group),
            "rounds": len(group),
        }
        for (workload, way, tool), group in sorted(
            groups.items(), key=lambda item: (order[item[0][:2]], TOOLS.index(item[0][2]))
        )
    ]


def text(table: list[dict[str, Any]]) -> str:
    """The table for a terminal. Beside runctl stands how much of the best competitor's time it took."""
    lines = [f"{'':30}{'':8}{'seconds':>9}{'from-to':>14}{'CPU s':>8}{'MiB':>7}{'of best':>9}{'CPU':>6}"]
    before = ""
    for row in table:
        title = f"{row['workload']} {row['way']}"
        others = [
            one
            for one in table
            if (one["workload"], one["way"]) == (row["workload"], row["way"]) and one["tool"] != "runctl"
        ]
        share = ""
        if row["tool"] == "runctl" and others:
            best = min(others, key=lambda one: one["wall"])
            share = f"{row['wall'] / best['wall']:>8.0%} {row['cpu'] / best['cpu']:>5.0%}"
        spread = f"{row['fastest']:.2f}-{row['slowest']:.2f}"
        lines.append(
            f"{title if title != before else '':30}{row['tool']:8}{row['wall']:>9.2f}{spread:>14}"
            f"{row['cpu']:>8.2f}{row['memory'] / MIB:>7.0f}{share}"
        )
        before = title
    return "\n".join(lines)


if __name__ == "__main__":
    main()
