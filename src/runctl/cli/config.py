"""`runctl config`: show, set and check settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from runctl import config as settings_source
from runctl.cli import trusting
from runctl.cli.config_trust import trust, trusted, untrust
from runctl.cli.options import Context, common
from runctl.quoting import quoted
from runctl.render import output


@click.group()
def config() -> None:
    """Show, set, check and trust settings."""


config.add_command(trust)
config.add_command(untrust)
config.add_command(trusted)


@config.command()
@common
def show(context: Context) -> None:
    """Show every setting, its value and where it was set.

    \b
    Examples:
      runctl config show
      runctl config show --output json
    """
    settings = context.read_settings()
    left_out = {wish.key: wish for wish in settings.wishes}
    rows = {
        key: {"value": settings.value(key), "origin": settings.origin(key)}
        | ({"not_trusted": left_out[key].value, "set_in": left_out[key].origin} if key in left_out else {})
        for key in settings_source.defaults()
    }
    if context.json:
        output.write_json(rows)
        return
    output.write_table(
        ["setting", "value", "from"],
        [
            [key, _shown(row["value"]), _origin(settings.origin(key), left_out.get(key))]
            for key, row in rows.items()
        ],
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

    in_project = context.config_file is None and not for_user
    if in_project:
        path = settings_source.project_file(Path.cwd()) or Path.cwd() / settings_source.PROJECT_FILE
    else:
        path = context.config_file or settings_source.user_file(os.environ)
    own = not in_project or _is_users_own(context, path)
    found = settings_source.set_value(
        path, key, value, dry_run=dry_run, users=context.config_file is None and for_user
    )
    if in_project and own and not dry_run:
        context.trust().give(path, path.read_bytes(), yes=True, at=datetime.now(UTC))
    if context.json:
        output.write_json({"key": key, "value": found, "file": str(path), "dry_run": dry_run})
    else:
        output.talk(f"{'would set ' if dry_run else ''}{key} = {_shown(found)} in {path}")
        if not own:
            output.talk(f"the file came with the project and has no yes: runctl config trust {quoted(path)}")


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

    context.read_settings()
    files = settings_source.sources(os.environ, Path.cwd(), context.config_file)
    if context.json:
        output.write_json({"valid": True, "files": [str(path) for path in files]})
    else:
        output.talk(f"every setting is valid; read from {', '.join(map(str, files)) or 'no file'}")


def _is_users_own(context: Context, path: Path) -> bool:
    """Whether all that a project's file decides now is the user's word: nothing, or with a yes."""
    if not path.is_file():
        return True
    file = settings_source.look_at(path, context.trust())
    return file.stance == "trusted" or (not file.fault and not settings_source.wishes_of(file))


def _origin(origin: str, left_out: settings_source.Wish | None) -> str:
    """Where a value comes from, and what a file without a yes says instead."""
    if left_out is None:
        return origin
    return f"{origin}; not trusted: {trusting.told(left_out.value)} in {left_out.origin}"


def _shown(value: Any) -> str:
    """As it would stand in a file."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
