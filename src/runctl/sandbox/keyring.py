"""The keys that the sandbox knows: its owner's, its machines', and those that its IAM and STS gave out."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

ROLE_SECONDS = 6 * 3600.0
"""For how long a machine's keys are good, in real seconds: clients look at the host's clock for their end."""
_RENEWED_BEFORE = 3600.0


@dataclass(frozen=True, slots=True)
class Key:
    """One access key. `token` goes with every request that temporary keys sign; `expires` is real time."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = None


def new_owner_key() -> Key:
    """Random keys for the owner of a sandbox."""
    return Key("AKIA" + _letters(), secrets.token_urlsafe(30))


class Keyring:
    """Finds keys by their name; the keys of a machine are good as long as `lives(machine)`."""

    def __init__(
        self,
        own: Key,
        *,
        lives: Callable[[str], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.own = own
        self._lives = lives
        self.given_out: Callable[[str], Key | None] = lambda _: None
        """What IAM and STS know of a key."""
        self._now = now
        self._lock = threading.Lock()
        self._of_machines: dict[str, tuple[str, Key]] = {}
        self._newest: dict[str, Key] = {}

    def find(self, access: str) -> Key | None:
        """The key of this name, expired or not; None where there is none, or its machine is gone."""
        if access == self.own.access:
            return self.own
        with self._lock:
            found = self._of_machines.get(access)
        if found is not None:
            return found[1] if self._lives(found[0]) else None
        return self.given_out(access)

    def of_machine(self, machine: str) -> Key:
        """What a machine's metadata service hands out now: renewed an hour before its end, as on EC2."""
        with self._lock:
            key = self._newest.get(machine)
            now = self._now()
            if key is None or (key.expires or 0.0) < now + _RENEWED_BEFORE:
                self._forget(now)
                key = Key(
                    "ASIA" + _letters(),
                    secrets.token_urlsafe(30),
                    secrets.token_urlsafe(60),
                    now + ROLE_SECONDS,
                )
                self._newest[machine] = key
                self._of_machines[key.access] = (machine, key)
            return key

    def _forget(self, now: float) -> None:
        """Keys that ended long ago are unknown by then."""
        self._of_machines = {
            access: (machine, key)
            for access, (machine, key) in self._of_machines.items()
            if (key.expires or 0.0) > now - ROLE_SECONDS
        }


def _letters() -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))
