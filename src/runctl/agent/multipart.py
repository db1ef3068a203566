"""Uploads in parts: begun, gone on with, completed or given up.

Each part goes with its SHA-256, which S3 verifies and keeps; the whole has the SHA-256 of those.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

from .answers import parsed
from .failures import StoreAway, StoreRefused
from .objects import composite
from .s3 import body_of

if TYPE_CHECKING:
    from .s3 import Bucket

PART = 16 * 1024 * 1024
MOST_PARTS = 10_000
TRIES_OF_A_COPY = 4
TRIES_OF_A_PART = 16  # about a minute: a long upload outlives a short outage

_ETAG = re.compile(rb"<ETag>(?:&quot;|&#34;|\")?([^<&\"]+)")
_MD5 = re.compile(r"[0-9a-f]{32}")
_CHECKSUM = re.compile(rb"<ChecksumSHA256>([A-Za-z0-9+/=]+)<")


class Part(NamedTuple):
    """A part that S3 has: `size` in bytes, `checksum` is its SHA-256 in base 64."""

    number: int
    etag: str
    checksum: str
    size: int


def part_size(size: int) -> int:
    """How many bytes each part but the last has."""
    return max(PART, -(-size // MOST_PARTS))


class Multipart:
    """One upload in parts under a key. Thread-safe."""

    def __init__(self, bucket: Bucket, key: str, upload: str) -> None:
        self._bucket = bucket
        self.key = key
        self.upload = upload

    @staticmethod
    def begin(bucket: Bucket, key: str, tries: int = 4) -> Multipart:
        """Raises StoreAway, StoreRefused, as every method here.

        Each of the tries whose answer is lost leaves an upload open.
        """
        headers = {"x-amz-checksum-algorithm": "SHA256"}
        _, _, body = bucket.ask("POST", key, query={"uploads": ""}, headers=headers, tries=tries)
        match = re.search(r"<UploadId>([^<]+)</UploadId>", body.decode())
        if not match:
            raise StoreAway("no upload id")
        return Multipart(bucket, key, match.group(1))

    def put(self, number: int, file: int, start: int, size: int, digest: Any) -> Part:
        """Send the bytes of an open file from `start` on; `digest` is their finished hashlib.sha256."""
        query = {"partNumber": str(number), "uploadId": self.upload}
        etag, checksum = self._bucket.put_slice(self.key, query, file, start, size, digest, TRIES_OF_A_PART)
        return Part(number, etag, checksum, size)

    def copy(self, number: int, source: str, start: int, size: int) -> Part:
        """Let S3 take a part from another object, of the key `source`, of its bytes from `start` on.

        The checksum is the one that S3 made of what it took; empty from a store that makes none.
        """
        query = {"partNumber": str(number), "uploadId": self.upload}
        headers = self._bucket.source_headers(source)
        headers["x-amz-copy-source-range"] = "bytes=%d-%d" % (start, start + size - 1)
        body = b""
        for _ in range(TRIES_OF_A_COPY):
            _, _, body = self._bucket.ask("PUT", self.key, query=query, headers=headers)
            etag, checksum = _ETAG.search(body), _CHECKSUM.search(body)
            if etag:  # S3 may begin with 200 and then fail
                return Part(number, '"%s"' % etag[1].decode(), checksum[1].decode() if checksum else "", size)
        raise StoreAway("copy to %s: %s" % (self.key, body.decode("utf-8", "replace")[:200]))

    def parts(self) -> List[Part]:
        """What S3 has of it by now."""
        found: List[Part] = []
        marker = "0"
        while True:
            query = {"uploadId": self.upload, "part-number-marker": marker}
            _, _, body = self._bucket.ask("GET", self.key, query=query)
            root, space = parsed(body, "list of parts of " + self.key)
            found.extend(
                Part(
                    int(item.findtext(space + "PartNumber") or 0),
                    item.findtext(space + "ETag") or "",
                    item.findtext(space + "ChecksumSHA256") or "",
                    int(item.findtext(space + "Size") or 0),
                )
                for item in root.findall(space + "Part")
            )
            marker = root.findtext(space + "NextPartNumberMarker") or ""
            if root.findtext(space + "IsTruncated") != "true" or not marker:
                return found

    def complete(self, parts: List[Part], condition: Optional[Dict[str, str]] = None) -> str:
        """Make the object of its parts; answers its ETag.

        `condition` is an If-Match or If-None-Match of what the key holds. Raises PreconditionFailed.
        """
        listed = "".join(
            "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><ChecksumSHA256>%s</ChecksumSHA256></Part>"
            % (part.number, part.etag, part.checksum)
            for part in sorted(parts)
        )
        done = ("<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % listed).encode()
        came = [b""]

        def into(answer: object) -> None:
            came[0] = b"".join(body_of(answer))
            if b"<Error>" in came[0]:  # S3 may begin with 200 and then fail: it is asked again
                raise StoreAway("%s: %s" % (self.key, came[0].decode("utf-8", "replace")[:200]))

        query = {"uploadId": self.upload}
        try:
            self._bucket.ask("POST", self.key, query=query, headers=condition, body=done, into=into)
        except StoreRefused:
            if not self._is_made_of(parts):  # of an upload that is over S3 knows nothing any more
                raise
            return _etag_of(parts)
        etag = _ETAG.search(came[0])
        return etag[1].decode() if etag else ""

    def _is_made_of(self, parts: List[Part]) -> bool:
        """Whether the object is there and has these parts: then only the answer that said so was lost."""
        expected = _etag_of(parts)
        status, told, _ = self._bucket.ask("HEAD", self.key, missing_is_fine=True)
        return bool(expected) and status == 200 and told.get("etag", "").strip('"') == expected

    def abort(self, tries: int = 4) -> None:
        """Give it up with all its parts. Idempotent."""
        query = {"uploadId": self.upload}
        self._bucket.ask("DELETE", self.key, query=query, missing_is_fine=True, tries=tries)


def _etag_of(parts: List[Part]) -> str:
    """The ETag of the object that they make; empty if theirs are no MD5s, as with keys of KMS."""
    etags = [part.etag.strip('"') for part in sorted(parts)]
    if not all(_MD5.fullmatch(etag) for etag in etags):
        return ""
    return composite([bytes.fromhex(etag) for etag in etags])
