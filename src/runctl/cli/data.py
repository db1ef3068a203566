"""`runctl data`: datasets, where they lie and how training reads them; loaded when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from runctl.cli.root import LazyGroup


class _Data(LazyGroup):
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "cache": ("runctl.cli.data_cache:cache", "What scripts keep on the local disk."),
        "pack": ("runctl.cli.data_pack:pack", "Many small files in few objects, for training."),
        "plan": ("runctl.cli.data_plan:plan", "What each way of loading takes and costs."),
        "stage": ("runctl.cli.data_stage:stage", "Have a dataset on a volume."),
        "verify": ("runctl.cli.data_verify:verify", "Whether a copy is whole, and a volume up to date."),
    }


@click.group(cls=_Data)
def data() -> None:
    """Datasets: where they lie, and how training reads them.

    \b
    Examples:
      runctl data plan s3://bucket/imagenet --runs 5 --epochs 3 --machine g5.xlarge
      runctl data pack s3://bucket/imagenet s3://bucket/imagenet-packed --mix
      runctl data stage s3://bucket/imagenet --zone us-east-1b --snapshot
      runctl data stage s3://bucket/imagenet --volume vol-0123456789abcdef0
    """
