"""A process that carries out one operation, counts its calls, and may be killed before or after one of them.

Run as `python dying.py WORLD OPERATION CALL before|after`, with CALL 0 for one that is not killed; the
number of calls is what it prints. A process of its own: forks and threads of libraries do not mix.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from operations import QUICK, STORIES, USER, World

from runctl.clouds import SandboxRecord
from runctl.events import ignore
from runctl.jobs import start
from runctl.jobs.place import AwsSettings, Place, cloud_place
from runctl.jobs.script import inspect
from runctl.jobs.spec import DataVolume, JobSpec, decode, new_job_id
from runctl.jobs.supervise import Supervisor
from runctl.ledger import Ledger
from runctl.providers.aws.provider import AwsProvider
from runctl.providers.aws.session import Session
from runctl.safety import transaction

LAUNCH = "job-launch"
RECOVER_LAUNCH = "job-launch-again"


class Dying(Session):
    """Counts its calls, and kills its process before or after one of them."""

    at = 0
    before = True
    calls = 0

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        type(self).calls += 1
        mine = type(self).calls == self.at
        if mine and self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = super().call(service, operation, **parameters)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def carried_out(world: World, name: str, at: int = 0, *, before: bool = True) -> tuple[bool, int]:
    """Carry out an operation in a process of its own: whether it was killed, and its calls if it was not."""
    path = world.folder / "world.json"
    path.write_text(
        json.dumps(
            {
                "home": str(world.live.home),
                "folder": str(world.folder),
                "word": world.word,
                "instance": world.instance,
                "volumes": world.volumes,
                "snapshot": world.snapshot,
            }
        )
    )
    done = subprocess.run(
        [sys.executable, __file__, str(path), name, str(at), "before" if before else "after"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return True, 0
    assert done.returncode == 0, done.stderr
    return False, int(done.stdout.split()[-1])


def launch(world: World) -> None:
    """What `runctl train --detach` does."""
    project = world.folder / "project"
    project.mkdir()
    (project / "walk.py").write_text("import time\ntime.sleep(300)\n")
    script = inspect("walk.py", (), cwd=project)
    spec = JobSpec(
        name=world.word,
        on="sandbox",
        root=str(script.root),
        workdir=script.workdir_in_root,
        command=script.command,
        instance_type="m7i.large",
        user=USER,
        **_data(world),
    )
    job = new_job_id(world.word)
    place = _place(world, job, spec)
    with Ledger.open(world.folder) as ledger:
        plan, code = start.prepare(job, spec, place, script)
        record = start.create(ledger, plan, place, code)
        Supervisor(ledger, place, record.id, ignore).run(detach_after_launch=True)


def _data(world: World) -> dict[str, Any]:
    """With a volume named `data`, the job reads it."""
    if "data" not in world.volumes:
        return {}
    volumes = (DataVolume(id=world.volumes["data"], zone=""),)
    return {
        "data": f"s3://{world.word}/set",
        "data_strategy": "existing-ebs",
        "data_volumes": volumes,
    }


def launch_again(world: World) -> None:
    """What `runctl jobs wait` does of it."""
    with Ledger.open(world.folder) as ledger:
        (job,) = ledger.jobs.list()
        Supervisor(ledger, _place(world, job.id, decode(job.spec)), job.id, ignore).run(
            detach_after_launch=True
        )
        assert not transaction.abandoned(ledger)


def _place(world: World, job: str, spec: JobSpec) -> Place:
    place = cloud_place(world.cloud(), job, spec, AwsSettings())
    own = Dying(world.cloud(), policy=QUICK)
    return msgspec.structs.replace(place, session=own, provider=AwsProvider(own))


def main(path: str, name: str, at: str, when: str) -> None:
    told = json.loads(Path(path).read_text())
    record = msgspec.json.decode((Path(told["home"]) / "sandbox/cloud.json").read_bytes(), type=SandboxRecord)
    world = World(
        SimpleNamespace(record=record, home=Path(told["home"])),
        Path(told["folder"]),
        told["word"],
        told["instance"],
        told["volumes"],
        told["snapshot"],
    )
    Dying.at, Dying.before = int(at), when == "before"
    if name == LAUNCH:
        launch(world)
    elif name == RECOVER_LAUNCH:
        launch_again(world)
    else:
        operation = world.operation(Dying)
        STORIES[name].act(world, operation)
        operation.ledger.close()
    print(Dying.calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
