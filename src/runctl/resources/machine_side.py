"""The agent on a machine, asked through SSM to do one side of a transfer; specs go through the bucket."""

from __future__ import annotations

import gzip
import hashlib
import shlex
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import msgspec

from runctl.errors import CloudError, ConfigError, Conflict, NotFound, TransferError
from runctl.events import Emit, Notice
from runctl.providers.aws import instances, shell
from runctl.providers.aws.session import Session
from runctl.quoting import quoted
from runctl.storage.staging import BRIEF, Staging

LONGEST = timedelta(hours=48)
"""The most that SSM lets a command run."""

_SENDS = 4
_ONLINE = timedelta(minutes=5)
_SETTLED = 30.0
_SCRIPT = r"""
export HOME="${{HOME:-/root}}"
folder="$HOME/.runctl/carry"
(umask 077; mkdir -p "$folder") && cd "$folder" ||
  {{ echo "runctl: error failed no folder $folder"; exit 1; }}
agent="$folder/agent-{short}.py"
command -v python3 >/dev/null || {{ echo "runctl: error failed there is no python3"; exit 1; }}
"""
_FETCH = r"""
whole() {{ echo "{sha256}  $1" | sha256sum -c - >/dev/null 2>&1; }}
for wait in 0.2 0.5 1 2 4 last; do
  whole "$agent" && break
  part="$agent.$$"
  if command -v curl >/dev/null; then
    printf 'url = "%s"\n' {url} | curl -fsS --retry 5 --max-time 60 -o "$part" -K -
  else
    printf %s {url} |
      python3 -I -c 'import sys, urllib.request as u; u.urlretrieve(sys.stdin.read(), sys.argv[1])' "$part"
  fi
  whole "$part" && mv "$part" "$agent" && break
  rm -f "$part"
  [ "$wait" = last ] && {{ echo "runctl: error failed the agent could not be fetched"; exit 1; }}
  sleep "$wait"
done
"""
_CARRY = """printf '%s %s %s\\n' {spec_url} {spec_sha256} {key} | python3 "$agent" carry\n"""
_FIND = """\
{bury}
ls "$folder"/{transfer}-*.lock >/dev/null 2>&1 || {{ echo "runctl: ok none"; exit 0; }}
"""
_STOP = """python3 "$agent" carry --stop {transfer}\n"""


class Task:
    """A command on a machine, waited for on a thread of its own; `failure` is how it ended, if badly."""

    def __init__(self, work: Callable[[threading.Event], None], name: str) -> None:
        self.failure: Exception | None = None
        self.hurry = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._work(self.hurry)
        except Exception as error:
            self.failure = error


class MachineSide:
    """One machine's part in the transfer `transfer`, whose staging prefix is `staging`.

    `key` is the transfer's, in hex. It travels in commands, as the specs' digests do, and is in no spec.
    """

    def __init__(
        self, session: Session, instance: str, staging: Staging, transfer: str, key: str, emit: Emit
    ) -> None:
        self._session = session
        self.instance = instance
        self._staging = staging
        self._transfer = transfer
        self.key = key
        self._emit = emit
        self._tasks: list[Task] = []

    def require_online(self) -> None:
        """Raises NotFound, Conflict for a machine that does not run, ConfigError without its SSM agent."""
        found = instances.get(self._session, self.instance)
        if found is None:
            raise NotFound(f"There is no instance {self.instance}", why=f"in {self._session.region}")
        if found.state not in {"pending", "running"}:
            raise Conflict(
                f"{self.instance} is {found.state}",
                why="files move while a machine runs",
                next=f"runctl aws start {quoted(self.instance)} --wait",
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

    def require_life(self) -> None:
        """Raises TransferError for a machine that ended: SSM calls its commands in progress for two days."""
        if not self.is_running():
            raise TransferError(f"{self.instance} does not run any more")

    def start(self, spec: dict[str, Any], name: str) -> Task:
        """Let the agent carry out a spec."""
        task = Task(lambda hurry: self._carry(spec, name, hurry), name)
        self._tasks.append(task)
        return task

    def settle(self) -> None:
        """Wait until every command has ended: then nothing is written to the prefix any more.

        An answer may be there before its writer has heard that it arrived, and is written once more then.
        """
        for task in self._tasks:
            task.hurry.set()
        for patience in (_SETTLED / 10, _SETTLED):
            deadline = time.monotonic() + patience
            for task in self._tasks:
                task.join(max(0.0, deadline - time.monotonic()))
            if all(task.is_over for task in self._tasks) or not self.is_running():
                return

    def _carry(self, spec: dict[str, Any], name: str, hurry: threading.Event) -> None:
        packed = gzip.compress(msgspec.json.encode({**spec, "transfer": self._transfer}), 3)
        key = f"spec-{name}"
        self._staging.write(key, packed)
        digest = hashlib.sha256(packed).hexdigest()

        def script() -> str:
            url = self._staging.sign("GET", [key], lifetime=BRIEF)[0]
            return _CARRY.format(spec_url=shlex.quote(url), spec_sha256=digest, key=shlex.quote(self.key))

        self._run(script, f"runctl transfer: {spec['role']}", LONGEST, hurry)

    def stop(self, *, for_good: bool = False) -> bool:
        """End what works for this transfer on the machine; where it cannot be reached, say so.

        With `for_good`, also what SSM has not delivered yet. Answers whether it was told to.
        """
        try:
            if not self.is_running() or not shell.is_online(self._session, self.instance):
                return False
            transfer = shlex.quote(self._transfer)
            bury = f': > "$folder"/{transfer}.stopped' if for_good else ":"
            self._run(
                lambda: _STOP.format(transfer=transfer),
                "runctl transfer: stop",
                _ONLINE,
                before=_FIND.format(transfer=transfer, bury=bury),
            )
            return True
        except (CloudError, NotFound, TransferError) as error:
            text = f"what worked for the transfer on {self.instance} could not be ended: {error}"
            self._emit(Notice(text=text, warning=True))
            return False

    def _run(
        self,
        script: Callable[[], str],
        comment: str,
        timeout: timedelta,
        hurry: threading.Event | None = None,
        before: str = "",
    ) -> None:
        """A later run of the same ends an earlier one and goes on: a lost answer is no reason to give up.

        `before` is done without the agent, and may be the end. What a `script` signs is signed for each run.
        """
        digest, agent = _agent()
        for sent in range(_SENDS):
            url = shlex.quote(self._staging.publish(f"runctl/agents/{digest}.py", agent))
            told = {"short": digest[:16], "sha256": digest, "url": url}
            whole = _SCRIPT.format(**told) + before + _FETCH.format(**told) + script()
            try:
                result = shell.run(
                    self._session, self.instance, whole, comment=comment, timeout=timeout, hurry=hurry
                )
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
