"""Launching one attempt: code and spec into the store, one machine in one transaction, or its recovery."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.errors import CapacityError, CloudError, Conflict, QuotaError
from runctl.events import Emit, Event, Notice
from runctl.jobs import accounting, folders, limits
from runctl.jobs.place import Place, RootDisk, root_disk
from runctl.jobs.spec import JobSpec
from runctl.ledger import AttemptRecord, JobRecord, Ledger, decoded
from runctl.model import (
    TAG_ATTEMPT,
    TAG_CREATED,
    TAG_JOB,
    TAG_MANAGED,
    TAG_PROJECT,
    TAG_TRANSACTION,
    TAG_USER,
    JobId,
    JobState,
    Offer,
)
from runctl.providers.base import LaunchRequest, Machine
from runctl.providers.local import LocalLaunch
from runctl.quoting import quoted
from runctl.safety import transaction
from runctl.storage.folder import FolderStore

if TYPE_CHECKING:
    from runctl.providers.aws.session import Session

OPERATION = "launch-attempt"
_DRILL_POLL_SECONDS = 0.1


class Launcher:
    """Launches attempts of one job at one place."""

    def __init__(
        self,
        ledger: Ledger,
        place: Place,
        job: JobRecord,
        spec: JobSpec,
        emit: Emit,
        is_mine: Callable[[], bool],
    ) -> None:
        self._is_mine = is_mine
        self._ledger = ledger
        self._place = place
        self._job = job
        self._spec = spec
        self._emit = emit
        self._disks: dict[str, RootDisk] = {}

    def launch(self, attempt: AttemptRecord, offers: list[Offer]) -> Machine:
        """Take the first offer that there is capacity for.

        A quota is one for all zones: what counts against it is not asked for again. Raises what
        `is_hopeless` where every way is refused so, CapacityError else.
        """
        refused: list[CapacityError] = []
        for offer in offers:
            if any(_rules_out(error, offer) for error in refused):
                continue
            try:
                return self._launch_on(attempt, offer)
            except CapacityError as error:
                refused.append(error)
                why = f"{error}; next: {error.next}" if isinstance(error, QuotaError) else error.code
                text = f"no {offer.instance_type} {offer.market} in {offer.zone}: {why}"
                self._emit(Notice(text=text, warning=True))
        waiting = [error for error in refused if not is_hopeless(error)]
        quotas = [error for error in refused if isinstance(error, QuotaError)]
        found = [*waiting[-1:], *quotas, *refused]
        raise (
            found[0]
            if found
            else CloudError(
                "There is no offer to launch", service="ec2", operation="run_instances", code="NoOffers"
            )
        )

    def recover(self, attempt: AttemptRecord) -> Machine | None:
        """Go on with a launch whose process died; None where nothing had been asked for yet."""
        subject = _subject(attempt)
        mine = transaction.abandoned(self._ledger, operation=OPERATION, subject=subject)
        others = len(self._ledger.journal.unfinished(operation=OPERATION, subject=subject)) - len(mine)
        if others:
            raise Conflict(
                f"Another process launches {subject}", next=f"runctl jobs wait {quoted(attempt.job)}"
            )
        for record in mine:
            transaction.take_up(self._ledger, record)
            machine: Machine | None = None
            for step in record.steps:
                if step.outcome in {"failed", "undone"}:
                    continue
                # The same request with the same token: the same machine, made now if it was not yet.
                request = _decode_request(step.request)
                try:
                    machine = self._launch_again(request)
                except CapacityError as error:
                    self._ledger.journal.failed(record.id, step.number, f"{error.kind}: {error}")
                    continue
                self._ledger.journal.done(record.id, step.number, machine.id.encode())
                self._adopt(attempt, request.offer, machine)
            self._ledger.journal.end(record.id, "finished")
            if machine is not None:
                return machine
        return None

    def _launch_again(self, request: LaunchRequest) -> Machine:
        """The machine of a request that may have been made before, even where it has ended since."""
        try:
            return self._place.provider.launch(request)
        except CloudError as error:
            if error.code != "IdempotentInstanceTerminated":
                raise
            ended = self._place.provider.find(request.token)
            if ended is None:
                raise
            return ended

    def _launch_on(self, attempt: AttemptRecord, offer: Offer) -> Machine:
        now = self._place.clock.now()
        if not self._is_mine():
            raise Conflict(f"Another process supervises {attempt.job} by now")
        with transaction.begin(
            self._ledger, OPERATION, subject=_subject(attempt), payload=msgspec.json.encode(offer), at=now
        ) as tx:
            # Whoever stops a job that has no machine looks for this transaction, and we for that stop.
            if self._ledger.jobs.get(self._job.id).state is not JobState.PROVISIONING:
                raise Conflict(f"Job {self._job.id} was stopped meanwhile")
            written = self._write_spec(attempt.number, offer, now)
            request = self._request(attempt.number, offer, tx.id, now, written)
            machines: list[Machine] = []

            def do() -> bytes:
                machines.append(self._place.provider.launch(request))
                return machines[0].id.encode()

            tx.step(
                "run-instance",
                token=request.token,
                request=msgspec.json.encode(request),
                do=do,
                undo=lambda result: self._end(result.decode()),
            )
            self._adopt(attempt, offer, machines[0])
        return machines[0]

    def _adopt(self, attempt: AttemptRecord, offer: Offer, machine: Machine) -> None:
        if self._spec.data_volumes:
            from runctl.jobs.data import attach

            attach(self._place, self._spec, offer, machine.id, emit=self._while_waiting)
        own = not self._spec.instance
        started = machine.launched if own else self._place.clock.now()
        self._ledger.jobs.save_attempt(
            msgspec.structs.replace(
                attempt,
                instance_id=machine.id,
                offer=msgspec.json.encode(offer),
                started=started,
                state="launched",
            )
        )
        if own:
            accounting.note_machine(
                self._ledger, self._place, self._job, attempt.number, machine, asked=machine.launched
            )
        else:
            accounting.note_use(self._ledger, self._place, self._job, attempt.number, machine, started)

    def _while_waiting(self, event: Event) -> None:
        """Attaching takes longer than a supervisor may be silent."""
        self._is_mine()
        self._emit(event)

    def _end(self, machine_id: str) -> None:
        if self._place.session is None:
            self._place.provider.ask_to_stop(machine_id, self._job.id, 0)
        elif not self._spec.instance:
            from runctl.safety import destroy

            destroy.terminate_job_instance(
                self._place.session, machine_id, job=self._job.id, ledger=self._ledger
            )

    def _request(self, number: int, offer: Offer, tx: str, now: datetime, written: str) -> LaunchRequest:
        """What is asked of the provider, for a machine that takes the spec of the SHA-256 `written` alone."""
        if self._place.session is None:
            folder = Path(self._job.folder or "") / f"attempt-{number}"
            launch = LocalLaunch(spec=str(folder / "spec.json"))
            return LaunchRequest(f"{tx}-1", offer, msgspec.json.encode(launch).decode())
        from runctl.providers.aws import instances

        script = self._bootstrap(number, written)
        if self._spec.instance:
            return LaunchRequest(f"{tx}-1", offer, script)
        settings, disk = self._place.settings, self._disk(offer)
        spec = instances.InstanceSpec(
            offer=offer,
            image=disk.image.id,
            root_device=disk.image.root_device,
            root_volume_gib=disk.gib,
            profile=settings.instance_profile,
            user_data=script,
            tags=self._tags(number, tx, now),
            security_group=settings.security_group,
        )
        parameters = json.dumps(instances.run_parameters(spec, f"{tx}-1"))
        return LaunchRequest(f"{tx}-1", offer, parameters)

    def _disk(self, offer: Offer) -> RootDisk:
        """Looked up once: all attempts at one launch start from the same image."""
        if offer.instance_type not in self._disks:
            self._disks[offer.instance_type] = root_disk(self._place, offer.instance_type)
        return self._disks[offer.instance_type]

    def _tags(self, number: int, tx: str, now: datetime) -> dict[str, str]:
        return {
            "Name": f"runctl {self._job.id}/{number}",
            TAG_MANAGED: "true",
            TAG_USER: self._job.user,
            TAG_PROJECT: self._job.project,
            TAG_JOB: self._job.id,
            TAG_ATTEMPT: str(number),
            TAG_TRANSACTION: tx,
            TAG_CREATED: now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _bootstrap(self, number: int, spec_sha256: str) -> str:
        from runctl.jobs import bootstrap, code

        place = self._place
        assert place.session is not None and place.bucket is not None  # noqa: PT018, S101 (clouds only)
        key, digest = code.send_agent(place)
        return bootstrap.script(
            bootstrap.Bootstrap(
                job=self._job.id,
                attempt=number,
                agent_key=key,
                agent_sha256=digest,
                spec_sha256=spec_sha256,
                seal=self._job.seal,
                owner=place.owner(),
                bucket=place.bucket,
                prefix=place.prefix,
                region=place.session.region,
                host=place.session.s3_host(),
                lease_minutes=0 if self._spec.instance else place.settings.lease_minutes,
                grace_seconds=self._spec.grace_seconds,
            )
        )

    def _write_spec(self, number: int, offer: Offer, now: datetime) -> str:
        """Write the agent's input; the SHA-256 that it has."""
        data = json.dumps(self._attempt_spec(number, offer, now), indent=1).encode()
        store = self._place.store
        if isinstance(store, FolderStore):
            folders.check(self._spec)
            folders.make(store.root)
        store.write(f"attempt-{number}/spec.json", data)
        return hashlib.sha256(data).hexdigest()

    def _attempt_spec(self, number: int, offer: Offer, now: datetime) -> dict[str, Any]:
        """The agent's input; `docs/agent.md` describes it."""
        spec, place = self._spec, self._place
        remote = place.session is not None
        workdir = str(Path("code") / spec.workdir) if remote else str(Path(spec.root) / spec.workdir)
        disposable = remote and not spec.instance
        return {
            "format": 1,
            "job": self._job.id,
            "attempt": number,
            "command": list(spec.command),
            "workdir": workdir,
            "environment": {},
            "python": _python(spec, offer),
            "bundle": msgspec.to_builtins(spec.code),
            "data": _data(spec, offer, place.session),
            "checkpoint_dir": str(Path(workdir) / spec.checkpoints) if spec.checkpoints else "checkpoints",
            "checkpoint_pattern": spec.checkpoint_pattern,
            "keep_written": spec.keep_written if remote else 0,
            "output_dir": spec.output if spec.output and not remote else "outputs",
            "store": (
                {
                    "kind": "s3",
                    "bucket": place.bucket,
                    "prefix": place.prefix,
                    "region": place.session.region,
                    "host": place.session.s3_host(),
                    "owner": place.owner(),
                }
                if place.session
                else {"kind": "folder", "path": self._job.folder}
            ),
            "resume": {
                "from": spec.resume_from or "newest",
                "since": spec.resume_since,
                "not_from": list(spec.not_from),
                "trusted": {spec.accepted.name: spec.accepted.sha256} if spec.accepted else {},
            },
            "resume_arg": spec.resume_arg,
            "signal": "SIGTERM",
            "grace_seconds": spec.grace_seconds,
            "lease_seconds": place.settings.lease_minutes * 60 if disposable else 0,
            "deadline": self._deadline(now),
            "budget": self._budget(offer, now),
            "machine": {
                "disposable": disposable,
                "keep": spec.keep,
                "watch_notice": remote or _drilled(),
                # A drill is short: a notice shall not be missed between two looks.
                **({"notice_poll_seconds": _DRILL_POLL_SECONDS} if _drilled() else {}),
            },
        }

    def _deadline(self, now: datetime) -> float | None:
        if self._spec.max_hours is None:
            return None
        return (now + limits.time_left(self._ledger, self._job.id, self._spec.max_hours, now)).timestamp()

    def _budget(self, offer: Offer, now: datetime) -> dict[str, float] | None:
        if self._spec.budget is None:
            return None
        rate = offer.price.usd_per_hour if offer.price else Decimal(0)
        if self._place.session is not None and not self._spec.instance:
            disk = self._disk(offer).price
            rate += disk.usd_per_hour if disk else Decimal(0)
        so_far = accounting.spent(self._ledger, self._job.id, now)
        return {
            "usd": float(self._spec.budget),
            "spent_usd": float(so_far.total.usd),
            "usd_per_hour": float(rate),
            "since": now.timestamp(),
        }


