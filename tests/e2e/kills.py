"""Commands that are killed at random moments, the one command that goes on, and the truth about what is left.

One `Home` is a user's: a ledger, a sandbox, a project. `strike` starts a command in it as a process of its
own, kills it (or the sandbox, or the agent on the job's machine) at a random moment of its life, gives the
one command that the tool names, and then asks the cloud, the disk and /proc what is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from runctl.ledger import Ledger

PROPERTY = "random kills"
SPEED = 40.0
LONGEST = 150.0
"""Real seconds after which a command that was left alone is said to hang."""
MACHINE = "m7i.large"
ZONE = "us-east-1a"
BUCKET = "kills-data"
NEXT = re.compile(r"(?:next: (?:begin anew: )?|: )(?P<command>(?:cd \S+ && )?runctl (?:(?!, then )[^\n;])*)")
WALK = Path(__file__).with_name("walk.py")
GONE = ("Traceback", "internal error")
FINISHED, UNDONE, NEVER, CLOSED, LATE = "finished", "rolled back", "never begun", "closed", "ended before"
OUTCOMES = (FINISHED, UNDONE, CLOSED, NEVER)
MARKS = """
SELECT (SELECT COUNT(*) + COUNT(outcome) FROM transactions WHERE pid = :pid)
 + (SELECT COUNT(*) + COUNT(steps.outcome) FROM steps JOIN transactions ON id = tx WHERE pid = :pid)
 + (SELECT COUNT(*) FROM job_events WHERE job LIKE :job || '%')
