"""Text leaves in one place: the source of everything that runs beside a terminal is walked for any other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runctl

SOURCE = Path(runctl.__file__).parent
ELSEWHERE = {"agent", "sandbox"}
"""Programs of their own: their output is a log file on a machine, and reaches a terminal as a job's log."""

WRITERS = {
    # Text that is ours to the letter, written where nothing else is imported yet.
    "cli/main.py": {"sys.stdout"},
    "cli/interrupts.py": {"os.write"},
    "render/output.py": {
        "sys.stdout",
        "sys.stderr",
        "rich.console",
        "contextlib.redirect_stdout",
        "getpass.getpass",
    },
}
FORBIDDEN_NAMES = {"print", "input", "breakpoint"}
FORBIDDEN = {
    "sys": {"stdout", "stderr", "__stdout__", "__stderr__", "__excepthook__", "__unraisablehook__"},
    "os": {"write", "system", "popen"},
    "click": {"echo", "secho", "echo_via_pager", "confirm", "prompt", "pause", "progressbar"},
    "rich": {"print", "print_json", "get_console", "inspect"},
    "traceback": {"print_exc", "print_exception", "print_last", "print_stack", "print_tb"},
    "logging": {"basicConfig", "StreamHandler", "warning", "error", "info", "exception", "critical"},
    "warnings": {"warn", "warn_explicit"},
    "getpass": {"getpass"},
    "contextlib": {"redirect_stdout", "redirect_stderr"},
    "faulthandler": {"enable", "dump_traceback"},
    "pprint": {"pprint"},
}  # fmt: skip
TO_FILES = {"storage/partial.py", "storage/memory.py", "storage/local_copy.py", "storage/download.py"}
"""Where `os.write` has a descriptor of a file that the same module opened."""


def writes(tree: ast.AST) -> Iterator[str]:
    """Every way to a terminal that is named in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_NAMES:
                yield name
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in FORBIDDEN.get(module, ()):
                yield f"{module}.{name}"
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in FORBIDDEN:
                yield from (
                    f"{module}.{one.name}" for one in names if one.name in FORBIDDEN[module.split(".")[0]]
                )
                if module in {"rich.console", "rich.live"} and any(
                    one.name in {"Console", "Live"} for one in names
                ):
                    yield module
            case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess"), attr=name), keywords=given):
                known = {keyword.arg for keyword in given}
                if "capture_output" not in known and not {"stdout", "stderr"} <= known:
                    yield f"subprocess.{name} without its own stdout and stderr"
            case _:
                pass


def unseen(module: Path) -> list[str]:
    place = module.relative_to(SOURCE).as_posix()
    allowed = WRITERS.get(place, set()) | ({"os.write"} if place in TO_FILES else set())
    tree = ast.parse(module.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    kept = ast.Module([node for node in tree.body if id(node) not in typing_only], [])
    return [found for found in writes(kept) if found not in allowed]


MODULES = [
    module
    for module in sorted(SOURCE.rglob("*.py"))
    if module.relative_to(SOURCE).parts[0] not in ELSEWHERE and "examples" not in module.parts
]


def test_nothing_writes_but_the_one_writer() -> None:
    assert len(MODULES) > 150
    found = {module.relative_to(SOURCE).as_posix(): unseen(module) for module in MODULES}
    assert not {place: ways for place, ways in found.items() if ways}


@pytest.mark.parametrize(
    "line",
    [
        "print(name)",
        "import sys; sys.stderr.write(name)",
        "from sys import stdout",
        "import click; click.echo(name)",
        "from click import secho",
        "from rich.console import Console",
        "import traceback; traceback.print_exc()",
        "import os; os.write(2, name)",
        "import subprocess; subprocess.run(['ls'])",
        "import subprocess; subprocess.Popen(['ls'], stdout=-1)",
    ],
)
def test_the_walk_sees_every_other_way(line: str) -> None:
    assert list(writes(ast.parse(line)))
