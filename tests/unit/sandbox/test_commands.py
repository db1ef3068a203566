"""Run Command in real machines: outputs, endings, and what happens when nobody reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.sandbox.commands import SUFFIX, Command, CommandCenter, Invocation, clipped, execution_seconds

if TYPE_CHECKING:
    from conftest import Sandbox


class Service:
    """A command center over a sandbox's machines, with agents that can be taken offline."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.offline: set[str] = set()
        self.uploads: dict[tuple[str, str], bytes] = {}
        self.center = CommandCenter(
            clock=sandbox.clock,
            schedule=sandbox.schedule,
            machine_of=sandbox.machines.get,
            online=lambda instance_id: instance_id not in self.offline,
            upload=lambda bucket, key, body: self.uploads.__setitem__((bucket, key), body),
        )

    def send(self, script: str, **options: object) -> Command:
        ids = options.pop("instance_ids", list(self.sandbox.machines))
        return self.center.send(instance_ids=ids, commands=script.splitlines(), **options)

    def seen(self, command: Command) -> Invocation:
        """The one invocation, as soon as it is visible."""
        (name,) = command.order.instance_ids
        found: list[Invocation] = []

        def look() -> bool:
            try:
                found.append(self.center.invocation(command.id, name))
            except KeyError:
                return False
            return True

        self.sandbox.until(look)
        return found[0]

    def reached(self, command: Command, condition: Callable[[Invocation], bool]) -> Invocation:
        invocation = self.seen(command)
        self.sandbox.until(lambda: condition(invocation), 20)
        return invocation

    def ended(self, command: Command) -> Invocation:
        return self.reached(command, lambda invocation: invocation.over)

    def run(self, script: str, **options: object) -> Invocation:
        return self.ended(self.send(script, **options))


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    sandbox.clock.set_speed(20)
    sandbox.booted()
    return Service(sandbox)


@pytest.fixture
def plain_service(plain_sandbox: Sandbox) -> Service:
    plain_sandbox.clock.set_speed(20)
    plain_sandbox.booted()
    return Service(plain_sandbox)


def test_output_and_exit_code_are_the_scripts(service: Service) -> None:
    invocation = service.run("echo hi\necho oh >&2\nexit 3")
    assert (invocation.status, invocation.details, invocation.code) == ("Failed", "Failed", 3)
    assert invocation.stdout == "hi\n"
    assert invocation.stderr == "oh\nfailed to run commands: exit status 3"


def test_the_last_command_decides(service: Service) -> None:
    invocation = service.run("false\ntrue")
    assert (invocation.status, invocation.code, invocation.stderr) == ("Success", 0, "")
    assert invocation.started is not None
    assert invocation.ended is not None
    assert invocation.started <= invocation.ended


def test_the_first_line_chooses_the_interpreter(service: Service) -> None:
    assert (
        service.run("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[0][-10:])").stdout == "_script.sh\n"
    )


def test_the_folder_and_the_environment_are_the_agents(service: Service) -> None:
    invocation = service.run("pwd; echo $AWS_SSM_INSTANCE_ID $AWS_SSM_REGION_NAME")
    assert invocation.stdout == "/usr/bin\ni-0aa us-east-1\n"
    assert service.run("pwd", working_directory="/etc").stdout == "/etc\n"


def test_a_folder_that_is_missing_fails_the_command(service: Service) -> None:
    invocation = service.run("true", working_directory="/no/such")
    assert (invocation.status, invocation.code) == ("Failed", 1)
    assert "failed to run commands: No such file or directory: /no/such" in invocation.stderr


def test_a_script_that_dies_of_a_signal_fails(service: Service) -> None:
    invocation = service.run("kill -9 $$")
    # -1 where the host's sh becomes the script, 137 where it waits for it.
    assert (invocation.status, invocation.code in (-1, 137)) == ("Failed", True)


