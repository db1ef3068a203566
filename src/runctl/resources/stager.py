"""The staging program on a machine: started once, asked how far it is, told to stop, through its shell."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import textwrap
from datetime import timedelta
from typing import Any

import msgspec

from runctl.errors import CloudError, NotFound
from runctl.providers.aws import account, shell
from runctl.providers.aws.session import Session
from runctl.resources import units
from runctl.resources.reaching import job_access
from runctl.storage import pinned
from runctl.storage.staging import BRIEF

START_SECONDS, LOOK_SECONDS, STOP_SECONDS = 60, 20, 90
"""How long each may take on the machine in truth, however fast a cloud's clock runs."""

MOST_LEFT_OUT = 200
"""Names that are told of; how many there are is told in any case."""

_PIECE = 14_000  # bytes, which base64 makes 18,668 characters of: SSM cuts at 24,000
_MARK = "runctl: "

# Each call finds the program running, ended, or to be started: it may be made as often as one likes.
_LOOK = """\
folder="${{HOME:-/root}}/.runctl/stage/"{token}
(umask 077; mkdir -p "$folder" && : >>"$folder/agent.log") && cd "$folder" || exit 1
fail() {{ echo "runctl: error $1 $2"; exit 0; }}
fetch() {{
  if command -v curl >/dev/null; then printf 'url = "%s"\n' "$1" | curl -fsS --max-time 60 -o agent.part -K -
  else
    printf %s "$1" |
      python3 -I -c 'import sys, urllib.request as u; u.urlretrieve(sys.stdin.read(), sys.argv[1])' agent.part
  fi
}}
if [ ! -f agent.py ]; then
  for wait in 0.2 0.5 1 2 last; do
    fetch {url} && echo {sha256}'  agent.part' | sha256sum -c - >/dev/null && mv agent.part agent.py && break
    [ "$wait" = last ] && fail no-agent "the staging program could not be fetched"
    sleep "$wait"
  done
fi
alive() {{ [ -f lock ] && ! flock -n lock true; }}
if {fresh} && ! alive && ! grep -qs '"phase": "done"' state.json; then rm -f state.json stop; fi
if ! alive && ! grep -qsE '"phase": "({final})"' state.json; then
  [ -n "$(findmnt -n -o SOURCE --mountpoint "${{RUNCTL_ROOT:-}}"{path} 2>/dev/null)" ] ||
    fail not-mounted {path}
  echo {spec} | base64 -d >spec.json
  set -- python3 "$folder/agent.py" stage "$folder/spec.json"
  export HOME="${{HOME:-/root}}"
{start}fi
for _ in $(seq 60); do
  [ -f state.json ] && break
  sleep 0.25
done
for _ in {looks}; do
  grep -qsE '"phase": "({final})"' state.json && break
  sleep 0.25
done
[ -f state.json ] || fail no-state "$(tail -c 300 agent.log | tr '\\n' ' ')"
printf 'runctl: state %s\\n' "$(base64 <state.json | tr -d '\\n')"
"""

_STOP = """\
folder="${{HOME:-/root}}/.runctl/stage/"{token}
cd "$folder" 2>/dev/null || exit 0
touch stop
for _ in $(seq 240); do
  if [ ! -f lock ] || flock -n lock true; then exit 0; fi
  sleep 0.25
done
exit 1
"""

_PIECES = """\
cd "${{HOME:-/root}}/.runctl/stage/"{token} || exit 1
printf 'runctl: piece %s\\n' "$(tail -c +{start} left-out.jsonl | head -c {length} | base64 | tr -d '\\n')"
"""

