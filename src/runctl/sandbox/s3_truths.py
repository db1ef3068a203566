# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""What S3 checks and moto does not: checksums of uploads; and ranges read without the whole object."""

from __future__ import annotations

import base64
import hashlib
import threading
import zlib
from collections.abc import Mapping
from typing import Any

from moto.s3.models import FakeKey

_HEADERS = {
    "HTTP_CONTENT_MD5": lambda body: hashlib.md5(body).digest(),  # noqa: S324 (S3's own header)
    "HTTP_X_AMZ_CHECKSUM_CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "HTTP_X_AMZ_CHECKSUM_SHA256": lambda body: hashlib.sha256(body).digest(),
    "HTTP_X_AMZ_CHECKSUM_SHA1": lambda body: hashlib.sha1(body).digest(),  # noqa: S324 (S3's own header)
}
_HEX = "HTTP_X_AMZ_CONTENT_SHA256"


def carries_checksum(headers: Mapping[str, Any]) -> bool:
    """Whether an upload names a checksum of its plain body."""
    if "aws-chunked" in str(headers.get("HTTP_CONTENT_ENCODING", "")):
        return False
    return any(name in headers for name in _HEADERS) or len(str(headers.get(_HEX, ""))) == 64


def wrong_checksum(headers: Mapping[str, Any], body: bytes) -> tuple[str, str] | None:
    """The code and message with which S3 refuses a body that is not what its headers say."""
    for name, digest in _HEADERS.items():
        if name in headers and base64.b64encode(digest(body)).decode() != headers[name]:
            kind = name.removeprefix("HTTP_").replace("_", "-").lower()
            return "BadDigest", f"The {kind} you specified did not match the calculated checksum."
    stated = str(headers.get(_HEX, ""))
    if len(stated) == 64 and hashlib.sha256(body).hexdigest() != stated:
        return "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 header does not match."
    return None


class Ranged(threading.local):
    """Set for the time of one ranged read."""

    on = False


ranged = Ranged()
_whole: Any = FakeKey.value


class _Part:
    """Reads of an object only what is asked for."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def __len__(self) -> int:
        return self._key.contentsize

    def __getitem__(self, piece: slice) -> bytes:
        start = piece.start or 0
        stop = len(self) if piece.stop is None else piece.stop
        with self._key.lock:
            self._key._value_buffer.seek(start)
            return self._key._value_buffer.read(stop - start)


FakeKey.value = property(lambda self: _Part(self) if ranged.on else _whole.fget(self), _whole.fset)
