"""What git says of a repository that is not trusted: none of its settings starts a program."""

from __future__ import annotations

import os
from pathlib import Path

_SECONDS = 30


def said(top: Path, *arguments: str) -> bytes | None:
    """What a git command prints in the folder `top`; None if it fails, or if there is no git."""
    import subprocess

    safe = {
        "core.fsmonitor": "false",
        "core.hooksPath": os.devnull,
        "protocol.allow": "never",
        "safe.bareRepository": "explicit",
    }
    settings = [word for key, value in safe.items() for word in ("-c", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", *settings, "-C", top, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):  # there is no git
        return None
    return done.stdout if done.returncode == 0 else None


def tracked(top: Path) -> frozenset[str]:
    """The files below `top` that git tracks, by their paths from there; none without git."""
    listed = said(top, "ls-files", "-z", "--", ".")
    return frozenset(os.fsdecode(name) for name in (listed or b"").split(b"\0") if name)


def exclude_files(top: Path) -> list[Path]:
    """The files that say what git leaves out beside .gitignore, the weakest first; they need not be there.

    These are `core.excludesFile` and `info/exclude` of the repository whose top is `top`: gitignore(5).
    """
    told = said(top, "config", "--type=path", "--get", "core.excludesFile")
    settings = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    own = os.fsdecode(told).rstrip("\n") if told else str(Path(settings, "git", "ignore"))
    inside = said(top, "rev-parse", "--git-path", "info/exclude")
    repository = os.fsdecode(inside).rstrip("\n") if inside else ".git/info/exclude"
    return [top / own, top / repository]
