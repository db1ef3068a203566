"""The ledger rebuilt from what the cloud holds: resources by their tags, jobs by what lies in their bucket.

Adopting is repeatable: what the ledger knows stays as it is known there. What lies in a bucket is a claim of
whoever can write to it: an adopted job has no code, no place for outputs and no local data until the user
names them, and whatever is no job, or one that cannot be, is told and left out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from runctl.errors import NotFound, TrainctlError
from runctl.events import Emit, Notice
from runctl.jobs import spec as specs
from runctl.jobs.attempt import AgentState, StoredAttempt
from runctl.jobs.claimed import ClaimedSpec, as_adopted
from runctl.ledger import AttemptRecord, InstanceFacts, JobRecord, Ledger, ResourceRecord
from runctl.model import TAG_ATTEMPT, TAG_JOB, TAG_MANAGED, TAG_USER, JobId, JobState, Market, Offer
from runctl.providers.aws import account, spot_requests
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.spot_requests import SpotRequest
from runctl.providers.aws.volumes import Volume
from runctl.resources import costs, inventory
from runctl.resources.inventory import Inventory
from runctl.resources.reaching import job_access
from runctl.storage import claims, staging
from runctl.storage.entries import Entry
from runctl.storage.objects import JOBS_PREFIX
from runctl.storage.s3 import S3Store

_NAME = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(-[a-z0-9]+)*")
_ATTEMPT = re.compile("attempt-([1-9][0-9]{0,4})")
_MOST_TOLD = 20
LIVE = frozenset({"pending", "running"})
FINISHED = {
    "finished": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "prepare-failed": JobState.FAILED,
    "budget": JobState.OVER_BUDGET,
    "deadline": JobState.OVER_BUDGET,
}
"""By the agent's word for its end. Any other leaves a job that the user may resume: nothing is launched."""


class Staging(msgspec.Struct, frozen=True, kw_only=True):
    """What a job left in its bucket, or a transfer (then `job` is empty): objects and their bytes.

    A transfer empties its own prefix: what lies there is of one that goes on, or whose ledger is lost.
    """

    job: str
    location: str
    objects: int
    bytes: int


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and which of it the ledger did not know (`new`: ids). `failures` could not be read.

    `left_out` are names in the bucket that are no job's, `theirs` the jobs that are said to be of others.
    """

    instances: tuple[str, ...]
    volumes: tuple[str, ...]
    snapshots: tuple[str, ...]
    spot_requests: tuple[SpotRequest, ...]
    jobs: tuple[str, ...]
    staging: tuple[Staging, ...]
    new: tuple[str, ...]
    failures: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    theirs: dict[str, str] = {}


class _Job(msgspec.Struct, frozen=True):
    """The objects of one job, by key below its prefix."""

    id: str
    session: Session
    store: S3Store
    objects: dict[str, Entry]


def adopt(
    ledger: Ledger, sessions: Sequence[Session], *, bucket: str | None, user: str, emit: Emit
) -> Adopted:
    """Read every region, and each region's job bucket (`bucket` where one is configured), for a `user`.

    Raises CloudError where nothing could be read; a part that could not is a failure, and adopting again
    makes up for it.
    """
    seen = inventory.read(sessions, emit=emit)
    managed = [_managed(found) for found in (seen.instances, seen.volumes, seen.snapshots)]
    before = {record.id for record in ledger.resources.list(cloud=seen.cloud)}
    inventory.refresh(ledger, sessions, seen)
    failures, requests, jobs = list(seen.failures), list[SpotRequest](), list[_Job]()
    transfers, odd = list[Staging](), list[str]()
    for session in sessions if bucket is None else [*sessions][:1]:
        try:
            name = bucket or account.default_bucket(session)
            found, names = _jobs(session, name)
            jobs += found
            odd += names
            transfers += _transfers(session, name)
        except TrainctlError as error:
            _fail(failures, f"jobs of {session.region}: {error}", emit)
    for session in sessions:
        try:
            requests += spot_requests.managed(session)
        except TrainctlError as error:
            _fail(failures, f"spot requests of {session.region}: {error}", emit)
    for text in odd[:_MOST_TOLD]:
        emit(Notice(text=f"left out: {text} is no job's name", warning=True))
    if len(odd) > _MOST_TOLD:
        emit(Notice(text=f"left out: {len(odd) - _MOST_TOLD} more that are no job's name", warning=True))
    adopted = [job.id for job in jobs if _adopt_job(ledger, seen, job, failures, emit)]
    owners = {job.id: _user_in(ledger, job.id) for job in jobs}
    return Adopted(
        instances=managed[0],
        volumes=managed[1],
        snapshots=managed[2],
        spot_requests=tuple(requests),
        jobs=tuple(job.id for job in jobs if "spec.json" in job.objects),
        staging=(*map(_staging, jobs), *transfers),
        new=(*(one for ids in managed for one in ids if one not in before), *adopted),
        failures=tuple(failures),
        left_out=tuple(odd),
        theirs={job: owner for job, owner in owners.items() if owner not in {"", user}},
    )


def _user_in(ledger: Ledger, job: str) -> str:
    return ledger.jobs.get(job).user if _is_known(ledger, job) else ""


def _managed(found: Sequence[Instance | Volume | Snapshot]) -> tuple[str, ...]:
    """Those of runctl that are there still."""
    over = {"shutting-down", "terminated", "deleting"}
    return tuple(one.id for one in found if one.tags.get(TAG_MANAGED) == "true" and one.state not in over)


def _fail(failures: list[str], text: str, emit: Emit) -> None:
    failures.append(text)
    emit(Notice(text=f"not read: {text}", warning=True))


def _jobs(session: Session, bucket: str) -> tuple[list[_Job], list[str]]:
    """Every job with an object in the bucket, and the names that are no job's; none without a bucket."""
    if not account.bucket_exists(session, bucket):
        return [], []
    jobs: list[_Job] = []
    odd: list[str] = []
    for job, objects in _by_folder(session, bucket, JOBS_PREFIX):
        if not _NAME.fullmatch(job):
            odd.append(claims.spelled(f"s3://{bucket}/{JOBS_PREFIX}/{job}"))
            continue
        store = S3Store(bucket, f"{JOBS_PREFIX}/{job}", job_access(session))
        jobs.append(_Job(job, session, store, objects))
    return jobs, odd


