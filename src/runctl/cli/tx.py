"""`runctl tx`: operations on several resources that were left unfinished."""

from __future__ import annotations

import click


@click.group()
def tx() -> None:
    """Operations on several resources, as the journal has them."""