"""
"""Everything that a process has written down of its operations, and what became of its job."""


@dataclass
class Told:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def next(self) -> str:
        """The command that it names as the one that helps; empty where it names none."""
        found = [match["command"].strip() for match in NEXT.finditer(self.err)]
        return found[-1] if found else ""


@dataclass(frozen=True)
class Course:
    """How a command goes that is not hit: seconds until its end, and until each mark in the ledger."""

    seconds: float
    marks: Sequence[float]

    def in_all(self, seconds: float) -> Course:
        """The same on a machine that is busier or less busy now: no mark is lost for it."""
        return Course(seconds, [one * seconds / self.seconds for one in self.marks] if self.seconds else ())


@dataclass(frozen=True)
class Moment:
    """So long after the command wrote its so manieth mark; after its start with none."""

    mark: int
    delay: float

    def __str__(self) -> str:
        return f"{self.mark}+{self.delay:.2f}"


@dataclass
class Home:
    """One user's home with a sandbox, used by one strike after the other."""

    folder: Path
    chance: random.Random
    bare: bool = False
    """Without a machine and data: for commands that need none."""
    instance: str = ""
    before: set[str] = field(default_factory=set[str])
    lives: int = 0
    courses: dict[str, Course] = field(default_factory=dict[str, Course])
    """How each command went that was not hit: the moments of the next ones are spread over that."""

    def __post_init__(self) -> None:
        self.project.mkdir(parents=True)
        (self.project / "walk.py").write_bytes(WALK.read_bytes())
        set_of_data = self.work / "set"
        set_of_data.mkdir(parents=True)
        for number in range(12):
            (set_of_data / f"{number:02}").write_bytes(self.chance.randbytes(200_000))
        big = self.work / "big"
        big.mkdir()
        (big / "whole").write_bytes(self.chance.randbytes(1 << 20) * 40)
        (big / "small").write_bytes(b"small")

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def work(self) -> Path:
        """Where everything but a training is typed."""
        return self.folder / "work"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RUNCTL_HOME": str(self.home), "RUNCTL_CLOUD": "sandbox", "NO_COLOR": "1"}

    # Commands

    def folder_of(self, words: Sequence[str]) -> Path:
        """Where a command is typed."""
        return self.project if words[0] == "train" else self.work

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "runctl", *words],
            cwd=self.folder_of(words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def told(self, process: subprocess.Popen[str], seconds: float = LONGEST) -> Told:
        """Raises TimeoutExpired for one that hangs, which is ended."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it hangs: {process.args}\n{out[-1500:]}\n{err[-1500:]}") from None
        for word in GONE:
            assert word not in err, f"{process.args}: {err}"
        return Told(process.returncode, out, err)

    def run(self, *words: str, seconds: float = LONGEST) -> Told:
        return self.told(self.start(words), seconds)

    def must(self, *words: str) -> Told:
        told = self.run(*words)
        assert told.code == 0, f"{words}: {told.err}"
        return told

    def shell(self, command: str, folder: Path | None = None) -> Told:
        """A command as the tool wrote it, pasted into a shell in the folder of the first one."""
        line = re.sub(r"\brunctl\b", f"{sys.executable} -m runctl", command)
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder or self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.told(process)

    # The sandbox

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.home / "sandbox/cloud.json").read_bytes())

    def up(self) -> None:
        """A sandbox in its first or next life, with what every strike needs in it."""
        self.must("sandbox", "up", "--speed", str(SPEED))
        self.furnish()

    def furnish(self) -> None:
        self.lives += 1
        self.client("s3").create_bucket(Bucket=BUCKET)
        if self.bare:
            return
        self.must("transfer", "set", f"s3://{BUCKET}/set", "--quiet")
        self.must("transfer", "big", f"s3://{BUCKET}/big", "--quiet")
        made = self.must("aws", "create", MACHINE, "--availability-zone", ZONE, "--quiet", "--wait")
        self.instance = made.out.split()[0]
        self.must("aws", "wait", self.instance, "--state", "online")
        self.before = self.alive()

    def client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        record, keys = self.record, "s3_" if service == "s3" else ""
        return boto3.client(
            service,
            region_name=record["region"],
            endpoint_url=record["s3_endpoint" if service == "s3" else "endpoint"],
            aws_access_key_id=record[f"{keys}access_key"],
            aws_secret_access_key=record[f"{keys}secret_key"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 5}),
        )

    def alive(self) -> set[str]:
        """Everything that lives in the cloud, by its own listings, whoever made it."""
        ec2 = self.client("ec2")
        living = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        groups = ec2.describe_instances(Filters=living)["Reservations"]
        requests = ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
        return {
            *(row["InstanceId"] for group in groups for row in group["Instances"]),
            *(row["VolumeId"] for row in ec2.describe_volumes()["Volumes"] if row["State"] != "deleting"),
            *(row["SnapshotId"] for row in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
            *(row["SpotInstanceRequestId"] for row in requests if row["State"] in {"open", "active"}),
        }

    def made(self) -> set[str]:
        return self.alive() - self.before

    def staged(self) -> list[str]:
        """What is on its way in S3, or half there."""
        s3 = self.client("s3")
        found: list[str] = []
        for bucket in s3.list_buckets()["Buckets"]:
            name = bucket["Name"]
            listed = s3.list_objects_v2(Bucket=name, Prefix="runctl/staging/").get("Contents", [])
            found += [f"{name}/{item['Key']}" for item in listed]
            uploads = s3.list_multipart_uploads(Bucket=name).get("Uploads", [])
            found += [f"{name}/{item['Key']} (parts)" for item in uploads]
        return found

    def is_up(self) -> bool:
        try:
            state = Path(f"/proc/{self.record['pid']}/stat").read_bytes()
        except OSError:
            return False
        return state.rpartition(b")")[2].split()[0] not in {b"Z", b"X"}  # killed, and not yet buried

    # What is left here

    def marks(self, pid: int, job: str) -> int:
        """How much a process has written down by now; nothing while it cannot be read."""
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{self.home}/ledger.sqlite3?mode=ro", uri=True, timeout=1)
            ) as ledger:
                return ledger.execute(MARKS, {"pid": pid, "job": job}).fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    def partial(self) -> list[str]:
        """Files that are half there, beside their place."""
        found: list[str] = []
        for folder, inside, files in os.walk(self.folder):
            if folder == str(self.home):
                # Its machines write as they like, and go while they are looked at.
                inside[:] = [name for name in inside if name != "sandbox"]
            found += [
                str((Path(folder) / name).relative_to(self.folder))
                for name in (*inside, *files)
                if name.startswith((".runctl-partial", ".runctl-")) or name.endswith((".part", ".tmp"))
            ]
        return found

    def processes(self) -> dict[int, str]:
        """Processes of this home that are not the living sandbox's."""
        own = f"RUNCTL_HOME={self.home}".encode()
        state = f"RUNCTL_SANDBOX_STATE={(self.home / 'sandbox/state').resolve()}".encode()
        server = self.record["pid"] if self.is_up() else -1
        found: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "environ").read_bytes().split(b"\0")
                if (own in words or state in words) and not _descends(int(entry.name), server):
                    if (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX":
                        continue
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(entry.name)] = command.strip()[:150]
        return found

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.run("sandbox", "down", "--yes")


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False
    return False


