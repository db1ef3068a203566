"""`runctl aws`: instances, and under `ebs` volumes and snapshots; loaded when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from runctl.cli.root import LazyGroup


class _Aws(LazyGroup):
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "create": ("runctl.cli.aws_create:create", "Start a new instance."),
        "start": ("runctl.cli.aws_instances:start", "Start stopped instances."),
        "stop": ("runctl.cli.aws_instances:stop", "Stop instances; their disks stay."),
        "terminate": ("runctl.cli.aws_instances:terminate", "End instances for good."),
        "status": ("runctl.cli.aws_instances:status", "Show an instance: state, disks, cost, training."),
        "wait": ("runctl.cli.aws_instances:wait", "Wait until an instance is in a state."),
        "train": ("runctl.cli.aws_training:train", "Train on an instance that exists."),
        "monitor": ("runctl.cli.aws_training:monitor", "Follow the training on an instance."),
        "processes": ("runctl.cli.aws_training:processes", "CPU, memory and GPU by process."),
        "ebs": ("runctl.cli.ebs:ebs", "Volumes and snapshots."),
    }


@click.group(cls=_Aws)
def aws() -> None:
    """EC2 instances and EBS volumes, one by one.

    \b
    Examples:
      runctl aws create g5.xlarge --spot --data-volume-size 200 --persistent --mount /data
      runctl aws terminate i-0123456789abcdef0 --dry-run --explain
    """
