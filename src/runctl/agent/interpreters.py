"""The Pythons of a machine: which there are, and whether one has what a script needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

OF_IMAGES = ("/opt/pytorch/bin/python",)
"""Where images keep a Python with their packages that no unit has on its PATH: AWS's deep learning images."""
_MINORS = range(20, 7, -1)
_LONGEST_PROBE = 120.0

_PROBE = """
import sys
sys.path[:] = [path for path in sys.path if path]  # not the working directory's modules
import importlib.util, json, os
has = [name for name in ("venv", "ensurepip", "pip") if importlib.util.find_spec(name)]
told = {"version": ".".join(map(str, sys.version_info[:3])), "has": has, "lacks": "", "packages": {}}
def lack(why):
    told["lacks"] = why
    print(json.dumps(told))
    sys.exit()
for name in json.loads(sys.argv[1]):
    if importlib.util.find_spec(name) is None:
        lack(name + " is not installed")
texts = sys.argv[2:]
if texts:
    try:
        from importlib import metadata
    except ImportError:
        lack("it is too old to tell what is installed")
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            lack("it has no pip, which could tell whether all is installed")
wanted, seen = [], set()
for text in texts:
    try:
        wanted.append(Requirement(text))
    except Exception as error:
        lack("only an installer understands " + repr(text))
while wanted:
    need = wanted.pop()
    if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in need.extras or {""}):
        continue
    try:
        found = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        lack(need.name + " is not installed")
    if need.url:
        lack(need.name + " is wanted from an address of its own")
    if not need.specifier.contains(found, prereleases=True):
        lack(need.name + " is " + found)
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
folders = sorted({path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)})
told["packages"] = {path: os.stat(path).st_mtime_ns for path in folders}
print(json.dumps(told))
"""
_CLAUSE = re.compile(r"(===|==|!=|~=|<=|>=|<|>)?\s*v?(\d+(?:\.\d+)*)(\.\*)?[a-z0-9.+-]*")


class Interpreter(NamedTuple):
    """What a Python said of itself; `lacks` is what it has not of what was asked for, "" if it has all.

    `packages` are the folders where its packages lie, and when each last changed; `has` names what can make
    an environment: `venv`, `ensurepip`, `pip`. `version` is "" if it cannot be run.
    """

    path: str
    version: str
    lacks: str = ""
    packages: Optional[Dict[str, int]] = None
    has: Tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        return minor_of(self.version)

    @property
    def told(self) -> str:
        return "%s (Python %s)" % (self.path, self.version) if self.version else self.path


def of_machine() -> List[str]:
    """The Pythons that a script can be run with as they are: that on PATH, then the image's own."""
    own = shutil.which("python3")
    return [*([own] if own else []), *(path for path in OF_IMAGES if os.access(path, os.X_OK))]


def all_of_machine() -> List[str]:
    """Those, and every other version that can be called by its number; an environment can be made of each."""
    numbered = (shutil.which("python3.%d" % minor) for minor in _MINORS)
    return list(dict.fromkeys([*of_machine(), *(path for path in numbered if path)]))


def probe(path: str, requirements: Sequence[str] = (), imports: Sequence[str] = ()) -> Interpreter:
    """Ask a Python which it is, and whether it has these packages and can import these modules."""
    command = [path, "-c", _PROBE, json.dumps(list(imports)), *requirements]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_LONGEST_PROBE,
        )
        told = json.loads(done.stdout.decode().strip().rpartition("\n")[2]) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Interpreter(path, "", "it cannot be run: %s" % error)
    if told is None:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Interpreter(path, "", "it cannot be run: %s" % (said or "exit code %d" % done.returncode))
    return Interpreter(path, told["version"], told["lacks"], told["packages"], tuple(told["has"]))


def minor_of(version: str) -> str:
    """3.11 of 3.11.7."""
    return ".".join(version.split(".")[:2])


def meets(version: str, specifier: Optional[str]) -> bool:
    """Whether a Python's version is one that `requires-python` allows. Raises ValueError for what is none."""
    have = _numbers(version)
    for clause in (specifier or "").split(","):
        if clause.strip() and not _meets(have, clause.strip()):
            return False
    return True


def _meets(have: Tuple[int, ...], clause: str) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError("%r is no version of Python" % clause)
    operator, text, any_below = match[1] or "==", match[2], match[3]
    want = _numbers(text)
    if any_below or operator == "~=":
        prefix = want if any_below else want[:-1]
        within = have[: len(prefix)] == prefix
        if operator == "~=":
            return within and have >= want
        return within if operator in ("==", "===") else not within
    length = max(len(have), len(want))
    mine, its = (numbers + (0,) * (length - len(numbers)) for numbers in (have, want))
    return {
        "==": mine == its,
        "===": mine == its,
        "!=": mine != its,
        "<=": mine <= its,
        ">=": mine >= its,
        "<": mine < its,
        ">": mine > its,
    }[operator]


def _numbers(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
