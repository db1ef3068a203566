"""`runctl demo`: the main job on a sandbox cloud, through a spot interruption, in one sitting."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import msgspec

from runctl.cli import running
from runctl.cli.options import Context, common
from runctl.errors import JobFailed
from runctl.events import Event, LogOutput, Transition
from runctl.model import JobState
from runctl.render import figures, output

SPEED = 20.0
EPOCHS = 240
SHOWN_EVERY = 20
GONE_SECONDS = 20.0
A_CENT = Decimal("0.01")
_EPOCH = re.compile(rb"epoch (\d+)/")


class Outcome(msgspec.Struct, frozen=True):
    """What the demo came to; money in USD, `None` where it is unknown."""

    state: JobState
    interruptions: int
    verified: bool
    """The checkpoint that the next attempt began with was read back from S3."""
    steps_lost: int | None
    same_weights: bool
    machines_left: int
    disks_left: int
    resources_left: int
    bill: Decimal
    cost: Decimal | None

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises that were not kept."""
        lost = "steps of unknown number" if self.steps_lost is None else f"{self.steps_lost} steps"
        promises = {
            f"the job {self.state}": self.state is JobState.SUCCEEDED,
            "no machine was taken away": self.interruptions > 0,
            "no checkpoint was read back from S3": self.verified,
            f"{lost} were lost": self.steps_lost == 0,
            "the weights differ from those of a run in peace": self.same_weights,
            f"{self.machines_left} machines are left": self.machines_left == 0,
            f"{self.disks_left} disks are left": self.disks_left == 0,
            f"{self.resources_left} resources are open in the ledger": self.resources_left == 0,
            f"the cloud's bill is {self.bill}, and the ledger says {self.cost}": self.cost is not None
            and abs(self.bill - self.cost) < A_CENT,
        }
        return tuple(told for told, kept in promises.items() if not kept)


@click.command()
@click.option("--epochs", type=click.IntRange(min=30), default=EPOCHS, show_default=True)
@common
def demo(context: Context, epochs: int) -> int:
    """Watch a job survive a spot interruption on the sandbox cloud.

    Trains a small network on the handwritten digits that ship with scikit-learn, takes its machine away
    in the middle, and shows that the result is the same as without. The exit code is 0 when all of it
    came true.

    \b
    Examples:
      runctl demo
      runctl demo --epochs 400
    """
    begun = time.monotonic()
    # The story is data for people and talk for scripts.
    told = output.data_as_talk() if context.json else contextlib.nullcontext()
    with told, tempfile.TemporaryDirectory(prefix="runctl-demo-") as name:
        folder = Path(name)
        # A ledger and a sandbox of its own: the user's are left alone.
        os.environ["RUNCTL_HOME"] = str(folder / "home")
        project = folder / "digits"
        shutil.copytree(example(), project)
        found = _act(context, project, epochs)
    output.talk("")
    output.talk(f"the demo took {time.monotonic() - begun:.0f} s")
    if context.json:
        output.write_json({"demo": found, "broken": found.broken})
    if found.broken:
        raise JobFailed(
            "The demo did not keep its promises",
            why="; ".join(found.broken),
            next="run it once more; should it stay so, report it with what it printed",
        )
    return 0


def example() -> Path:
    """The digits example: in the package, or beside it in a checkout."""
    import runctl

    package = Path(runctl.__file__).parent
    inside = package / "examples" / "digits"
    return inside if inside.is_dir() else package.parents[1] / "examples" / "digits"


def _act(context: Context, project: Path, epochs: int) -> Outcome:
    from runctl.sandbox import launcher

    _title("1. a cloud on this machine, whose clock runs 20 times as fast")
    record = launcher.up(speed=SPEED)
    output.talk(f"the sandbox serves EC2, S3 and SSM at {record.endpoint}")
    try:
        return _train(context, project, epochs)
    finally:
        launcher.down(record)


def _train(context: Context, project: Path, epochs: int) -> Outcome:
    _title("2. train on a spot machine; its notice comes in the middle of the work")
    settings = context.settings()
    request = running.Request(
        script="train.py",
        arguments=("--epochs", str(epochs)),
        on="sandbox",
        instance_type="g5.xlarge",
        gpus=None,
        spot=True,
        fallback=True,
        data=None,
        output=str(project.parent / "result"),
        checkpoints=None,
        resume_arg=None,
        max_attempts=5,
        budget=running.money("5"),
        max_hours=None,
        name="digits",
        detach=False,
        keep=False,
        dry_run=False,
        project="demo",
        user="demo",
        cwd=project,
    )
    shown = msgspec.structs.replace(context, output="text")
    story = _Story(running.follower(shown), interrupt_after=epochs // 3)
    running.train(shown, settings, request, emit=story)
    story.close()
    _title("3. is it the same? the same script once more, in peace, on this machine")
    same = _compare(project, epochs)
    _title("4. what is left?")
    found = _look(story.verified, same)
    _show_rest(found)
    return found


class _Story:
    """Thins the log, and plays the cloud that takes its machine back."""

    def __init__(self, show: Any, *, interrupt_after: int) -> None:
        self.verified = False
        self._show = show
        self._interrupt_after = interrupt_after
        self._rest = b""
        self._interrupted = False
        self._threads: list[threading.Thread] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, LogOutput):
            self._lines(event)
            return
        self._show(event)
        if isinstance(event, Transition) and event.state is JobState.RECOVERING:
            self.verified = _verify(event)

    def close(self) -> None:
        for thread in self._threads:
            thread.join()

    def _lines(self, event: LogOutput) -> None:
        *lines, self._rest = (self._rest + event.data).split(b"\n")
        for line in lines:
            epoch = _EPOCH.match(line)
            if epoch is None or int(epoch[1]) % SHOWN_EVERY == 0 or int(epoch[1]) == 1:
                output.write_line(f"  | {line.decode(errors='backslashreplace')}")
            if epoch is not None and int(epoch[1]) >= self._interrupt_after and not self._interrupted:
                self._interrupted = True
                thread = threading.Thread(target=_interrupt)
                thread.start()
                self._threads.append(thread)


