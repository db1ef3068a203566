"""What the user wants to run: a Python file, an executable or a command, and what it needs of Python."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from runctl.errors import ValidationError
from runctl.quoting import quoted
from runctl.storage.bundle import project_root

# The reference expression of PEP 723.
_HEADER = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_TOML_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
_INDEX_OPTION = re.compile(r"(--index-url|--extra-index-url|--find-links|-i|-f)(?:\s+|=)(\S+)")
_LONG_NAMES = {"-i": "--index-url", "-f": "--find-links"}
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|=)(\S+)")


class PythonNeeds(msgspec.Struct, frozen=True):
    """The packages to install before the script runs; `digest` names them, empty where there are none."""

    kind: Literal["none", "pep723", "requirements", "pyproject"] = "none"
    requirements: tuple[str, ...] = ()
    requires_python: str | None = None
    digest: str = ""


class Script(msgspec.Struct, frozen=True):
    """What runs: `command` as typed in the folder `workdir_in_root` ("." or a path) of the project `root`."""

    kind: Literal["python", "executable", "command"]
    command: tuple[str, ...]
    root: Path
    workdir_in_root: str
    python: PythonNeeds


def inspect(target: str | None, arguments: Sequence[str], *, cwd: Path) -> Script:
    """Find out how to run `target`, or the command `arguments` where there is no target.

    Runs in `cwd` where that lies in the project, else in the project's root. Raises ValidationError.
    """
    cwd = cwd.resolve()
    if target is None:
        return _command(tuple(arguments), cwd)
    path = _existing(target, cwd)
    root = project_root(path)
    workdir = cwd if cwd.is_relative_to(root) else root
    relative = os.path.relpath(path, workdir)
    if path.suffix == ".py":
        command = ("python3", relative, *arguments)
        return Script("python", command, root, _within(workdir, root), python_needs(path, root))
    if not os.access(path, os.X_OK):
        raise ValidationError(
            f"{target} is not executable",
            why="it is no .py file and has no x permission",
            next=f"chmod +x {quoted(target)}, or name its program: runctl train -- PROGRAM {quoted(target)}",
        )
    program = relative if "/" in relative else f"./{relative}"
    return Script("executable", (program, *arguments), root, _within(workdir, root), PythonNeeds())


def python_needs(script: Path, root: Path) -> PythonNeeds:
    """What a Python file asks for: in its PEP 723 header, else in the nearest list up to `root`.

    Raises ValidationError, with file and line, for what cannot be read.
    """
    header = _header_needs(script)
    if header is not None:
        return header
    for folder in _up_to(script.parent, root):
        if (listed := folder / "requirements.txt").is_file():
            return _needs("requirements", _requirements(listed, (), root), None)
        if (project := folder / "pyproject.toml").is_file():
            _require_inside(project, root, project, 1)
            if found := _project_needs(project):
                return found
    return PythonNeeds()


def _command(words: tuple[str, ...], cwd: Path) -> Script:
    if not words or not words[0].strip():
        raise ValidationError(
            "There is nothing to run",
            why="neither a script nor a command was given",
            next="runctl train train.py, or runctl train -- COMMAND",
        )
    root = project_root(cwd / words[0].rpartition("/")[2])
    scripts = (cwd / word for word in words if word.endswith(".py"))
    inside = (path for path in scripts if path.is_file() and path.resolve().is_relative_to(root))
    script = next(inside, None)
    needs = python_needs(script, root) if script else PythonNeeds()
    return Script("command", words, root, _within(cwd, root), needs)


def _existing(target: str, cwd: Path) -> Path:
    path = Path(os.path.abspath(cwd / target))  # noqa: PTH100 (a script that is a link stays where it is named)
    if path.is_file():
        return path
    if path.is_dir():
        raise ValidationError(
            f"{target} is a folder",
            why="a script is a file",
            next=f"name the script in it: {target}/train.py",
        )
    near = _nearest(path)
    raise ValidationError(
        f"No such script: {target}",
        why=f"looked for {path}",
        next=f"did you mean {os.path.relpath(near, cwd)}?" if near else "runctl train path/to/script.py",
    )


def _nearest(missing: Path) -> Path | None:
    """The file whose name is most like the missing one's, in its folder."""
    try:
        names = sorted(entry.name for entry in os.scandir(missing.parent) if entry.is_file())
    except OSError:  # no folder to look in
        return None
    import difflib

    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.5)
    return missing.parent / close[0] if close else None


