"""What runs on an instance: CPU, memory and GPU by process, read through its shell."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from runctl.errors import CloudError
from runctl.providers.aws import shell
from runctl.providers.aws.session import Session

_MARK = "runctl-part"
_SCRIPT = f"""\
echo {_MARK} processes
ps -eo pid=,user=,pcpu=,pmem=,rss=,etimes=,args= --sort=-pcpu | head -n 200
echo {_MARK} gpus
command -v nvidia-smi >/dev/null && nvidia-smi \\
  --query-gpu=index,name,utilization.gpu,memory.used,memory.total --format=csv,noheader,nounits
echo {_MARK} users
command -v nvidia-smi >/dev/null && nvidia-smi \\
  --query-compute-apps=pid,used_memory --format=csv,noheader,nounits
echo {_MARK} end
"""
_PATIENCE = timedelta(minutes=1)
_FIELDS = 7


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process: CPU and memory in percent, memory in KiB, age in seconds, GPU memory in MiB."""

    pid: int
    user: str
    cpu_percent: float
    memory_percent: float
    memory_kib: int
    seconds: int
    gpu_memory_mib: int | None
    command: str


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU: how busy in percent, memory in MiB. None is what the driver does not say."""

    index: int
    name: str
    busy_percent: int | None
    memory_used_mib: int | None
    memory_mib: int | None


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """What ran at one moment, the busiest first."""

    processes: tuple[Process, ...]
    gpus: tuple[Gpu, ...]


def read(session: Session, instance_id: str) -> Processes:
    """Raises CloudError where the shell does not answer, or not in full."""
    result = shell.run(session, instance_id, _SCRIPT, comment="runctl processes", timeout=_PATIENCE)
    if result.exit_code != 0:
        raise CloudError(
            f"The processes of {instance_id} cannot be read",
            service="ssm",
            operation="send_command",
            code=result.status,
            why=(result.error or result.output).strip()[-500:],
        )
    return parse(result.output)


def parse(output: str) -> Processes:
    """What the script wrote; lines of another form are left out. Raises CloudError if a part is missing."""
    parts: dict[str, list[str]] = {}
    name = ""
    for line in output.splitlines():
        if line.startswith(_MARK + " "):
            name = line.removeprefix(_MARK + " ").strip()
            parts[name] = []
        elif name:
            parts[name].append(line)
    if "processes" not in parts:
        raise CloudError(
            "The processes cannot be read",
            service="ssm",
            operation="get_command_invocation",
            code="CutOutput",
            why="the shell's answer is not complete",
        )
    users = dict(filter(None, map(_user, parts.get("users", []))))
    found = [process for line in parts["processes"] if (process := _process(line, users))]
    gpus = [gpu for line in parts.get("gpus", []) if (gpu := _gpu(line))]
    return Processes(processes=tuple(found), gpus=tuple(gpus))


def _process(line: str, users: dict[int, int]) -> Process | None:
    fields = line.split(None, _FIELDS - 1)
    if len(fields) != _FIELDS:
        return None
    try:
        pid = int(fields[0])
        return Process(
            pid=pid,
            user=fields[1],
            cpu_percent=float(fields[2]),
            memory_percent=float(fields[3]),
            memory_kib=int(fields[4]),
            seconds=int(fields[5]),
            gpu_memory_mib=users.get(pid),
            command=fields[6],
        )
    except ValueError:
        return None


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not fields[0].isdecimal():
        return None
    return Gpu(
        index=int(fields[0]),
        name=fields[1],
        busy_percent=_number(fields[2]),
        memory_used_mib=_number(fields[3]),
        memory_mib=_number(fields[4]),
    )


def _user(line: str) -> tuple[int, int] | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 2 or not fields[0].isdecimal() or not fields[1].isdecimal():
        return None
    return int(fields[0]), int(fields[1])


def _number(text: str) -> int | None:
    """`[N/A]` and the like are unknown."""
    return int(text) if text.isdecimal() else None
