"""Whether training runs on an instance: the agent's heartbeat, else what the machine's own shell tells.

Everything that cannot be found out is unknown, and unknown is never idle.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from runctl.errors import ConfigError, NotFound, TrainctlError
from runctl.ledger import Ledger
from runctl.model import TAG_ATTEMPT, TAG_JOB
from runctl.providers.aws import account, shell
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.safety.observation import SCRIPT, AgentLine, Gpu, Process, Seen, Trouble, Unit, parse
from runctl.safety.vocabulary import Activity
from runctl.storage import claims
from runctl.storage.claims import MiB, claim
from runctl.storage.objects import JOBS_PREFIX

HEARTBEAT_LIMIT = timedelta(seconds=60)
"""Four mirrored heartbeats of 15 s: an agent that is silent for longer proves nothing any more."""

_LARGEST = 8 * MiB  # of a state: what is cut off is none
BUSY_GPU_PERCENT = 5
BUSY_CPU_PERCENT = 50
COMMENT = "runctl: does training run?"
_PATIENCE = timedelta(minutes=5)  # on the cloud's clock, which may run faster than the script
_SYSTEM = (
    "/usr/lib/systemd/",
    "/lib/systemd/",
    "amazon-ssm-agent",
    "ssm-agent-worker",
    "ssm-document-worker",
    "ssm-session-worker",
    "amazon-cloudwatch-agent",
    "cloud-init",
    "dnf",
    "yum",
    "apt",
    "unattended-upgr",
    "snapd",
)
"""What uses a processor on machines that do nothing, by the words of its command line."""


class AgentAt(msgspec.Struct, frozen=True):
    """The agent of an attempt, which can be asked to save and end."""

    job: str
    attempt: int


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """Whether training runs, why that is believed, and whom to ask to save and end.

    `processes` are what trains without an agent.
    """

    activity: Activity
    reason: str
    agents: tuple[AgentAt, ...] = ()
    processes: tuple[int, ...] = ()
    shell_answers: bool = False

    @property
    def reachable(self) -> bool:
        """Whether what trains can be asked to save and end."""
        return self.shell_answers and bool(self.agents or self.processes)


@claim("state of an attempt", largest=8 * MiB)
class _State(msgspec.Struct, frozen=True):
    """What matters here of an attempt's `state.json`; times are seconds since the epoch."""

    phase: claims.Word
    heartbeat: claims.Moment | None = None


def detect(session: Session, ledger: Ledger, instance: Instance) -> Sighting:
    """Look for training. Raises ConfigError alone: a shell or bucket that fails makes it unknown."""
    if instance.state in {"stopped", "shutting-down", "terminated"}:
        return Sighting(activity=Activity.IDLE, reason=f"the instance is {instance.state}")
    if instance.state != "running":
        return _unknown(f"the instance is {instance.state} and cannot be asked")
    agent = attempt_on(ledger, instance)
    alive = "" if agent is None else _heartbeat(session, ledger, agent)
    try:
        online = shell.is_online(session, instance.id)
        if agent is None or not alive:
            return _ask(session, instance.id) if online else _unknown("its SSM agent is not online")
    except ConfigError:
        raise
    except TrainctlError as error:
        if agent is None or not alive:
            return _unknown(f"SSM failed: {error.why or error.what}")
        online = False
    return Sighting(activity=Activity.BUSY, reason=alive, agents=(agent,), shell_answers=online)


def _ask(session: Session, instance_id: str) -> Sighting:
    result = shell.run(session, instance_id, SCRIPT, comment=COMMENT, timeout=_PATIENCE)
    seen = parse(result.output)
    if result.exit_code != 0 or seen is None:
        return _unknown("its shell gave no whole answer")
    return judge(seen)


def _unknown(reason: str) -> Sighting:
    return Sighting(activity=Activity.UNKNOWN, reason=reason)


def attempt_on(ledger: Ledger, instance: Instance) -> AgentAt | None:
    """The attempt that the instance's tags name, else the newest that the ledger saw there."""
    job, attempt = instance.tags.get(TAG_JOB, ""), instance.tags.get(TAG_ATTEMPT, "")
    if job and attempt.isdecimal():
        return AgentAt(job, int(attempt))
    known = ledger.jobs.on_instance(instance.id)
    if known is None or ledger.jobs.get(known).state.final:
        return None
    numbers = [row.number for row in ledger.jobs.attempts(known) if row.instance_id == instance.id]
    return AgentAt(known, max(numbers))