def _transfers(session: Session, bucket: str) -> list[Staging]:
    """What transfers with instances staged; none where there is no bucket."""
    if not account.bucket_exists(session, bucket):
        return []
    return [
        Staging(
            job="",
            location=f"s3://{bucket}/{staging.FOLDER}/{claims.spelled(name)}",
            objects=len(objects),
            bytes=sum(info.size for info in objects.values()),
        )
        for name, objects in _by_folder(session, bucket, staging.FOLDER)
    ]


def _by_folder(session: Session, bucket: str, prefix: str) -> list[tuple[str, dict[str, Entry]]]:
    """The objects of each folder under a prefix, by key below it: to the letter, for some are no paths."""
    found: dict[str, dict[str, Entry]] = {}
    for entry in S3Store(bucket, prefix, job_access(session)).entries():
        folder, _, key = entry.key.partition("/")
        if key:
            found.setdefault(folder, {})[key] = entry
    return sorted(found.items())


def _staging(job: _Job) -> Staging:
    return Staging(
        job=job.id,
        location=f"s3://{job.store.bucket}/{job.store.prefix}",
        objects=len(job.objects),
        bytes=sum(info.size for info in job.objects.values()),
    )


def _adopt_job(ledger: Ledger, seen: Inventory, job: _Job, failures: list[str], emit: Emit) -> bool:
    """Write a job into the ledger that does not know it; answers whether it did."""
    if "spec.json" not in job.objects or _is_known(ledger, job.id):
        return False
    try:
        said = claims.read(job.store, "spec.json", ClaimedSpec)
        spec = specs.check(as_adopted(said, on="sandbox" if seen.cloud.startswith("sandbox") else "aws"))
        states = {number: StoredAttempt(job.store, number).state() for number in _attempts(job)}
    except TrainctlError as error:
        _fail(failures, f"job {job.id}: {error}{f': {error.why}' if error.why else ''}", emit)
        return False
    machines = _machines(seen, job.id)
    attempts = [
        _attempt(job, number, states.get(number), machines.get(number), seen)
        for number in _in_a_row({*states, *machines})
    ]
    state, cause = _standing(states, machines, attempts, seen)
    created = min([_modified(job.objects["spec.json"]), *(one.created for one in attempts)])
    owners = [machine.tags.get(TAG_USER, "") for machine in machines.values()]
    record = JobRecord(
        id=JobId(job.id),
        name=spec.name,
        spec=specs.encode(spec),
        state=state,
        target=spec.on,
        cloud=seen.cloud,
        folder=None,
        store=f"s3://{job.store.bucket}/{job.store.prefix}",
        project=spec.project,
        # The cloud's tags are not in the bucket.
        user=next((owner for owner in owners if owner), spec.user),
        created=created,
        updated=seen.taken,
        adopted_at=seen.taken,
        seal=secrets.token_hex(32),
    )
    with ledger.resources.together():
        ledger.jobs.add(record, f"adopted: {cause}")
        for attempt in attempts:
            ledger.jobs.save_attempt(attempt)
            if attempt.instance_id is None and attempt.started is not None:
                _note_lost_machine(ledger, record, attempt)
    return True


