"""Ctrl-C: the first one is a KeyboardInterrupt, the second ends the process at once, wherever it is.

The first may meet any line: an import, the rendering of an error, a block of C that does not come back for
seconds. What must hold at the second does not depend on where: the C part of Python's signal handling writes
each signal into a pipe, and a thread that reads it leaves with one line and exit code 130. What was under way
is in the journal. Only what Python has at hand is imported here: the first Ctrl-C may come before the rest.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys

EXIT_CODE = 130
_FIRST = "interrupted"
_SECOND = "interrupted again, and left at once; a job may go on: runctl jobs list, runctl tx list"
_BACK_TO_NORMAL = b"\x1b[0m\x1b[?25h"  # style, and the cursor that a progress bar hides
_LATER_SECONDS = 0.05
_leaving = _thread.allocate_lock()
_as_json = False
_given_again = 0


def listen(*, as_json: bool) -> None:
    """From here on the second Ctrl-C leaves at once, and nothing prints a stack trace for any of them."""
    global _as_json  # noqa: PLW0603 (what is said does not change while the process lives)
    _as_json = as_json
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # whoever started us wants no Ctrl-C to end us, such as nohup or a shell's &
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    _thread.start_new_thread(_count, (heard,))
    # The first that is registered is the last that runs: what is left of the interpreter hears no signal.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    import threading

    threading.excepthook = lambda told: _show(told.exc_value)


def finish(code: int) -> None:
    """All is done and said: a Ctrl-C while the interpreter ends changes nothing, and waits for nobody."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        leave = os._exit
        signal.signal(signal.SIGINT, lambda number, frame: leave(code))  # noqa: ARG005 (its form)


def tell(error: KeyboardInterrupt, *, as_json: bool) -> int:
    """One line for an interrupt that nobody had more to say about; returns the exit code."""
    _say(_SECOND if type(error).__name__ == "LeftAtOnce" else _FIRST, as_json=as_json)
    return EXIT_CODE


def _count(heard: int) -> None:
    interrupts = 0
    while numbers := os.read(heard, 64):
        interrupts += numbers.count(signal.SIGINT)
        if interrupts > 1 + _given_again:
            _leave()


def _leave() -> None:
    if _leaving.acquire(blocking=False):
        _say(_SECOND, as_json=_as_json)
        os._exit(EXIT_CODE)
    _leaving.acquire()  # another thread is about to end us


def _say(what: str, *, as_json: bool) -> None:
    if as_json:
        text = (
            f'{{"error": {{"kind": "Interrupted", "what": "{what}", "why": "", "next": "", '
            f'"exit_code": {EXIT_CODE}}}}}\n'
        )
    else:
        text = f"error: {what}\n"
    try:
        if os.isatty(2):
            os.write(2, _BACK_TO_NORMAL)
        os.write(2, text.encode())
    except OSError:
        pass  # nobody is left to be told


def _uncaught(kind: type[BaseException], error: BaseException, _: object) -> None:
    """The main thread ends by an error that nobody rendered; its stack is no line for a Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    _show(error)


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C met a place that cannot raise, such as the end of an object: it is given once more."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        global _given_again  # noqa: PLW0603 (how many are no second one)
        _given_again += 1
        _thread.start_new_thread(_again, ())
    else:
        _show(unraisable.exc_value)


def _show(error: BaseException | None) -> None:
    """A fault of ours that is in nobody's hands; its text may be another's."""
    if error is not None:
        from runctl.render import output

        output.talk_trace(error)


def _again() -> None:
    import time

    time.sleep(_LATER_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)  # a real one: it wakes a call that sleeps