# The commands that are struck

_PLANNED = ("command", "command", "command", "command", "undoing", "undoing", "sandbox")
"""Of what can be undone: `undoing` is Ctrl-C, and the kill while that is undone."""


@dataclass
class Command:
    """One command: its words, what must be true when it is done, and how its traces are swept."""

    name: str
    words: list[str]
    look: Callable[[Home], Told]
    """What the user types who sees that it is dead; it names the command that goes on."""
    is_done: Callable[[Home], bool]
    sweep: Callable[[Home], None] = lambda _: None
    victims: tuple[str, ...] = ("command", "command", "command", "sandbox")
    repeats: bool = False
    """The command itself is the one that goes on."""


def _named(home: Home, name: str) -> list[dict[str, Any]]:
    found = home.client("ec2").describe_volumes(Filters=[{"Name": "tag:Name", "Values": [name]}])
    return [row for row in found["Volumes"] if row["State"] in {"available", "in-use"}]


def _sweep_volumes(home: Home) -> None:
    """What the strike made and was asked to make; the next one begins from where this one did."""
    ec2 = home.client("ec2")
    made = home.made()
    if machines := [one for one in made if one.startswith("i-")]:
        ec2.terminate_instances(InstanceIds=machines)
        _until(lambda: not [one for one in home.made() if one.startswith("i-")])
    for one in home.made():
        if one.startswith("vol-"):
            with contextlib.suppress(Exception):
                ec2.detach_volume(VolumeId=one)
            _until(lambda one=one: _deleted(ec2, one))
        elif one.startswith("snap-"):
            ec2.delete_snapshot(SnapshotId=one)


def _deleted(ec2: Any, volume: str) -> bool:
    found = ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume]}])["Volumes"]
    if found and found[0]["State"] == "available":
        with contextlib.suppress(Exception):
            ec2.delete_volume(VolumeId=volume)
    return not found


def ebs_create(home: Home, name: str) -> Command:
    words = ["aws", "ebs", "create", "--size", "1", "--name", name, "--availability-zone", ZONE]
    return Command(
        "ebs create",
        words,
        lambda home: home.run(*words),
        lambda home: len(_named(home, name)) == 1 and len(home.made()) == 1,
        _sweep_volumes,
        victims=_PLANNED,
    )


def ebs_attach(home: Home, name: str) -> Command:
    made = home.must("aws", "ebs", "create", "--size", "1", "--availability-zone", ZONE, "--quiet")
    volume = made.out.split()[0]
    words = ["aws", "ebs", "attach", volume, home.instance, "--mount", f"/mnt/{name}"]

    def is_attached(home: Home) -> bool:
        row = home.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]
        return [one["State"] for one in row["Attachments"]] == ["attached"] and home.made() == {volume}

    def sweep(home: Home) -> None:
        told = home.run("aws", "ebs", "detach", volume)
        assert told.code == 0 or "is not attached" in told.err, told.err
        _sweep_volumes(home)

    return Command("ebs attach", words, lambda home: home.run(*words), is_attached, sweep, victims=_PLANNED)


def ebs_delete(home: Home, name: str) -> Command:
    made = home.must("aws", "ebs", "create", "--size", "1", "--availability-zone", ZONE, "--quiet")
    volume = made.out.split()[0]
    words = ["aws", "ebs", "delete", volume, "--yes", "--force"]
    return Command(
        "ebs delete",
        words,
        lambda home: home.run(*words),
        lambda home: not home.made(),
        _sweep_volumes,
    )


def ebs_snapshot(home: Home, name: str) -> Command:
    made = home.must("aws", "ebs", "create", "--size", "1", "--availability-zone", ZONE, "--quiet")
    volume = made.out.split()[0]
    words = ["aws", "ebs", "snapshot", volume]
    return Command(
        "ebs snapshot",
        words,
        lambda home: home.run(*words),
        lambda home: len(home.made()) == 2,
        _sweep_volumes,
        victims=_PLANNED,
    )


def aws_create(home: Home, name: str) -> Command:
    words = ["aws", "create", MACHINE, "--name", name, "--data-volume-size", "1", "--availability-zone", ZONE]
    return Command(
        "aws create",
        words,
        lambda home: home.run(*words),
        lambda home: len([one for one in home.made() if one.startswith("i-")]) == 1 and len(home.made()) == 3,
        _sweep_volumes,
        victims=_PLANNED,
    )


