# pyright: basic
"""HTTP/1.1 for the sandbox: connections that stay open, and connections that are cut before the answer.

Nobody gets here but this user's own processes, and no web page: `loopback_guard`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

from runctl.loopback_guard import Guarded, GuardedHandler
from runctl.sandbox.signatures import Received

RECEIVED = "runctl.received"
"""Where the request as it came lies in the environment of WSGI."""

_DRAIN_BYTES = 1 << 20
_DRAIN_MOST = 1 << 30
_BODILESS = frozenset({204, 304})


class LostResponse(Exception):
    """The call was carried out, and its answer shall never arrive."""


class Server(Guarded, ThreadedWSGIServer):
    """One thread a connection."""


class Handler(GuardedHandler, MotoRequestHandler):
    """Answers request after request on one connection.

    werkzeug's own closes after each, which costs every call of an SDK a new connection. It may stay open here
    because every answer is complete before its first byte leaves, and every request is read to its end.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def run_wsgi(self) -> None:
        self.environ = environ = self.make_environ()
        environ[RECEIVED] = Received(self.command, self.path, self.headers.items())
        told: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            told[:] = [status, headers]
            return lambda _: None

        source = environ["wsgi.input"] = _Counted(environ["wsgi.input"], environ, self.ask_for_body)
        try:
            body = b"".join(self.server.app(environ, start))
        except LostResponse:
            self._cut()
            return
        if not source.drained():
            self.close_connection = True
        self._answer(told[0], told[1], body)

    def _answer(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        head = self.command == "HEAD"
        bodiless = head or int(code) in _BODILESS
        for name, value in headers:
            if name.lower().startswith("access-control-"):
                continue  # moto invites every web page
            # Of HEAD, the length is that of the object; of all others, that of what follows.
            if name.lower() not in {"connection", "transfer-encoding", "content-length"} or (
                head and name.lower() == "content-length"
            ):
                self.send_header(name, value)
        if not bodiless:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if not bodiless:
            self.wfile.write(body)
        self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class _Counted:
    """A request's body that is asked for when it is read, and knows how much of it is left."""

    def __init__(self, stream: Any, environ: dict[str, Any], ask: Callable[[], None]) -> None:
        self._stream = stream
        self._ask: Callable[[], None] | None = ask
        self._endless = bool(environ.get("wsgi.input_terminated"))
        self._left = int(environ.get("CONTENT_LENGTH") or 0)
        self.awaited = "HTTP_EXPECT" in environ

    def _begin(self) -> None:
        ask, self._ask = self._ask, None
        if ask is not None:
            ask()

    def read(self, size: int = -1) -> bytes:
        self._begin()
        if self._endless:
            return self._stream.read(size)
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = self._stream.read(wanted) if wanted else b""
        self._left -= len(data)
        return data

    def readline(self, size: int = -1) -> bytes:
        self._begin()
        if self._endless:
            return self._stream.readline(size)
        data = self._stream.readline(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def drained(self) -> bool:
        """Read what nobody wanted; False where it was never asked for, or its end cannot be told."""
        if self._ask is not None and self.awaited and (self._endless or self._left):
            return False
        most = _DRAIN_MOST
        while most > 0 and (self._endless or self._left):
            data = self.read(_DRAIN_BYTES)
            most -= len(data)
            if not data:
                break
        return most > 0 and (self._endless or self._left == 0)
