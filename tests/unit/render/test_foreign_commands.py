"""Every command that reads is run over a ledger, a cloud, a bucket and a project full of planted text."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import click
import msgspec
import pytest
from foreign import STORABLE, assert_clean, assert_seen, captured, filled
from snapped import take

from runctl.agent.names import unfit
from runctl.agent.snapshot import Entry
from runctl.cli import main
from runctl.cli.root import root
from runctl.jobs import spec as specs
from runctl.ledger import AttemptRecord, JobRecord, Ledger, ResourceRecord
from runctl.ledger.records import Owner, VerdictRecord
from runctl.ledger.staged import StagedRecord
from runctl.model import JobId, JobState

LOCAL = JobId("planted-1")
ODD = JobId(f"{STORABLE}-2")
DOES_NOT_READ = {
    # What starts, waits, or asks nothing of anybody: it shows the same text by the same functions.
    *("jobs wait", "aws wait", "s3 watch", "demo", "sandbox up", "sandbox down", "sandbox env"),
    *("sandbox clock", "sandbox fault add", "sandbox fault clear", "sandbox interrupt", "sandbox reset"),
    *("data cache prune",),
}  # fmt: skip
SHOWS_NO_TEXT = {"ledger check", "ledger copies", "data cache list", "config trusted", "config validate"}
WITHOUT_A_CLOUD: dict[str, list[list[str]]] = {
    "jobs list": [[], ["--quiet"]],
    "jobs show": [[LOCAL], [ODD], [STORABLE]],
    "jobs logs": [[ODD], [STORABLE]],
    "jobs fetch": [[LOCAL, "out", "--tree", "all"], [LOCAL, "out", "--from", "2"], [STORABLE, "out"]],
    "checkpoint list": [[LOCAL], ["here"], [STORABLE]],
    "checkpoint info": [[LOCAL], [LOCAL, "000001", "--verify"], ["here", STORABLE], [STORABLE]],
    "checkpoint pull": [[LOCAL, "out"], [STORABLE, "out"]],
    "checkpoint cleanup": [["here", "--keep-last", "1", "--dry-run"], [LOCAL, "--keep-last", "1"]],
    "jobs stop": [[LOCAL, "--dry-run"], [ODD, "--dry-run"]],
    "jobs resume": [[LOCAL, "--dry-run"], [LOCAL, "--from", STORABLE, "--dry-run"]],
    "tx list": [[]],
    "tx show": [["TX"], [STORABLE]],
    "tx resume": [["TX", "--dry-run"], [STORABLE, "--dry-run"]],
    "tx rollback": [["TX", "--dry-run"]],
    "ledger check": [[]],
    "ledger copies": [[]],
    "ledger restore": [["--dry-run"], [STORABLE, "--dry-run"]],
    "config show": [[]],
    "config set": [["train.output", STORABLE, "--dry-run"], [STORABLE, STORABLE, "--dry-run"]],
    "config trust": [[STORABLE], []],
    "config trusted": [[]],
    "config untrust": [[STORABLE]],
    "config validate": [[]],
    "completion": [["bash"], ["zsh"], ["fish"], [STORABLE]],
    "train": [
        ["t.py", "--dry-run"],
        [STORABLE],
        ["t.py", "--on", STORABLE],
        ["t.py", "--name", STORABLE, "--dry-run"],
    ],
    "data cache list": [[]],
}
WITH_A_CLOUD: dict[str, list[list[str]]] = {
    "aws create": [["g5.xlarge", "--name", STORABLE, "--dry-run"], [STORABLE, "--dry-run"]],
    "aws start": [["INSTANCE", "--dry-run"], [STORABLE, "--dry-run"]],
    "aws stop": [["INSTANCE", "--dry-run", "--explain"]],
    "aws terminate": [["INSTANCE", "--dry-run", "--explain"], [STORABLE, "--dry-run"]],
    "aws status": [["INSTANCE"], [STORABLE]],
    "aws train": [["INSTANCE", "t.py", "--dry-run"], [STORABLE, "t.py", "--dry-run"]],
    "aws monitor": [["INSTANCE"], [STORABLE]],
    "aws processes": [["INSTANCE"], [STORABLE]],
    "aws ebs attach": [["VOLUME", "INSTANCE", "--mount", f"/{STORABLE}", "--dry-run"]],
    "aws ebs create": [["--size", "8", "--name", STORABLE, "--dry-run"]],
    "aws ebs delete": [["VOLUME", "--dry-run", "--explain"], [STORABLE, "--dry-run"]],
    "aws ebs detach": [["VOLUME", "--dry-run"]],
    "aws ebs list": [[], ["--quiet"]],
    "aws ebs modify": [["VOLUME", "--size", "9", "--dry-run"]],
    "aws ebs pre-warm": [["VOLUME", "s3://BUCKET/set", "--dry-run"]],
    "aws ebs restore": [["SNAPSHOT", "--dry-run"], [STORABLE, "--dry-run"]],
    "aws ebs snapshot": [["VOLUME", "--dry-run"]],
    "aws ebs snapshot-delete": [["SNAPSHOT", "--dry-run", "--explain"]],
    "aws ebs snapshot-list": [[], [STORABLE]],
    "resources list": [[]],
    "resources summary": [[], ["--explain"]],
    "resources insights": [[]],
    "resources cleanup": [["--dry-run"]],
    "resources stop-all": [["--dry-run"]],
    "resources graph": [[], ["--format", "dot"], ["--format", "mermaid"], ["--format", "svg"]],
    "resources export": [["--format", "csv"], ["--format", "html"], ["--format", "json"]],
    "resources adopt": [["--bucket", "BUCKET"]],
}  # fmt: skip
IN_XML = "".join(
    char for char in STORABLE if char.isprintable() or char in "\u202e\u2066\u200b\x9b\x85\u2028"
)
"""What of it a service can be told in XML."""
ODD_KEYS = (
    *(f"set/{IN_XML}.pt", f"set/step-1{IN_XML}", "set/esc\x1b]0;MARK\x07\x1b[2J", "set/bell\x07\x08\r"),
    *("set/a//b", "set//a", "set/a/../b", "set/a/./b", "set/../../up", "set/tail/", f"set/{'n' * 1020}"),
)
PLANTED_VALUE = msgspec.json.encode(STORABLE.replace("\x7f", "")).decode()
"""As a string of TOML, whose escapes are those of JSON."""

WITH_A_BUCKET: dict[str, list[list[str]]] = {
    "transfer": [
        ["s3://BUCKET/set", "out"],
        ["here", "s3://BUCKET/up"],
        ["s3://BUCKET/set", "s3://BUCKET/copy"],
        ["here", "s3://BUCKET/set", "--delete", "--dry-run"],
        [STORABLE, "s3://BUCKET/up"],
        [f"s3://BUCKET/{STORABLE}", "out"],
    ],
    "data pack": [["s3://BUCKET/set", "packed"], ["here", "s3://BUCKET/pack", "--dry-run"]],
    "data plan": [["s3://BUCKET/set", "--machine", "g5.xlarge"], ["s3://BUCKET/set", "--machine", STORABLE]],
    "data stage": [["s3://BUCKET/set", "--name", STORABLE, "--dry-run"], [f"s3://BUCKET/{STORABLE}"]],
    "data verify": [["here", "s3://BUCKET/set"], ["s3://BUCKET/set", "s3://BUCKET/runctl"], [STORABLE]],
    "drill": [[STORABLE]],
    "prove": [[STORABLE]],
    "s3 upload": [["here", "s3://BUCKET/up"], [STORABLE, "s3://BUCKET/up"]],
    "s3 download": [["s3://BUCKET/set", "out"], ["s3://BUCKET", "out"], [f"s3://BUCKET/{STORABLE}", "out"]],
    "s3 sync": [["s3://BUCKET/set", "out"], ["here", "s3://BUCKET/set", "--both"], ["here", "s3://BUCKET/up"]],
    "s3 list": [["s3://BUCKET"], ["s3://BUCKET", "--quiet"], [f"s3://BUCKET/{STORABLE}"], [STORABLE]],
    "s3 cleanup": [["s3://BUCKET/set", "--keep-last", "1", "--dry-run"]],
    "s3 review": [["s3://BUCKET"], ["s3://BUCKET/set"]],
    "sandbox status": [[]],
    "sandbox fault list": [[]],
}  # fmt: skip
READS = WITHOUT_A_CLOUD | WITH_A_CLOUD | WITH_A_BUCKET


def commands(group: click.Group, before: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name


def test_every_command_is_run_here_or_said_to_read_nothing() -> None:
    assert set(commands(root)) == READS.keys() | DOES_NOT_READ


_BAR = re.compile(rb"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[[0-9]*A|\r")
"""What moves a bar of a transfer; no text of others has these bytes once it is shown."""


class World:
    """A home and a project; `words` stand for the ids of what was planted."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        self.project = folder / "project"
        self.words: dict[str, str] = {}
        self.shown = 0
        self._patch = patch
        self.project.mkdir()
        (self.project / "t.py").write_text("print('x')\n")
        (self.project / "here").mkdir()
        (self.project / "here" / STORABLE.replace("/", "-")[:80]).write_text("x")
        texts = ("project", "aws.instance_profile")
        own = [*(f"{key} = {PLANTED_VALUE}\n" for key in texts), f"aws.subnets = [{PLANTED_VALUE}]\n"]
        (folder / "user.toml").write_text("".join(own))
        self._of_project = f"aws.image = {PLANTED_VALUE}\ntrain.output = {PLANTED_VALUE}\n"
        for name in list(os.environ):
            if name.startswith(("AWS_", "RUNCTL_")):
                patch.delenv(name)
        for name, value in {
            "RUNCTL_HOME": str(self.home),
            "RUNCTL_CONFIG": str(folder / "user.toml"),
            "RUNCTL_USER": STORABLE,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "aws"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        }.items():
            patch.setenv(name, value)
        patch.chdir(self.project)

    def plant(self, cloud: str) -> None:
        """Rows with the text in each of their fields, but for what a row is found by."""
        with Ledger.open(self.home) as ledger:
            spec = specs.encode(
                msgspec.structs.replace(filled(specs.JobSpec, STORABLE), on="local", max_attempts=3)
            )
            job: JobRecord = msgspec.structs.replace(
                filled(JobRecord, STORABLE), spec=spec, state=JobState.RUNNING
            )
            for key, place, state in ((LOCAL, "local", JobState.RUNNING), (ODD, cloud, JobState.RUNNING)):
                folder = str(self.project / "job") if place == "local" else None
                row = msgspec.structs.replace(
                    job, id=key, cloud=place, folder=folder, store="s3://b/" + STORABLE
                )
                ledger.jobs.add(row, STORABLE)
                attempt: AttemptRecord = filled(AttemptRecord, STORABLE)
                ledger.jobs.save_attempt(msgspec.structs.replace(attempt, job=key, number=1, offer=None))
                ledger.jobs.transition(
                    key, JobState.ENDING, allowed_from={state}, at=row.created, attempt=1, cause=STORABLE
                )
            ledger.resources.save(
                msgspec.structs.replace(filled(ResourceRecord, STORABLE), cloud=cloud, job=None, facts=b"{}")
            )
            ledger.staged.add(msgspec.structs.replace(filled(StagedRecord, STORABLE), cloud=cloud))
            ledger.verdicts.add(msgspec.structs.replace(filled(VerdictRecord, STORABLE), findings=b"[]"))
            owner = Owner(pid=2**22 - 1, started=1.0, host=STORABLE)
            tx = ledger.journal.begin(STORABLE, subject=STORABLE, payload=b"{}", owner=owner, at=job.created)
            for text in (STORABLE, STORABLE):
                step = ledger.journal.intend(tx, text, token=text, request=b"{}")
                ledger.journal.failed(tx, step, text)
            self.words["TX"] = tx
        odd = STORABLE.replace("/", "-")[:80]
        files = {f"outputs/{odd}": "x", f"checkpoints/a/{odd}": "x", "work/fine.txt": "x"}
        take(
            self.project / "job",
            "000001-step_1.pt",
            files,
            checkpoint=("checkpoints", "a"),
            more=(Entry("work", odd, "link", link="fine.txt"),),
        )
        for number in (1, 2):
            (self.project / "here" / f"step_{number}{odd}.pt").write_text("x")
        log = self.project / "job" / "attempt-1" / "output.log"
        log.parent.mkdir(parents=True)
        log.write_bytes(STORABLE.encode() + b"\n")

    def run(self, command: str, *, terminal: bool, form: str) -> None:
        # What a project sets needs a yes, and without one most commands stop there.
        own = self._of_project if command.startswith(("config", "train", "jobs show")) else ""
        (self.project / ".runctl.toml").write_text(own)
        for given in READS[command]:
            words = [self._said(word) for word in given]
            where = f"{command} {words!a} terminal={terminal} {form}"
            with captured(self._patch, terminal=terminal) as (out, err):
                main.run([*command.split(), *words, *(["--output", form] if form == "json" else [])])
            self.shown += STORABLE[:4].encode() in out.written() + err.written()
            told = err.written()
            if terminal and command in {*WITH_A_BUCKET, "jobs fetch", "checkpoint pull"}:
                told = _BAR.sub(b"", told)
            assert_clean(told, terminal=terminal, where=where)
            if command in {"jobs logs", "aws monitor"} and form == "text":  # the script's own lines
                if terminal:
                    assert_seen(out.written().decode().replace("\t", ""), where=where)
            else:
                assert_clean(out.written(), terminal=terminal, where=where)
            assert b"internal error" not in err.written(), (where, err.written())
        for page in self.project.glob("*.html"):
            assert_seen(page.read_text(encoding="utf-8"), where=command)

    def _said(self, word: str) -> str:
        for name, real in self.words.items():
            word = word.replace(name, real) if word != STORABLE else word
        return word


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", WITHOUT_A_CLOUD)
def test_a_command_shows_a_ledger_and_a_project_clean(command: str, world: World) -> None:
    world.plant("local")
    for terminal, form in ((False, "text"), (True, "text"), (False, "json"), (True, "json")):
        world.run(command, terminal=terminal, form=form)
    assert world.shown or command in SHOWS_NO_TEXT