def _interrupt() -> None:
    from runctl.cli.sandbox import control

    running_now = [row for row in control().status()["machines"] if row["state"] == "running"]
    for machine in running_now:
        output.talk(f"[cloud] {machine['id']} gets its spot notice: two minutes to live", style="magenta")
        control().interrupt(machine["id"], notice=120)


def _verify(event: Transition) -> bool:
    """Check in S3, byte by byte, the checkpoint that the next attempt will start from."""
    from runctl.clouds import home, sandbox_cloud
    from runctl.jobs import checkpoints
    from runctl.jobs.place import AwsSettings, cloud_place
    from runctl.jobs.spec import decode
    from runctl.ledger import Ledger

    with Ledger.open(home()) as ledger:
        job = ledger.jobs.get(event.job)
        seal = job.seal
        place = cloud_place(sandbox_cloud(), job.id, decode(job.spec), AwsSettings())
        committed = ledger.jobs.attempts(job.id)[-1].committed_name
    if not committed:
        return False
    checkpoints.verify(place, committed, seal)
    output.talk(f"[check] {committed} was read back from S3 and is what its manifest says", style="green")
    return True


def _compare(project: Path, epochs: int) -> bool:
    peaceful = project.parent / "in-peace"
    environment = {
        **os.environ,
        "RUNCTL_CHECKPOINT_DIR": str(peaceful / "checkpoints"),
        "RUNCTL_OUTPUT_DIR": str(peaceful / "outputs"),
    }
    for folder in ("checkpoints", "outputs"):
        (peaceful / folder).mkdir(parents=True)
    subprocess.run(
        [sys.executable, "train.py", "--epochs", str(epochs)],
        cwd=project,
        env=environment,
        check=True,
        capture_output=True,
    )
    ours = (project.parent / "result" / "weights.npz").read_bytes()
    theirs = (peaceful / "outputs" / "weights.npz").read_bytes()
    with_cut = (project.parent / "result" / "result.json").read_text(encoding="utf-8")
    without = (peaceful / "outputs" / "result.json").read_text(encoding="utf-8")
    same = ours == theirs and with_cut == without
    output.write_line(f"interrupted   {_facts(with_cut)}")
    output.write_line(f"in peace      {_facts(without)}")
    verdict = "the final weights are identical, bit by bit" if same else "THE RESULTS DIFFER"
    output.talk(verdict, style="green" if same else "red")
    return same


def _facts(text: str) -> str:
    import json

    result = json.loads(text)
    return f"accuracy {result['accuracy']:.4f}  weights {result['weights_sha256'][:16]}..."


def _look(verified: bool, same: bool) -> Outcome:
    """What the ledger and the cloud, each by itself, say in the end."""
    from runctl.cli.sandbox import control
    from runctl.clouds import home, sandbox_cloud
    from runctl.jobs.report import report
    from runctl.ledger import Ledger

    machines, disks = _left()
    with Ledger.open(home()) as ledger:
        [job] = ledger.jobs.list()
        found = report(ledger, job, sandbox_cloud().clock.now())
        return Outcome(
            state=found.state,
            interruptions=found.interruptions,
            verified=verified,
            steps_lost=found.steps_lost,
            same_weights=same,
            machines_left=machines,
            disks_left=disks,
            resources_left=len(ledger.resources.list(live_only=True)),
            bill=Decimal(control().bill()["total"]),
            cost=found.cost,
        )


def _left() -> tuple[int, int]:
    """How many machines and disks the cloud has, once those that are on their way out have gone."""
    from runctl.cli.sandbox import control

    until = time.monotonic() + GONE_SECONDS
    while True:
        status = control().status()
        machines = [row for row in status["machines"] if row["state"] != "terminated"]
        left = len(machines), len(status["disks"])
        if left == (0, 0) or time.monotonic() > until:
            return left
        time.sleep(0.1)


def _show_rest(found: Outcome) -> None:
    output.write_line(f"machines           {found.machines_left or 'none'}")
    output.write_line(f"disks              {found.disks_left or 'none'}")
    output.write_line(f"open in the ledger {found.resources_left or 'nothing'}")
    cost = "unknown" if found.cost is None else figures.usd(found.cost)
    output.write_line(f"the cloud's bill   {figures.usd(found.bill)}; the ledger says {cost}")


def _title(text: str) -> None:
    output.talk("")
    output.talk(f"=== {text}", style="bold")
