"""Resolving a script's requirements before there is a machine: exact versions, with their hashes."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from runctl.agent.pip_settings import for_uv
from runctl.errors import ValidationError

RESOLVE_SECONDS = 120.0
_GLIBC = "manylinux_2_28"
"""What all distributions have that PyTorch's own wheels still support."""
_SECRET = re.compile(r"(://)[^/\s@]+@")
_LONGEST = 500
_UNSOLVABLE = ("no solution found", "couldn't parse", "failed to parse", "couldn’t parse")
_ONLY_SOURCE = ("building source distributions is disabled", "no usable wheels", "no wheels", "no-build")
_AWAY = ("error sending request", "failed to fetch", "network", "dns error", "timed out", "could not connect")


class Resolved(msgspec.Struct, frozen=True):
    """`lock` has a line for each package and its hashes; "" with `why` if it must be done on the machine.

    `local`: some may have come from a folder of this computer, which no machine has.
    """

    lock: str = ""
    why: str = ""
    local: bool = False

    @property
    def packages(self) -> list[str]:
        """`name==version` of each."""
        return [line.split()[0] for line in self.lock.splitlines() if line and line[0] not in "# -\t"]


def resolve(
    uv: str,
    requirements: Sequence[str],
    *,
    version: str,
    architecture: str,
    root: Path,
    environ: Mapping[str, str] = os.environ,
) -> Resolved:
    """Find exact versions for Linux and a Python `version`, by the user's own package index.

    Nothing of a package is run: what has only source is left to the machine. Raises ValidationError with uv's
    own reason if the requirements contradict each other, or name what does not exist.
    """
    if any(" @ " in text or "://" in text.partition("#")[0] for text in requirements if text[:1] != "-"):
        return Resolved(why="some packages are wanted from addresses of their own")
    with tempfile.TemporaryDirectory(prefix="runctl-lock-") as folder:
        listed = Path(folder, "requirements.in")
        listed.write_text("".join(f"{text}\n" for text in requirements), encoding="utf-8")
        command = [uv, "pip", "compile", str(listed), "--python-version", version, "--no-build"]
        command += ["--python-platform", f"{architecture}-{_GLIBC}", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--quiet", "--no-progress", "--color", "never"]
        try:
            done = subprocess.run(
                command,
                cwd=root,
                env={**environ, **for_uv(environ)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=RESOLVE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Resolved(why=f"uv did not end: {type(error).__name__}")
        said = done.stderr.replace(str(listed), "the list")
    if done.returncode == 0:
        lines = [line for line in done.stdout.splitlines() if line[:2] != "--"]
        return Resolved(lock="".join(line + "\n" for line in lines), local=_is_local(environ))
    kind, sentence = _kind_of(said), one_sentence(said)
    if kind == "unsolvable":
        raise ValidationError(
            f"The requirements cannot be met with Python {version} on Linux ({architecture})",
            why=sentence,
            next="change the list, or say which Python it is for: requires-python",
        )
    return Resolved(why=sentence)


def _is_local(environ: Mapping[str, str]) -> bool:
    told = for_uv(environ)
    places = " ".join(told.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX")).split()
    places += [place for place in told.get("UV_FIND_LINKS", "").split(",") if place]
    return any(not place.startswith(("https://", "http://")) for place in places)


def _kind_of(said: str) -> Literal["unsolvable", "other"]:
    low = " ".join(said.lower().split())
    if any(word in low for word in (*_ONLY_SOURCE, *_AWAY)):
        return "other"
    return "unsolvable" if any(word in low for word in _UNSOLVABLE) else "other"


def one_sentence(said: str) -> str:
    """An installer's words on one line, without its signs, and without a password in an address."""
    text = " ".join(line.strip(" │├╰─▶×╭⠋|") for line in said.strip().splitlines())
    text = re.sub(r"^error:\s*", "", " ".join(text.split())).partition(" hint: ")[0]
    text = re.sub(r"^No solution found when resolving dependencies(:| cause:)?\s*", "", text)
    return without_passwords(text.replace(" cause: ", ": "))[:_LONGEST]


def without_passwords(text: str) -> str:
    return _SECRET.sub(r"\1", text)