def data_stage(home: Home, name: str) -> Command:
    words = ["data", "stage", f"s3://{BUCKET}/set", "--name", name, "--zone", ZONE]
    return Command(
        "data stage",
        words,
        lambda home: home.run(*words),
        lambda home: len(_named(home, name)) == 1 and len(home.made()) == 1,
        _sweep_volumes,
        victims=_PLANNED,
    )


def _train(kind: str, name: str, on: Sequence[str], victims: tuple[str, ...]) -> Command:
    words = ["train", "walk.py", "--name", name, *on, "--", "--steps", "12", "--seconds", "0.1"]

    def is_done(home: Home) -> bool:
        found = [job for job in _jobs(home) if job[0].startswith(name)]
        return (
            Counter(state for _, state in found if state != "failed") == {"succeeded": 1} and not home.made()
        )

    return Command(
        f"train {kind}",
        words,
        lambda home: home.run("jobs", "list"),
        is_done,
        _sweep_volumes,
        victims,
    )


def train_sandbox(home: Home, name: str) -> Command:
    on = ["--on", "sandbox", "--instance-type", MACHINE]
    return _train("on-demand", name, on, ("command", "command", "sandbox", "sandbox", "agent"))


def train_spot(home: Home, name: str) -> Command:
    on = ["--on", "sandbox", "--instance-type", MACHINE, "--spot"]
    return _train("spot", name, on, ("command", "command", "sandbox", "agent"))


def train_local(home: Home, name: str) -> Command:
    return _train("local", name, ["--on", "local"], ("command", "command", "command", "agent"))


def _transfer(home: Home, kind: str, words: list[str], is_done: Callable[[Home], bool]) -> Command:
    def sweep(home: Home) -> None:
        for folder in home.work.iterdir():
            if folder.name not in {"set", "big"}:
                shutil.rmtree(folder)

    return Command(f"transfer {kind}", words, lambda home: home.run(*words), is_done, sweep, repeats=True)


def _same(folder: Path, other: Path) -> bool:
    names = sorted(path.name for path in folder.iterdir())
    return (
        other.is_dir()
        and sorted(path.name for path in other.iterdir()) == names
        and all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)
    )


def transfer_up(home: Home, name: str) -> Command:
    def is_done(home: Home) -> bool:
        s3 = home.client("s3")
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", [])
        return {item["Key"].removeprefix(f"{name}/"): item["Size"] for item in found} == {
            "whole": 40 << 20,
            "small": 5,
        }

    return _transfer(home, "up", ["transfer", "big", f"s3://{BUCKET}/{name}"], is_done)


def transfer_down(home: Home, name: str) -> Command:
    words = ["transfer", f"s3://{BUCKET}/big", name]
    return _transfer(home, "down", words, lambda home: _same(home.work / "big", home.work / name))


def transfer_leg(home: Home, name: str) -> Command:
    words = ["transfer", "big", f"{home.instance}:/tmp/{name}"]

    def is_done(home: Home) -> bool:
        back = f"{name}-back"
        home.must("transfer", f"{home.instance}:/tmp/{name}", back, "--quiet")
        return _same(home.work / "big", home.work / back)

    return _transfer(home, "leg", words, is_done)


COMMANDS: tuple[Callable[[Home, str], Command], ...] = (
    train_sandbox,
    ebs_create,
    transfer_up,
    data_stage,
    train_spot,
    ebs_attach,
    transfer_down,
    train_local,
    ebs_delete,
    transfer_leg,
    aws_create,
    ebs_snapshot,
)


# A strike


@dataclass(frozen=True)
class Strike:
    """What became of one kill."""

    command: str
    victim: str
    at: str
    outcome: str
    way_on: str
    leaked: Sequence[str]

    def line(self) -> str:
        left = f"  LEAKED {'; '.join(self.leaked)}" if self.leaked else ""
        return f"{self.command:<16}{self.victim:<9}{self.at:>9}  {self.outcome:<13}{self.way_on[:70]}{left}"

    @property
    def went_on_by(self) -> str:
        """The way on in short, without ids and options."""
        words = re.findall(r"runctl (train|\w+ \w+)", self.way_on)
        again = ["the same"] if "the same command" in self.way_on else []
        return " + ".join([*words, *again]) or self.way_on


