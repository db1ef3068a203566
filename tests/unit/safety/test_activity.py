from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.ledger import Ledger
from runctl.providers.aws import instances
from runctl.providers.aws.session import Session
from runctl.safety import activity
from runctl.safety.activity import AgentAt, judge
from runctl.safety.observation import SCRIPT, AgentLine, Gpu, Process, Trouble, Unit, parse
from runctl.safety.protection import Activity

HERE = f"http://127.0.0.1:1/{os.getpid()}"  # tests of other processes are no business of ours


def process(why: str, cpu: int = 0, command: str = "python x.py") -> Process:
    return Process(why=why, pid=7, cpu=cpu, command=command)


ALIVE = AgentLine(job="digits", attempt=2, phase="running")

JUDGED = [
    ((), Activity.IDLE, "no agent"),
    ((ALIVE, process("gpu")), Activity.BUSY, "the agent of digits, attempt 2"),
    ((process("job"),), Activity.BUSY, "belongs to a job"),
    ((Unit(name="runctl-digits-7f-3.service"),), Activity.BUSY, "the agent of digits-7f, attempt 3"),
    ((Unit(name="runctl-odd.service"),), Activity.BUSY, "the unit runctl-odd.service"),
    ((process("gpu"),), Activity.BUSY, "uses a GPU"),
    ((Gpu(busy=5),), Activity.BUSY, "5% busy"),
    ((Gpu(busy=4), Gpu(busy=0)), Activity.IDLE, "no agent"),
    ((process("cpu", 50),), Activity.BUSY, "50% of a processor"),
    ((process("cpu", 49),), Activity.IDLE, "no agent"),
    ((process("cpu", 99, "/usr/bin/python3 /usr/bin/dnf makecache"),), Activity.IDLE, "no agent"),
    ((process("command", command="torchrun x.py"),), Activity.BUSY, "looks like training"),
    ((Trouble(what="nvidia-smi"),), Activity.UNKNOWN, "nvidia-smi does not answer"),
    ((Trouble(what="nvidia-smi"), process("job")), Activity.BUSY, "belongs to a job"),
]


@pytest.mark.parametrize(("seen", "expected", "reason"), JUDGED)
def test_what_a_machine_tells_is_judged(seen: Any, expected: Activity, reason: str) -> None:
    judged = judge(seen)
    assert judged.activity is expected
    assert reason in judged.reason
    assert judged.reachable == bool(judged.agents or judged.processes)


def test_the_agent_behind_a_unit_can_be_asked() -> None:
    assert judge((Unit(name="runctl-digits-7f-3.service"),)).agents == (AgentAt("digits-7f", 3),)
    assert judge((Unit(name="runctl-odd.service"),)).agents == ()
    assert not judge((Unit(name="runctl-odd.service"),)).reachable


LINES = st.lists(
    st.one_of(
        st.builds(AgentLine, st.text(max_size=9), st.integers(0, 9), st.text(max_size=9)),
        st.builds(Unit, st.text(max_size=9)),
        st.builds(Gpu, st.integers(0, 100)),
        st.builds(Trouble, st.text(max_size=9)),
        st.builds(
            Process,
            st.sampled_from(("job", "gpu", "cpu", "command")),
            st.integers(1, 9999),
            st.integers(0, 6400),
            st.text(max_size=20),
        ),
    ),
    max_size=6,
)


def written(lines: list[Any]) -> str:
    rows = [msgspec.json.encode(line).decode() for line in lines]
    return "\n".join(['{"kind":"begin","version":1}', *rows, '{"kind":"end"}', ""])


@given(LINES)
def test_what_was_written_is_read(lines: list[Any]) -> None:
    assert parse(written(lines)) == tuple(lines)


