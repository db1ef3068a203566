"""What the user asked for, frozen: the one input of a plan."""

from __future__ import annotations

import os
import re
import shlex
from decimal import Decimal
from pathlib import PurePath

import msgspec

from runctl.errors import BudgetExceeded, ConfigError, ValidationError
from runctl.model import JobId
from runctl.quoting import quoted
from runctl.storage.location import InstancePath, LocalPath, parse

_NAME = re.compile(r"[^a-z0-9]+")
_MOST_ATTEMPTS = 10
KEEP_WRITTEN = 50 * 1024**3
"""Bytes of what a script writes in its working folder that are kept, unless the user says otherwise."""
_LOCAL = "local"
_INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """The exact packages for machines of one architecture, with their hashes, as an installer reads it."""

    architecture: str
    text: str


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel of uv for machines of one architecture: its SHA-256, and where it lies in the job's bucket."""

    architecture: str
    key: str
    sha256: str


class PythonSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the script needs of Python: `kind` says where the requirements were read.

    `version` is the minor one wanted, "" for any; `imports` are modules that no list names. `locks` and
    `carried`, the wheels of uv, have one for each architecture that a machine may have, or none.
    """

    kind: str = "none"
    requirements: tuple[str, ...] = ()
    requires_python: str | None = None
    digest: str = ""
    version: str = ""
    imports: tuple[str, ...] = ()
    locks: tuple[Lock, ...] = ()
    carried: tuple[Carried, ...] = ()


class DataVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume with the data, which machines of its zone can have."""

    id: str
    zone: str


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code bundle of a job: where it lies in the job's bucket, and the SHA-256 that it must have."""

    key: str
    sha256: str


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A commit that the user accepted although no machine of this ledger's jobs made it, by its manifest."""

    name: str
    sha256: str


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A job as asked for. `budget` in USD, `max_hours` in hours over all attempts.

    `data_strategy` says how the machine reads data that lies in S3, and is empty for other data; one of
    `data_volumes` serves a machine in its zone, and with `data_fallback` a machine that has none loads the
    data from S3 itself. `stop_asked`: the user wants it to end, and no further attempt is made. `code`
    is None until it was sent, and stays so for a local job. An adopted job has neither `root` nor `code`
    until its user names one; `accepted` is what it may resume from although its machines did not make it.
    `keep_written` is how many bytes are kept of what the script writes in its working folder on a machine,
    `checkpoint_pattern` the glob of what counts as a checkpoint, where it is not found by itself.
    """

    name: str
    on: str
    root: str
    workdir: str
    command: tuple[str, ...]
    python: PythonSpec = PythonSpec()
    instance_type: str | None = None
    gpus: int | None = None
    spot: bool = False
    fallback: bool = True
    data: str | None = None
    data_strategy: str = ""
    data_volumes: tuple[DataVolume, ...] = ()
    data_fallback: bool = False
    output: str | None = None
    checkpoints: str | None = None
    checkpoint_pattern: str | None = None
    keep_written: int = KEEP_WRITTEN
    keep_last: int | None = None
    """How many checkpoints of each series stay in the bucket; None for all."""
    keep_every: int | None = None
    keep_best: str | None = None
    resume_arg: str | None = None
    resume_from: str | None = None
    resume_since: int = 0
    """The attempt that began from `resume_from`. Later ones go on from what was committed since then."""
    not_from: tuple[str, ...] = ()
    """Snapshots from which an attempt failed at once: no other one begins from them by itself."""
    max_attempts: int = _MOST_ATTEMPTS
    budget: Decimal | None = None
    max_hours: float | None = None
    keep: bool = False
    grace_seconds: float = 90.0
    stop_asked: bool = False
    code: Code | None = None
    accepted: Accepted | None = None
    project: str = ""
    user: str = ""

    @property
    def is_local(self) -> bool:
        return self.on == _LOCAL

    @property
    def instance(self) -> str | None:
        """The instance to run on, where the user named one."""
        return self.on if _INSTANCE.fullmatch(self.on) else None


def check(spec: JobSpec) -> JobSpec:
    """Refuse what no plan can make good. Raises ValidationError, or BudgetExceeded for a budget of 0."""
    if spec.on not in {_LOCAL, "sandbox", "aws"} and spec.instance is None:
        raise ValidationError(
            f"Unknown place to run: {spec.on!r}",
            why="a place is local, sandbox, aws or an instance id",
            next="runctl train --on sandbox ...",
        )
    if spec.budget is not None and spec.budget <= 0:
        raise BudgetExceeded(
            f"A budget of {spec.budget} USD buys nothing",
            why="a budget must be above 0",
            next="leave --budget out for no limit, or give one, such as --budget 5",
        )
    if spec.max_hours is not None and spec.max_hours <= 0:
        raise ValidationError(f"--max-hours must be above 0, not {spec.max_hours:g}")
    if spec.max_attempts < 1:
        raise ValidationError(f"--max-attempts must be at least 1, not {spec.max_attempts}")
    if spec.gpus is not None and spec.gpus < 1:
        raise ValidationError(f"--gpus must be at least 1, not {spec.gpus}")
    if spec.instance_type and spec.gpus:
        raise ValidationError("--instance-type and --gpus exclude each other", next="give one of them")
    if spec.on in {"sandbox", "aws"} and not (spec.instance_type or spec.gpus):
        raise ValidationError(
            "Which machine?",
            why=f"--on {spec.on} needs an instance type or a number of GPUs",
            next="--instance-type g5.xlarge or --gpus 1",
        )
    _check_kept(spec)
    _check_locations(spec)
    return spec


def _check_kept(spec: JobSpec) -> None:
    if spec.keep_last is None and (spec.keep_every or spec.keep_best):
        raise ValidationError(
            "--keep-every and --keep-best: beside --keep-last",
            why="without it every checkpoint stays",
            next="such as --keep-last 3",
        )
    if spec.keep_last is not None and spec.is_local:
        raise ValidationError(
            "--keep-last: of no use on this machine",
            why="what a script saves here lies in its own folder, and runctl keeps the newest two snapshots",
            next="leave it out; later: runctl checkpoint cleanup FOLDER --keep-last N",
        )
    if spec.keep_written < 0:
        raise ValidationError(f"--keep-written must be at least 0, not {spec.keep_written}")
    pattern = spec.checkpoint_pattern
    if pattern is not None and (not pattern or pattern.startswith("/") or ".." in pattern.split("/")):
        raise ValidationError(
            f"{pattern!r} matches no checkpoint",
            why="a pattern is that of a name, or of a path below the folder that the script saves in",
            next="such as --checkpoint-pattern 'ckpt_*.pt'",
        )


def _check_locations(spec: JobSpec) -> None:
    for place in (spec.data, spec.output):
        if place is not None and isinstance(parse(place), InstancePath):
            raise ValidationError(
                f"{place} lies on an instance", why="--data and --output take local paths and s3:// locations"
            )
    if spec.is_local and spec.output is not None and not isinstance(parse(spec.output), LocalPath):
        raise ValidationError(
            f"A local run cannot write to {spec.output}",
            why="its script writes into a folder of this machine",
            next=f"--output FOLDER, then: runctl transfer FOLDER {quoted(spec.output)}",
        )


def retained(last: int | None, every: int | None, best: str | None) -> str:
    """Which checkpoints stay, for people; empty if all do."""
    if last is None:
        return ""
    newest = "the newest checkpoint" if last == 1 else f"the newest {last} checkpoints"
    steps = f", each whose step is a multiple of {every}" if every else ""
    return newest + steps + (f", the best by {best}" if best else "")


def again(spec: JobSpec) -> str:
    """The command that asks for the same job, as a user types it in the folder of the first."""
    options = {
        "on": spec.on,
        "instance-type": spec.instance_type,
        "gpus": spec.gpus,
        "data": spec.data,
        "output": spec.output,
        "checkpoints": spec.checkpoints,
        "checkpoint-pattern": spec.checkpoint_pattern,
        "keep-written": None if spec.keep_written == KEEP_WRITTEN else _size(spec.keep_written),
        "keep-last": spec.keep_last,
        "keep-every": spec.keep_every,
        "keep-best": spec.keep_best,
        "resume-arg": spec.resume_arg,
        "budget": spec.budget,
        "max-hours": spec.max_hours,
        "max-attempts": None if spec.max_attempts == _MOST_ATTEMPTS else spec.max_attempts,
    }
    script, arguments = (), spec.command
    if len(arguments) > 1 and arguments[0] == "python3" and arguments[1].endswith(".py"):
        script, arguments = arguments[1:2], arguments[2:]
    if spec.name != PurePath((*script, *arguments)[0]).stem:
        options = {"name": spec.name, **options}
    words = ["runctl", "train", *script]
    for name, value in options.items():
        if value is not None:
            one_word = str(value).startswith("-")
            words += [f"--{name}={value}"] if one_word else [f"--{name}", str(value)]
    words += (
        ["--keep"] * spec.keep
        + ["--spot"] * spec.spot
        + ["--no-fallback"] * (spec.spot and not spec.fallback)
    )
    return shlex.join([*words, "--", *arguments] if arguments else words)


def _size(count: int) -> str:
    """As `--keep-written` understands it, to the byte."""
    return f"{count // 1024**3}GiB" if count and count % 1024**3 == 0 else str(count)


def new_job_id(name: str) -> JobId:
    """A name that a human can type and that no other job has."""
    slug = _NAME.sub("-", name.lower()).strip("-")[:24].strip("-") or "job"
    return JobId(f"{slug}-{os.urandom(3).hex()}")


def encode(spec: JobSpec) -> bytes:
    return msgspec.json.encode(spec)


def decode(data: bytes) -> JobSpec:
    """Raises ConfigError for what is no spec: the ledger's, or a bucket's."""
    try:
        return msgspec.json.decode(data, type=JobSpec)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            "The spec of a job cannot be understood", why=str(error), next="runctl ledger check"
        ) from error
