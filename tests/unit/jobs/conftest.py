"""An attempt on a machine of the shared cloud; the test plays its agent by writing the agent's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from snapped import KEY

from runctl.agent import seal as seals
from runctl.agent.files import to_json
from runctl.events import Event, Notice
from runctl.jobs import spec as specs
from runctl.jobs.attempt import AgentState
from runctl.jobs.place import AwsSettings, Place, cloud_place
from runctl.jobs.spec import JobSpec
from runctl.jobs.supervise import Supervisor
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState

INSTANCE_TYPE = "m7i.xlarge"


class Attempted:
    """A job that stands as running, in its first and last attempt."""

    def __init__(self, live: Any, ledger: Ledger, **asked: Any) -> None:
        self.live = live
        self.ledger = ledger
        self.number = 1
        self.job = JobId(live.name("job"))
        self.bucket = live.name("bucket")
        live.client("s3").create_bucket(Bucket=self.bucket)
        own = asked.get("on", "sandbox") == "sandbox"
        tags = {"runctl:managed": "true", "runctl:job": self.job} if own else {"Name": "mine"}
        self.machine = live.running(
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
            ]
        )
        if not own:
            asked["on"] = self.machine
        self.spec = JobSpec(
            **{
                "name": "walk",
                "on": "sandbox",
                "root": "/nowhere",
                "workdir": ".",
                "command": ("true",),
                "instance_type": INSTANCE_TYPE,
                "max_attempts": 1,
                **asked,
            }
        )
        self.place: Place = cloud_place(live.cloud(), self.job, self.spec, AwsSettings(), bucket=self.bucket)
        self.place.owner()  # asked for once: what an agent says shall not grow old meanwhile
        self.events: list[Event] = []
        self._write_rows()

    def _write_rows(self) -> None:
        now = self.place.clock.now()
        jobs = self.ledger.jobs
        jobs.add(
            JobRecord(
                id=self.job,
                name="walk",
                spec=specs.encode(self.spec),
                state=JobState.PLANNED,
                target=self.spec.on,
                cloud=self.place.cloud_key,
                folder=None,
                store=f"s3://{self.bucket}/{self.place.prefix}",
                project="p",
                user="u",
                created=now,
                updated=now,
                seal=KEY,
            ),
            "asked for",
        )
        jobs.save_attempt(
            AttemptRecord(
                job=self.job,
                number=1,
                state="launched",
                created=now,
                started=now,
                instance_id=self.machine,
            )
        )
        before = JobState.PLANNED
        for state in (JobState.PROVISIONING, JobState.STAGING, JobState.RUNNING):
            jobs.transition(self.job, state, allowed_from={before}, at=now, attempt=1, cause="so")
            before = state

    def agent(self, phase: str, *, silent: float = 0.0, cause: str | None = None, **more: Any) -> None:
        """What the agent mirrors; `silent` is how many of the cloud's seconds ago it did so."""
        now = (self.place.clock.now() - timedelta(seconds=silent)).timestamp()
        said = AgentState(
            job=self.job,
            attempt=self.number,
            phase=phase,
            cause=cause,
            heartbeat=now,
            started=now,
            ended=now if phase == "ended" else None,
            **more,
        )
        told = msgspec.to_builtins(said)
        told["seal"] = seals.of(KEY, told, seals.STATE)
        self.place.store.write(f"attempt-{self.number}/state.json", to_json(told))

    def supervise(self, heard: Callable[[Event], None] = lambda _: None) -> JobRecord:
        """Supervise to the end; `heard` may do something about what is told."""

        def emit(event: Event) -> None:
            self.events.append(event)
            heard(event)

        return Supervisor(self.ledger, self.place, self.job, emit).run()

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice) and event.warning]

    def causes(self) -> list[str]:
        return [event.cause for event in self.ledger.jobs.events(self.job)]


@pytest.fixture
def attempted(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Callable[..., Attempted]]:
    """Makes attempts; ends their machines and faults afterwards."""
    made: list[Attempted] = []
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:

        def make(**asked: Any) -> Attempted:
            made.append(Attempted(sandbox_cloud, ledger, **asked))
            return made[-1]

        yield make
        sandbox_cloud.control.clear_faults()
        for one in made:  # one that ended an hour of the cloud's time ago is not known any more
            if sandbox_cloud.instance(one.machine):
                sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[one.machine])