def strike(
    home: Home,
    kind: Callable[[Home, str], Command],
    number: int,
    *,
    victim: str | None = None,
    at: Moment | None = None,
    due: list[str] | None = None,
) -> Strike:
    """Kill at a random moment, go on with the one command that is named, and look what is left.

    `due` are the victims that come next, until each was struck; it is filled anew when it is empty.
    """
    name = f"k{number:03}x{home.chance.randrange(16**4):04x}"
    command = kind(home, name)
    due = [] if due is None else due
    if not due:
        due += _by_turns(home.chance, command.victims)
    victim = victim or due[0]
    at = at or _moment(home, command.name, after_a_mark=victim == "undoing")
    lives = home.lives
    try:
        process, begun = home.start(command.words), time.monotonic()
        was_killed = _kill(home, process, victim, name, at)
        told = home.told(process)
        if not was_killed:
            course = home.courses.get(command.name, Course(0.0, ()))
            seconds = time.monotonic() - begun
            if told.code == 0:  # else Ctrl-C ended it before it had anything to undo
                home.courses[command.name] = course.in_all(seconds)
            outcome, way_on = LATE, ""
            assert told.code == 0 or victim == "undoing", told.err
        elif victim == "sandbox":
            outcome, way_on = _after_sandbox(
                home, lambda: kind(home, name), told, home.folder_of(command.words)
            )
        else:
            outcome, way_on = _go_on(home, command, told)
        leaked = () if outcome == LATE and told.code else _leaks(home, command, outcome)
    except AssertionError as error:
        outcome, way_on, leaked = "FAILED", "", (str(error).strip()[-3000:],)
    try:
        if not home.is_up():
            home.up()
        elif home.lives == lives:
            command.sweep(home)
    except AssertionError as error:
        outcome, leaked = "FAILED", (*leaked, f"the sweep: {error}")
    if outcome != LATE:
        due.pop(0)
    return Strike(command.name, victim, str(at), outcome, way_on, leaked)


def _by_turns(chance: random.Random, victims: Sequence[str]) -> list[str]:
    """One of each kind first, so that a few strikes reach all of them, and then the others."""
    kinds = sorted(set(victims))
    others = list((Counter(victims) - Counter(kinds)).elements())
    return [*chance.sample(kinds, len(kinds)), *chance.sample(others, len(others))]


def measure(home: Home, kind: Callable[[Home, str], Command]) -> None:
    """Let a command come to its end on this machine, and note when it wrote down what."""
    name = f"k000x{home.chance.randrange(16**4):04x}"
    command = kind(home, name)
    process, begun = home.start(command.words), time.monotonic()
    marks: list[float] = []
    while process.poll() is None:
        seconds = time.monotonic() - begun
        marks += [seconds] * (home.marks(process.pid, name) - len(marks))
        assert seconds < LONGEST, f"it hangs: {command.words}"
        time.sleep(0.01)
    told = home.told(process)
    assert told.code == 0, told.err
    home.courses[command.name] = Course(time.monotonic() - begun, marks)
    command.sweep(home)


def _moment(home: Home, name: str, *, after_a_mark: bool) -> Moment:
    """Two of three in the time after one of its marks, or all of them, the others anywhere in its work."""
    course = home.courses[name]
    if course.marks and (after_a_mark or home.chance.random() < 2 / 3):
        mark = home.chance.randrange(len(course.marks))
        until = [*course.marks, course.seconds][mark + 1]
        return Moment(mark + 1, home.chance.uniform(0, until - course.marks[mark]))
    begins = course.marks[0] if course.marks else course.seconds / 4
    return Moment(0, home.chance.uniform(begins / 2, course.seconds))


def strikes(home: Home, kills: int) -> Iterator[Strike]:
    """So many kills, by turns of the commands and of what can be killed under each.

    A command that was faster than its kill is struck again.
    """
    number = 0
    order = home.chance.sample(COMMANDS, len(COMMANDS))
    due: dict[str, list[str]] = {}
    for turn in range(kills):
        kind = order[turn % len(order)]
        if turn < len(order):
            measure(home, kind)
        left = due.setdefault(kind.__name__, [])
        one = None
        while one is None or one.outcome == LATE:
            number += 1
            one = strike(home, kind, number, due=left)
            yield one


