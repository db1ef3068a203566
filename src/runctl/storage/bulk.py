"""An S3 prefix with what transfers need beside a store: ETags with bodies, checksums, uploads in parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import msgspec

from runctl.agent.answers import parsed
from runctl.agent.multipart import Multipart
from runctl.agent.objects import is_md5
from runctl.errors import CloudError, Conflict, NotFound, TrainctlError
from runctl.storage import digests, etags
from runctl.storage.access import S3Access
from runctl.storage.entries import Entry
from runctl.storage.requests import Requests, of_one_object
from runctl.storage.s3 import S3Store, entry_of

if TYPE_CHECKING:
    from obstore import Bytes, PutMode

    from runctl.agent.s3 import Bucket

_CHUNK = 1024 * 1024
_INLINE = 64 * etags.MIB
"""Bytes: bigger parts of a sender are fetched in pieces, and proven when all are there."""


class Body(NamedTuple):
    """An object's bytes, with what S3 said of it: ETag, and its time in nanoseconds."""

    data: Bytes
    etag: str
    modified: int


class OpenUpload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload in parts that is open; `key` is the whole one, `size` counts the bytes that are there."""

    bucket: str
    key: str
    upload: str
    began: datetime
    size: int


class Proof(msgspec.Struct, frozen=True):
    """What shows that the right bytes came: a digest of the whole in hex, or of the digests of its parts.

    `algorithm` is sha256, md5, a CRC, or empty where S3 keeps nothing that can be checked. `part_size` is in
    bytes, 0 for a digest of the whole.
    """

    algorithm: str
    expected: str
    part_size: int = 0

    @property
    def while_it_comes(self) -> bool:
        """Whether each part can be hashed on its way: a CRC of the whole is made of those of its pieces."""
        return 0 < self.part_size <= _INLINE or (self.algorithm in digests.CRCS and not self.part_size)

    def holds(self, parts: Sequence[bytes], size: int, part_size: int) -> bool:
        """Whether these are the digests of the parts, each but the last of `part_size` bytes, of `size`."""
        if self.algorithm == "md5":
            return etags.of_parts(parts) == self.expected
        if self.part_size:
            return f"{digests.of_digests(self.algorithm, parts)}-{len(parts)}" == self.expected
        starts = range(0, size, part_size)
        pieces = ((part, min(part_size, size - at)) for part, at in zip(parts, starts, strict=True))
        return digests.of_whole(self.algorithm, pieces).hex() == self.expected


class BulkStore(S3Store):
    """Reads and writes many objects. Thread-safe."""

    def __init__(self, bucket: str, prefix: str, access: S3Access) -> None:
        super().__init__(bucket, prefix, access)
        self._requests = Requests(bucket, access)

    @property
    def place(self) -> str:
        """The bucket and prefix at their endpoint."""
        return f"{self._access.endpoint or 's3'}/{self.bucket}/{self.prefix}"

    def _refused(self, operation: str, key: str, text: str) -> TrainctlError:
        return of_one_object(operation, key, text) or super()._refused(operation, key, text)

    def fetch(self, key: str) -> Body:
        """One object in memory. Raises NotFound, CloudError (code ShortRead) where it came short."""
        import obstore

        with self._errors("GetObject", key):
            answer = obstore.get(self._client(), self._path(key))
            data, entry = answer.bytes(), entry_of(answer.meta, 0)
        if len(data) != entry.size:
            raise _short(key, len(data), entry.size)
        return Body(data, entry.etag, entry.modified)

    def receive(
        self, key: str, start: int, length: int, etag: str, take: Callable[[memoryview], object]
    ) -> None:
        """Give a range of the object that `etag` names to `take`, piece by piece, as it comes.

        A piece is good until `take` returns. One try. Raises Conflict, NotFound, CloudError.
        """
        with self.part_errors("GetObject", key):
            self._requests.receive(self._path(key), start, length, etag, take)

    def send(self, key: str, data: bytes, mode: PutMode = "overwrite") -> str:
        """Write one object, which S3 checks against its SHA-256; answers its ETag.

        Raises Conflict where the `mode` forbids it.
        """
        import obstore

        with self._errors("PutObject", key):
            answer = obstore.put(self._client(), self._path(key), data, mode=mode, use_multipart=False)
        return (answer["e_tag"] or "").strip('"')

    def send_long(self, key: str, data: bytes) -> None:
        """The same for many megabytes: obstore gives up where S3 is silent while it sends."""
        digest = hashlib.sha256(data)
        headers = {
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
        }
        view = memoryview(data)
        with self.part_errors("PutObject", key):
            self._bucket().ask(
                "PUT",
                self._path(key),
                headers=headers,
                # In pieces: a timeout holds for each of them.
                body=lambda: iter([view[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]),
                digest=digest.hexdigest(),
                length=len(data),
            )

    def head(self, key: str) -> Entry:
        """One object without its bytes. Raises NotFound."""
        import obstore

        with self._errors("HeadObject", key):
            return entry_of(obstore.head(self._client(), self._path(key)), len(self._whole("")))

    def remove(self, keys: list[str]) -> None:
        """Delete many objects. Idempotent."""
        import obstore

        if keys:
            with self._errors("DeleteObjects", keys[0]):
                obstore.delete(self._client(), [self._path(key) for key in keys])

    def proof(
        self, key: str, size: int, etag: str, algorithms: Sequence[str] = ("sha256", *digests.CRCS)
    ) -> Proof:
        """What S3 keeps of an object to check it by: a checksum by one of `algorithms`, then its ETag."""
        headers = self._head(key)
        checksum = digests.of_headers(headers, algorithms)
        if checksum is None:
            return self._by_etag(key, size, etag) if is_md5(headers) else Proof("", "")
        if not checksum.parts:
            return Proof(checksum.algorithm, base64.b64decode(checksum.value).hex())
        part_size = self._part_size(key, size, checksum.parts)
        if part_size:
            return Proof(checksum.algorithm, f"{checksum.value}-{checksum.parts}", part_size)
        return self._by_etag(key, size, etag) if is_md5(headers) else Proof("", "")

    def _by_etag(self, key: str, size: int, etag: str) -> Proof:
        count = etags.parts_of(etag)
        if count is None:
            return Proof("", "")
        return Proof("md5", etag, 0 if count == 1 else self._part_size(key, size, count))

    def begin_parts(self, key: str) -> Multipart:
        """One try: whoever tries again must close what a lost answer left open, see `open_parts`."""
        with self.part_errors("CreateMultipartUpload", key):
            return Multipart.begin(self._bucket(), self._path(key), tries=1)

    def parts(self, key: str, upload: str) -> Multipart:
        """An upload that was begun before."""
        return Multipart(self._bucket(), self._path(key), upload)

    def open_parts(self, key: str, since: float) -> list[Multipart]:
        """The uploads in parts of this very key that are open and were begun at `since` (epoch) or later."""
        path = self._path(key)
        with self.part_errors("ListMultipartUploads", key):
            body = self._bucket().ask("GET", "", query={"uploads": "", "prefix": path})[2]
            root, space = parsed(body, "list of uploads")
        return [
            Multipart(self._bucket(), path, one.findtext(f"{space}UploadId") or "")
            for one in root.iter(f"{space}Upload")
            if one.findtext(f"{space}Key") == path
            and datetime.fromisoformat(one.findtext(f"{space}Initiated") or "").timestamp() >= since
        ]

    def ask(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[dict[str, str], bytes]:
        """A request that has no method of its own; answers headers and body. Raises as `part_errors` does."""
        with self.part_errors(operation, key):
            answer = self._bucket().ask(method, self._path(key), query=query, headers=headers, body=body)
        return answer[1], answer[2]

    def copy_source(self, key: str) -> str:
        """How an object is named to S3 as the source of a copy."""
        return quote(f"/{self.bucket}/{self._path(key)}", safe="/-_.~")

    def open_uploads(self) -> Iterator[OpenUpload]:
        """The uploads in parts under the prefix that were begun and neither completed nor given up."""
        query = {"uploads": "", "prefix": f"{self.prefix}/" if self.prefix else ""}
        while True:
            with self.part_errors("ListMultipartUploads", self.prefix):
                body = self._bucket().ask("GET", "", query=query)[2]
                root, space = parsed(body, "list of uploads")
            found = list(root.iter(f"{space}Upload"))
            for one in found:
                key, upload = one.findtext(f"{space}Key") or "", one.findtext(f"{space}UploadId") or ""
                began = datetime.fromisoformat(one.findtext(f"{space}Initiated") or "")
                with self.part_errors("ListParts", key):
                    size = sum(part.size for part in Multipart(self._bucket(), key, upload).parts())
                yield OpenUpload(bucket=self.bucket, key=key, upload=upload, began=began, size=size)
            if not found or root.findtext(f"{space}IsTruncated") != "true":
                return
            last = found[-1]
            query["key-marker"] = root.findtext(f"{space}NextKeyMarker") or last.findtext(f"{space}Key") or ""
            query["upload-id-marker"] = root.findtext(f"{space}NextUploadIdMarker") or ""

    def close(self) -> None:
        """Close the connections that wait for the next request."""
        self._requests.close()

    def part_errors(self, operation: str, key: str) -> AbstractContextManager[None]:
        """Around calls of an upload in parts: its client's errors as ours, NotFound for HTTP 404."""
        return self._requests.errors(operation, key)

    def _head(self, key: str) -> dict[str, str]:
        with self.part_errors("HeadObject", key):
            mode = {"x-amz-checksum-mode": "ENABLED"}
            return self._bucket().ask("HEAD", self._path(key), headers=mode)[1]

    def _part_size(self, key: str, size: int, count: int) -> int:
        """How many bytes each part of the sender had, 0 where they were not alike."""
        return self.told_part_size(key, size, count) or next(etags.possible_parts(size, count), 0)

    def told_part_size(self, key: str, size: int, count: int) -> int:
        """The bytes of each of an object's parts as S3 tells of its first; 0 where it does not."""
        try:
            with self.part_errors("HeadObject", key):
                headers = self._bucket().ask("HEAD", self._path(key), query={"partNumber": "1"})[1]
            first = int(headers.get("content-length", "0"))
        except (CloudError, NotFound, Conflict):
            first = 0
        return first if first and -(-size // first) == count else 0

    def _bucket(self) -> Bucket:
        return self._requests.client


def _short(key: str, came: int, size: int) -> CloudError:
    return CloudError(
        f"S3 cut {key} short",
        service="s3",
        operation="GetObject",
        code="ShortRead",
        retryable=True,
        why=f"{came} of {size} bytes came",
    )
