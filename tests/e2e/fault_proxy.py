"""An HTTP proxy between a client and an S3 server that does what networks and busy stores do, by a seed.

Requests go on as they came, `Host` included, so that signatures stay valid. What befalls a request depends on
the seed, on the request, and on how often it came before: not on the order in which threads happen to ask.
Bytes are flipped in objects alone. A listing carries nothing that would tell a flipped letter in a key from
another key, and no client could know.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PIECE = 64 * 1024
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Faults:
    """How often of 1 each thing befalls a request; at most one does, and a delay besides."""

    flip_up: float = 0.0
    """One byte of an object or part on its way to the server."""
    flip_down: float = 0.0
    """One byte of an object on its way to the client."""
    cut_up: float = 0.0
    """The connection ends in the middle of what the client sends."""
    cut_down: float = 0.0
    """The connection ends in the middle of what the client gets."""
    lie_long: float = 0.0
    """Content-Length is more than what comes."""
    lie_short: float = 0.0
    """Content-Length is less than what there is, and that much comes: nothing looks torn."""
    slow_down: float = 0.0
    """HTTP 503 SlowDown, to this request and the next `storm` ones."""
    broken: float = 0.0
    """HTTP 500 InternalError; the completion of an upload gets it with status 200, as S3 does."""
    drop: float = 0.0
    """The connection ends before the server heard of the request."""
    lose: float = 0.0
    """The server did what was asked, and its answer is lost."""
    delay: float = 0.0
    storm: int = 8
    seconds: float = 0.05
    """The longest delay."""

    @classmethod
    def mixture(cls, seed: int) -> Faults:
        """Two to five kinds of faults at random rates."""
        chance = random.Random(f"mixture {seed}")
        kinds = chance.sample(KINDS, chance.randint(2, 5))
        rates = {kind: round(chance.uniform(0.02, 0.2), 3) for kind in kinds}
        if "slow_down" in rates:
            rates["slow_down"] /= 4  # one brings a storm
        return cls(**rates, delay=chance.choice([0.0, 0.2]), storm=chance.randint(2, 12))


KINDS = [each.name for each in fields(Faults) if each.name not in {"delay", "storm", "seconds"}]


@dataclass
class Seen:
    """One request: what it asked for, what befell it, and how far it came."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    range: str
    fault: str = ""
    status: int = 0
    sent: int = 0
    """Bytes of the body that the server got of the client."""
    got: int = 0
    """Bytes of the body that the client got of the server."""
    complete: bool = False
    """Whether the client was given a whole and honest answer."""
    began: float = field(default_factory=time.monotonic)

    @property
    def part(self) -> str:
        """What names a piece of an object in either direction."""
        return self.query.get("partNumber") or self.range or "whole"

    @property
    def moves(self) -> bool:
        """Whether it carries the bytes of an object."""
        return bool(self.key) and (
            (self.method == "PUT") or (self.method == "GET" and "uploadId" not in self.query)
        )


