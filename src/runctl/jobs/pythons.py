"""Which Python and which packages a job on a machine will have, and why: decided before one is bought."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from runctl.agent.interpreters import meets
from runctl.errors import NotFound, ValidationError
from runctl.events import Emit, Progress, ignore
from runctl.jobs import imports, locking, uv
from runctl.jobs.spec import Carried, JobSpec, Lock, PythonSpec

_SOURCES = {
    "requirements": "requirements.txt",
    "pep723": "the script's header",
    "pyproject": "pyproject.toml",
}
_MINORS = range(8, 21)
_PASSWORD = re.compile(r"://[^/\s@]*:(?!\$\{)[^/\s@]+@")
_SHOWN = 4


class Decision(msgspec.Struct, frozen=True):
    """The needs as a machine gets them; `told` is a sentence for the plan."""

    python: PythonSpec
    told: str
    warnings: tuple[str, ...] = ()


def decide(
    spec: JobSpec,
    architectures: Iterable[str],
    *,
    own_version: Callable[[Path], str] | None = None,
    cache: Path | None = None,
    emit: Emit = ignore,
) -> Decision:
    """Read what the script imports, resolve its list, and find the uv that a machine may need.

    Asks the user's package index. Raises ValidationError if the list cannot be met, or holds a password.
    """
    python, root = spec.python, Path(spec.root)
    script = _script(spec)
    found = imports.third_party(script, root) if script else {}
    if not (python.requirements or python.requires_python):
        if script is None:
            return Decision(python, "none that runctl chooses: the command runs as it is")
        told = "the machine's python3: no list of requirements"
        return Decision(
            msgspec.structs.replace(python, imports=tuple(sorted(found))), told, _unlisted(found, ())
        )
    _refuse_passwords(python)
    here = (own_version or version_here)(root)
    version = wanted_version(here, python.requires_python)
    python = msgspec.structs.replace(python, version=version)
    emit(Progress(task="resolving the requirements", done=0, total=1, unit=""))
    python, trouble = _with_tools(python, architectures, spec, cache)
    emit(Progress(task="resolving the requirements", done=1, total=1, unit=""))
    names = [name for lock in python.locks for name in lock.text.splitlines()] or list(python.requirements)
    warnings = [*_unlisted(found, names), *trouble]
    return Decision(python, _told(python, here), tuple(warnings))


def for_machine(python: PythonSpec, architecture: str) -> dict[str, object]:
    """The agent's input for a machine of this architecture; `docs/agent.md` describes it."""
    architecture = uv.architecture_of(architecture)
    lock = next((one.text for one in python.locks if one.architecture == architecture), "")
    carried = next((one for one in python.carried if one.architecture == architecture), None)
    needs = msgspec.to_builtins(msgspec.structs.replace(python, locks=(), carried=()))
    needs = {name: value for name, value in needs.items() if name not in {"locks", "carried"}}
    if not (python.version or lock):
        return needs
    identity = [lock or list(python.requirements), python.version, python.requires_python, architecture]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return {
        **needs,
        "digest": digest,
        "lock": lock,
        "uv": {"key": carried.key, "sha256": carried.sha256} if carried else None,
    }


def version_here(root: Path) -> str:
    """The minor version of the user's own Python: that which `python3` is in the project's folder."""
    found = shutil.which("python3")
    try:
        command = [
            found or sys.executable,
            "-I",
            "-S",
            "-c",
            "import sys; print('%d.%d' % sys.version_info[:2])",
        ]
        done = subprocess.run(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
        if re.fullmatch(r"3\.\d{1,2}", done.stdout.strip()):
            return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass  # then ours stands for it
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def wanted_version(here: str, requires_python: str | None) -> str:
    """The user's own minor version if it is allowed, else the nearest that is; "" if none is known to be.

    Raises ValidationError for a requirement that says nothing of versions.
    """
    own = int(here.partition(".")[2])
    try:
        allowed = [minor for minor in _MINORS if _meets_some(minor, requires_python)]
    except ValueError as error:
        raise ValidationError("requires-python cannot be understood", why=str(error)) from error
    nearest = min(allowed, key=lambda minor: (abs(minor - own), minor), default=None)
    return "" if nearest is None else f"3.{nearest}"


def _meets_some(minor: int, requires_python: str | None) -> bool:
    """Whether some release of a minor version is allowed: the first, or one of those that follow."""
    return any(meets(f"3.{minor}.{patch}", requires_python) for patch in range(30))


def _script(spec: JobSpec) -> Path | None:
    """The Python file that the command names."""
    folder = Path(spec.root, spec.workdir)
    named = (folder / word for word in spec.command if word.endswith(".py"))
    return next((path for path in named if path.is_file()), None)


def _with_tools(
    python: PythonSpec, architectures: Iterable[str], spec: JobSpec, cache: Path | None
) -> tuple[PythonSpec, list[str]]:
    """The locks and the wheels of uv for these machines, and what could not be had."""
    locks: list[Lock] = []
    carried: list[Carried] = []
    trouble: dict[str, None] = {}
    wanted = list(dict.fromkeys(uv.architecture_of(name) for name in architectures))
    for architecture in wanted:
        try:
            carried.append(uv.carried(architecture, cache))
        except NotFound as error:
            reason = error.why or str(error)
            trouble[f"uv is not carried to the machine ({reason}): it installs with what it has"] = None
    program = uv.here(cache)
    for architecture in wanted if python.requirements else ():
        resolved = (
            locking.resolve(
                program,
                python.requirements,
                version=python.version,
                architecture=architecture,
                root=Path(spec.root),
            )
            if program and python.version
            else locking.Resolved(why="there is no uv here")
        )
        if resolved.why or (resolved.local and spec.on != "sandbox"):
            why = resolved.why or "here they come from a folder of this computer"
            trouble[f"the requirements are resolved on the machine: {why}"] = None
        else:
            locks.append(Lock(architecture=architecture, text=resolved.lock))
    return msgspec.structs.replace(python, locks=tuple(locks), carried=tuple(carried)), list(trouble)


def _refuse_passwords(python: PythonSpec) -> None:
    held = next((text for text in python.requirements if _PASSWORD.search(text)), None)
    if held:
        raise ValidationError(
            f"{_SOURCES.get(python.kind, 'The list')} names an address with a password in it",
            why=f"{locking.without_passwords(held)}: it would be written into the job's spec and its bucket",
            next="leave it out of the list, and give the machine's image a pip.conf or a netrc",
        )


def _unlisted(found: dict[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """What is imported and named by no list; one word for all."""
    listed = {imports.listed(name) for name in names}
    missing = [name for name in found if imports.package_of(name) not in listed]
    if not missing:
        return ()
    shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else "")
    verb = "is" if len(missing) == 1 else "are"
    return (f"{shown} {verb} imported by {found[missing[0]]} and not listed: only an image may have it",)


def _told(python: PythonSpec, here: str) -> str:
    source = _SOURCES.get(python.kind, "the list")
    why = "as here" if python.version == here else f"for {source} says {python.requires_python}"
    version = f"{python.version}, {why}" if python.version else str(python.requires_python)
    if not python.requirements:
        return f"{version}; no packages are listed in {source}"
    lock = python.locks[0].text if python.locks else ""
    count = len(locking.Resolved(lock=lock).packages) if lock else len(python.requirements)
    plural = "" if count == 1 else "s"
    maker = "uv" if python.carried else "what the machine has"
    return f"{version}; {count} package{plural} from {source}, made by {maker} unless the image has them"
