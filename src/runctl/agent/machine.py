"""The machine under the agent: its dead-man timer, its notice of interruption, its end."""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from typing import Any, Callable, Dict, Optional

from . import clock
from .credentials import parse_time
from .imds import Metadata, MetadataAway

REARM_SECONDS = 60.0
NOTICE_POLL_SECONDS = 2.0
AFTER_NOTICE_MINUTES = 5
_PER_BOOT = "/var/lib/cloud/scripts/per-boot"  # cloud-init's: what lies there runs at each boot


class DeadMan:
    """A shutdown that the operating system has planned, and that only a living agent puts off."""

    def __init__(self, spec: Dict[str, Any]) -> None:
        self._lease = float(spec.get("lease_seconds") or 0)
        self.armed = bool(spec.get("machine", {}).get("disposable")) and self._lease > 0
        self._keep = bool(spec.get("machine", {}).get("keep"))
        self._due = 0.0  # on the monotonic clock: the system's own may be set meanwhile
        self._lock = threading.Lock()

    def put_off(self) -> None:
        """Renew the lease; does nothing before it is due again."""
        with self._lock:
            if self.armed and time.monotonic() >= self._due:
                due = time.monotonic() + clock.real(min(REARM_SECONDS, self._lease / 3))
                if _shutdown("+%d" % math.ceil(self._lease / 60)):
                    self._due = due  # else it is tried again with the next look

    def end_soon(self) -> None:
        """The cloud takes the machine itself; should it not, the machine ends in some minutes."""
        self._last_word("+%d" % AFTER_NOTICE_MINUTES)

    def end_now(self) -> None:
        """End the machine, or leave it to its owner where the user asked to keep it."""
        self._last_word("-c" if self._keep else "now")

    def _last_word(self, when: str) -> None:
        with self._lock:
            if self.armed:
                self.armed = False
                if when == "-c":
                    _forget_later_boots()
                _shutdown(when)


def end_after(spec: Dict[str, Any]) -> None:
    """End a machine whose attempt is over, or leave it to its owner."""
    if spec:
        DeadMan(spec).end_now()
    else:
        end_at_once()


def end_at_once() -> None:
    """End a machine that has nothing to do."""
    _shutdown("now")


def _forget_later_boots() -> None:
    """A machine that is its owner's now is not ended when it boots again."""
    try:
        os.unlink(os.path.join(os.environ.get("RUNCTL_PER_BOOT") or _PER_BOOT, "runctl-lease"))
    except OSError:  # it has none
        pass


def _shutdown(when: str) -> bool:
    """Whether the system took it; where it did not, the timer that was armed before stays armed."""
    try:
        done = subprocess.run(
            ["shutdown", *(["-P"] if when != "-c" else []), when],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


class NoticeWatch:
    """A thread that asks who we are, for the rebalance recommendation, and for each spot notice to the end.

    A second notice may name another time; `every` is in seconds between two looks.
    """

    def __init__(
        self,
        on_identity: Callable[[Dict[str, Optional[str]]], None],
        on_notice: Callable[[str, Optional[float]], None],
        on_rebalance: Callable[[], None],
        every: float = NOTICE_POLL_SECONDS,
        on_trouble: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._on_identity = on_identity
        self._on_notice = on_notice
        self._on_rebalance = on_rebalance
        self._every = every
        self._on_trouble = on_trouble
        self._metadata = Metadata()
        self._known = self._rebalanced = False
        self._notice: Optional[Dict[str, Any]] = None
        threading.Thread(target=self._run, name="notice", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except MetadataAway:
                pass  # it may be back at the next look
            except Exception as error:  # a notice is heard whatever the last answer was
                self._on_trouble("the metadata service: %r" % error)
            clock.sleep(self._every)

    def _look(self) -> None:
        if not self._known:
            self._on_identity(_identity(self._metadata))
            self._known = True
        notice = self._metadata.get_json("spot/instance-action")
        if notice is not None and notice != self._notice:
            self._notice = notice
            self._on_notice(str(notice.get("action", "terminate")), parse_time(str(notice.get("time", ""))))
        if not self._rebalanced and self._metadata.get("events/recommendations/rebalance") is not None:
            self._rebalanced = True
            self._on_rebalance()


def _identity(metadata: Metadata) -> Dict[str, Optional[str]]:
    return {
        "instance_id": metadata.get("instance-id"),
        "zone": metadata.get("placement/availability-zone"),
    }