def is_hopeless(error: CapacityError) -> bool:
    """Whether no waiting helps: the account may have no more, or the type cannot be had so at all."""
    return isinstance(error, QuotaError) or error.code == "Unsupported"


def _rules_out(error: CapacityError, offer: Offer) -> bool:
    return isinstance(error, QuotaError) and error.meets(offer.instance_type, offer.market)


def _data(spec: JobSpec, offer: Offer, session: Session | None) -> dict[str, Any] | None:
    if not spec.data:
        return None
    from runctl.jobs.data import for_agent  # what a job without data does not need is not loaded

    return for_agent(spec, offer, session)


def _python(spec: JobSpec, offer: Offer) -> dict[str, object]:
    if spec.is_local:
        needs = spec.python
        return {
            "kind": needs.kind,
            "requirements": list(needs.requirements),
            "requires_python": needs.requires_python,
            "digest": needs.digest,
        }
    from runctl.jobs.place import architecture_of
    from runctl.jobs.pythons import for_machine  # what a local job does not need is not loaded

    return for_machine(spec.python, architecture_of(offer.instance_type))


def _drilled() -> bool:
    """A drill has local attempts watch for notices, too: it serves a metadata service of its own to them."""
    return bool(os.environ.get("RUNCTL_DRILL"))


def attempt_of(ledger: Ledger, job: JobId, now: datetime) -> AttemptRecord:
    """The attempt that is being launched; who began it may have died before its row was written."""
    number = ledger.jobs.events(job)[-1].attempt
    known = (attempt for attempt in ledger.jobs.attempts(job) if attempt.number == number)
    return next(known, None) or AttemptRecord(job=job, number=number, state="provisioning", created=now)


def _subject(attempt: AttemptRecord) -> str:
    return f"{attempt.job}/{attempt.number}"


def _decode_request(data: bytes) -> LaunchRequest:
    return decoded(data, LaunchRequest, "a launch")
