"""The Python that a script runs with: the machine's own where it suffices, else one made for the job."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .files import read_json, to_json, write_atomically
from .interpreters import Interpreter, all_of_machine, meets, minor_of, of_machine, probe

READY = "ready"
"""A file in an environment that says that it is whole."""
_SECRET = re.compile(r"(://)[^/\s@]+@")


class EnvironmentFailed(Exception):
    """The script's requirements cannot be met."""


class Chosen(NamedTuple):
    """The Python to run with, None for the `python3` on PATH; and why that one.

    `made` is the folder of an environment that was made just now.
    """

    python: Optional[str]
    told: str
    made: Optional[str] = None


class _Needs(NamedTuple):
    requirements: List[str]
    requires_python: str
    version: str
    imports: List[str]
    lock: str

    @property
    def packages(self) -> List[str]:
        return [text for text in self.requirements if not text.startswith("-")]

    @property
    def options(self) -> List[str]:
        return [text for text in self.requirements if text.startswith("-")]

    def allow(self, version: str) -> bool:
        return meets(version, self.requires_python)

    @property
    def wanted(self) -> str:
        """What uv is asked for: the user's own minor version, unless the script wants another."""
        if self.version and _allows(self.version, self.requires_python):
            return self.version
        return self.requires_python


def prepare(
    python: Dict[str, Any],
    home: str,
    log: str,
    carried_uv: Callable[[], Optional[str]] = lambda: None,
    restore: Callable[[str], bool] = lambda _folder: False,
) -> Chosen:
    """Find or make the Python to run with.

    `carried_uv` gets uv for a machine that has none; `restore` brings an environment back that an earlier
    attempt made. Raises EnvironmentFailed with the reason, in the installer's own words where it is its.
    """
    needs = _Needs(
        [str(item) for item in python.get("requirements") or ()],
        str(python.get("requires_python") or ""),
        str(python.get("version") or ""),
        [str(item) for item in python.get("imports") or ()],
        str(python.get("lock") or ""),
    )
    if not (needs.requirements or needs.requires_python):
        return _without_a_list(needs)
    folder = os.path.join(home, "environments", str(python["digest"]))
    made = os.path.join(folder, "bin", "python3")
    if os.path.exists(os.path.join(folder, READY)):
        return Chosen(made, "an environment that was made on this machine before")
    own = _of_machine(needs, folder + ".ok")
    if own is not None:
        return own
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(os.path.join(folder, READY)):
            return Chosen(made, "an environment that was made on this machine before")
        shutil.rmtree(folder, ignore_errors=True)
        if restore(folder):
            write_atomically(os.path.join(folder, READY), b"")
            return Chosen(made, "the environment that an earlier attempt made, brought back")
        shutil.rmtree(folder, ignore_errors=True)
        told = _make(folder, needs, home, log, carried_uv)
        write_atomically(os.path.join(folder, READY), b"")
        return Chosen(made, told, folder)


def _without_a_list(needs: _Needs) -> Chosen:
    """The `python3` on PATH, unless only the image's own Python has what the script imports."""
    if needs.imports:
        for path in of_machine():
            if not probe(path, imports=needs.imports).lacks:
                return _as_it_is(path, "it has what the script imports")
    return Chosen(None, "the machine's python3: there is no list of requirements")


def _as_it_is(path: str, why: str) -> Chosen:
    return Chosen(None if path == shutil.which("python3") else path, "%s: %s" % (path, why))


def _of_machine(needs: _Needs, remembered: str) -> Optional[Chosen]:
    """A Python of the machine that has everything and may be used as it is."""
    why = "it has all that the script needs"
    paths = of_machine()
    before = read_json(remembered)
    if _still_suffices(before, paths):
        return _as_it_is(str((before or {})["python"]), why)
    for path in paths:
        found = probe(path, needs.packages)
        if found.lacks or not _suits(found, needs):
            continue
        os.makedirs(os.path.dirname(remembered), exist_ok=True)
        write_atomically(remembered, to_json({"python": path, "packages": found.packages}))
        return _as_it_is(path, why)
    return None


def _suits(found: Interpreter, needs: _Needs) -> bool:
    """Whether its version is right: an image's own Python comes with the image that the user chose."""
    if not _allows(found.version, needs.requires_python):
        return False
    is_images = found.path != shutil.which("python3")
    return is_images or bool(needs.requires_python) or needs.version in ("", found.minor)


def _allows(version: str, requires_python: str) -> bool:
    try:
        return meets(version, requires_python)
    except ValueError as error:
        raise EnvironmentFailed("requires-python: %s" % error) from error


def _still_suffices(remembered: Optional[Dict[str, Any]], paths: Sequence[str]) -> bool:
    """What an earlier probe said holds while no package was installed or removed."""
    if remembered is None or remembered.get("python") not in paths or not remembered.get("packages"):
        return False
    try:
        return all(os.stat(path).st_mtime_ns == then for path, then in remembered["packages"].items())
    except OSError:  # a package went
        return False


def _make(folder: str, needs: _Needs, home: str, log: str, carried_uv: Callable[[], Optional[str]]) -> str:
    uv = shutil.which("uv") or carried_uv()
    return _make_with_uv(uv, folder, needs, home, log) if uv else _make_with_pip(folder, needs, log)


def _make_with_uv(uv: str, folder: str, needs: _Needs, home: str, log: str) -> str:
    python = os.path.join(folder, "bin", "python3")
    from .pip_settings import for_uv  # what a local job does not need is not loaded

    pythons = {"UV_PYTHON_INSTALL_DIR": os.path.join(home, "pythons"), **for_uv(os.environ)}
    version, told = needs.wanted, "made by uv"
    try:
        asked = ["--python", version] if version else []
        _run([uv, "venv", "--quiet", *asked, folder], folder, log, pythons)
    except EnvironmentFailed as error:
        if version in ("", needs.requires_python):
            raise
        other = next((one for one in _usable(needs) if one.minor != version), None)
        if other is None:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        _run([uv, "venv", "--quiet", "--python", other.path, folder], folder, log, pythons)
        told = "made by uv with %s, for Python %s could not be had: %s" % (other.told, version, error)
        version = other.minor
    if needs.requirements:
        wanted = _wanted(folder, needs, version)
        if wanted is not needs.requirements:
            pythons["UV_CONSTRAINT"] = ""  # the lock was made with the user's own
        _run([uv, "pip", "install", "--quiet", "--python", python, *wanted], folder, log, pythons)
    return told


def _make_with_pip(folder: str, needs: _Needs, log: str) -> str:
    """With the standard library and pip, from a Python that is here."""
    usable = _usable(needs)
    if not usable:
        raise EnvironmentFailed(_no_python(needs))
    able = [one for one in usable if "venv" in one.has and ("ensurepip" in one.has or "pip" in one.has)]
    if not able and needs.packages:
        raise EnvironmentFailed(
            "%s has neither pip nor ensurepip, and there is no uv: %s cannot be installed"
            % (usable[0].told, ", ".join(needs.packages))
        )
    if not able:
        raise EnvironmentFailed("%s has no venv, and there is no uv to make an environment" % usable[0].told)
    base = next((one for one in able if one.minor == needs.version), able[0])
    python = os.path.join(folder, "bin", "python3")
    # -I: the working directory may be a repository with a venv.py in it.
    venv = [base.path, "-I", "-m", "venv"]
    pip = [python, "-I", "-m", "pip"]
    with_pip = "ensurepip" in base.has
    if with_pip:
        try:
            _run([*venv, folder], folder, log)
        except EnvironmentFailed:
            if "pip" not in base.has:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            with_pip = False  # a distribution's ensurepip that only says which package has it
    if not with_pip:
        _run([*venv, "--without-pip", folder], folder, log)
        pip = [base.path, "-I", "-m", "pip", "--python", python]
    if needs.requirements:
        quietly = ["install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *quietly, *_wanted(folder, needs, base.minor)], folder, log)
    told = "made by pip with %s" % base.told
    if needs.version and base.minor != needs.version and not needs.requires_python:
        told += ", for there is no Python %s here and no uv to get it" % needs.version
    return told


def _usable(needs: _Needs) -> List[Interpreter]:
    """The Pythons here that the script may be run with."""
    found = (probe(path) for path in all_of_machine())
    return [one for one in found if one.version and _allows(one.version, needs.requires_python)]


def _no_python(needs: _Needs) -> str:
    """Why none of the machine's Pythons will do."""
    found = [probe(path) for path in all_of_machine()]
    running = [one for one in found if one.version]
    if not found:
        return "there is no python3 on PATH, and no uv to get one"
    if not running:
        return "%s: %s; and there is no uv to get another" % (found[0].path, found[0].lacks)
    return "the script needs Python %s; here is %s, and there is no uv to get another" % (
        needs.requires_python,
        ", ".join(one.told for one in running),
    )


def _wanted(folder: str, needs: _Needs, version: str) -> List[str]:
    """What an installer is told: the lock, if it was made for this version of Python."""
    if not needs.lock or (needs.version and minor_of(version) != needs.version):
        return needs.requirements
    path = folder + ".txt"
    write_atomically(path, needs.lock.encode())
    return [*needs.options, "--require-hashes", "-r", path]


def _run(step: Sequence[str], folder: str, log: str, more: Optional[Dict[str, str]] = None) -> None:
    """Run a program of the installer. Raises EnvironmentFailed with the end of what it said."""
    with open(log, "ab") as output:
        start = output.tell()
        try:
            # `-m` imports from the working directory, which may hold a script's venv.py or json.py.
            code = subprocess.run(
                step,
                cwd=os.path.dirname(folder),
                env={**os.environ, **(more or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ).returncode
        except OSError as error:
            raise EnvironmentFailed("%s: %s" % (step[0], error)) from error
    if code != 0:
        raise EnvironmentFailed(_tail(log, start) or "%s ended with %d" % (" ".join(step[:3]), code))


def _tail(path: str, start: int) -> str:
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return _SECRET.sub(r"\1", " ".join(lines[-3:]))[-400:]