def test_right_after_sending_there_is_no_invocation_then_it_passes_through_its_states(
    plain_service: Service,
) -> None:
    plain_service.sandbox.clock.set_speed(1)
    command = plain_service.send("touch $HOME/begun; while [ ! -e $HOME/go ]; do sleep 0.02; done; echo done")
    with pytest.raises(KeyError):
        plain_service.center.invocation(command.id, "i-0aa")
    assert command.status == "Pending"
    invocation = plain_service.seen(command)
    assert (invocation.status, invocation.code) == ("Pending", -1)
    home = plain_service.sandbox.machines["i-0aa"].folder / "home"
    plain_service.sandbox.until((home / "begun").exists)
    assert (invocation.status, invocation.details) == ("InProgress", "In Progress")
    assert (invocation.stdout, plain_service.center.command(command.id).status) == ("", "InProgress")
    (home / "go").touch()
    assert plain_service.ended(command).stdout == "done\n"
    assert plain_service.center.command(command.id).status == "Success"


def test_output_is_cut_as_the_agent_cuts_it_and_uploaded_whole(plain_service: Service) -> None:
    script = "head -c 30000 /dev/zero | tr '\\0' x\nhead -c 9000 /dev/zero | tr '\\0' y >&2"
    invocation = plain_service.run(script, output_bucket="bucket", output_prefix="logs/")
    assert len(invocation.stdout) == 24_000
    assert invocation.stdout.endswith("x" + SUFFIX)
    assert len(invocation.stderr) == 8_000
    prefix = f"logs/{invocation.command_id}/i-0aa/awsrunShellScript/0.awsrunShellScript"
    assert plain_service.uploads["bucket", f"{prefix}/stdout"] == b"x" * 30_000
    assert plain_service.uploads["bucket", f"{prefix}/stderr"] == b"y" * 9_000


def test_a_failing_upload_does_not_fail_the_command(plain_service: Service) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no such bucket")

    plain_service.center.upload = refuse
    assert plain_service.run("echo hi", output_bucket="bucket").status == "Success"


@given(st.text(max_size=100), st.integers(25, 80))
def test_a_clipped_text_is_the_text_or_its_beginning(text: str, limit: int) -> None:
    short = clipped(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith(SUFFIX) and text.startswith(short.removesuffix(SUFFIX)))


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 3600), (4, 3600), (5, 5), (172_800, 172_800), (172_801, 3600)]
)
def test_an_execution_timeout_out_of_range_is_the_default(asked: float | None, given: float) -> None:
    assert execution_seconds(asked) == given


def test_an_overdue_command_loses_its_group_but_not_what_left_it(service: Service) -> None:
    machine = service.sandbox.machines["i-0aa"]
    script = "setsid sh -c 'touch $HOME/daemon; sleep 1; touch $HOME/lived' >/dev/null 2>&1 &\n"
    script += "sh -c 'sleep 1; touch $HOME/childlived' &\necho begun\nsleep 60"
    invocation = service.run(script, execution_timeout=10)
    assert (invocation.status, invocation.details, invocation.code) == (
        "TimedOut",
        "Execution Timed Out",
        137,
    )
    assert invocation.stdout == "begun\n"
    service.sandbox.until((machine.folder / "home/lived").exists)
    time.sleep(0.3)
    assert not (machine.folder / "home/childlived").exists()


def test_a_child_that_holds_the_output_keeps_the_command_in_progress(service: Service) -> None:
    machine = service.sandbox.machines["i-0aa"]
    command = service.send("(while [ ! -e $HOME/go ]; do sleep 0.02; done; echo late) &\necho early")
    invocation = service.reached(command, lambda invocation: invocation.status == "InProgress")
    time.sleep(0.3)
    assert invocation.status == "InProgress"
    (machine.folder / "home/go").touch()
    assert service.ended(command).stdout == "early\nlate\n"


def test_a_detached_child_does_not(service: Service) -> None:
    assert service.run("setsid sleep 60 </dev/null >/dev/null 2>&1 &\necho away").stdout == "away\n"


def test_a_running_command_can_be_cancelled(service: Service) -> None:
    command = service.send("echo begun\nsleep 60")
    service.reached(command, lambda invocation: invocation.status == "InProgress")
    machine = service.sandbox.machines["i-0aa"]
    service.sandbox.until((machine.folder / "ssm" / command.id / "_script.sh").exists)
    service.center.cancel(command.id)
    invocation = service.ended(command)
    assert (invocation.status, invocation.details, invocation.code) == ("Cancelled", "Cancelled", 137)


