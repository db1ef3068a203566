"""`runctl config trust`, `untrust` and `trusted`: the user's word on files that came with a project."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runctl import config as settings_source
from runctl.cli import trusting
from runctl.cli.options import Context, common
from runctl.errors import NotFound, NotTrusted, ValidationError
from runctl.render import output
from runctl.storage.ignore import OWN_FILE, way_back

if TYPE_CHECKING:
    from runctl.config import ProjectFile


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@common
def trust(context: Context, files: tuple[Path, ...]) -> None:
    """Let a project's own settings count, as they are now.

    FILE is a .runctl.toml or a .runctlignore; without one, the project's .runctl.toml. A file that
    changes needs a new yes. The answers are kept under your own data folder, never in the project.

    \b
    Examples:
      runctl config trust
      runctl config trust .runctl.toml .runctlignore
    """
    _answer(context, files, yes=True)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@common
def untrust(context: Context, files: tuple[Path, ...]) -> None:
    """Go on without a project's own settings: those that spend, send or weaken are left out.

    \b
    Examples:
      runctl config untrust
      runctl config untrust .runctlignore
    """
    _answer(context, files, yes=False)


@click.command()
@common
def trusted(context: Context) -> None:
    """List the files of projects that you said yes or no to.

    \b
    Examples:
      runctl config trusted
      runctl config trusted --output json
    """
    trust = context.trust()
    rows = [
        {
            "file": answer.path,
            "trusted": answer.trusted,
            "sha256": answer.sha256,
            "at": answer.at,
            "now": _now(Path(answer.path), answer.sha256),
        }
        for answer in trust.answers()
    ]
    if context.json:
        output.write_json(rows)
        return
    output.write_table(
        ["file", "said", "when (UTC)", "now"],
        [
            [
                str(row["file"]),
                "yes" if row["trusted"] else "no",
                f"{row['at']:%Y-%m-%d %H:%M}",
                str(row["now"]),
            ]
            for row in rows
        ],
    )


def _answer(context: Context, files: tuple[Path, ...], *, yes: bool) -> None:
    trust, now = context.trust(), datetime.now(UTC)
    found = [settings_source.look_at(path, trust) for path in _named(files)]
    for file in found:
        if yes and file.fault:
            raise NotTrusted(
                f"{file.path} cannot be trusted",
                why=file.fault,
                next="make it yours alone, or name it for one command: --config FILE",
            )
    for file in found:
        told = _tell(context, file)
        trust.give(file.path, file.content, yes=yes, at=now)
        if not context.json:
            count = (
                "counts from now on, as it is now" if yes else "is left out where it spends, sends or weakens"
            )
            output.talk(f"{file.path} {count}" + ("" if told else "; it sets nothing that needs a yes"))
    if context.json:
        output.write_json([{"file": str(file.path), "trusted": yes} for file in found])


def _named(files: tuple[Path, ...]) -> list[Path]:
    if not files:
        path = settings_source.project_file(Path.cwd())
        if path is None:
            raise NotFound(
                f"There is no {settings_source.PROJECT_FILE} here",
                why=f"looked from {Path.cwd()} up to the top of its repository",
                next="runctl config trust FILE",
            )
        return [path]
    for path in files:
        if path.name not in {settings_source.PROJECT_FILE, OWN_FILE}:
            raise ValidationError(
                f"{path} decides nothing",
                why=f"a project's own settings are in {settings_source.PROJECT_FILE} and {OWN_FILE}",
            )
        if not path.is_file():
            raise NotFound(f"There is no file {path}")
    return [Path.cwd() / path for path in files]


def _tell(context: Context, file: ProjectFile) -> bool:
    """Show what a file wants; answers whether that needs a yes at all."""
    if file.path.name == OWN_FILE:
        lines = way_back(file.content)
        if lines and not context.json:
            output.talk(f"{file.path} lets travel what git leaves out, or what looks like credentials:")
            for line in lines:
                output.talk(f"  {trusting.told(line)}")
        return bool(lines)
    wishes = settings_source.wishes_of(file)
    if wishes and not context.json:
        trusting.show_wishes(file, wishes)
    return bool(wishes)


def _now(path: Path, sha256: str) -> str:
    from runctl.trust import digest

    try:
        return "as it was" if digest(path.read_bytes()) == sha256 else "changed since: needs a new answer"
    except OSError:
        return "not there"
