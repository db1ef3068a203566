"""Volumes stay where they were while training saves, and when what was asked for cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from classics import Account, on_sandbox
from inside import Inside

from runctl.config import Protection
from runctl.ledger import Ledger
from runctl.providers.aws import disks, volumes
from runctl.providers.aws.session import Session
from runctl.resources.operation import Operation
from runctl.resources.steps import Surroundings, kinds
from runctl.safety.destroy import Door
from runctl.safety.saga import Call

pytestmark = pytest.mark.xdist_group("volumes in place")

TRAINING = """\
cat >"$HOME/train.sh" <<'END'
trap 'echo final > "$RUNCTL_ROOT/checkpoints/last.txt"; exit 0' TERM
touch "$HOME/begun"
while :; do sleep 0.2; done
END
RUNCTL_JOB_ID=digits setsid nohup sh "$HOME/train.sh" </dev/null >/dev/null 2>&1 &
until [ -e "$HOME/begun" ]; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def account(sandbox_cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with on_sandbox(sandbox_cloud, tmp_path_factory.mktemp("account")) as found:
        yield Inside.of(found)


@pytest.fixture(scope="module")
def machine(account: Account) -> tuple[str, str]:
    """A machine, and a persistent volume that is mounted there at /checkpoints."""
    options = ("--data-volume-size", "4", "--persistent", "--mount", "/checkpoints")
    made = account.ok(
        "aws", "create", "t3.micro", "--name", account.word, "--lease", "1",
        "--availability-zone", account.zones[0], *options,
    ).data  # fmt: skip
    return made["instance"]["id"], made["volume"]


@pytest.fixture
def mounted(machine: tuple[str, str], sandbox: Any) -> Iterator[tuple[str, str]]:
    """The machine; every test but the last leaves the volume mounted where it was."""
    yield machine
    sandbox.control.clear_faults()


def place(sandbox: Any, instance: str, volume: str) -> str | None:
    return disks.mounted_at(Session(sandbox.cloud()), instance, volume)


def refuse(sandbox: Any, operation: str, instance: str = "") -> None:
    found = {"instance": instance} if instance else {}
    sandbox.control.add_fault(
        "ec2", "error", operation=operation, code="UnauthorizedOperation", status=403, **found
    )


def attachments(account: Account, volume: str) -> list[tuple[str, str]]:
    return [(one["InstanceId"], one["State"]) for one in account.volume(volume)["Attachments"]]


def test_a_termination_that_fails_leaves_volumes_mounted(
    account: Account, sandbox: Any, mounted: tuple[str, str]
) -> None:
    instance, volume = mounted
    refuse(sandbox, "TerminateInstances")
    said = account.run("aws", "terminate", instance, "--yes", "--force")
    assert said.error["code"] == "UnauthorizedOperation"
    assert account.ok("tx", "list").data == []  # all is undone
    assert attachments(account, volume) == [(instance, "attached")]
    assert place(sandbox, instance, volume) == "/checkpoints"


def test_an_undoing_leaves_what_was_there_before(
    account: Account, sandbox: Any, mounted: tuple[str, str]
) -> None:
    instance, volume = mounted
    refuse(sandbox, "DetachVolume")
    said = account.run("aws", "ebs", "detach", volume)
    assert said.error["code"] == "UnauthorizedOperation"
    assert place(sandbox, instance, volume) == "/checkpoints"
    sandbox.control.clear_faults()

    refused = account.run("aws", "ebs", "attach", volume, instance, "--mount", "/elsewhere")
    assert "is mounted at /checkpoints" in refused.error["what"]
    assert attachments(account, volume) == [(instance, "attached")]
    assert place(sandbox, instance, volume) == "/checkpoints"

    again = account.ok("aws", "ebs", "attach", volume, instance, "--mount", "/checkpoints/").data
    assert again["device"]

    disks.unmount(Session(sandbox.cloud()), instance, volume)
    sandbox.command(instance, 'mkdir -p "$RUNCTL_ROOT/used" && touch "$RUNCTL_ROOT/used/file"')
    refused = account.run("aws", "ebs", "attach", volume, instance, "--mount", "/used")
    assert "is not empty" in refused.error["what"]
    assert attachments(account, volume) == [(instance, "attached")]
    disks.mount(Session(sandbox.cloud()), instance, volume, "/checkpoints")


@pytest.mark.slow
def test_a_mount_that_was_there_before_is_no_step_to_undo(
    account: Account, sandbox: Any, mounted: tuple[str, str], tmp_path: Path
) -> None:
    instance, volume = mounted
    request = {"instance": instance, "volume": volume, "path": "/checkpoints"}
    with Ledger.open(tmp_path) as ledger:
        session = Session(sandbox.cloud())
        door = Door(session, ledger, account.word, policy=Protection())
        operation = Operation(session=session, ledger=ledger, door=door, emit=session.emit)
        mount = kinds(Surroundings(session, door, session.emit, operation.ledger))["mount"]
        mount.undo(Call({**request, "was_mounted": True}, "token", "tx"), request)
        assert place(sandbox, instance, volume) == "/checkpoints"
        mount.undo(Call({**request, "was_mounted": False}, "token", "tx"), request)
        assert place(sandbox, instance, volume) is None
        disks.mount(session, instance, volume, "/checkpoints")


def test_a_mount_that_comes_after_its_undoing_does_not_hold_the_volume(
    account: Account, sandbox: Any, mounted: tuple[str, str], tmp_path: Path
) -> None:
    """A SendCommand whose answer was lost runs whenever it likes; the second undoing finds `detaching`."""
    instance, volume = mounted[0], account.create_volume(name="late")
    session = Session(sandbox.cloud())
    with Ledger.open(tmp_path) as ledger:
        door = Door(session, ledger, account.word, policy=Protection())
        attach = kinds(Surroundings(session, door, session.emit, ledger))["attach-volume"]
        call = Call({"instance": instance, "volume": volume}, "token", "tx")
        for asked_before in (False, True):
            result = attach.do(call)
            disks.mount(session, instance, volume, "/late")
            if asked_before:
                volumes.detach(session, volume, instance)
                assert attachments(account, volume) == [(instance, "detaching")]
            attach.undo(call, result)
            assert account.volume(volume)["State"] == "available"
    account.ok("aws", "ebs", "delete", volume, "--yes", "--force")


def test_training_saves_to_its_volume_before_that_is_taken_away(
    account: Account, sandbox: Any, mounted: tuple[str, str]
) -> None:
    instance, volume = mounted
    tags = [{"Key": "runctl:persistent", "Value": "yes"}]  # another's hand: it is one rule for all
    sandbox.client("ec2").create_tags(Resources=[volume], Tags=tags)
    told = account.ok("aws", "terminate", instance, "--dry-run").data["volumes"][instance]
    assert [one["fate"] for one in told if one["volume"] == volume] == ["detached and kept"]
    assert [one["fate"] for one in told if one["volume"] != volume] == ["deleted"]
    assert sandbox.command(instance, TRAINING)["ResponseCode"] == 0
    ended = account.ok("aws", "terminate", instance, "--yes", "--force").data
    assert ended["volumes"] == told
    assert account.state(instance) == "terminated"
    assert account.volume(volume)["State"] == "available"
    files = sandbox.home / "sandbox/state/volumes" / volume / "fs"
    assert (files / "last.txt").read_text() == "final\n"


@pytest.mark.slow
def test_force_ends_a_machine_whose_shell_is_broken_and_keeps_its_volume(
    account: Account, sandbox: Any
) -> None:
    instance, volume = account.create_instance(), account.create_volume("--persistent", name="broken")
    account.ok("aws", "ebs", "attach", volume, instance)
    sandbox.control.add_fault(
        "ssm", "error", operation="SendCommand", instance=instance, code="AccessDeniedException", status=400
    )
    try:
        refused = account.run("aws", "terminate", instance, "--yes")
        assert "running training" in refused.error["reasons"]
        account.ok("aws", "terminate", instance, "--yes", "--force")
    finally:
        sandbox.control.clear_faults()
    account.until(lambda: account.volume(volume)["State"] == "available")
