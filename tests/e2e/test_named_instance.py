"""Training on an instance that exists: run there, followed, looked at, and the instance stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from classics import Account, on_sandbox

from runctl.errors import CloudError
from runctl.resources import processes

pytestmark = pytest.mark.xdist_group("lessons")

SCRIPT = """
import os, sys
print("hello from", os.environ["RUNCTL_JOB_ID"], sys.argv[1], flush=True)
"""


@pytest.fixture
def account(own_cloud: Any, tmp_path: Path) -> Iterator[Account]:
    with on_sandbox(own_cloud, tmp_path) as found:
        yield found


def test_a_script_is_run_on_an_instance_that_stays(account: Account) -> None:
    instance = account.create_instance("--wait")
    (account.home / "project").mkdir()
    (account.home / "project" / "hello.py").write_text(SCRIPT)
    ran = account.ok("aws", "train", instance, "project/hello.py", form="text", extra=("--", "you"))
    assert "hello from" in ran.out
    assert account.state(instance) == "running"
    followed = account.ok("aws", "monitor", instance, "-f", form="text")
    assert followed.out.startswith("hello from")
    table = account.ok("aws", "processes", instance, "--limit", "5", form="text")
    assert "cpu %" in table.out
    found = account.ok("aws", "processes", instance).data
    assert any("ps -eo" in process["command"] for process in found["processes"])
    unknown = account.run("aws", "monitor", "i-0123456789abcdef0")
    assert (unknown.code, unknown.error["kind"]) == (1, "NotFound")


def test_what_the_shell_says_of_gpus_is_read_as_far_as_it_is_known() -> None:
    said = (
        "runctl-part processes\n"
        "  7 root 99.5 1.0 2048 61 python3 train.py --epochs 3\n"
        "torn line\n"
        "runctl-part gpus\n"
        "0, NVIDIA A10G, 97, 20000, 23028\n"
        "1, NVIDIA A10G, [N/A], [N/A], 23028\n"
        "runctl-part users\n"
        "7, 19000\n"
        "runctl-part end\n"
    )
    found = processes.parse(said)
    assert [(one.pid, one.command, one.gpu_memory_mib) for one in found.processes] == [
        (7, "python3 train.py --epochs 3", 19000)
    ]
    assert [(gpu.busy_percent, gpu.memory_mib) for gpu in found.gpus] == [(97, 23028), (None, 23028)]
    with pytest.raises(CloudError):
        processes.parse("something else\n")