def _with_a_bucket(world: World, sandbox_cloud: Any) -> str:
    """A sandbox of the world's, and a bucket in it with keys that are out to hurt; returns its name."""
    world.home.mkdir()
    # Not its machines: they write while they are copied, and no command reads them here.
    others = shutil.ignore_patterns("*sock*", "machines")
    shutil.copytree(sandbox_cloud.home / "sandbox", world.home / "sandbox", ignore=others)
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("planted")
    s3.create_bucket(Bucket=bucket)
    for key in (*ODD_KEYS, "set/good.pt", f"runctl/jobs/{IN_XML}/spec.json", f"runctl/jobs/a-1/{IN_XML}"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"{}")
    world.words["BUCKET"] = bucket
    settings = world.project.parent / "user.toml"
    # A profile of such a name gets no answer from the sandbox: each `aws create` would ask for half a minute.
    kept = [line for line in settings.read_text().split("\n") if "instance_profile" not in line]
    settings.write_text("\n".join(['cloud = "sandbox"', *kept]))
    world.plant(f"sandbox:{sandbox_cloud.record.id}")
    return bucket


def _empty(s3: Any, bucket: str) -> None:
    for item in s3.list_objects_v2(Bucket=bucket, EncodingType="url").get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=unquote_plus(item["Key"]))
    s3.delete_bucket(Bucket=bucket)