def test_a_command_not_delivered_yet_is_cancelled_at_once(plain_service: Service) -> None:
    plain_service.offline.add("i-0aa")
    command = plain_service.send("touch $HOME/ran")
    plain_service.center.cancel(command.id, ["i-0bb"])
    plain_service.center.cancel(command.id, ["i-0aa"])
    assert plain_service.seen(command).status == "Cancelled"
    plain_service.offline.clear()
    time.sleep(0.3)
    assert not (plain_service.sandbox.machines["i-0aa"].folder / "home/ran").exists()


def test_a_command_waits_for_its_agent_until_the_delivery_timeout(plain_service: Service) -> None:
    plain_service.offline.add("i-0aa")
    invocation = plain_service.run("true", delivery_timeout=5)
    assert (invocation.status, invocation.details, invocation.code) == ("TimedOut", "Delivery Timed Out", -1)
    command = plain_service.send("echo late")
    assert plain_service.seen(command).status == "Pending"
    plain_service.offline.clear()
    assert plain_service.ended(command).stdout == "late\n"


def test_a_command_to_no_machine_is_undeliverable(plain_service: Service) -> None:
    invocation = plain_service.run("true", instance_ids=["i-0none"], delivery_timeout=5)
    assert (invocation.status, invocation.details) == ("TimedOut", "Undeliverable")


def test_a_machine_that_goes_away_reports_nothing_until_the_service_gives_up(service: Service) -> None:
    machine = service.sandbox.machines["i-0aa"]
    options = {"delivery_timeout": 10, "execution_timeout": 10}
    command = service.send("touch $HOME/begun; sleep 60", **options)
    service.sandbox.until((machine.folder / "home/begun").exists)
    machine.off(grace=0)
    time.sleep(0.2)
    invocation = service.seen(command)
    assert invocation.status == "InProgress"
    machine.boot()
    service.ended(command)
    assert (invocation.status, invocation.details, invocation.code) == ("TimedOut", "Undeliverable", -1)
    assert invocation.ended is not None
    assert invocation.ended - command.order.requested >= 19.9


def test_an_agent_that_lost_its_connection_reports_later(plain_service: Service) -> None:
    command = plain_service.send("touch $HOME/begun; sleep 0.2; echo done")
    machine = plain_service.sandbox.machines["i-0aa"]
    plain_service.sandbox.until((machine.folder / "home/begun").exists)
    plain_service.offline.add("i-0aa")
    time.sleep(0.5)
    assert plain_service.seen(command).status == "InProgress"
    plain_service.offline.clear()
    assert plain_service.ended(command).stdout == "done\n"


def test_a_control_plane_that_holds_its_lock_can_cancel(plain_service: Service) -> None:
    """The center asks the control plane without a lock of its own, so the two cannot wait for each other."""
    lock = threading.Lock()
    center = plain_service.center

    def machine_of(instance_id: str) -> object:
        with lock:
            return plain_service.sandbox.machines.get(instance_id)

    center.machine_of = machine_of
    for _ in range(20):
        command = plain_service.send("true")
        with lock:
            time.sleep(0.06)
            center.cancel(command.id)


def test_one_command_fans_out(service: Service) -> None:
    for number in range(9):
        service.sandbox.booted(f"i-{number}")
    command = service.send("echo $RUNCTL_SANDBOX_MACHINE")
    service.sandbox.until(lambda: service.center.command(command.id).completed == 10)
    found = {one.instance_id: one.stdout for one in service.center.invocations(command.id)}
    assert found == {name: f"{name}\n" for name in service.sandbox.machines}
    assert [one.instance_id for one in service.center.invocations(instance_id="i-3")] == ["i-3"]


def test_many_scripts_at_once_are_never_busy(service: Service) -> None:
    """A fork that inherits another script open for writing would make its execution fail."""
    commands = [service.send("#!/bin/sh\necho ok") for _ in range(60)]
    assert [service.ended(command).stdout for command in commands] == ["ok\n"] * 60


def test_unknown_ids_are_key_errors(plain_service: Service) -> None:
    for ask in (plain_service.center.command, plain_service.center.cancel):
        with pytest.raises(KeyError):
            ask("none")
    with pytest.raises(KeyError):
        plain_service.center.invocation("none", "i-0aa")
