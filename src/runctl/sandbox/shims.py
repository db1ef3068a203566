"""Commands that a machine finds before the host's: power, which must end it and not the host, and sudo.

A shim writes one line to its machine's fifo, whose path is in the environment; the sandbox reads it outside,
so that a timer it armed fires even when every process in the machine is dead.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runctl.sandbox import block_devices

FIFO_VARIABLE = "RUNCTL_SANDBOX_POWER"

_SHUTDOWN = """#!/bin/sh
kind=halt when=+1
while [ $# -gt 0 ]; do
  case "$1" in
    -r|--reboot) kind=reboot ;;
    -h|-P|-H|--poweroff|--halt|--no-wall) ;;
    -c) kind=cancel ;;
    --) ;;
    -*) echo "shutdown: unrecognized option '$1'" >&2; exit 1 ;;
    *) when=$1; break ;;
  esac
  shift
done
case "$when" in
  now) when=+0 ;;
  [0-9]*:[0-9]*) ;;
  +[0-9]*|[0-9]*) case "${when#+}" in *[!0-9]*) bad=1 ;; *) when=+${when#+} ;; esac ;;
  *) bad=1 ;;
esac
[ -z "$bad" ] || { echo "Failed to parse time specification: $when" >&2; exit 1; }
echo "$kind $when" > "$RUNCTL_SANDBOX_POWER"
"""

_SUDO = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -u|-g|-C|-D|-p) shift 2 ;;
    -k|-v|-K) exit 0 ;;
    --) shift; break ;;
    -*) shift ;;
    *=*) export "$1"; shift ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || exit 0
exec "$@"
"""

SHIMS = {
    "shutdown": _SHUTDOWN,
    "poweroff": '#!/bin/sh\necho "halt +0" > "$RUNCTL_SANDBOX_POWER"\n',
    "halt": '#!/bin/sh\necho "halt +0" > "$RUNCTL_SANDBOX_POWER"\n',
    "reboot": '#!/bin/sh\necho "reboot +0" > "$RUNCTL_SANDBOX_POWER"\n',
    "sudo": _SUDO,
    **block_devices.SHIMS,
}

_LINE = re.compile(r"(halt|reboot|cancel) (?:\+(\d{1,7})|(\d{1,2}):(\d{1,2}))")


@dataclass(frozen=True, slots=True)
class PowerRequest:
    """What a machine asked for: `kind` halt, reboot or cancel, after `seconds` of cloud time."""

    kind: str
    seconds: float


def install(folder: Path) -> None:
    """Write the shims into `folder`; those already right are left alone. Machines that boot at once may."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in SHIMS.items():
        shim = folder / name
        if shim.exists() and shim.read_text() == text:
            continue
        fresh = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(shim)


def parse(line: str, now: float) -> PowerRequest | None:
    """The request in one line of the fifo; None for anything else. `now` is cloud time, for a time of day."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    kind, minutes, hour, minute = found.groups()
    if minutes is not None:
        return PowerRequest(kind, int(minutes) * 60.0)
    if int(hour) > 23 or int(minute) > 59:
        return None
    present = datetime.fromtimestamp(now, UTC)
    due = present.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    if due <= present:
        due += timedelta(days=1)
    return PowerRequest(kind, (due - present).total_seconds())
