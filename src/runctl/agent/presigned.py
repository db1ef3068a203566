"""Objects by presigned URLs: all the rights that a machine needs for a transfer, and no others."""

from __future__ import annotations

import base64
import hashlib
import http.client
import random
import ssl
import threading
import time
from typing import Any, Callable, Dict, Optional, Set, Tuple
from urllib.parse import urlsplit

from .failures import PreconditionFailed, StoreAway, StoreRefused
from .s3 import IDLE_SECONDS

TRIES = 10  # about a minute
CONNECT_TIMEOUT = 10.0
TIMEOUT = 60.0
_BLOCK = 1024 * 1024


class Missing(StoreRefused):
    """There is no such object, or not yet."""


class Expired(StoreRefused):
    """The URL was good once."""


class TooMuch(StoreRefused):
    """The object has more bytes than it was sent with."""


class Stopped(Exception):
    """The transfer was told to end."""


class Courier:
    """Gets and puts whole objects. A connection a thread; thread-safe."""

    def __init__(self, stopping: Optional[threading.Event] = None) -> None:
        self._stopping = stopping or threading.Event()
        self._own = threading.local()
        self._secure: Optional[ssl.SSLContext] = None
        self._open: Set[Any] = set()
        self._lock = threading.Lock()

    def get(
        self, url: str, span: Optional[Tuple[int, int]] = None, etag: str = "", most: Optional[int] = None
    ) -> bytes:
        """The object, or `span[1]` of its bytes from `span[0]` on, of the state that `etag` names.

        Raises Missing, Expired, PreconditionFailed where it has changed, TooMuch for more than `most` bytes,
        which are not read, StoreAway, StoreRefused, Stopped.
        """
        headers: Dict[str, str] = {}
        if span is not None:
            headers["Range"] = "bytes=%d-%d" % (span[0], span[0] + span[1] - 1)
        if etag:
            headers["If-Match"] = '"%s"' % etag
        return self._again("GET", url, headers, b"", None if span is None else span[1], most)[1]

    def put(self, url: str, data: bytes) -> str:
        """Write an object, whose MD5 the store verifies; answers its ETag. Raises as `get`."""
        return self._again("PUT", url, {"Content-MD5": _md5(data)}, data, None)[0]

    def _again(
        self,
        method: str,
        url: str,
        headers: Dict[str, str],
        body: bytes,
        length: Optional[int],
        most: Optional[int] = None,
    ) -> Tuple[str, bytes]:
        for tried in range(TRIES):
            if self._stopping.is_set():
                raise Stopped
            try:
                return self._once(method, url, headers, body, length, most)
            except StoreAway:
                if tried == TRIES - 1:
                    raise
                self._stopping.wait(random.uniform(0, min(0.2 * 2**tried, 10.0)))  # noqa: S311 (jitter)
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        url: str,
        headers: Dict[str, str],
        body: bytes,
        length: Optional[int],
        most: Optional[int],
    ) -> Tuple[str, bytes]:
        parts = urlsplit(url)
        path = parts.path + ("?" + parts.query if parts.query else "")
        try:
            connection = self._connection(parts.scheme, parts.netloc)
            connection.request(method, path, body=body or None, headers=_headers(method, headers, body))
            answer = connection.getresponse()
            data = answer.read() if most is None else answer.read(most + 1)
            if most is not None and len(data) > most:
                self._forget()  # the rest of it is still to come
                raise TooMuch("GET %s: it has more than %d bytes" % (parts.path, most))
        except (OSError, http.client.HTTPException) as error:
            self._forget()
            raise StoreAway("%s %s: %s" % (method, parts.path, error or type(error).__name__)) from error
        if answer.status in (200, 206):
            if length is not None and len(data) != length:
                raise StoreAway("%s %s: %d of %d bytes came" % (method, parts.path, len(data), length))
            return str(answer.headers.get("ETag") or "").strip('"'), data
        raise _refusal("%s %s: HTTP %d" % (method, parts.path, answer.status), answer.status, data)

    def _connection(self, scheme: str, place: str) -> Any:
        now = time.monotonic()
        if now - getattr(self._own, "used", now) > IDLE_SECONDS:
            self._forget()  # what lies between may have dropped it without a word
        self._own.used = now
        kept: Dict[Tuple[str, str], Any] = self._own.__dict__.setdefault("kept", {})
        if (scheme, place) not in kept:
            if scheme == "https":
                if self._secure is None:
                    self._secure = ssl.create_default_context()
                made: Any = http.client.HTTPSConnection(
                    place, timeout=CONNECT_TIMEOUT, context=self._secure, blocksize=_BLOCK
                )
            else:
                made = http.client.HTTPConnection(place, timeout=CONNECT_TIMEOUT, blocksize=_BLOCK)
            made.connect()
            made.sock.settimeout(TIMEOUT)
            kept[scheme, place] = made
            with self._lock:
                self._open.add(made)
        return kept[scheme, place]

    def _forget(self) -> None:
        kept: Dict[Tuple[str, str], Any] = self._own.__dict__.pop("kept", {})
        for connection in kept.values():
            connection.close()
            with self._lock:
                self._open.discard(connection)

    def close(self) -> None:
        """Close the connections of every thread; nobody uses them any more."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()


class Pace:
    """At most so many bytes a second, over all threads; 0 is no limit."""

    def __init__(self, rate: int, sleep: Callable[[float], Any] = time.sleep) -> None:
        self._rate = rate
        self._sleep = sleep
        self._free = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        if self._rate <= 0:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(self._free, now)
            self._free = begin + count / self._rate
        if self._free > now:
            self._sleep(self._free - now)


def _headers(method: str, headers: Dict[str, str], body: bytes) -> Dict[str, str]:
    return {**headers, "Content-Length": str(len(body))} if method == "PUT" else headers


def _refusal(text: str, status: int, data: bytes) -> Exception:
    said = "%s %s" % (text, data[:300].decode("utf-8", "replace"))
    if status == 404:
        return Missing(said)
    if status == 412:
        return PreconditionFailed(said)
    if status in (400, 403) and b"xpired" in data:
        return Expired(said)
    if status >= 500 or status in (408, 409, 429) or b"BadDigest" in data or b"RequestTimeout" in data:
        return StoreAway(said)
    return StoreRefused(said)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.new("md5", data).digest()).decode()  # noqa: S324 (S3's own header)
