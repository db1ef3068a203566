"""A job as it happens: the script's output on stdout as it is, everything else on stderr."""

from __future__ import annotations

import codecs
import time
from datetime import timedelta

import msgspec

from runctl.events import Event, Heartbeat, LogOutput, Notice, Progress, Retried, Transition
from runctl.model import JobState
from runctl.render import figures, output

_STYLES = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.OVER_BUDGET: "red",
    JobState.RECOVERING: "yellow",
    JobState.ENDING: "yellow",
}
_STATUS_SECONDS = 10.0
_PROGRESS_SECONDS = 3.0


class TextFollower:
    """Writes events as lines for people; a quiet one leaves stdout to ids."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._last_status = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case LogOutput(data=data):
                if not self._quiet:
                    output.write_log(data)
            case Transition(state=state, cause=cause, cost=cost, attempt=attempt):
                money = f"  {figures.usd(cost)} so far" if cost is not None else ""
                number = f" {attempt}" if attempt else ""
                self._say(f"[{state}{number}] {cause}{money}", style=_STYLES.get(state, "cyan"))
            case Notice(text=text, warning=warning):
                self._say(
                    f"[{'warning' if warning else 'note'}] {text}", style="yellow" if warning else "dim"
                )
            case Retried(operation=operation, error=error, wait=wait):
                self._say(f"[retry] {operation}: {error}; again in {wait:.1f} s", style="dim")
            case Heartbeat():
                self._status(event)
            case Progress():
                self._progress(event)
            case _:
                pass

    def _status(self, event: Heartbeat) -> None:
        """Now and then on a terminal: how fast and how dear."""
        if not output.talk_on_terminal() or time.monotonic() - self._last_status < _STATUS_SECONDS:
            return
        self._last_status = time.monotonic()
        parts = [f"step {event.step}" if event.step is not None else "running"]
        if event.steps_per_second:
            parts.append(f"{event.steps_per_second:.1f} steps/s")
        if event.cost is not None:
            parts.append(f"{figures.usd(event.cost)} so far")
        self._say(f"[running {event.attempt}] {', '.join(parts)}", style="dim")

    def _progress(self, event: Progress) -> None:
        """Every few seconds: what is waited for, and how far it is."""
        if time.monotonic() - self._last_status < _PROGRESS_SECONDS:
            return
        self._last_status = time.monotonic()
        self._say(f"[waiting] {event.task}: {_how_far(event)}", style="dim")

    def _say(self, text: str, *, style: str) -> None:
        if not self._quiet:
            output.talk(text, style=style)


def _how_far(event: Progress) -> str:
    in_bytes = event.unit == "B"
    if in_bytes:
        whole = f" of {figures.size(int(event.total))}" if event.total is not None else ""
        parts = [f"{figures.size(int(event.done))}{whole}"]
    else:
        whole = f" of {event.total:g}" if event.total is not None else ""
        parts = [f"{event.done:.0f}{whole} {event.unit}".rstrip()]
    if event.rate:
        parts.append(f"{figures.size(int(event.rate)) if in_bytes else f'{event.rate:g}'}/s")
    if event.seconds_left is not None:
        parts.append(f"{figures.duration(timedelta(seconds=event.seconds_left))} left")
    return ", ".join(parts)


class JsonFollower:
    """Writes each event as one JSON line: on stdout where events are the data, else as talk on stderr."""

    def __init__(self, *, talk: bool = False) -> None:
        self._talk = talk
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # pieces end anywhere in a letter

    def __call__(self, event: Event) -> None:
        body = msgspec.to_builtins(event)
        if isinstance(event, LogOutput):
            body["data"] = self._decoder.decode(event.data)
        write = output.talk_json if self._talk else output.write_json_line
        write({"event": type(event).__name__, **body})
