"""The Python that a script runs with: the machine's own where it suffices, else one made for the job."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from .files import read_json, to_json, write_atomically

_CHECK = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not the working directory's modules
import re
from importlib import metadata
try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.specifiers import SpecifierSet
version = ".".join(map(str, sys.version_info[:3]))
wanted, seen = [Requirement(text) for text in sys.argv[2:]], set()
if sys.argv[1] and not SpecifierSet(sys.argv[1]).contains(version, prereleases=True):
    sys.exit("needs Python " + sys.argv[1])
while wanted:
    need = wanted.pop()
    if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in need.extras or {""}):
        continue
    found = metadata.version(need.name)
    if need.url:
        sys.exit(need.name + " is wanted from " + need.url)
    if not need.specifier.contains(found, prereleases=True):
        sys.exit(need.name + " is " + found)
    if str(need) in seen:
        continue
    seen.add(str(need))
    for extra in sorted(need.extras):
        for text in metadata.requires(need.name) or []:
            inner = Requirement(text)
            marker = inner.marker
            if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                inner.marker = None
                wanted.append(inner)
import json, os
folders = sorted({path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)})
print(json.dumps({path: os.stat(path).st_mtime_ns for path in folders}))
"""


class EnvironmentFailed(Exception):
    """The script's requirements cannot be met."""


def prepare(python: Dict[str, Any], home: str, log: str) -> Optional[str]:
    """The Python to run with, or None for the `python3` on PATH.

    Raises EnvironmentFailed with the end of the installer's own words.
    """
    requirements = [str(item) for item in python.get("requirements", [])]
    needs_python = str(python.get("requires_python") or "")
    if python.get("kind", "none") == "none" or not (requirements or needs_python):
        return None
    folder = os.path.join(home, "environments", str(python["digest"]))
    made = os.path.join(folder, "bin", "python3")
    own = shutil.which("python3")
    if os.path.exists(os.path.join(folder, "ready")):
        return made
    remembered = folder + ".ok"
    if own and _still_suffices(read_json(remembered), own):
        return None
    packages = _check(own, needs_python, requirements) if own else None
    if packages is not None:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        write_atomically(remembered, to_json({"python": own, "packages": packages}))
        return None
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(folder, "ready")):
            _make(folder, needs_python, requirements, log)
    return made


def _check(own: str, needs_python: str, requirements: List[str]) -> Optional[Dict[str, int]]:
    """Where this Python's packages lie and when each place last changed; None where it does not suffice."""
    command = [own, "-c", _CHECK, needs_python, *requirements]
    checked = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if checked.returncode != 0:
        return None
    try:
        packages: Dict[str, int] = json.loads(checked.stdout)
    except ValueError:
        return None
    return packages


def _still_suffices(remembered: Optional[Dict[str, Any]], own: str) -> bool:
    """An earlier check's answer holds while no package was installed or removed."""
    if remembered is None or remembered.get("python") != own or not remembered.get("packages"):
        return False
    try:
        return all(os.stat(path).st_mtime_ns == then for path, then in remembered["packages"].items())
    except OSError:  # a package went
        return False


def _make(folder: str, needs_python: str, requirements: List[str], log: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    python = os.path.join(folder, "bin", "python3")
    uv = shutil.which("uv")
    if uv:
        steps: Tuple[List[str], ...] = (
            [uv, "venv", "--quiet", *(["--python", needs_python] if needs_python else []), folder],
            [uv, "pip", "install", "--quiet", "--python", python, *requirements],
        )
    else:
        own = shutil.which("python3")
        if own and needs_python and _check(own, needs_python, []) is None:
            raise EnvironmentFailed("the script needs Python %s, and there is no uv to get it" % needs_python)
        steps = (
            # -I: the working directory may be a repository with a venv.py in it.
            [shutil.which("python3") or "python3", "-I", "-m", "venv", folder],
            [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        )
    with open(log, "ab") as output:
        for step in steps if requirements else steps[:1]:
            start = output.tell()
            try:
                # `-m` imports from the working directory, which may hold a script's venv.py or json.py.
                code = subprocess.run(
                    step, cwd=os.path.dirname(folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output
                ).returncode
            except OSError as error:
                raise EnvironmentFailed("%s: %s" % (step[0], error)) from error
            if code != 0:
                raise EnvironmentFailed(_tail(log, start) or "%s ended with %d" % (" ".join(step[:3]), code))
    write_atomically(os.path.join(folder, "ready"), b"")


def _tail(path: str, start: int) -> str:
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return " ".join(lines[-3:])[-400:]
