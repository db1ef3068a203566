"""A network with distance before a server: each request waits, and each connection has a pace of its own.

`python -m benchmarks.pacing PORT` stands before the port of a server on this machine and prints its own, and
for each line that it reads, how many bytes went up and down by then. It passes on what comes as it comes,
`Host` included, so that signatures stay valid. A request begins with the first bytes of a client after those
of the server; that one says `100 Continue` begins none.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from enum import Enum
from typing import NamedTuple

DISTANCE = 0.020
"""Seconds that a request waits."""
PACE = 20e6
"""Bytes a second of a connection, each way."""
_PIECE = 256 * 1024
_SOON = 0.0005
_CONTINUE = b"HTTP/1.1 100"


class Network(NamedTuple):
    """A proxy that is up, in a process of its own."""

    port: int
    process: subprocess.Popen[str]

    def moved(self) -> tuple[int, int]:
        """Bytes that went up and down by now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        up, down = self.process.stdout.readline().split()
        return int(up), int(down)


@contextlib.contextmanager
def paced(port: int) -> Generator[Network]:
    """A network before a port of this machine."""
    command = [sys.executable, "-m", "benchmarks.pacing", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Network(int(process.stdout.readline()), process)
        finally:
            process.kill()


class _State(Enum):
    READS = 1
    WAITS = 2
    WRITES = 3


class _Way:
    """One way of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket, *, is_up: bool) -> None:
        self.source = source
        self.target = target
        self.is_up = is_up
        self.other: _Way
        self.state = _State.READS
        self.held = memoryview(b"")
        self.due = 0.0
        self.spoke_last = not is_up


class Proxy:
    """Runs until its standard input ends, in one thread."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._poll = select.epoll()
        self._from: dict[int, _Way] = {}  # by the descriptor of their sources
        self._timers: list[tuple[float, int, _Way]] = []
        self._numbers = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(0, select.EPOLLIN)
        self._moved = [0, 0]
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        while True:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            for number, events in self._poll.poll(wait):
                if number == self._listener.fileno():
                    self._accept()
                elif number == 0:
                    if not os.read(0, 1):
                        return  # who asked is gone
                    print(*self._moved, flush=True)
                elif number in self._from:
                    self._serve(self._from[number], events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                way = heapq.heappop(self._timers)[2]
                if way.source.fileno() >= 0:
                    self._pass_on(way)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._server))
        up, down = _Way(client, server, is_up=True), _Way(server, client, is_up=False)
        up.other, down.other = down, up
        for way in (up, down):
            way.source.setblocking(False)
            way.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._from[way.source.fileno()] = way
            self._poll.register(way.source, select.EPOLLIN)

    def _serve(self, way: _Way, events: int) -> None:
        """What can be done at the end of a connection from which `way` comes."""
        if events & select.EPOLLOUT and way.other.state is _State.WRITES:
            self._pass_on(way.other)
        if events & select.EPOLLIN and way.state is _State.READS:
            self._receive(way)
        elif events & (select.EPOLLERR | select.EPOLLHUP) and not events & select.EPOLLIN:
            self._end(way)

    def _receive(self, way: _Way) -> None:
        try:
            data = way.source.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(way)
            return
        self._moved[not way.is_up] += len(data)
        now = time.monotonic()
        begins = way.is_up and not way.spoke_last
        if not data.startswith(_CONTINUE):
            way.spoke_last, way.other.spoke_last = True, False
        way.held, way.due = memoryview(data), max(way.due, now) + len(data) / PACE
        if begins:
            self._wait(way, now + DISTANCE)
        else:
            self._pass_on(way)

    def _pass_on(self, way: _Way) -> None:
        """Send what is held; the next is read when it is due."""
        try:
            while way.held:
                way.held = way.held[way.target.send(way.held) :]
        except BlockingIOError:
            self._enter(way, _State.WRITES)
            return
        except OSError:
            self._end(way)
            return
        if way.due > time.monotonic() + _SOON:
            self._wait(way, way.due)
        else:
            self._enter(way, _State.READS)

    def _wait(self, way: _Way, until: float) -> None:
        heapq.heappush(self._timers, (until, next(self._numbers), way))
        self._enter(way, _State.WAITS)

    def _enter(self, way: _Way, state: _State) -> None:
        if way.state is state:
            return
        way.state = state
        for one in (way, way.other):
            events = select.EPOLLIN if one.state is _State.READS else 0
            events |= select.EPOLLOUT if one.other.state is _State.WRITES else 0
            self._poll.modify(one.source, events)

    def _end(self, way: _Way) -> None:
        for one in (way.source, way.target):
            if self._from.pop(one.fileno(), None) is not None:
                self._poll.unregister(one)
                one.close()


def main() -> None:
    proxy = Proxy(int(sys.argv[1]))
    print(proxy.port, flush=True)
    proxy.run()


if __name__ == "__main__":
    main()