def _kill(home: Home, process: subprocess.Popen[str], victim: str, name: str, at: Moment) -> bool:
    """Whether there was something to be killed at that moment."""
    if victim == "agent":
        # There is none before its machine runs: its moments are counted from then on.
        agent = _until(lambda: process.poll() is not None or _agents(home, name))
        time.sleep(at.delay / 8)
        agents = _agents(home, name)
        for pid in agents:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(agent and agents)
    while at.mark and process.poll() is None and home.marks(process.pid, name) < at.mark:
        time.sleep(0.005)
    end = time.monotonic() + at.delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
    if process.poll() is not None:
        return False
    if victim == "sandbox":
        os.kill(home.record["pid"], signal.SIGKILL)
        return True
    if victim == "undoing":
        process.send_signal(signal.SIGINT)
        while process.poll() is None and not _is_undoing(home, process.pid):
            time.sleep(0.005)
        time.sleep(home.chance.uniform(0, 0.3))
    if process.poll() is not None:
        return False
    process.kill()
    return True


def _is_undoing(home: Home, pid: int) -> bool:
    with Ledger.open(home.home) as ledger:
        found = [one for one in ledger.journal.unfinished() if one.owner.pid == pid]
    return any(step.outcome in {"undoing", "undone"} for one in found for step in one.steps)


