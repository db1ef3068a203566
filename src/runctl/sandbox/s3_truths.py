# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""What S3 does and moto does not: checksums, owners of buckets, refusals of copies, ranges by themselves."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.dom import minidom

from moto.s3.exceptions import InvalidPart, MissingKey, NoSuchUpload, PreconditionFailed, S3ClientError
from moto.s3.models import FakeKey, S3Backend, s3_backends
from moto.s3.responses import S3Response
from moto.s3.utils import compute_checksum

_HEADERS = {
    "HTTP_CONTENT_MD5": lambda body: hashlib.md5(body).digest(),  # noqa: S324 (S3's own header)
    "HTTP_X_AMZ_CHECKSUM_CRC32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "HTTP_X_AMZ_CHECKSUM_SHA256": lambda body: hashlib.sha256(body).digest(),
    "HTTP_X_AMZ_CHECKSUM_SHA1": lambda body: hashlib.sha1(body).digest(),  # noqa: S324 (S3's own header)
}


def wrong_owner(environ: Mapping[str, Any]) -> tuple[str, str] | None:
    """The code and message with which S3 refuses a request that expects another owner of its bucket."""
    for header, path in (
        ("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER", environ.get("PATH_INFO", "")),
        ("HTTP_X_AMZ_SOURCE_EXPECTED_BUCKET_OWNER", unquote(environ.get("HTTP_X_AMZ_COPY_SOURCE", ""))),
    ):
        expected = environ.get(header)
        owner = s3_backends.bucket_accounts.get(str(path).lstrip("/").partition("/")[0])
        if expected and owner is not None and owner[1] != expected:
            return "AccessDenied", "Access Denied"
    return None


def carries_checksum(headers: Mapping[str, Any]) -> bool:
    """Whether an upload names a checksum of its plain body."""
    if "aws-chunked" in str(headers.get("HTTP_CONTENT_ENCODING", "")):
        return False
    return any(name in headers for name in _HEADERS)


def wrong_checksum(headers: Mapping[str, Any], body: bytes) -> tuple[str, str] | None:
    """The code and message with which S3 refuses a body that is not what its headers say."""
    for name, digest in _HEADERS.items():
        if name in headers and base64.b64encode(digest(body)).decode() != headers[name]:
            kind = name.removeprefix("HTTP_").replace("_", "-").lower()
            return "BadDigest", f"The {kind} you specified did not match the calculated checksum."
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


_COMPOSITE = "COMPOSITE"
_head: Any = S3Response.head_object
_copy: Any = S3Backend.copy_object


def _head_object(self: Any, bucket: str, query: dict[str, Any], key: str, headers: Any) -> Any:
    """Of an object sent in parts, HEAD names the checksum as GET does: that of the parts, and how many."""
    status, told, body = _head(self, bucket, query, key, headers)
    version = query.get("versionId", [None])[0]
    found = self.backend.head_object(bucket, key, version) if status == 200 else None
    name = f"x-amz-checksum-{str(found and found.checksum_algorithm).lower()}"
    if found is not None and found.checksum_type and name in told and "partNumber" not in query:
        told["x-amz-checksum-type"] = found.checksum_type
        if found.checksum_type == _COMPOSITE:
            told[name] = f"{found.checksum_value}-{found.checksum_parts}"
    return status, told, body


def _copy_object(self: Any, source: Any, bucket: str, key: str, *more: Any, **options: Any) -> None:
    """A copy is one piece, and so is its checksum, however the source was sent."""
    _copy(self, source, bucket, key, *more, **options)
    made = self.get_object(bucket, key)
    if source.checksum_type == _COMPOSITE and made is not None:
        made.checksum_value = compute_checksum(made.value, made.checksum_algorithm).decode()


_copy_part: Any = S3Response.upload_part_copy


def _upload_part_copy(self: Any) -> Any:
    """A copied part is answered with the checksum that its upload wants; only what is asked for is read."""
    source, span = str(self.headers["x-amz-copy-source"]), self.headers.get("x-amz-copy-source-range", "")
    bucket, _, key = unquote(urlsplit(source).path).lstrip("/").partition("/")
    version = parse_qs(urlsplit(source).query).get("versionId", [None])[0]
    upload = self.backend.get_bucket(self.bucket_name).multiparts.get(self._get_param("uploadId"))
    if upload is None:
        raise NoSuchUpload(self._get_param("uploadId"))
    found = self.backend.get_object(bucket, key, version_id=version)
    if found is None:
        raise MissingKey(key)
    wanted = self.headers.get("x-amz-copy-source-if-match", "").strip('"')
    if wanted and wanted != found.etag.strip('"'):
        raise PreconditionFailed("x-amz-copy-source-If-Match")
    if span:
        cut = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
        if cut is None or not int(cut[1]) <= int(cut[2]) < found.size:
            message = f"Range specified is not valid for source object of size: {found.size}"
            raise S3ClientError("InvalidArgument", message)
    ranged.on = bool(span)
    try:
        status, headers, body = _copy_part(self)
    finally:
        ranged.on = False
    algorithm = upload.metadata.get("x-amz-checksum-algorithm")
    if algorithm:
        made = upload.parts[self._get_int_param("partNumber")].value
        name = f"Checksum{algorithm.upper()}"
        told = f"<{name}>{compute_checksum(made, algorithm).decode()}</{name}></CopyPartResult>"
        text = body.decode() if isinstance(body, bytes) else body
        body = text.replace("</CopyPartResult>", told)
        headers["content-length"] = str(len(body))
    return status, headers, body


_send_part: Any = S3Response.upload_part


def _sent_part(self: Any) -> Any:
    """A part is confirmed with the checksum that its upload wants: clients name it when they complete."""
    status, headers, body = _send_part(self)
    upload = self.backend.get_bucket(self.bucket_name).multiparts.get(self._get_param("uploadId"))
    algorithm = str(upload.metadata.get("x-amz-checksum-algorithm") or "").lower() if upload else ""
    if status == 200 and algorithm:
        made = upload.parts[self._get_int_param("partNumber")].value
        headers[f"x-amz-checksum-{algorithm}"] = compute_checksum(made, algorithm.upper()).decode()
    return status, headers, body


_OF_PARTS = {"SHA1", "SHA256"}
"""Algorithms whose checksum of an object is always made of those of its parts."""
_upload_part: Any = S3Backend.upload_part
_complete: Any = S3Backend.complete_multipart_upload
_completion_body: Any = S3Response._complete_multipart_body


def _begun(backend: Any, bucket: str, upload: str) -> Any:
    found = backend.get_bucket(bucket).multiparts.get(upload)
    if found is None:
        raise NoSuchUpload(upload)
    return found


def _part_of_an_upload(self: Any, bucket: str, upload: str, number: int, value: bytes) -> Any:
    _begun(self, bucket, upload)
    return _upload_part(self, bucket, upload, number, value)


def _end_of_an_upload(self: Any, bucket: str, upload: str, body: Any) -> Any:
    _begun(self, bucket, upload)
    return _complete(self, bucket, upload, body)


def _named_parts(self: Any, body: bytes) -> Iterator[tuple[int, str]]:
    """The parts that a completion names, each with the checksum of what was sent or copied."""
    upload = _begun(self.backend, self.bucket_name, self._get_param("uploadId"))
    algorithm = str(upload.metadata.get("x-amz-checksum-algorithm") or "").upper()
    items = minidom.parseString(body).getElementsByTagName("Part")  # noqa: S318 (as moto reads it below)
    for place, (item, (number, etag)) in enumerate(zip(items, _completion_body(self, body), strict=True), 1):
        found = item.getElementsByTagName(f"Checksum{algorithm}") if algorithm else []
        told = "".join(child.data for child in found[0].childNodes) if found else ""
        part = upload.parts.get(number)
        if told and part is not None and told != compute_checksum(part.value, algorithm).decode():
            raise InvalidPart
        if algorithm in _OF_PARTS and not told:
            raise S3ClientError(
                "InvalidRequest",
                f"The upload was created using a {algorithm.lower()} checksum. The complete request must"
                f" include the checksum for each part. It was missing for part {place} in the request.",
            )
        yield number, etag


S3Backend.upload_part = _part_of_an_upload
S3Backend.complete_multipart_upload = _end_of_an_upload
S3Response._complete_multipart_body = _named_parts
S3Response.head_object = _head_object
S3Response.upload_part_copy = _upload_part_copy
S3Response.upload_part = _sent_part
S3Backend.copy_object = _copy_object
