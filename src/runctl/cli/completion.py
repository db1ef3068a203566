"""`runctl completion`: the script that teaches a shell our commands, options and job ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from runctl.cli.main import COMPLETE_VARIABLE
from runctl.cli.root import root
from runctl.render import output


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(runctl completion bash)"
      runctl completion fish > ~/.config/fish/completions/runctl.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 (the choices above)
    output.write_document(kind(root, {}, "runctl", COMPLETE_VARIABLE).source() + "\n")