_FINAL = "done|failed|interrupted|stopped"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json` of a staging, as `runctl.agent.stage` writes it: sizes in bytes."""

    phase: str
    starts: int = 1
    files: int = 0
    bytes: int = 0
    wanted_files: int = 0
    wanted_bytes: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    coming_bytes: int = 0
    equal_files: int = 0
    proved_files: int = 0
    deleted_files: int = 0
    extra_files: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    left_out_files: int = 0
    failed_files: int = 0
    version: str | None = None
    engine: str = ""
    code: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.phase in _FINAL.split("|")


class Stager(msgspec.Struct, frozen=True):
    """The staging named `token` on a machine; `bucket` is where the program is fetched from."""

    session: Session
    instance: str
    token: str
    bucket: str
    path: str
    spec: dict[str, Any]

    def look(self, *, fresh: bool = False, looks: int = 8) -> State | None:
        """See to it that it runs, and say how far it is; None where the machine gives no answer.

        With `fresh` one that ended without being done begins again. Raises CloudError where it cannot start.
        """
        url, sha256 = _program(self.session, self.bucket)
        script = _LOOK.format(
            token=shlex.quote(self.token),
            url=shlex.quote(url),
            sha256=sha256,
            fresh="true" if fresh else "false",
            final=_FINAL,
            path=shlex.quote(self.path),
            spec=base64.b64encode(json.dumps(self.spec).encode()).decode(),
            start=textwrap.indent(self._start(), "  "),
            looks=" ".join(map(str, range(looks))),
        )
        seconds = START_SECONDS if fresh else LOOK_SECONDS
        return parse(self._run(script, "stage a dataset", seconds).output)

    def _start(self) -> str:
        return units.start(
            shlex.quote(f"runctl-stage-{self.token}"),
            STOP_SECONDS,
            log="agent.log",
            fail='fail no-start "the unit"',
            spared=False,
        )

    def stop(self) -> None:
        """Ask it to end, and wait until it has; one that is not there is fine. Raises CloudError."""
        script = _STOP.format(token=shlex.quote(self.token))
        result = self._run(script, "stop staging", STOP_SECONDS)
        if result.exit_code != 0:
            raise _failed("NotStopped", "it was asked to end, and did not")

    def left_out(self, state: State) -> list[tuple[str, str]]:
        """What could not be staged, and why; the first of them where there are many."""
        if state.left_out_files <= len(state.left_out):
            return list(state.left_out)
        data, start = b"", 1
        while data.count(b"\n") < min(MOST_LEFT_OUT, state.left_out_files):
            script = _PIECES.format(token=shlex.quote(self.token), start=start, length=_PIECE)
            output = self._run(script, "names that were left out", LOOK_SECONDS).output
            found = [line for line in output.splitlines() if line.startswith(_MARK + "piece ")]
            piece = base64.b64decode(found[-1].removeprefix(_MARK + "piece ")) if found else b""
            if not piece:
                break
            data, start = data + piece, start + len(piece)
        lines = data.splitlines()[: min(MOST_LEFT_OUT, data.count(b"\n"))]
        return [msgspec.json.decode(line, type=tuple[str, str]) for line in lines]

    def clear(self) -> None:
        """Remove what it left on a machine that stays."""
        script = 'rm -rf "${HOME:-/root}/.runctl/stage/"' + shlex.quote(self.token)
        self._run(script, "clear up", LOOK_SECONDS)

    def _run(self, script: str, comment: str, seconds: float) -> shell.ShellResult:
        timeout = timedelta(seconds=seconds * max(1.0, self.session.cloud.clock.speed))
        comment = f"runctl: {comment}"
        return shell.run(self.session, self.instance, script, comment=comment, timeout=timeout)


def parse(output: str) -> State | None:
    """The state that a look printed; None where it was cut short. Raises CloudError where it says so."""
    for line in reversed(output.splitlines()):
        if line.startswith(_MARK + "error "):
            code, _, why = line.removeprefix(_MARK + "error ").partition(" ")
            raise _failed(code, why.strip())
        if line.startswith(_MARK + "state "):
            data = base64.b64decode(line.removeprefix(_MARK + "state "))
            return msgspec.json.decode(data, type=State)
    return None


def _program(session: Session, bucket: str) -> tuple[str, str]:
    """A URL under which machines fetch the program, and its checksum; it is sent where it is missing."""
    from runctl.agent import archive

    program = archive.build()
    digest = hashlib.sha256(program).hexdigest()
    key = f"runctl/agents/{digest}.py"
    access = job_access(session)
    try:
        pinned.ensure(bucket, access, key, program)
    except NotFound:
        account.ensure_bucket(session, bucket)
        pinned.ensure(bucket, access, key, program)
    return session.presign(bucket, key, seconds=int(BRIEF.total_seconds())), digest


def _failed(code: str, why: str) -> CloudError:
    return CloudError(
        "The dataset could not be staged", service="ssm", operation="send_command", code=code, why=why
    )
