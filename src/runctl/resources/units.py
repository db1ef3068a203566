"""The systemd unit in which a program of ours runs on a machine: systemd's own defaults lose work.

The properties are those of systemd.unit(5), systemd.service(5), systemd.kill(5) and systemd.exec(5).
"""

from __future__ import annotations

AFTER = (
    "network-online.target",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "NetworkManager.service",
    "nss-lookup.target",
)
"""What a unit starts after is stopped after it: the network stays until the last file is sent.

To name what a system does not have is harmless.
"""

OPEN_FILES = "65536:524288"
"""Soft and hard; the first is more than data loaders need, and what select() and old programs can stand."""

# Where NVIDIA and AWS's Deep Learning images have their programs; a unit's PATH has neither.
_SURROUNDINGS = """\
USER=$(id -un 2>/dev/null || echo root)
for place in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin /usr/local/cuda/bin; do
  case ":$PATH:" in *":$place:"*) ;; *) [ ! -d "$place" ] || PATH="$PATH:$place" ;; esac
done
[ ! -d /opt/pytorch/bin ] || PATH="/opt/pytorch/bin:$PATH"
export HOME PATH USER LOGNAME="$USER"
"""

_START = """\
if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
  runctl_run() {{
    systemd-run --quiet --unit={unit} --setenv=HOME="$HOME" --setenv=PATH="$PATH" \\
      --setenv=USER="$USER" --setenv=LOGNAME="$USER" "$@"
  }}
  systemctl is-active --quiet {unit} || runctl_run --collect \\
{properties}
    "$@" || {{
      echo "runctl: this systemd does not know all that is asked of the unit" >&2
      runctl_run "$@" || {fail}
    }}
else
  setsid nohup "$@" </dev/null >>{log} 2>&1 &
fi
"""


def properties(stop_seconds: int, *, spared: bool = True) -> tuple[str, ...]:
    """`Name=value` for each; `stop_seconds` is what the program may take to end once it was signalled.

    One that is `spared` is the last that the kernel kills for memory; what it starts inherits that from it.
    """
    return (
        # A worker that is killed for memory is the script's matter, and no reason to end all.
        "OOMPolicy=continue",
        *(["OOMScoreAdjust=-900"] if spared else []),
        # The signal is the program's, which passes it on: workers hear nothing while the script saves.
        "KillMode=mixed",
        f"TimeoutStopSec={stop_seconds}",
        f"LimitNOFILE={OPEN_FILES}",
        "LimitMEMLOCK=infinity",
        *(f"After={name}" for name in AFTER),
    )


def start(unit: str, stop_seconds: int, *, log: str, fail: str, spared: bool = True) -> str:
    """Shell lines that start "$@" in a unit, or in a session of its own where there is no systemd.

    All arguments are shell text: `unit` quoted, `log` where the output goes without systemd, `fail` what is
    done where it does not start. HOME and PATH must be set.
    """
    asked = " \\\n".join(f"    --property={one}" for one in properties(stop_seconds, spared=spared))
    return _SURROUNDINGS + _START.format(unit=unit, properties=asked + " \\", log=log, fail=fail)
