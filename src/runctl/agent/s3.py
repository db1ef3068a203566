"""S3 with the standard library: signed requests, checksums that the store verifies, conditional writes.

Signature Version 4 as in AWS's documentation "Signature Calculations for the Authorization Header".
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import os
import random
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from .answers import parsed
from .failures import PreconditionFailed, StoreAway, StoreDenied, StoreRefused
from .files import PIECE, chunks_of

CHUNK = 1024 * 1024
CONNECT_TIMEOUT = 5.0
TIMEOUT = 30.0
IDLE_SECONDS = 5.0
"""After this real time a connection that waits is not used again: what lies between may have dropped it."""
TRIES = 4
LARGEST = 64 * 1024 * 1024
"""Bytes of an object that is read into memory: others may have written it."""


class _Stale(StoreAway):
    """A connection that had waited failed before anything was answered."""


class Object(NamedTuple):
    key: str
    size: int


class Bucket:
    """One bucket. Thread-safe: connections that nobody uses wait for the next request."""

    def __init__(
        self,
        name: str,
        region: str,
        credentials: Any,
        endpoint: Optional[str] = None,
        owner: str = "",
        host: str = "",
    ) -> None:
        """`credentials` is a Credentials or answers like one; without `endpoint` the environment's holds.

        `host` is S3's in this region, where it is not the usual one: partitions have their own names.
        With `owner`, the number of an account, S3 refuses every request where the bucket is another's.
        """
        from urllib.parse import urlsplit

        self.name = name
        self._owner = owner
        self._region = region
        self._credentials = credentials
        self._idle: List[Any] = []
        self._lock = threading.Lock()
        self._busy: Set[Any] = set()
        self._is_cut = False
        self._moved = [0.0]  # of all branches
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            parts = urlsplit(endpoint)
            self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
            self._base = "/" + name
        else:
            host = host or "s3.%s.amazonaws.com" % region
            # S3's certificate covers one name below the host: a bucket with dots goes into the path.
            self._base = "/" + name if "." in name else ""
            self._secure, self._host, self._port = True, host if self._base else "%s.%s" % (name, host), None

    @property
    def moved(self) -> float:
        """On the monotonic clock, when a file or a part of one last arrived; 0 before the first."""
        return self._moved[0]

    def branch(self) -> Bucket:
        """The same bucket and connections; what is asked of the branch can be broken off."""
        made = copy.copy(self)
        made._busy = set()  # noqa: SLF001 (it is one of us)
        return made

    def cut(self) -> None:
        """Break off what is being asked, and refuse what would be: each request ends with StoreAway."""
        import socket

        with self._lock:
            self._is_cut = True
            busy = list(self._busy)
        for connection in busy:
            try:
                # Not that of ssl, which takes the socket from under who writes to it.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            except (OSError, AttributeError, TypeError):  # it is closed, or not open yet
                pass

    def put(
        self,
        key: str,
        data: bytes,
        if_match: Optional[str] = None,
        if_absent: bool = False,
        tries: int = TRIES,
    ) -> str:
        """Write a small object; answers its ETag. Raises PreconditionFailed where a condition fails."""
        digest = hashlib.sha256(data)
        headers = {"x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode()}
        if if_match:
            headers["If-Match"] = if_match
        if if_absent:
            headers["If-None-Match"] = "*"
        answer = self.ask("PUT", key, headers=headers, body=data, digest=digest.hexdigest(), tries=tries)
        return answer[1].get("etag", "")

    def put_slice(
        self, key: str, query: Dict[str, str], file: int, start: int, size: int, digest: Any, tries: int
    ) -> Tuple[str, str]:
        """Send a part of an open file; answers the ETag and the checksum, SHA-256 in base 64."""
        checksum = base64.b64encode(digest.digest()).decode()
        _, headers, _ = self.ask(
            "PUT",
            key,
            query=query,
            headers={"x-amz-checksum-sha256": checksum},
            body=lambda: _Slice(file, start, size),
            digest=digest.hexdigest(),
            length=size,
            tries=tries,
        )
        self._moved[0] = time.monotonic()
        return headers.get("etag", ""), checksum

    def get(self, key: str, limit: int = LARGEST) -> Optional[bytes]:
        """None where there is no such object. Raises StoreRefused for one of more than `limit` bytes."""
        return self.get_with_etag(key, limit)[0]

    def get_with_etag(self, key: str, limit: int = LARGEST) -> Tuple[Optional[bytes], str]:
        came: List[bytes] = []

        def take(answer: Any) -> None:
            size = 0
            for chunk in body_of(answer):
                size += len(chunk)
                if size > limit:
                    raise StoreRefused("%s holds more than %d bytes: it is not read" % (key, limit))
                came.append(chunk)

        def into(answer: Any) -> None:
            came.clear()  # of a try that was torn
            take(answer)

        status, headers, _ = self.ask("GET", key, missing_is_fine=True, into=into)
        return (None, "") if status == 404 else (b"".join(came), headers.get("etag", ""))

    def get_file(self, key: str, path: str) -> bool:
        """Fetch to a file; False where there is no such object."""
        status, _, _ = self.ask("GET", key, missing_is_fine=True, into=lambda answer: _save(answer, path))
        return status != 404

    def get_range(
        self,
        key: str,
        start: int,
        size: int,
        into: Callable[[Iterator[memoryview]], None],
        tries: int = TRIES,
    ) -> bool:
        """Give the pieces of `size` bytes from `start` on to `into`; False where there is no such object.

        A piece is good until the next one is asked for. `into` is called anew for each try, and what comes
        may be more or less than was asked for. Raises StoreRefused for an object that ends before `start`.
        """
        headers = {"Range": "bytes=%d-%d" % (start, start + size - 1)}
        status, _, _ = self.ask(
            "GET",
            key,
            headers=headers,
            missing_is_fine=True,
            into=lambda answer: into(_pieces(answer)),
            tries=tries,
        )
        self._moved[0] = time.monotonic()
        return status != 404

    def list(self, prefix: str) -> List[Object]:
        """Every object under a prefix, in order of key. Keys come URL-encoded: none can break the XML."""
        from urllib.parse import unquote_plus

        found: List[Object] = []
        token = ""
        while True:
            query = {"list-type": "2", "prefix": prefix, "max-keys": "1000", "encoding-type": "url"}
            if token:
                query["continuation-token"] = token
            _, _, body = self.ask("GET", "", query=query)
            root, space = parsed(body, "listing of " + prefix)
            encoded = root.findtext(space + "EncodingType") == "url"
            for item in root.findall(space + "Contents"):
                size = int(item.findtext(space + "Size") or 0)
                text = item.findtext(space + "Key") or ""
                found.append(Object(unquote_plus(text) if encoded else text, size))
            token = root.findtext(space + "NextContinuationToken") or ""
            if not token:
                return found

    def ask(
        self,
        method: str,
        key: str,
        query: Optional[Dict[str, str]] = None,
        headers: Optional[Dict[str, str]] = None,
        body: Any = b"",
        digest: str = "",
        length: int = 0,
        missing_is_fine: bool = False,
        into: Optional[Callable[[Any], None]] = None,
        tries: int = TRIES,
    ) -> Tuple[int, Dict[str, str], bytes]:
        """One request, repeated a few times while the store stumbles.

        `into` reads the body of a good answer, an HTTPResponse, which is not answered then. Where
        the wire fails it raises StoreAway; what else it raises is its own. A connection that waited and fails
        before anything is answered says nothing of the store: that costs no try, and the next one is new.
        """
        asked = method, key, query or {}, headers or {}, body, digest, length, missing_is_fine, into
        tried, fresh = 0, False
        while True:
            try:
                return self._once(*asked, fresh=fresh)
            except _Stale:
                self.close()
                fresh = True
            except StoreAway:
                tried += 1
                if tried >= tries or self._is_cut:
                    raise
                time.sleep(random.uniform(0, min(0.1 * 2**tried, 10.0)))  # noqa: S311 (jitter)

    def _once(
        self,
        method: str,
        key: str,
        query: Dict[str, str],
        extra: Dict[str, str],
        body: Any,
        digest: str,
        length: int,
        missing_is_fine: bool,
        into: Optional[Callable[[Any], None]],
        *,
        fresh: bool,
    ) -> Tuple[int, Dict[str, str], bytes]:
        from http.client import HTTPException

        if self._is_cut:
            raise StoreAway("it was broken off")
        content: Any = body() if callable(body) else body
        size = length or (len(content) if isinstance(content, bytes) else 0)
        payload = digest or hashlib.sha256(content).hexdigest()
        path, headers = self._signed(method, key, query, dict(extra), payload)
        headers["Content-Length"] = str(size)
        connection = answer = None
        try:
            connection = self._take(fresh)
            self._note_busy(connection)
            connection.request(method, path, body=content if size else None, headers=headers)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            take = into if answer.status in (200, 206) else None
            data = answer.read() if take is None else b""
        except (OSError, HTTPException) as error:
            self._drop(connection)
            # One that does not answer in time is the store's silence, not the connection's age.
            old = answer is None and _has_waited(connection) and not isinstance(error, socket.timeout)
            kind = _Stale if old and not self._is_cut else StoreAway
            raise kind("%s %s: %s" % (method, key, error)) from error
        except BaseException:
            self._drop(connection)
            raise
        if take is not None:
            try:
                take(answer)
            except BaseException:
                self._drop(connection)
                raise
            if answer.length == 0:
                answer.read()  # then it is known to be at its end
        if answer.isclosed():
            self._give_back(connection)
        else:
            self._drop(connection)
        if answer.status in (200, 204, 206) or (answer.status == 404 and missing_is_fine):
            return answer.status, got, data
        raise self._fault(answer.status, extra, data, "%s %s" % (method, key))

    def _fault(self, status: int, asked: Dict[str, str], data: bytes, what: str) -> Exception:
        text = "%s: HTTP %d %s" % (what, status, data[:200].decode("utf-8", "replace"))
        if status == 412 or (status == 409 and ("If-Match" in asked or "If-None-Match" in asked)):
            return PreconditionFailed(text)
        if status == 501:  # it will never know this
            return StoreRefused(text)
        if status >= 500 or status in (408, 409, 429) or b"RequestTimeout" in data:
            return StoreAway(text)
        if status in (400, 401, 403) and (b"Expired" in data or b"InvalidToken" in data):
            self._credentials.forget()
            return StoreAway(text)
        return StoreDenied(text) if status in (401, 403) else StoreRefused(text)

    def _signed(
        self, method: str, key: str, query: Dict[str, str], headers: Dict[str, str], payload: str
    ) -> Tuple[str, Dict[str, str]]:
        from urllib.parse import quote

        keys = self._credentials.get()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = quote(self._base + "/" + key, safe="/-_.~")
        text = "&".join(
            "%s=%s" % (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in sorted(query.items())
        )
        host = self._host if self._port is None else "%s:%d" % (self._host, self._port)
        headers.update({"Host": host, "x-amz-content-sha256": payload, "x-amz-date": stamp})
        if self._owner:
            headers["x-amz-expected-bucket-owner"] = self._owner
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        signed = sorted((name.lower(), value.strip()) for name, value in headers.items())
        names = ";".join(name for name, _ in signed)
        canonical = "\n".join(
            [method, path, text, "".join("%s:%s\n" % pair for pair in signed), names, payload]
        )
        scope = "%s/%s/s3/aws4_request" % (stamp[:8], self._region)
        to_sign = "\n".join(
            ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        secret = ("AWS4" + keys.secret).encode()
        for item in (stamp[:8], self._region, "s3", "aws4_request"):
            secret = hmac.new(secret, item.encode(), hashlib.sha256).digest()
        signature = hmac.new(secret, to_sign.encode(), hashlib.sha256).hexdigest()
        headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
            keys.access,
            scope,
            names,
            signature,
        )
        return path + ("?" + text if text else ""), headers

    def source_headers(self, key: str) -> Dict[str, str]:
        """What names an object of this bucket as the source of a copy."""
        from urllib.parse import quote

        headers = {"x-amz-copy-source": quote("/%s/%s" % (self.name, key), safe="/-_.~")}
        if self._owner:
            headers["x-amz-source-expected-bucket-owner"] = self._owner
        return headers

    def close(self, but: int = 0) -> None:
        """Close the connections that wait, all `but` so many."""
        with self._lock:
            left = self._idle[but:]
            del self._idle[but:]  # it is all branches'
        for connection in left:
            connection.close()

    def _take(self, fresh: bool) -> Any:
        from http.client import HTTPConnection, HTTPSConnection

        while not fresh:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if time.monotonic() - connection.idle_since < IDLE_SECONDS and _is_open(connection):
                return connection
            connection.close()
        kind: Callable[..., Any] = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_TIMEOUT, blocksize=PIECE)
        connection.connect()
        connection.sock.settimeout(TIMEOUT)
        return connection

    def _note_busy(self, connection: Any) -> None:
        with self._lock:
            self._busy.add(connection)
            if self._is_cut:
                raise StoreAway("it was broken off")

    def _give_back(self, connection: Any) -> None:
        """One that the server closed has no socket any more."""
        with self._lock:
            self._busy.discard(connection)
            if connection.sock is not None:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)

    def _drop(self, connection: Any) -> None:
        if connection is not None:
            with self._lock:
                self._busy.discard(connection)
            connection.close()


def _has_waited(connection: Any) -> bool:
    return getattr(connection, "idle_since", None) is not None


def _is_open(connection: Any) -> bool:
    """Whether a connection that waited can be used: of one that the server has ended there is something to
    read. After a while that may be so of all that wait, and each would cost one of the tries."""
    import select

    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return not waiting.poll(0)


class _Slice:
    """A part of a file as a body that is read in pieces."""

    def __init__(self, file: int, start: int, length: int) -> None:
        self._chunks = chunks_of(file, start, length)

    def read(self, _size: int = PIECE) -> bytes:
        return next(self._chunks, b"")


def _save(answer: Any, path: str) -> None:
    with open(path, "wb") as file:
        for chunk in body_of(answer):
            file.write(chunk)


def _pieces(answer: Any) -> Iterator[memoryview]:
    """Raises StoreAway for what is torn."""
    from http.client import HTTPException

    buffer = memoryview(bytearray(PIECE))
    left = int(answer.getheader("content-length") or 0)
    while left > 0:
        try:
            count = answer.readinto(buffer[: min(PIECE, left)])
        except (OSError, HTTPException) as error:
            raise StoreAway("torn download: %s" % error) from error
        if not count:
            raise StoreAway("torn download: %d bytes are missing" % left)
        left -= count
        yield buffer[:count]


def body_of(answer: Any) -> Iterator[bytes]:
    """The body of an answer, piece by piece. Raises StoreAway where it comes short."""
    from http.client import HTTPException

    length = answer.getheader("content-length")
    got = 0
    while True:
        try:
            chunk = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise StoreAway("torn download: %s" % error) from error
        if not chunk:
            break
        got += len(chunk)
        yield chunk
    if length is not None and got != int(length):
        raise StoreAway("torn download: %d of %s bytes" % (got, length))