@given(LINES, st.data())
def test_an_answer_that_was_cut_is_no_answer(lines: list[Any], data: st.DataObject) -> None:
    """SSM cuts at 24,000 characters: what is missing may be the training."""
    whole = written(lines).rstrip("\n")
    assert parse(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":"gpu","busy":101}',
        '{"kind":"gpu","busy":1,"more":1}',
        '{"kind":"process","why":"whim","pid":1,"cpu":0,"command":"x"}',
        '{"kind":"process","why":"job","pid":0,"cpu":0,"command":"x"}',
        '{"kind":"agent","job":"x","attempt":"1","phase":"running"}',
        '{"kind":"begin","version":1}',
        '{"kind":"end"}',
        '{"kind":"other"}',
        "bash: warning: setlocale",
        "",
    ],
)
def test_a_line_of_another_form_spoils_the_answer(line: str) -> None:
    begin, end = '{"kind":"begin","version":1}', '{"kind":"end"}'
    assert parse(f"{begin}\n{end}") == ()
    assert parse(f"{begin}\n{line}\n{end}") is None


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[int]:
    """A process with a metadata service of its own, so that it can be told from the host's."""
    with subprocess.Popen(
        command, env={**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": HERE, **environment}
    ) as started:
        try:
            yield started.pid
        finally:
            started.kill()


def look(home: Path, endpoint: str = HERE) -> list[Any]:
    """What the script tells of the processes with this metadata service, run as SSM runs it."""
    environment = {**os.environ, "HOME": str(home), "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}
    environment.pop("RUNCTL_JOB_ID", None)
    script = home / "_script.sh"
    script.write_text(SCRIPT)
    done = subprocess.run(
        ["sh", str(script)], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    seen = parse(done.stdout)
    assert seen is not None, done.stdout
    return list(seen)


def test_the_running_job_check_that_never_matched(tmp_path: Path) -> None:
    """The original's pattern had `\\|` for pgrep, where it is a bar, and missed every process."""
    script = tmp_path / "train_model.py"
    script.write_text("import time; time.sleep(60)")
    assert look(tmp_path) == []
    with running(sys.executable, str(script)) as pid:
        (found,) = look(tmp_path)
        assert (found.why, found.pid) == ("command", pid)
        assert judge((found,)).activity is Activity.BUSY
        assert look(tmp_path, endpoint="http://127.0.0.1:2") == []  # another machine on the same host


def test_a_script_is_found_by_our_variables_and_by_its_processor(tmp_path: Path) -> None:
    script = tmp_path / "quiet.py"
    script.write_text("while True: pass")
    with running(sys.executable, str(script), RUNCTL_JOB_ID="digits-1") as pid:
        found = look(tmp_path)
    assert {(line.why, line.pid) for line in found} == {("job", pid), ("cpu", pid)}
    assert judge(tuple(found)).processes == (pid,)


def test_an_agent_is_found_by_its_state_and_its_process(tmp_path: Path) -> None:
    """The original looked for a relative training.pid, which lay in another folder."""
    folder = tmp_path / ".runctl/jobs/digits-7f/attempt-3"
    folder.mkdir(parents=True)
    agent = folder / "agent.py"
    agent.write_text("import time; time.sleep(60)")
    with running(sys.executable, str(agent)) as pid:
        state = {"agent_pid": pid, "message": 'he said "phase": "ended"', "phase": "running"}
        (folder / "state.json").write_text(json.dumps(state, sort_keys=True))
        assert AgentLine(job="digits-7f", attempt=3, phase="running") in look(tmp_path)
        (folder / "state.json").write_text(json.dumps({**state, "phase": "ended"}, sort_keys=True))
        assert look(tmp_path) == []
    (folder / "state.json").write_text(json.dumps(state, sort_keys=True))
    assert look(tmp_path) == []  # its process is gone: what it left would be found by its variables


def test_a_hundred_workers_do_not_cut_the_answer(tmp_path: Path) -> None:
    """SSM keeps 24,000 characters, and what is cut off is no answer: each worker is told of in few words."""
    script = tmp_path / "train_with_workers.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "workers = [subprocess.Popen(['sleep', '60', *['0'] * 60]) for _ in range(70)]\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": HERE, "RUNCTL_JOB_ID": "digits"}
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as main:
        try:
            assert main.stdout is not None
            main.stdout.readline()
            found = look(tmp_path)
        finally:
            os.killpg(main.pid, signal.SIGKILL)
    assert len({line.pid for line in found if line.why == "job"}) == 71
    assert len(written(found)) < 16_000


def fake_gpus(folder: Path, script: str) -> str:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("case $1 in *utilization*) echo 3; echo 87 ;; esac", [Gpu(busy=3), Gpu(busy=87)]),
        ("case $1 in *utilization*) echo '[N/A]' ;; esac", []),
        ("exit 9", [Trouble(what="nvidia-smi")]),
    ],
)
def test_a_driver_is_asked_and_its_silence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[Any]
) -> None:
    monkeypatch.setenv("PATH", fake_gpus(tmp_path, script))
    assert look(tmp_path) == expected


class Machine:
    """An instance of the shared sandbox that belongs to an attempt of a job with a bucket."""

    def __init__(self, live: Any, ledger: Ledger) -> None:
        self.live, self.ledger = live, ledger
        self.session = Session(live.cloud())
        self.job = live.name("job")
        self.bucket = activity.account.default_bucket(self.session)
        with contextlib.suppress(live.client("s3").exceptions.BucketAlreadyOwnedByYou):
            live.client("s3").create_bucket(Bucket=self.bucket)
        tags = [{"Key": "runctl:job", "Value": self.job}, {"Key": "runctl:attempt", "Value": "1"}]
        self.id = live.running(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])

    def beat(self, phase: str, silent: float = 0.0) -> None:
        at = (self.live.cloud().clock.now() - timedelta(seconds=silent)).timestamp()
        self.live.client("s3").put_object(
            Bucket=self.bucket,
            Key=f"runctl/jobs/{self.job}/attempt-1/state.json",
            Body=json.dumps({"phase": phase, "heartbeat": at, "job": self.job, "attempt": 1}).encode(),
        )

    def commands(self) -> int:
        """How many were sent to it so far."""
        return len(self.live.client("ssm").list_commands(InstanceId=self.id)["Commands"])

    def seen(self) -> activity.Sighting:
        found = instances.get(self.session, self.id)
        assert found is not None
        return activity.detect(self.session, self.ledger, found)


@pytest.fixture
def machine(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Machine]:
    with Ledger.open(tmp_path) as ledger:
        made = Machine(sandbox_cloud, ledger)
        yield made
        sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[made.id])


def test_the_heartbeat_speaks_first_and_the_shell_where_it_is_silent(machine: Machine) -> None:
    assert machine.seen().activity is Activity.IDLE  # neither a heartbeat nor a process
    machine.beat("running", silent=-600)
    commands = machine.commands()
    busy = machine.seen()
    assert (busy.activity, busy.agents) == (Activity.BUSY, (AgentAt(machine.job, 1),))
    assert busy.reachable
    assert "wrote" in busy.reason
    assert machine.commands() == commands  # none was run for it
    machine.beat("running", silent=61)
    assert machine.seen().activity is Activity.IDLE
    machine.beat("ended", silent=-600)
    assert machine.seen().activity is Activity.IDLE
    machine.live.client("ec2").stop_instances(InstanceIds=[machine.id])
    machine.live.until(lambda: machine.live.state(machine.id) == "stopped")
    machine.beat("running", silent=-600)
    assert machine.seen().activity is Activity.IDLE  # a stopped machine trains nothing, whatever was said
