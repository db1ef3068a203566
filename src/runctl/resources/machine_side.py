"""The agent on a machine, asked through SSM to do one side of a transfer; specs go through the bucket."""

from __future__ import annotations

import gzip
import hashlib
import shlex
import time
from datetime import timedelta
from functools import cache
from typing import Any

import msgspec

from runctl.errors import CloudError, ConfigError, Conflict, NotFound, TransferError
from runctl.events import Emit, Notice
from runctl.providers.aws import instances, shell
from runctl.providers.aws.session import Session
from runctl.storage.staging import SigningStore

LONGEST = timedelta(hours=48)
"""The most that SSM lets a command run."""

_SENDS = 4
_ONLINE = timedelta(minutes=5)
_SCRIPT = r"""
export HOME="${{HOME:-/root}}"
folder="$HOME/.runctl/carry"
(umask 077; mkdir -p "$folder") && cd "$folder" ||
  {{ echo "runctl: error failed no folder $folder"; exit 1; }}
agent="$folder/agent-{short}.py"
command -v python3 >/dev/null || {{ echo "runctl: error failed there is no python3"; exit 1; }}
if ! echo "{sha256}  $agent" | sha256sum -c - >/dev/null 2>&1; then
  part="$agent.$$"
  if command -v curl >/dev/null; then curl -fsS --retry 5 --max-time 60 -o "$part" {url}
  else python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' {url} "$part"
  fi
  echo "{sha256}  $part" | sha256sum -c - >/dev/null 2>&1 && mv "$part" "$agent" ||
    {{ rm -f "$part"; echo "runctl: error failed the agent could not be fetched"; exit 1; }}
fi
"""
_CARRY = """printf '%s %s\\n' {spec_url} {spec_sha256} | python3 "$agent" carry\n"""
_STOP = """\
ls "$folder"/{transfer}-*.lock >/dev/null 2>&1 || {{ echo "runctl: ok none"; exit 0; }}
python3 "$agent" carry --stop {transfer}
"""


class MachineSide:
    """One machine's part in the transfer `transfer`, whose staging prefix is `staging`."""

    def __init__(
        self, session: Session, instance: str, staging: SigningStore, transfer: str, emit: Emit
    ) -> None:
        self._session = session
        self.instance = instance
        self._staging = staging
        self._transfer = transfer
        self._emit = emit

    def require_online(self) -> None:
        """Raises NotFound, Conflict for a machine that does not run, ConfigError without its SSM agent."""
        found = instances.get(self._session, self.instance)
        if found is None:
            raise NotFound(f"There is no instance {self.instance}", why=f"in {self._session.region}")
        if found.state not in {"pending", "running"}:
            raise Conflict(
                f"{self.instance} is {found.state}",
                why="files move while a machine runs",
                next=f"runctl aws start {self.instance} --wait",
            )
        try:
            shell.wait_online(self._session, self.instance, timeout=_ONLINE, emit=self._emit)
        except CloudError as error:
            if error.code != "NotOnline":
                raise
            raise ConfigError(error.what, why=error.why, next=error.next) from error

    def is_running(self) -> bool:
        found = instances.get(self._session, self.instance)
        return found is not None and found.state in {"pending", "running"}

    def carry(self, spec: dict[str, Any], name: str) -> None:
        """Let the agent carry out a spec; returns at its end. Raises TransferError, CloudError."""
        packed = gzip.compress(msgspec.json.encode({**spec, "transfer": self._transfer}), 3)
        key = f"spec-{name}"
        self._staging.write(key, packed)
        script = _CARRY.format(
            spec_url=shlex.quote(self._staging.sign("GET", [key])[0]),
            spec_sha256=hashlib.sha256(packed).hexdigest(),
        )
        self._run(script, f"runctl transfer: {spec['role']}", LONGEST)

    def stop(self) -> bool:
        """End what works for this transfer on the machine; where it cannot be reached, say so.

        Answers whether it was told to.
        """
        try:
            if not self.is_running() or not shell.is_online(self._session, self.instance):
                return False
            self._run(_STOP.format(transfer=shlex.quote(self._transfer)), "runctl transfer: stop", _ONLINE)
            return True
        except (CloudError, NotFound, TransferError) as error:
            text = f"what worked for the transfer on {self.instance} could not be ended: {error}"
            self._emit(Notice(text=text, warning=True))
            return False

    def _run(self, script: str, comment: str, timeout: timedelta) -> None:
        """A later run of the same ends an earlier one and goes on: a lost answer is no reason to give up."""
        bucket = SigningStore(self._staging.bucket, "", self._staging.access)
        digest, agent = _agent()
        key = f"runctl/agents/{digest}.py"
        if not bucket.exists(key):
            bucket.write(key, agent)
        url = shlex.quote(bucket.sign("GET", [key])[0])
        whole = _SCRIPT.format(short=digest[:16], sha256=digest, url=url) + script
        for sent in range(_SENDS):
            try:
                result = shell.run(self._session, self.instance, whole, comment=comment, timeout=timeout)
                break
            except CloudError as error:
                if not (error.lost_answer or error.retryable) or sent == _SENDS - 1:
                    raise
                self._emit(Notice(text=f"{error}: asking {self.instance} again", warning=True))
                time.sleep(0.2 * 2**sent)
        else:
            raise AssertionError("unreachable")
        self._judge(result)

    def _judge(self, result: shell.ShellResult) -> None:
        last = next(
            (line for line in reversed(result.output.splitlines()) if line.startswith("runctl: ")), ""
        )
        if last.startswith("runctl: ok"):
            return
        kind, _, why = last.removeprefix("runctl: error ").partition(" ")
        if kind == "busy":
            raise Conflict(
                f"Another transfer writes to this folder of {self.instance}", why=why, next="wait for its end"
            )
        said = (
            why
            or (result.error.strip().splitlines() or [f"{result.status}, exit code {result.exit_code}"])[-1]
        )
        raise TransferError(
            f"The agent on {self.instance} could not do its part", why=said, next="run the same command again"
        )


@cache
def _agent() -> tuple[str, bytes]:
    from runctl.agent import archive

    data = archive.build()
    return hashlib.sha256(data).hexdigest(), data