def _note_lost_machine(ledger: Ledger, job: JobRecord, attempt: AttemptRecord) -> None:
    """A machine of which EC2 shows nothing any more: how long it worked is known, and what it cost is not."""
    assert attempt.started is not None  # noqa: S101 (asked before)
    name = f"lost/{job.id}/{attempt.number}"
    facts = InstanceFacts(instance_type="unknown", market=Market.ON_DEMAND, region="")
    ledger.resources.save(
        ResourceRecord(
            id=name,
            kind="instance",
            cloud=job.cloud,
            region="",
            zone="",
            name=f"{job.id}/{attempt.number}",
            project=job.project,
            user=job.user,
            job=job.id,
            attempt=attempt.number,
            facts=msgspec.json.encode(facts),
            created=attempt.started,
        )
    )
    ledger.resources.observe(name, "running", at=attempt.started, billable=True, price=None)
    ledger.resources.close(name, at=max(attempt.started, attempt.ended or attempt.started), ended_by=None)


def _offer(session: Session, machine: Instance) -> bytes:
    """What the machine was taken for, as far as it can be told afterwards."""
    price = costs.running_rate(session, machine)
    return msgspec.json.encode(Offer("aws", machine.instance_type, machine.zone, machine.market, price))


def _is_known(ledger: Ledger, job: str) -> bool:
    try:
        return ledger.jobs.get(job).id == job
    except (NotFound, TrainctlError):
        return False


def _attempts(job: _Job) -> list[int]:
    names = {key.partition("/")[0] for key in job.objects}
    return _in_a_row({int(found[1]) for name in names if (found := _ATTEMPT.fullmatch(name))})


def _in_a_row(numbers: set[int]) -> list[int]:
    """Attempts are numbered from 1 without a gap: what comes after one is somebody else's."""
    whole = range(1, len(numbers) + 1)
    return [number for number in whole if set(range(1, number + 1)) <= numbers]


def _machines(seen: Inventory, job: str) -> dict[int, Instance]:
    """The job's instances that EC2 shows still, by attempt."""
    found: dict[int, Instance] = {}
    for instance in seen.instances:
        number = instance.tags.get(TAG_ATTEMPT, "")
        if instance.tags.get(TAG_JOB) == job and _ATTEMPT.fullmatch(f"attempt-{number}"):
            found[int(number)] = instance
    return found


def _attempt(
    job: _Job, number: int, agent: AgentState | None, machine: Instance | None, seen: Inventory
) -> AttemptRecord:
    modified = [
        _modified(entry) for key, entry in job.objects.items() if key.startswith(f"attempt-{number}/")
    ]
    launched = machine.launched if machine else _moment(agent.started) if agent else None
    over = (agent is not None and agent.is_over) or machine is None or machine.state not in LIVE
    ended = _moment(agent.ended or agent.last_sign) if agent and over else None
    record = AttemptRecord(
        job=JobId(job.id),
        number=number,
        state=("ended" if agent and agent.is_over else "lost") if over else "running",
        created=min([launched or seen.taken, *modified]),
        instance_id=machine.id if machine else None,
        offer=_offer(job.session, machine) if machine else None,
        started=launched,
        ended=ended or (machine.ended if machine and over else None),
    )
    if agent is None:
        return record
    return msgspec.structs.replace(
        record,
        cause=agent.cause,
        message=agent.message,
        resumed_from=agent.resumed_from,
        resumed_step=agent.resumed_step,
        last_step=agent.step,
        exit_code=agent.exit_code,
        committed_name=agent.committed.name if agent.committed else None,
        committed_step=agent.committed.step if agent.committed else None,
        committed_seconds=agent.committed.seconds_after_notice if agent.committed else None,
        began_step=agent.began_at_step,
        kept_files=agent.kept.files if agent.kept else None,
        kept_bytes=agent.kept.bytes if agent.kept else None,
    )


def _standing(
    states: dict[int, AgentState | None],
    machines: dict[int, Instance],
    attempts: Sequence[AttemptRecord],
    seen: Inventory,
) -> tuple[JobState, str]:
    """Where the job stands, and why. What nobody supervises is stopped; what runs is left to `jobs wait`."""
    if not attempts:
        return JobState.STOPPED, "nothing was launched"
    number = attempts[-1].number
    agent, machine = states.get(number), machines.get(number)
    if machine is not None and machine.state in LIVE:
        if agent is None or agent.phase == "preparing":
            return JobState.STAGING, f"{machine.id} starts"
        return JobState.RUNNING, f"{machine.id} runs"
    if "instance" in {kind for _, kind in seen.unread}:
        return JobState.RUNNING, "whether its machine runs could not be read"
    if agent is not None and agent.is_over:
        outcome = FINISHED.get(agent.cause or "", JobState.STOPPED)
        return outcome, agent.message or agent.cause or "ended"
    return JobState.STOPPED, "its machine is gone"


def _modified(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.modified / 1e9, UTC)


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