def store_of(session: Session, ledger: Ledger, job: str) -> tuple[str, str]:
    """Bucket and prefix of a job: as the ledger says, else the account's default. Raises as calls do."""
    try:
        store = ledger.jobs.get(job).store
    except TrainctlError:
        store = ""
    if store.startswith("s3://"):
        bucket, _, prefix = store.removeprefix("s3://").partition("/")
        return bucket, prefix
    return account.default_bucket(session), f"{JOBS_PREFIX}/{job}"


def judge(seen: tuple[Seen, ...]) -> Sighting:
    """What the machine's own answer means; what says most comes first. Pure."""
    agents = [AgentAt(line.job, line.attempt) for line in seen if isinstance(line, AgentLine)]
    units = [line.name for line in seen if isinstance(line, Unit)]
    agents += [agent for name in units if (agent := _agent_of(name)) and agent not in agents]
    processes = [line for line in seen if isinstance(line, Process)]
    training = [line for line in processes if line.why != "cpu" or _is_work(line)]
    gpu = max((line.busy for line in seen if isinstance(line, Gpu)), default=0)
    troubles = [line.what for line in seen if isinstance(line, Trouble)]
    if agents:
        reason = f"the agent of {agents[0].job}, attempt {agents[0].attempt}, lives"
    elif units:
        reason = f"the unit {units[0]} is active"
    else:
        reason = _why_processes(training, gpu)
    activity = Activity.BUSY
    if not reason:
        activity = Activity.UNKNOWN if troubles else Activity.IDLE
        reason = f"{troubles[0]} does not answer" if troubles else "no agent and no busy process"
    return Sighting(
        activity=activity,
        reason=reason,
        agents=tuple(agents),
        processes=tuple(sorted({line.pid for line in training})),
        shell_answers=True,
    )


def _why_processes(training: list[Process], gpu: int) -> str:
    """Why these processes, or a GPU's percentage, are training; empty where they are none."""
    first = {line.why: line for line in reversed(training)}
    if line := first.get("job"):
        return f"process {line.pid} belongs to a job: {line.command}"
    if line := first.get("gpu"):
        return f"process {line.pid} uses a GPU: {line.command}"
    if gpu >= BUSY_GPU_PERCENT:
        return f"a GPU is {gpu}% busy"
    if line := first.get("cpu"):
        return f"process {line.pid} uses {line.cpu}% of a processor: {line.command}"
    if line := first.get("command"):
        return f"process {line.pid} looks like training: {line.command}"
    return ""


def _is_work(line: Process) -> bool:
    return line.cpu >= BUSY_CPU_PERCENT and not any(word in line.command for word in _SYSTEM)


def _agent_of(unit: str) -> AgentAt | None:
    """`runctl-JOB-ATTEMPT.service`, as the bootstrap names it."""
    job, _, attempt = unit.removesuffix(".service").removeprefix("runctl-").rpartition("-")
    return AgentAt(job, int(attempt)) if job and attempt.isdecimal() else None


def _heartbeat(session: Session, ledger: Ledger, agent: AgentAt) -> str:
    """How the job's bucket proves that the agent lives; empty where it does not."""
    try:
        bucket, prefix = store_of(session, ledger, agent.job)
        key = f"{prefix}/attempt-{agent.attempt}/state.json"
        answer = session.call("s3", "get_object", **account.job_bucket(session, bucket), Key=key)
        state = claims.decode(answer["Body"].read(_LARGEST), _State, key)
    except (NotFound, claims.Unbelievable):
        return ""
    except ConfigError:
        raise
    except TrainctlError:
        return ""  # the shell is asked next, and says more
    silent = session.cloud.clock.now().timestamp() - (state.heartbeat or 0.0)
    if state.phase == "ended" or silent > HEARTBEAT_LIMIT.total_seconds():
        return ""
    return f"the agent of {agent.job}, attempt {agent.attempt}, wrote {max(silent, 0):.0f} s ago"