def _header_needs(script: Path) -> PythonNeeds | None:
    text = script.read_text(encoding="utf-8-sig", errors="replace")
    blocks = [match for match in _HEADER.finditer(text) if match["type"] == "script"]
    if not blocks:
        return None
    first_line = text.count("\n", 0, blocks[0].start("content")) + 1
    if len(blocks) > 1:
        second = text.count("\n", 0, blocks[1].start()) + 1
        raise _unreadable(script, second, "a script has one PEP 723 header, and this is the second")
    lines = blocks[0]["content"].splitlines()
    content = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    table = _toml(script, content, first_line)
    return _from_table(script, "pep723", table, first_line)


def _project_needs(path: Path) -> PythonNeeds | None:
    table = _toml(path, path.read_text(encoding="utf-8-sig", errors="replace"), 1)
    project = table.get("project")
    if not isinstance(project, dict):
        return None
    return _from_table(path, "pyproject", cast("dict[str, Any]", project), 1)


def _from_table(
    path: Path, kind: Literal["pep723", "pyproject"], table: dict[str, Any], line: int
) -> PythonNeeds:
    packages: Any = table.get("dependencies", [])
    python: Any = table.get("requires-python")
    if not isinstance(packages, list) or not all(
        isinstance(item, str) for item in cast("list[Any]", packages)
    ):
        raise _unreadable(path, line, "dependencies must be a list of strings")
    if python is not None and not isinstance(python, str):
        raise _unreadable(path, line, "requires-python must be a string")
    return _needs(kind, cast("list[str]", packages), python)


def _toml(path: Path, text: str, first_line: int) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_LINE.search(str(error))
        last = len(text.splitlines())
        line = first_line - 1 + (int(place[1]) if place and place[1] else last)
        raise _unreadable(path, line, _TOML_LINE.sub("", str(error))) from error


def _requirements(path: Path, included_by: tuple[Path, ...], root: Path) -> list[str]:
    """The packages of a requirements file and of those that it includes, and where to look for them."""
    _require_inside(path, root, path, 1)
    found: list[str] = []
    for number, line in _logical_lines(path):
        if include := _INCLUDE.fullmatch(line):
            inner = (path.parent / include[1]).resolve()
            if inner in included_by or not inner.is_file():
                raise _unreadable(path, number, f"{include[1]} is not there or includes itself")
            _require_inside(inner, root, path, number)
            found += _requirements(inner, (*included_by, path.resolve()), root)
        elif option := _INDEX_OPTION.fullmatch(line):
            found.append(f"{_LONG_NAMES.get(option[1], option[1])}={option[2]}")
        elif line.startswith(("-", ".", "/")):
            raise _unreadable(path, number, f"{line.split()[0]} is nothing that runctl can take along")
        else:
            found.append(line)
    return found


def _require_inside(listed: Path, root: Path, named_in: Path, line: int) -> None:
    """What a project asks for is sent with it and looked up by name: no file of the user's own is."""
    if not listed.resolve().is_relative_to(root.resolve()):
        raise _unreadable(named_in, line, f"{listed.resolve()} is not in the project {root}")


def _logical_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with what is continued after a backslash, without comments, hashes and blanks."""
    begun: list[str] = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        begun.append(text.removesuffix("\\"))
        if text.endswith("\\"):
            continue
        line = re.sub(r"(^|\s)#.*$", "", " ".join(begun))
        begun.clear()
        line = " ".join(re.sub(r"\s--hash[=\s]\S+", "", line).split())
        if line:
            yield number, line


def _needs(
    kind: Literal["pep723", "requirements", "pyproject"], packages: Iterable[str], python: str | None
) -> PythonNeeds:
    requirements = tuple(packages)
    if not requirements and python is None:
        return PythonNeeds()
    return PythonNeeds(kind, requirements, python, environment_digest(requirements, python))


def environment_digest(requirements: Sequence[str], python: str | None) -> str:
    """What an environment is called on a machine: jobs with the same needs share it."""
    import hashlib

    return hashlib.sha256(json.dumps([list(requirements), python]).encode()).hexdigest()


def _up_to(folder: Path, root: Path) -> Iterator[Path]:
    for parent in (folder, *folder.parents):
        yield parent
        if parent == root or not parent.is_relative_to(root):
            return


def _within(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()


def _unreadable(path: Path, line: int, why: str) -> ValidationError:
    return ValidationError(f"Cannot read what {path.name} needs", why=f"{path}, line {line}: {why}")
