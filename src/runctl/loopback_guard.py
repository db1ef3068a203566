"""Who may ask a server of ours on loopback: no web page, and no other user of this computer.

Every server that listens for us stands behind this module. Loopback is no lock by itself: any user of the
computer reaches it, and so does any page in the user's browser, which can send forms and `no-cors` requests
to it, and by a name of its own that leads to 127.0.0.1 (DNS rebinding) read the answers too.
"""

from __future__ import annotations

import atexit
import contextlib
import socket
from collections import deque
from collections.abc import Collection, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from runctl import peers

IDLE_SECONDS = 60.0
"""For how long a connection may say nothing, and a request may stand still."""
KEPT_OPEN = 64
"""Connections that were refused and may still read why."""


class Connection(Protocol):
    """What is asked of a socket; asyncio hands out something else."""

    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
    def dup(self) -> socket.socket: ...


def forbidden(why: str) -> bytes:
    """The whole answer to a request that is refused."""
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: {len(why) + 1}"
    return f"{head}\r\nConnection: close\r\n\r\n{why}\n".encode()


_STRANGER = forbidden("this server serves another user of this computer")


def names(port: int) -> frozenset[str]:
    """What a server on `port` of loopback may be called in `Host`."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})


def refusal(target: str, headers: Iterable[tuple[str, str]], own: Collection[str]) -> str | None:
    """Why a request must not be served; None where it may.

    `target` is what stands in the request line, `own` are the names of the server as `Host` has them. A
    request is refused that a browser sends for a page (`Origin`, `Sec-Fetch-*`, an upgrade to WebSocket),
    whose `Host` is missing, twice there or another's, or whose target or length can be read in two ways.
    """
    hosts: list[str] = []
    lengths: list[str] = []
    for name, value in headers:
        lower = name.strip().lower()
        if lower in {"origin", "upgrade"} or lower.startswith("sec-fetch-"):
            return f"this server serves no browser, and the request has the header {lower}"
        if lower == "host":
            hosts.append(value.strip().lower())
        elif lower in {"content-length", "transfer-encoding"}:
            lengths.append(value.strip().lower())
    if len(hosts) != 1 or hosts[0] not in own:
        return "the header Host does not name this server"
    if not target.startswith("/") or not all("!" <= letter <= "~" and letter != "#" for letter in target):
        return "the target is not a path"
    if len(lengths) > 1 or not all(
        text == "chunked" or (text.isascii() and text.isdigit()) for text in lengths
    ):
        return "the length of the body is not plain"
    return None


def admits(connection: Connection) -> bool:
    """Whether a new connection comes from a process of this user."""
    try:
        return peers.is_own(connection.getsockname(), connection.getpeername())
    except OSError:  # whoever it was is gone
        return False


_turned_away: deque[socket.socket] = deque()


def turn_away(connection: Connection, answer: bytes = _STRANGER) -> None:
    """Say no and hang up, but leave the line open for a while.

    Closed at once, while the other end is still sending, the kernel would throw the answer away. The last few
    are kept so, and no more: nobody fills our table of open files.
    """
    with contextlib.suppress(OSError, IndexError):
        kept = connection.dup()
        _turned_away.append(kept)
        kept.setblocking(False)
        kept.send(answer)
        kept.shutdown(socket.SHUT_WR)
    _hang_up(KEPT_OPEN)


def _hang_up(kept: int) -> None:
    with contextlib.suppress(IndexError):
        while len(_turned_away) > kept:
            _turned_away.popleft().close()


atexit.register(_hang_up, 0)


class Guarded:
    """For servers of `socketserver`: strangers are cut off before they get a thread."""

    server_address: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.further_names: set[str] = set()
        """What it may be called besides the names of its own port."""
        super().__init__(*arguments, **options)

    def called(self) -> frozenset[str]:
        """What it may be called in `Host`."""
        return names(self.server_address[1]) | self.further_names

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (socketserver's form)
        if admits(request):
            return True
        turn_away(request)
        return False


class GuardedServer(Guarded, ThreadingHTTPServer):
    """Serves HTTP on loopback to processes of this user. Its handler must be a `GuardedHandler`."""

    daemon_threads = True
    request_queue_size = 128
    """Strangers who come in a crowd must not take the places of those who wait to be let in."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked is gone, and asks again."""


class GuardedHandler(BaseHTTPRequestHandler):
    """Refuses what `refusal` names before anything else happens, and before the body is asked for."""

    timeout = IDLE_SECONDS

    def handle_expect_100(self) -> bool:
        return True  # whoever reads the body says so first: `ask_for_body`

    def ask_for_body(self) -> None:
        """Let a client go on that waits to be asked for its body."""
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        target = self.requestline.split()[1]
        server: Any = self.server
        why = refusal(target, self.headers.items(), server.called())
        if why is None:
            return True
        self.refuse(why)
        return False

    def refuse(self, why: str) -> None:
        """403, in plain text, and the end of the connection."""
        self.close_connection = True
        turn_away(self.connection, forbidden(why))
