"""One thread that listens for every machine of this process: metadata ports and power buttons."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any


class Switchboard:
    """One event loop on one daemon thread for the sockets and fifos of every machine of this process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.workers = concurrent.futures.ThreadPoolExecutor(8, "sandbox-metadata")
        threading.Thread(target=self.loop.run_forever, name="sandbox-switchboard", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done on the loop, and wait for its end."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


_board: Switchboard | None = None
_board_lock = threading.Lock()


def switchboard() -> Switchboard:
    """The one of this process, started at first use."""
    global _board  # noqa: PLW0603 one per process is the point
    with _board_lock:
        if _board is None:
            _board = Switchboard()
        return _board


class Fifo:
    """A named pipe from inside a machine; each line that is written there is handed to `heard`."""

    def __init__(self, path: Path, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._rest = b""
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        # Opened for both ways: a writer never waits, and the end of the last one is not the end of the file.
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        switchboard().loop.call_soon_threadsafe(
            switchboard().loop.add_reader, self._handle, self._readable, self._handle
        )

    def close(self) -> None:
        """Hear no more."""
        switchboard().loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            switchboard().loop.remove_reader(handle)
            os.close(handle)

    def _readable(self, handle: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._rest += os.read(handle, 65536)
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._heard(line.decode(errors="replace"))
