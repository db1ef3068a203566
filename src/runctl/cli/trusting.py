"""What a project's own file wants, put before the user: counted after a yes, never silently."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runctl.config import ProjectFile, Settings, Wish, wishes_of
from runctl.errors import Interrupted, NotTrusted
from runctl.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.cli.options import Context
    from runctl.trust import Trust

GOES_ON = frozenset(
    {
        "aws ebs list",
        "aws ebs snapshot-list",
        "aws monitor",
        "aws processes",
        "aws status",
        "aws stop",
        "aws wait",
        "data cache list",
        "data plan",
        "demo",
        "jobs list",
        "jobs logs",
        "jobs show",
        "jobs stop",
        "resources export",
        "resources graph",
        "resources insights",
        "resources list",
        "resources stop-all",
        "resources summary",
        "s3 list",
        "s3 review",
        "tx list",
        "tx show",
    }
)
"""Commands that only look, or end what costs: they go on without the settings that have no yes."""


def settle(context: Context, found: Settings, trust: Trust) -> Settings:
    """Settings to work with: asks on a terminal, and refuses without one. Raises NotTrusted, Interrupted."""
    project = found.project
    if not found.wishes or project is None or project.stance == "refused":
        return found
    if _command() in GOES_ON:
        _say(context, f"{_count(found.wishes)} of {project.path} left out: {_why_not(project)}")
        return found
    from runctl.render import output

    on_terminal = sys.stdin.isatty() and output.talk_on_terminal() and not context.json
    if not context.json:
        show_wishes(project, wishes_of(project))
    if project.stance == "foreign" or not on_terminal:
        raise refusal(project, found.wishes)
    if not output.ask("Let these settings count from now on?"):
        raise Interrupted(
            "Nothing was done",
            next=f"runctl config untrust {quoted(project.path)} goes on without its settings",
        )
    trust.give(project.path, project.content, yes=True, at=datetime.now(UTC))
    again = context.read_settings()
    if again.wishes and again.project is not None:  # it has changed since it was shown
        raise refusal(again.project, again.wishes)
    return again


def refusal(project: ProjectFile, wishes: Sequence[Wish]) -> NotTrusted:
    """The error for settings that have no yes, with the command that gives it."""
    if project.stance == "foreign":
        return NotTrusted(
            f"The settings in {project.path} do not count",
            why=f"{project.fault}, and it sets {_keys(wishes)}",
            next=f"make it yours alone, or go on without it: runctl config untrust {quoted(project.path)}",
            settings=_as_data(wishes),
        )
    return NotTrusted(
        f"The settings in {project.path} need your yes",
        why=f"they came with the project, and decide what is spent, sent or protected: {_keys(wishes)}",
        next=f"read them, then: runctl config trust {quoted(project.path)} (untrust goes on without them)",
        settings=_as_data(wishes),
    )


def show_wishes(project: ProjectFile, wishes: Sequence[Wish]) -> None:
    """Each setting with its value and what it means, on stderr."""
    from runctl.render import output

    output.talk(f"{project.path} sets:")
    width = max((len(_told(wish)) for wish in wishes), default=0)
    for wish in wishes:
        output.talk(f"  {_told(wish):<{min(width, 40)}}  {wish.reach.power}: {wish.reach.means}")


def show_origins(settings: Settings) -> None:
    """Which of a project's settings count, beside a plan."""
    from runctl.render import output

    for key in sorted(settings.from_project):
        value = told(settings.value(key))
        output.talk(f"  setting   {key} = {value}  ({settings.origin(key)})")


def origins(settings: Settings) -> list[dict[str, Any]]:
    """As `show_origins`, for JSON."""
    return [
        {"key": key, "value": settings.value(key), "origin": settings.origin(key)}
        for key in sorted(settings.from_project)
    ]


def told(value: Any) -> str:
    """A value as it would stand in a file, with nothing that a terminal obeys."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def _told(wish: Wish) -> str:
    return f"{wish.key} = {told(wish.value)}"


def _keys(wishes: Sequence[Wish]) -> str:
    return ", ".join(wish.key for wish in wishes)


def _as_data(wishes: Sequence[Wish]) -> list[dict[str, Any]]:
    return [
        {
            "key": wish.key,
            "value": wish.value,
            "origin": wish.origin,
            "power": wish.reach.power,
            "means": wish.reach.means,
        }
        for wish in wishes
    ]


def _why_not(project: ProjectFile) -> str:
    return project.fault if project.stance == "foreign" else "no yes from you yet (runctl config trust)"


def _count(wishes: Sequence[Wish]) -> str:
    return "1 setting" if len(wishes) == 1 else f"{len(wishes)} settings"


def _command() -> str:
    """The words of the command that runs, without the program's own."""
    found = click.get_current_context(silent=True)
    return " ".join(word for word in found.command_path.split() if word != "runctl") if found else ""


def _say(context: Context, text: str) -> None:
    import msgspec

    from runctl.events import Notice

    msgspec.structs.replace(context, quiet=False).emit()(Notice(text=text, warning=True))
