"""Commands whose answer is lost: they run on the machine all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runctl.errors import CloudError
from runctl.providers.aws import shell
from runctl.providers.aws.session import Session

if TYPE_CHECKING:
    from conftest import LiveSandbox


def test_a_command_whose_answer_was_lost_is_found_and_not_given_up(sandbox_cloud: LiveSandbox) -> None:
    instance = sandbox_cloud.running()
    session = Session(sandbox_cloud.cloud())
    sandbox_cloud.control.add_fault("ssm", "lost-response", operation="SendCommand", count=1)
    script = 'sleep 1; echo once >> "$HOME/said"; cat "$HOME/said"'
    told = shell.run(session, instance, script, comment="a" * 120)
    assert (told.status, told.output) == ("Success", "once\n")
    assert shell.run(session, instance, 'cat "$HOME/said"', comment="again").output == "once\n"


def test_a_command_that_nobody_may_look_for_is_given_up(sandbox_cloud: LiveSandbox) -> None:
    instance = sandbox_cloud.running()
    session = Session(sandbox_cloud.cloud())
    sandbox_cloud.control.add_fault("ssm", "error", operation="ListCommands", code="AccessDenied", status=400)
    sandbox_cloud.control.add_fault("ssm", "lost-response", operation="SendCommand", count=1)
    with pytest.raises(CloudError) as lost:
        shell.run(session, instance, "true", comment="not to be seen")
    assert lost.value.lost_answer
