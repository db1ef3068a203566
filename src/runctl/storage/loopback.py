"""A folder of this computer as a staging prefix: objects by secret URLs of a server on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import shutil
import threading
from collections.abc import Generator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from runctl import loopback_guard
from runctl.errors import NotFound, TrainctlError, ValidationError
from runctl.storage.folder import FolderStore
from runctl.storage.staging import LIFETIME

_MOST = 256 * 1024 * 1024
"""Bytes of one object: parcels are far below."""


class LoopbackStaging(FolderStore):
    """The folder `root`, whose URLs begin with `base` and open one object for one method each.

    `called` are the names by which its server knows itself, besides those of its own port; it has none where
    the folder is only looked at.
    """

    def __init__(self, root: Path, secret: bytes, base: str, called: set[str] | None = None) -> None:
        super().__init__(root)
        self._secret = secret
        self._base = base
        self._called = set[str]() if called is None else called

    def at(self, port: int) -> LoopbackStaging:
        """The same as it is reached from elsewhere, where `port` of loopback leads here."""
        self._called.update(loopback_guard.names(port))
        return LoopbackStaging(self.root, self._secret, f"http://127.0.0.1:{port}", self._called)

    def sign(
        self,
        method: Literal["GET", "PUT"],
        keys: Sequence[str],
        *,
        lifetime: timedelta = LIFETIME,  # noqa: ARG002 (the server lives no longer than its transfer)
    ) -> list[str]:
        """A URL for each key with which one may do this, and only this, as long as the server is up."""
        return [f"{self._base}/{_sign(self._secret, method, key)}/{quote(key)}" for key in keys]

    def publish(self, name: str, data: bytes) -> str:
        """A URL under which anybody who has it gets these bytes."""
        if not self.exists(name):
            self.write(name, data)
        return self.sign("GET", [name])[0]

    def remove(self, keys: Sequence[str]) -> None:
        """Delete many objects; one that is not there is no error."""
        for key in keys:
            self.delete(key)

    def empty(self) -> None:
        """Delete everything, and the folder."""
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def serving(root: Path) -> Generator[tuple[LoopbackStaging, int]]:
    """A server of the objects in `root` while the block lasts, and its port on loopback."""
    secret = secrets.token_bytes(32)
    root.mkdir(0o700, parents=True, exist_ok=True)
    server = _Server(("127.0.0.1", 0), _Handler)
    port = int(server.server_address[1])
    server.staging = LoopbackStaging(root, secret, f"http://127.0.0.1:{port}", server.further_names)
    server.secret = secret
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="staging", daemon=True)
    thread.start()
    try:
        yield server.staging, port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _sign(secret: bytes, method: str, key: str) -> str:
    return hmac.new(secret, f"{method} {key}".encode(), hashlib.sha256).hexdigest()


class _Server(loopback_guard.GuardedServer):
    staging: LoopbackStaging
    secret: bytes


class _Handler(loopback_guard.GuardedHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's form)
        """Paths are rights: they are written nowhere."""

    def do_GET(self) -> None:
        if (key := self._allowed()) is None:
            return
        try:
            data = self.server.staging.read(key)
        except NotFound:
            self._answer(404, b"NoSuchKey")
        except TrainctlError as error:
            self._fail(error)
        else:
            self._answer(200, data)

    def do_PUT(self) -> None:
        if (key := self._allowed()) is None:
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST:
            self.close_connection = True
            self._answer(413, b"EntityTooLarge")
            return
        self.ask_for_body()
        data = self.rfile.read(length)
        if len(data) < length:
            self.close_connection = True
            return
        digest = hashlib.md5(data, usedforsecurity=False)
        if base64.b64encode(digest.digest()).decode() != self.headers.get("Content-MD5"):
            self._answer(400, b"BadDigest")
            return
        try:
            self.server.staging.write(key, data)
        except TrainctlError as error:
            self._fail(error)
        else:
            self._answer(200, b"", etag=digest.hexdigest())

    def _fail(self, error: TrainctlError) -> None:
        self._answer(400 if isinstance(error, ValidationError) else 507, str(error).encode())

    def _allowed(self) -> str | None:
        """The key, where the path opens it."""
        given, _, key = self.path.removeprefix("/").partition("/")
        key = unquote(key)
        if hmac.compare_digest(given.encode(), _sign(self.server.secret, self.command, key).encode()):
            return key
        self.refuse("AccessDenied")
        return None

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
