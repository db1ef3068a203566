"""The first lines that run on a machine: arm its end, fetch the agent, start it. Plain POSIX shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from runctl.agent import fetch
from runctl.agent.patience import ENDING_SECONDS
from runctl.resources import leases, units

FETCH_WAITS = (0.2, 0.4, 0.8, 1.6, *[3.0] * 18)
"""Real seconds between two tries to fetch the agent: a network that is a moment late costs a moment."""

_TEMPLATE = """\
#!/bin/sh
# runctl {job}, attempt {attempt}
{arm}
export HOME="${{HOME:-/root}}"
folder="$HOME/.runctl/jobs/"{job}"/attempt-"{attempt}
(umask 077; mkdir -p "$folder" && : >>"$folder/agent.log") && cd "$folder" || {give_up}
command -v python3 >/dev/null || {{ echo "runctl: there is no python3" >&2; {give_up}; }}
fetch() {{
  python3 -I - {bucket} {region} {host} {owner} {key} agent.part <<'END'
{fetch}END
}}
for wait in {waits} last; do
  fetch && echo {sha256}'  agent.part' | sha256sum -c - >/dev/null && mv agent.part agent.py && break
  [ "$wait" = last ] && {{ echo "runctl: the agent could not be fetched" >&2; {give_up}; }}
  sleep "$wait"
done
(umask 077; printf %s {seal} >seal) || {give_up}
(umask 077; cat >start) <<'END' || {give_up}
HOME=$1 folder=$2
cd "$folder" && [ -f agent.py ] || exit 1
set -- python3 "$folder/agent.py" boot --bucket {bucket} --prefix {prefix} \\
  --attempt {attempt} --region {region} --host {host} --owner {owner} --spec-sha256 {spec_sha256}{disposable}
{start}END
sh start "$HOME" "$folder" || {give_up}
"""


# At a later boot nobody knows what the machine did meanwhile: the agent tells of it and ends it.
_LATER_BOOT = """\
HOME="${{HOME:-/root}}"
folder="$HOME/.runctl/jobs/"{job}"/attempt-"{attempt}
sh "$folder/start" "$HOME" "$folder" || shutdown -P now
"""

LAST_WORDS = 60
"""Seconds beyond the grace and the uploads in which the agent tells of the end."""


class Bootstrap(msgspec.Struct, frozen=True):
    """What a machine must know to fetch and start the agent; the lease in minutes, 0 for a kept machine.

    All that it believes begins here: the bucket's `owner`, the digests of the agent and of its spec, which
    names that of the code, and the job's `seal`.
    """

    job: str
    attempt: int
    agent_key: str
    agent_sha256: str
    spec_sha256: str
    seal: str
    owner: str
    bucket: str
    prefix: str
    region: str
    host: str
    """S3's in the region: partitions have their own names."""
    lease_minutes: int
    grace_seconds: float


def script(bootstrap: Bootstrap) -> str:
    """The user data of a disposable machine, or the command for one that is kept.

    The dead-man timer comes before anything that can fail; whoever fails ends the machine at once, and
    the timer ends it when even that fails.
    """
    disposable = bootstrap.lease_minutes > 0
    job = shlex.quote(bootstrap.job)
    later = _LATER_BOOT.format(job=job, attempt=bootstrap.attempt)
    return _TEMPLATE.format(
        job=job,
        attempt=bootstrap.attempt,
        arm=leases.armed_at_boot(bootstrap.lease_minutes, shlex.quote(later), or_else="").rstrip()
        if disposable
        else ": # this machine is not ours to end",
        give_up="{ shutdown -P now; exit 1; }" if disposable else "exit 1",
        key=shlex.quote(bootstrap.agent_key),
        fetch=Path(fetch.__file__).read_text(encoding="utf-8"),
        sha256=bootstrap.agent_sha256,
        spec_sha256=bootstrap.spec_sha256,
        seal=shlex.quote(bootstrap.seal),
        owner=shlex.quote(bootstrap.owner),
        disposable=" --disposable" if disposable else "",
        waits=" ".join(f"{seconds:g}" for seconds in FETCH_WAITS),
        bucket=shlex.quote(bootstrap.bucket),
        prefix=shlex.quote(bootstrap.prefix),
        region=shlex.quote(bootstrap.region),
        host=shlex.quote(bootstrap.host),
        start=units.start(
            shlex.quote(f"runctl-{bootstrap.job}-{bootstrap.attempt}"),
            stop_seconds(bootstrap.grace_seconds),
            log='"$folder/agent.log"',
            fail="exit 1",
        ),
    )


def stop_seconds(grace: float) -> int:
    """How long the agent may take from its signal on: the script's grace, the uploads, the last words."""
    return round(grace + ENDING_SECONDS) + LAST_WORDS
