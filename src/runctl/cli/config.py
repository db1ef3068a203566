"""`runctl config`: show, set and check settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runctl import config as settings_source
from runctl.cli.options import Context, common
from runctl.render import output


@click.group()
def config() -> None:
    """Show, set and check settings."""


@config.command()
@common
def show(context: Context) -> None:
    """Show every setting, its value and where it was set.

    \b
    Examples:
      runctl config show
      runctl config show --output json
    """
    settings = context.settings()
    rows = {
        key: {"value": settings.value(key), "origin": settings.origin(key)}
        for key in settings_source.defaults()
    }
    if context.json:
        output.write_json(rows)
        return
    output.write_table(
        ["setting", "value", "from"],
        [[key, _shown(row["value"]), row["origin"]] for key, row in rows.items()],
    )


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--user/--project", "for_user", help="In the user's file instead of the project's.")
@click.option("--dry-run", is_flag=True, help="Check the value, say where it would stand, and write nothing.")
@common
def set_(context: Context, key: str, value: str, for_user: bool, dry_run: bool) -> None:
    """Set one setting in the project's .runctl.toml, or in the user's file.

    \b
    Examples:
      runctl config set aws.region us-east-1
      runctl config set train.spot true --user
    """
    import os

    if context.config_file is not None:
        path = context.config_file
    elif for_user:
        path = settings_source.user_file(os.environ)
    else:
        path = settings_source.project_file(Path.cwd()) or Path.cwd() / settings_source.PROJECT_FILE
    found = settings_source.set_value(path, key, value, dry_run=dry_run)
    if context.json:
        output.write_json({"key": key, "value": found, "file": str(path), "dry_run": dry_run})
    else:
        output.talk(f"{'would set ' if dry_run else ''}{key} = {_shown(found)} in {path}")


@config.command()
@common
def validate(context: Context) -> None:
    """Check every file and variable that settings come from.

    \b
    Examples:
      runctl config validate
      runctl config validate --config ci.toml
    """
    import os

    context.settings()
    files = settings_source.sources(os.environ, Path.cwd(), context.config_file)
    if context.json:
        output.write_json({"valid": True, "files": [str(path) for path in files]})
    else:
        output.talk(f"every setting is valid; read from {', '.join(map(str, files)) or 'no file'}")


def _shown(value: Any) -> str:
    """As it would stand in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