@pytest.fixture
def cloudy(world: World, sandbox_cloud: Any) -> Generator[World]:
    """As `world`, with a sandbox that holds an instance, disks, a snapshot and keys of hostile names."""
    bucket = _with_a_bucket(world, sandbox_cloud)
    tag = IN_XML
    tags = [{"Key": key, "Value": tag} for key in ("Name", "runctl:project", "runctl:user", "runctl:job")]
    tags.append({"Key": "runctl:managed", "Value": "true"})
    ec2, s3 = sandbox_cloud.client("ec2"), sandbox_cloud.client("s3")

    def tagged(kind: str) -> dict[str, Any]:
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]}

    instance = sandbox_cloud.running(**tagged("instance"))
    volume = sandbox_cloud.volume(**tagged("volume"))
    snapshot = ec2.create_snapshot(VolumeId=volume, Description=tag, **tagged("snapshot"))["SnapshotId"]
    world.words |= {"INSTANCE": instance, "VOLUME": volume, "SNAPSHOT": snapshot}
    yield world
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.delete_snapshot(SnapshotId=snapshot)
    ec2.delete_volume(VolumeId=volume)
    _empty(s3, bucket)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_of_aws_and_resources_show_a_cloud_and_a_bucket_clean(cloudy: World) -> None:
    for command in WITH_A_CLOUD:
        for terminal, form in ((False, "text"), (True, "text"), (False, "json")):
            cloudy.run(command, terminal=terminal, form=form)
    assert cloudy.shown > 10


