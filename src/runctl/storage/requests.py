"""Requests to S3 that obstore does not make: exact listings, checksums, parts. Through the agent's client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from runctl.agent.credentials import Credentials as RoleCredentials
from runctl.agent.credentials import Keys
from runctl.agent.failures import PreconditionFailed, StoreAway, StoreRefused
from runctl.errors import CloudError, ConfigError, Conflict, NotFound
from runctl.quoting import quoted
from runctl.storage.access import Credentials, NoBucket, S3Access
from runctl.storage.entries import Entry
from runctl.storage.pages import pages

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from runctl.agent.s3 import Bucket

_TRIES = 4
_PAGE = 1000
"""The most that one ListObjectsV2 answers."""
_PIECE = 256 * 1024
"""Bytes: what a core's cache holds while it is received, hashed and written."""


class Requests:
    """Requests to one bucket. Thread-safe."""

    def __init__(self, bucket: str, access: S3Access) -> None:
        self._bucket = bucket
        self._access = access
        self._made: Bucket | None = None
        self._making = threading.Lock()

    @property
    def client(self) -> Bucket:
        with self._making:
            if self._made is None:
                from runctl.agent.s3 import Bucket

                access = self._access.at(self._bucket)
                self._made = Bucket(
                    self._bucket,
                    access.region or "us-east-1",
                    _Keys(access),
                    endpoint=access.endpoint,
                    owner=access.owner() if access.owner else "",
                    host=access.host or "",
                )
            return self._made

    def close(self) -> None:
        """A process that is forked must not share connections."""
        if self._made is not None:
            self._made.close()

    def listing(
        self, prefix: str, *, cut: int, after: str | None = None, tries: int = _TRIES
    ) -> Iterator[tuple[Entry, str]]:
        """What S3 has under a prefix, without the first `cut` letters of each key, and its storage class.

        With `after`, a whole key, only what comes behind it. `tries` is how often a page is asked for.

        obstore takes keys for paths: it drops slashes at either end and gives up at others. These are exact.
        Raises NotFound for the bucket, ConfigError, CloudError.
        """
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(_PAGE), "encoding-type": "url"}
        if after is not None:
            query["start-after"] = after

        def ask(token: str) -> bytes:
            following = {"continuation-token": token} if token else {}
            return self.client.ask("GET", "", query={**query, **following}, tries=tries)[2]

        with self.errors("ListObjectsV2", prefix or "/"):
            for root, space in pages(ask):
                encoded = root.findtext(f"{space}EncodingType") == "url"
                for item in root.iter(f"{space}Contents"):
                    found = {child.tag: child.text for child in item}
                    entry = _entry(found, space, encoded=encoded, cut=cut)
                    if entry is not None:
                        yield entry, found.get(f"{space}StorageClass") or "STANDARD"

    def receive(
        self, path: str, start: int, length: int, etag: str, take: Callable[[memoryview], object]
    ) -> None:
        """Give a range of the object that `etag` names to `take`, in pieces that are good until it returns.

        One try. obstore copies what comes twice more before it can be hashed and written.
        Raises PreconditionFailed, StoreAway, StoreRefused, and what `take` raises.
        """
        buffer = memoryview(bytearray(min(length, _PIECE)))

        def into(answer: HTTPResponse) -> None:
            told = answer.getheader("content-length")
            if told is not None and told != str(length):
                raise StoreAway(f"{told} bytes of {path} came where {length} were asked for")
            left = length
            while left:
                count = _received(answer, buffer[:left], path)
                if not count:
                    raise StoreAway(f"{path} was cut short: {length - left} of {length} bytes came")
                take(buffer[:count])
                left -= count

        headers = {"Range": f"bytes={start}-{start + length - 1}", "If-Match": f'"{etag}"'}
        self.client.ask("GET", path, headers=headers, into=into, tries=1)

    @contextmanager
    def errors(self, operation: str, key: str) -> Generator[None]:
        """The client's errors as ours; NotFound for HTTP 404, Conflict for a condition that does not hold."""
        try:
            yield
        except PreconditionFailed as error:
            raise Conflict(
                f"{key} was changed by somebody else", why=f"S3 answered {operation} so"
            ) from error
        except StoreAway as error:
            failed = _failed(operation, key, error, code="Unreachable")
            raise self._access.over(operation) or failed from error
        except StoreRefused as error:
            text = str(error)
            if "NoSuchBucket" in text:
                raise NoBucket(
                    f"There is no bucket {self._bucket}",
                    why=f"S3 answered {operation} so",
                    next=f"look at the name; aws s3 mb s3://{quoted(self._bucket)} makes one",
                ) from error
            if "HTTP 404" in text:
                raise NotFound(f"There is no {key}", why=text) from error
            if refused := of_one_object(operation, key, text):
                raise refused from error
            if "HTTP 403" in text or "HTTP 401" in text:
                raise ConfigError(
                    f"S3 refused {operation} of {key} in {self._bucket}",
                    why=text[:300],
                    next="check the credentials and their rights on this bucket",
                ) from error
            code = next((code for code in ("BadDigest", "InvalidRange") if code in text), "Refused")
            raise _failed(operation, key, error, code=code) from error


def _received(answer: HTTPResponse, buffer: memoryview, path: str) -> int:
    from http.client import HTTPException

    try:
        return answer.readinto(buffer)
    except (OSError, HTTPException) as error:
        raise StoreAway(f"{path} was cut short: {error}") from error


def _entry(found: dict[str, str | None], space: str, *, encoded: bool, cut: int) -> Entry | None:
    text = found.get(f"{space}Key") or ""
    key = unquote_plus(text) if encoded and ("%" in text or "+" in text) else text
    size = int(found.get(f"{space}Size") or 0)
    if len(key) == cut or (size == 0 and key.endswith("/")):
        return None
    etag = (found.get(f"{space}ETag") or "").strip('"')
    return Entry(key[cut:], size, _nanoseconds(found.get(f"{space}LastModified") or ""), etag)


def _nanoseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6) * 1000


class _Keys:
    """The access's credentials as the agent's client takes them."""

    def __init__(self, access: S3Access) -> None:
        from runctl.agent.imds import Metadata

        self._access = access
        self._own = None if access.credentials else RoleCredentials(Metadata())
        self._kept: Keys | None = None

    def get(self) -> Keys:
        if self._access.credentials is None:
            assert self._own  # noqa: S101
            return self._own.get()
        kept = self._kept
        if kept is None or kept.expires < time.time():
            answer = self._access.credentials()
            keys = answer if isinstance(answer, Credentials) else Credentials(*answer)
            ends = keys.expires.timestamp() - 300 if keys.expires else time.time() + 600
            kept = self._kept = Keys(keys.access_key, keys.secret_key, keys.token, ends)
        return kept

    def forget(self) -> None:
        self._kept = None
        if self._own:
            self._own.forget()


def of_one_object(operation: str, key: str, text: str) -> CloudError | None:
    """The error for a refusal that may be about this object only; None for any other text of S3's."""
    if "InvalidObjectState" in text:
        why = "it lies in an archive (Glacier); aws s3api restore-object brings it back for some days"
        return _failed(operation, key, why, code="InvalidObjectState")
    if "AccessDenied" in text and operation == "GetObject":
        return _failed(operation, key, "S3 says AccessDenied: to it, or to its KMS key", code="AccessDenied")
    return None


def _failed(operation: str, key: str, error: object, *, code: str) -> CloudError:
    return CloudError(
        f"S3 failed at {operation} of {key}",
        service="s3",
        operation=operation,
        code=code,
        retryable=code == "Unreachable",
        why=str(error)[:300],
    )