class FaultProxy:
    """`before` is called with each request that is about to reach the server, from many threads.

    `script` may name the fault of a request, and comes before chance; empty leaves the request to chance.
    """

    def __init__(self, target: str, *, seed: int = 0, faults: Faults | None = None) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.seed = seed
        self.faults = faults or Faults()
        self.before: Callable[[Seen], None] = lambda _: None
        self.script: Callable[[Seen], str] = lambda _: ""
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._times: Counter[str] = Counter()
        self._storm = 0
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def heal(self) -> None:
        """No faults from now on."""
        self.faults = Faults()
        with self._lock:
            self._storm = 0

    def moved(self) -> Counter[tuple[str, str, str]]:
        """How often each piece of each object went over whole: by method, key and part."""
        return Counter((one.method, one.key, one.part) for one in self.seen if one.moves and one.complete)

    def choose(self, seen: Seen) -> tuple[str, random.Random]:
        """What befalls a request, and the chance that says where."""
        name = f"{seen.method} {seen.key} {sorted(seen.query.items())} {seen.range}"
        with self._lock:
            self.seen.append(seen)
            self._times[name] += 1
            chance = random.Random(f"{self.seed} {name} {self._times[name]}")
            if self._storm:
                self._storm -= 1
                return "slow_down", chance
        if named := self.script(seen):
            return named, chance
        if chance.random() < self.faults.delay:
            time.sleep(chance.uniform(0, self.faults.seconds))
        for kind in KINDS:
            if chance.random() < getattr(self.faults, kind):
                if kind == "slow_down":
                    with self._lock:
                        self._storm = self.faults.storm
                return kind, chance
        return "", chance

    @contextlib.contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _Gone(Exception):
    """The connection ends here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True
    wbufsize = -1
    _upstream: http.client.HTTPConnection | None = None

    def handle(self) -> None:
        with self.server.proxy.holding(self.connection):
            try:
                super().handle()
            except (_Gone, OSError, http.client.HTTPException):
                self.close_connection = True
            finally:
                if self._upstream is not None:
                    self._upstream.close()

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        proxy = self.server.proxy
        seen = self._described()
        fault, chance = proxy.choose(seen)
        length = int(self.headers.get("Content-Length") or 0)
        seen.fault = fault = self._fitting(fault, seen, length)
        if fault == "drop":
            raise _Gone
        if fault in {"slow_down", "broken"}:
            self._swallow(length)
            late = fault == "broken" and seen.method == "POST" and "uploadId" in seen.query
            self._answer(
                200 if late else 503 if fault == "slow_down" else 500,
                _SLOW_DOWN if fault == "slow_down" else _INTERNAL,
            )
            return
        proxy.before(seen)
        answer = self._ask(seen, length, fault, chance)
        if fault == "lose":
            answer.read()
            raise _Gone
        self._pass_on(answer, seen, fault, chance)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

    def _described(self) -> Seen:
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.removeprefix("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return Seen(self.command, bucket, unquote(key), query, self.headers.get("Range") or "")

    @staticmethod
    def _fitting(fault: str, seen: Seen, length: int) -> str:
        """Nothing, where a request has no body to spoil."""
        if fault in {"flip_up", "cut_up"}:
            return fault if length and seen.method == "PUT" else ""
        if fault == "flip_down":
            return fault if seen.moves and seen.method == "GET" else ""
        if fault in {"cut_down", "lie_long", "lie_short"}:
            return fault if seen.method != "HEAD" else ""
        return fault

    def _ask(self, seen: Seen, length: int, fault: str, chance: random.Random) -> http.client.HTTPResponse:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(*self.server.proxy.target, timeout=60)
            self._upstream.connect()
            assert self._upstream.sock
            self._upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = self._upstream
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                upstream.putheader(name, value)
        upstream.endheaders()
        spot = chance.randrange(length) if length else 0
        while seen.sent < length:
            piece = self.rfile.read(min(_PIECE, length - seen.sent))
            if not piece:
                raise _Gone
            at = spot - seen.sent
            upstream.send(_spoilt(piece, at, fault) if fault.endswith("_up") else piece)
            if fault == "cut_up" and at < len(piece):
                raise _Gone
            seen.sent += len(piece)
        return upstream.getresponse()

    def _pass_on(
        self, answer: http.client.HTTPResponse, seen: Seen, fault: str, chance: random.Random
    ) -> None:
        said = answer.getheader("Content-Length")
        body = b""
        if said is None and seen.method != "HEAD":
            body = answer.read()
            said = str(len(body))
        length = int(said or 0) if seen.method != "HEAD" else 0
        if not length and fault in {"flip_down", "cut_down", "lie_short"}:
            fault = seen.fault = ""
        claimed = None if said is None else int(said)
        if claimed is not None and fault == "lie_long":
            claimed += chance.randint(1, 100)
        elif fault == "lie_short":
            claimed = length = chance.randrange(length)
        self._pass_head(answer, claimed)
        seen.status = answer.status
        # Said before the last bytes go, or whoever gets them may look before it is said.
        honest = not fault and answer.status < 300
        seen.complete = honest and not length
        spot = chance.randrange(length) if length else 0
        while seen.got < length:
            piece = body[seen.got : length] or answer.read(min(_PIECE, length - seen.got))
            if not piece:
                raise _Gone
            at = spot - seen.got
            seen.complete = honest and seen.got + len(piece) == length
            self.wfile.write(_spoilt(piece, at, fault) if fault.endswith("_down") else piece)
            if fault == "cut_down" and at < len(piece):
                break
            seen.got += len(piece)
        self.wfile.flush()
        if fault in {"cut_down", "lie_long", "lie_short"}:
            raise _Gone
        answer.read()  # the end of what came in chunks

    def _pass_head(self, answer: http.client.HTTPResponse, length: int | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_ONE_CONNECTION | {"content-length"}:
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _swallow(self, length: int) -> None:
        while length and (piece := self.rfile.read(min(_PIECE, length))):
            length -= len(piece)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()


def _spoilt(piece: bytes, at: int, fault: str) -> bytes:
    """The piece with one bit of the byte at `at` turned, or ending there, where that byte is in it."""
    if not 0 <= at < len(piece):
        return piece
    if fault.startswith("flip"):
        return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
    return piece[:at] if fault.startswith("cut") else piece


def only(kind: str, rate: float = 1.0, **others: Any) -> Faults:
    """One kind of fault alone."""
    return replace(Faults(**others), **{kind: rate})


def bytes_moved(proxy: FaultProxy) -> int:
    """What went over in bodies, both ways."""
    return sum(one.sent + one.got for one in list(proxy.seen) if one.moves)


def kill_after(process: subprocess.Popen[str], proxy: FaultProxy, size: int) -> bool:
    """Kill it when so many bytes more went over; whether it was killed before its end."""
    goal = bytes_moved(proxy) + size
    deadline = time.monotonic() + 60
    while process.poll() is None and bytes_moved(proxy) < goal:
        assert time.monotonic() < deadline, "it does not come forward"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL
