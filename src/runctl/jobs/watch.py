"""What is seen of one attempt: its agent's word, the cloud's, its log, and the doubts about all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from runctl.errors import ConfigError, TrainctlError
from runctl.events import Emit, LogOutput, Notice
from runctl.jobs.attempt import AgentState
from runctl.jobs.place import Place
from runctl.model import JobId
from runctl.providers.base import Machine
from runctl.storage.claims import Unbelievable
from runctl.storage.objects import TooLarge

LOCAL_LOOK_SECONDS = 0.2
CLOUD_LOOK_SECONDS = 2.0
SELDOM_SECONDS = 15.0
REFUSED_LOOK_SECONDS = 15.0
"""Real seconds between two questions to the cloud: at first, in the end where nothing changes, and where it
refused us: a login takes a while."""

LOG_SECONDS = 1.0
"""How long one look shows a log, in real seconds; what is left comes with the next one."""


class Watch:
    """One attempt as its supervisor sees it; all of it may be forgotten and seen again."""

    def __init__(
        self,
        place: Place,
        job: JobId,
        number: int,
        emit: Emit,
        *,
        seal: str = "",
        log_from_start: bool = True,
        before: Watch | None = None,
    ) -> None:
        self.number = number
        self.agent: AgentState | None = None
        self.store_answered = False
        self.read_at = place.clock.now()
        self.machine: Machine | None = None
        self.cloud_answered = False
        self.looked_at_prices = 0.0
        self.lost_because = ""
        self.asked_to_end = False
        self.next_look_at_limits = 0.0  # on the monotonic clock
        self.limit = ""
        self._due_since: dict[str, datetime] = {}
        self._place = place
        self._view = place.view(number, seal)
        self._job = job
        self._emit = emit
        self._before = before
        self._log_offset: int | None = 0 if log_from_start else None
        self._next_question = 0.0
        self._between = CLOUD_LOOK_SECONDS
        self._doubts: dict[str, str] = {}

    @property
    def agent_is_over(self) -> bool:
        return self.agent is not None and self.agent.is_over

    def look_at_agent(self) -> None:
        """Read the agent's newest word; what it said before stands where there is none to be had."""
        self.read_at = self._place.clock.now()  # how long we take is no silence of the agent's
        try:
            self.agent = self._view.state() or self.agent
        except (Unbelievable, TooLarge) as error:
            self.store_answered = True  # and what it holds is not of the agent, which is silent
            self.doubt("store", f"{error}: {error.why}", error)
        except TrainctlError as error:
            self.store_answered = False
            self.doubt("store", f"the store does not answer: {error}", error)
        else:
            self.store_answered = True
            self.settle("store")

    def look_at_machine(self, machine_id: str, note: Callable[[Machine], None]) -> None:
        """Ask the cloud where it is time for it, and always once the agent is over; `note` what it says.

        An error of whatever kind is a doubt: the machine goes on without us, and so do we.
        """
        if not self.agent_is_over and time.monotonic() < self._next_question:
            return
        between = LOCAL_LOOK_SECONDS if self._place.session is None else self._between
        self._next_question = time.monotonic() + between
        try:
            before, self.machine = self.machine, self._place.provider.describe(machine_id)
            self.cloud_answered = True
            # Nothing new for a while: all jobs of an account share its
            # rate. A fast clock has no such whiles.
            most = max(CLOUD_LOOK_SECONDS, SELDOM_SECONDS / self._place.clock.speed)
            longer = min(self._between * 1.5, most)
            self._between = longer if before == self.machine else CLOUD_LOOK_SECONDS
            if self.machine is not None:
                note(self.machine)
        except TrainctlError as error:
            self.cloud_answered = False
            if isinstance(error, ConfigError):
                self._next_question = time.monotonic() + REFUSED_LOOK_SECONDS
            self.doubt("cloud", f"the cloud does not answer: {error}", error)
        else:
            self.settle("cloud")

    def ask_the_cloud_next(self) -> None:
        """Something was done to the machine: what the cloud said before is old."""
        self._next_question = 0.0
        self._between = CLOUD_LOOK_SECONDS

    def show_log(self, *, to_the_end: bool = False) -> bool:
        """Emit what the script wrote since the last time, for a moment or `to_the_end`; whether that was all.

        The log of the attempt before comes first. A look must not last, or the lease runs out meanwhile.
        """
        if self._before is not None:
            if not self._before.show_log(to_the_end=to_the_end) and not to_the_end:
                return False
            self._before = None
        until = time.monotonic() + LOG_SECONDS
        try:
            if self._log_offset is None:
                agent = self._view.state()
                self._log_offset = agent.log_bytes if agent else 0
            for piece in self._view.log(self._log_offset):
                self._log_offset = piece.end
                self._emit(LogOutput(job=self._job, attempt=self.number, data=piece.data))
                if not to_the_end and time.monotonic() > until:
                    return False
        except TrainctlError as error:
            self.doubt("log", f"the log cannot be read: {error}", error)
            return False
        self.settle("log")
        return True

    def due_for(self, what: str, *, is_due: bool) -> timedelta | None:
        """Since how long something is seen to be due, on the cloud's clock; None where it is not."""
        if not is_due:
            self._due_since.pop(what, None)
            return None
        return self.read_at - self._due_since.setdefault(what, self.read_at)

    def doubt(self, about: str, text: str, error: TrainctlError | None = None) -> None:
        """Say a doubt once, its figures aside, until it is settled or another takes its place."""
        kind = text.split(";", maxsplit=1)[0].split(" for ", maxsplit=1)[0]
        if self._doubts.get(about) != kind:
            self._doubts[about] = kind
            advice = f"; next: {error.next}" if error is not None and error.next else ""
            self._emit(Notice(text=text + advice, warning=True))

    def settle(self, about: str) -> None:
        self._doubts.pop(about, None)