@pytest.fixture
def bucketful(world: World, sandbox_cloud: Any) -> Generator[World]:
    """As `world`, with a sandbox and a bucket; nothing of it has a machine."""
    bucket = _with_a_bucket(world, sandbox_cloud)
    yield world
    _empty(sandbox_cloud.client("s3"), bucket)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_over_a_bucket_show_it_clean_and_write_no_unfit_name(
    bucketful: World, sandbox_cloud: Any
) -> None:
    sandbox_cloud.control.add_fault("ec2", "error", operation=IN_XML, code=IN_XML)
    before = {path for path in bucketful.project.rglob("*") if unfit(path.name)}
    for command in WITH_A_BUCKET:
        for terminal, form in ((True, "text"), (False, "json")):
            bucketful.run(command, terminal=terminal, form=form)
    after = {path for path in bucketful.project.parent.rglob("*") if unfit(path.name)}
    assert after == before
    assert (bucketful.project / "out" / "good.pt").read_bytes() == b"{}", "the rest arrives"
    keys = sandbox_cloud.client("s3").list_objects_v2(Bucket=bucketful.words["BUCKET"], EncodingType="url")[
        "Contents"
    ]
    written = {unquote_plus(item["Key"]) for item in keys} - set(ODD_KEYS)
    assert not [key for key in written if unfit(key) and not key.startswith("runctl/jobs/")]
    assert bucketful.shown > 10


@pytest.mark.slow
def test_what_a_cloud_says_when_it_fails_is_shown_clean(bucketful: World, sandbox_cloud: Any) -> None:
    for terminal, form in ((True, "text"), (False, "text"), (False, "json")):
        sandbox_cloud.control.add_fault("ec2", "error", operation="*", code=IN_XML, status=400, count=1)
        bucketful.run("aws ebs snapshot-list", terminal=terminal, form=form)
    assert bucketful.shown
