"""AWS as a provider of machines for attempts: disposable ones, and one that the user named."""

from __future__ import annotations

import shlex

from runctl.errors import CloudError, NotFound
from runctl.providers.aws import instances, shell
from runctl.providers.aws.session import Session
from runctl.providers.base import LaunchRequest, Machine, MachineState


class AwsProvider:
    """Disposable instances that start the agent from their user data."""

    name = "aws"

    def __init__(self, session: Session) -> None:
        self.session = session

    def launch(self, request: LaunchRequest) -> Machine:
        return instances.run(self.session, request)

    def find(self, token: str) -> Machine | None:
        return instances.find_by_token(self.session, token)

    def describe(self, machine_id: str) -> Machine | None:
        return instances.describe(self.session, machine_id)

    def ask_to_stop(self, machine_id: str, job: str, attempt: int) -> None:
        folder = f'"${{HOME:-/root}}/.runctl/jobs/{job}/attempt-{attempt}"'
        result = shell.run(
            self.session,
            machine_id,
            f"umask 077; mkdir -p {folder} && touch {folder}/stop",
            comment=f"stop {job}",
        )
        if result.exit_code != 0:
            raise CloudError(
                f"The agent on {machine_id} could not be told to stop",
                service="ssm",
                operation="send_command",
                code=result.status,
                why=result.error.strip(),
            )


class NamedInstance(AwsProvider):
    """An instance that the user owns: the agent is started through SSM, and the machine is left alone."""

    def launch(self, request: LaunchRequest) -> Machine:
        instance_id = request.offer.zone
        machine = self.describe(instance_id)
        if machine is None or machine.state is not MachineState.RUNNING:
            state = machine.state if machine else "unknown to EC2"
            raise NotFound(f"{instance_id} is not running", why=f"it is {state}", next="start it first")
        if not shell.is_online(self.session, instance_id):
            raise NotFound(
                f"{instance_id} cannot be reached through SSM",
                why="its SSM agent is not online: no role, no route, or no agent",
                next="see docs/aws-setup.md",
            )
        # The agent refuses an attempt that was begun before, so that this may be repeated.
        script = f"sh -c {shlex.quote(request.parameters)}"
        result = shell.run(self.session, instance_id, script, comment=request.token)
        if result.exit_code != 0:
            raise CloudError(
                f"The agent did not start on {instance_id}",
                service="ssm",
                operation="send_command",
                code=result.status,
                why=(result.error or result.output).strip()[-500:],
            )
        return machine