def _agents(home: Home, name: str) -> list[int]:
    """The agent of a job, wherever it runs on this machine."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            places = (entry / "environ").read_bytes() + command
            if b"agent" in command and name.encode() in places and str(home.folder).encode() in places:
                found.append(int(entry.name))
    return found


def _go_on(home: Home, command: Command, killed: Told) -> tuple[str, str]:
    """What the next command says and does, and the one command that it names."""
    if killed.code == 0:
        return FINISHED, "itself"  # its agent or its machine was struck, and it went on
    if killed.out.strip() and not command.name.startswith("train"):
        return FINISHED, "nothing, it had said so"  # nobody types it again who has its answer
    looked = command.look(home)
    if command.name.startswith("train"):
        return _go_on_with_job(home, command, looked)
    if looked.code == 0:
        return FINISHED, "the same command"
    if "is finished" in looked.err and command.is_done(home):
        return FINISHED, "nothing, it was done"
    assert looked.next, f"it names no command that goes on: {looked.err}"
    wanted = looked.next
    if " tx resume " in wanted and "is done already" not in looked.err and home.chance.random() < 1 / 4:
        # The user changes his mind.
        undone = home.shell(f"{wanted.replace(' resume ', ' rollback ')} --yes")
        if undone.code == 0:
            return UNDONE, "runctl tx rollback (instead)"
        assert " tx resume " in undone.next, f"it can be neither undone nor finished: {undone.err}"
        wanted = undone.next
    went_on = home.shell(f"{wanted} --yes" if " rollback " in wanted else wanted)
    assert went_on.code == 0, f"{wanted}: {went_on.err}"
    return (UNDONE if " rollback " in wanted else FINISHED), wanted


def _go_on_with_job(home: Home, command: Command, looked: Told) -> tuple[str, str]:
    name = command.words[command.words.index("--name") + 1]
    mine = [job for job in _jobs(home) if job[0].startswith(name)]
    if not mine:
        return NEVER, ""
    assert len(mine) == 1, mine
    job, state = mine[0]
    if state == "succeeded":
        return FINISHED, "itself"
    wanted = f"runctl jobs wait {job}"
    if state in {"failed", "stopped"}:
        told = home.run("jobs", "wait", job)
        assert told.next, told.err
        wanted = f"runctl jobs resume {job}" if "logs" in told.next else told.next
    else:
        assert wanted in looked.err, f"{state}: {looked.err}{looked.out}"
    went_on = home.shell(wanted)
    assert went_on.code == 0, f"{wanted}: {went_on.err}"
    return FINISHED, wanted


def _after_sandbox(home: Home, begin: Callable[[], Command], told: Told, folder: Path) -> tuple[str, str]:
    """The command ended by itself; what it names brings things up, and then the same command works."""
    if told.code == 0:
        way_on = "runctl sandbox up"  # it had its answer before the sandbox went
    else:
        assert told.code in {2, 3}, (told.code, told.err)
        way_on = told.next
        assert "runctl sandbox up" in way_on, f"it does not say what to do: {told.err}"
    # The speed is this suite's own.
    up = home.shell(way_on.replace("runctl sandbox up", f"runctl sandbox up --speed {SPEED:g}"), folder)
    assert up.code == 0, f"{way_on}: {up.err}"
    home.must("jobs", "list")
    with Ledger.open(home.home) as ledger:
        left = [
            one.id
            for one in ledger.resources.list(live_only=True)
            if one.cloud.startswith("sandbox:") and one.cloud != _key(home)
        ]
        open_ = [f"{one.operation} {one.id}" for one in ledger.journal.unfinished()]
    assert not left, f"the ledger holds {left} of a sandbox that is gone"
    assert not open_, f"the journal holds {open_} of a sandbox that is gone"
    home.furnish()
    if told.code == 0:
        return CLOSED, way_on
    again = begin()  # what it is about is there again, under other ids
    if "train" not in way_on:
        home.must(*again.words)
    assert _settles(lambda: again.is_done(home)), f"given again, it is not done: {sorted(home.made())}"
    again.sweep(home)
    return CLOSED, f"{way_on}, the same command"


def _key(home: Home) -> str:
    return f"sandbox:{home.record['id']}"


def _jobs(home: Home) -> list[tuple[str, str]]:
    with Ledger.open(home.home) as ledger:
        return [(job.id, str(job.state)) for job in ledger.jobs.list(limit=1000)]


def _leaks(home: Home, command: Command, outcome: str) -> tuple[str, ...]:
    """Everything that is there and should not be."""
    found: list[str] = []
    if outcome in {FINISHED, LATE} and not _settles(lambda: command.is_done(home)):
        found.append(f"it is not done: {sorted(home.made())}, jobs {_jobs(home)[:1]}")
    if outcome in {NEVER, CLOSED, UNDONE}:
        _settles(lambda: not home.made() or command.name in _WITH_OWN_VOLUME)
        own = 1 if command.name in _WITH_OWN_VOLUME and outcome is not CLOSED else 0
        if len(home.made()) > own:
            found.append(f"in the cloud: {sorted(home.made())}")
    if staged := home.staged():
        found.append(f"in S3: {staged}")
    if partial := home.partial():
        found.append(f"on disk: {partial}")
    if stuck := [job for job in _jobs(home) if job[1] not in {"succeeded", "failed", "stopped"}]:
        found.append(f"stuck: {stuck}")
    with Ledger.open(home.home) as ledger:
        if open_ := [f"{one.operation} {one.id}" for one in ledger.journal.unfinished()]:
            found.append(f"in the journal: {open_}")
    if not _settles(lambda: not home.processes()):
        found.append(f"processes: {home.processes()}")
    return tuple(found)


_WITH_OWN_VOLUME = frozenset({"ebs attach", "ebs delete", "ebs snapshot"})


def _settles(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


def of_rows(rows: Sequence[dict[str, Any]]) -> list[Strike]:
    """Strikes as another process told them."""
    names = [field.name for field in fields(Strike)]
    return [Strike(*(row[name] for name in names)) for row in rows]


def table(strikes: Sequence[Strike]) -> list[str]:
    """By command: how often it was killed, what became of it, and by which command it went on."""
    heads = ("kills", *OUTCOMES, "failed", "leaked", "stuck")
    lines = [f"{'command':<15}" + "".join(f"{head:>12}" for head in heads) + "  went on by"]
    by_command: dict[str, Counter[str]] = {}
    ways: dict[str, Counter[str]] = {}
    for one in strikes:
        if one.outcome == LATE and not one.leaked:
            continue
        for name in (one.command, "in all"):
            row = by_command.setdefault(name, Counter())
            row["kills"] += 1
            row[one.outcome.lower()] += 1
            row["leaked"] += bool(one.leaked) and one.outcome != "FAILED"
            row["stuck"] += any(left.startswith("stuck") for left in one.leaked)
            ways.setdefault(name, Counter())[one.went_on_by or "-"] += 1
    for name in sorted(by_command, key=lambda name: (name == "in all", name)):
        went = ", ".join(f"{way} {count}" for way, count in ways[name].most_common())
        row = by_command[name]
        lines.append(f"{name:<15}" + "".join(f"{row[head]:>12}" for head in heads) + f"  {went}")
    killed = Counter(one.victim for one in strikes if one.outcome != LATE)
    lines.append("killed: " + ", ".join(f"{victim} {count}" for victim, count in killed.most_common()))
    return lines
