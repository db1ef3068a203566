"""A dataset in S3: what it lists, what names its state, which keys can be files, what its ETags prove."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from .answers import parsed
from .credentials import parse_time
from .failures import StoreRefused
from .names import unfit

OWN = ".runctl"
"""The folder on a volume that is ours."""

LONGEST_NAME = 255
LONGEST_PATH = 3500
MIB = 1024 * 1024
_SIMPLE = re.compile(r"[0-9a-f]{32}")
_COMPOSITE = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")
_USUAL_PARTS = (8, 16, 5, 50, 15, 32, 64, 10, 20, 25, 40, 48, 100, 128, 256, 512, 1024)  # MiB


class Entry(NamedTuple):
    """An object: its key within the dataset, size in bytes, ETag without quotes, seconds since 1970."""

    key: str
    size: int
    etag: str
    modified: float


def entries(bucket: Any, prefix: str) -> Iterator[Entry]:
    """Every object of a dataset in order of key, page by page; the empty ones that mark folders are left out.

    `prefix` is empty or ends with a slash. Keys come URL-encoded from S3, so that none can break the XML.
    """
    from urllib.parse import unquote_plus

    token = ""
    while True:
        query = {"list-type": "2", "prefix": prefix, "max-keys": "1000", "encoding-type": "url"}
        if token:
            query["continuation-token"] = token
        _, _, body = bucket.ask("GET", "", query=query)
        root, space = parsed(body, "listing of " + prefix)
        encoded = root.findtext(space + "EncodingType") == "url"
        for item in root.findall(space + "Contents"):
            text = item.findtext(space + "Key") or ""
            key = (unquote_plus(text) if encoded else text)[len(prefix) :]
            size = int(item.findtext(space + "Size") or 0)
            if not key or (key.endswith("/") and size == 0):
                continue
            etag = (item.findtext(space + "ETag") or "").strip('"')
            yield Entry(key, size, etag, parse_time(item.findtext(space + "LastModified") or "") or 0.0)
        token = root.findtext(space + "NextContinuationToken") or ""
        if not token:
            return


def version(listed: Iterable[Entry]) -> str:
    """The state of a dataset: SHA-256 over keys, sizes and ETags in order of the keys' bytes, in hex."""
    total = hashlib.sha256()
    for item in sorted(listed, key=lambda entry: entry.key.encode()):
        total.update(("%s\0%d\0%s\n" % (item.key, item.size, item.etag)).encode())
    return total.hexdigest()


def split(listed: Iterable[Entry]) -> Tuple[List[Entry], List[Tuple[str, str]]]:
    """What can be staged, and the names of the rest with the reason."""
    good: List[Entry] = []
    refused: List[Tuple[str, str]] = []
    names: Set[str] = set()
    for item in listed:
        why = fault(item.key)
        if not why:
            parts = item.key.split("/")
            above = next((p for p in _parents(parts) if p in names), None)
            why = "%r is a file, and cannot be a folder too" % above if above else ""
        if why:
            refused.append((item.key, why))
        else:
            names.add(item.key)
            good.append(item)
    return good, refused


def fault(key: str) -> str:
    """Why a key cannot be a file of a folder; empty where it can."""
    why = unfit(key)
    if why:
        return why
    parts = key.split("/")
    faults = (
        (key.startswith("/"), "its name is an absolute path"),
        (".." in parts or "." in parts, "its name has '.' or '..' as a part, and would lead elsewhere"),
        ("" in parts, "its name has an empty part"),
        (
            any(len(part.encode()) > LONGEST_NAME for part in parts) or len(key.encode()) > LONGEST_PATH,
            "its name is longer than a file system takes",
        ),
        (parts[0] in (OWN, "lost+found"), "%s is kept for the volume itself" % parts[0]),
    )
    return next((why for is_so, why in faults if is_so), "")


def _parents(parts: List[str]) -> Iterator[str]:
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def count_of_parts(etag: str) -> Optional[int]:
    """How many parts an object was sent in, None for an ETag that is no MD5 at all."""
    if _SIMPLE.fullmatch(etag):
        return 1
    found = _COMPOSITE.fullmatch(etag)
    return int(found.group(1)) if found else None


def matches(path: str, item: Entry, part: int = 0) -> Optional[bool]:
    """Whether a file's bytes are those that the ETag names; None where the ETag cannot tell.

    `part` is the size of its parts where it is known; else the usual ones are tried: a miss proves nothing.
    """
    count = count_of_parts(item.etag)
    if count is None:
        return None
    if "-" not in item.etag:
        return _digest(path, 0, item.size).hexdigest() == item.etag
    for size in [part] if part else _possible(item.size, count):
        digests = [_digest(path, start, size).digest() for start in range(0, item.size, size)]
        if composite(digests) == item.etag:
            return True
    return False if part else None


def composite(digests: List[bytes]) -> str:
    """The ETag of an object that was sent in parts, from the MD5 of each."""
    return "%s-%d" % (hashlib.md5(b"".join(digests)).hexdigest(), len(digests))  # noqa: S324 (S3's own form)


def _possible(size: int, count: int) -> List[int]:
    exact = -(-size // count)
    found = [mib * MIB for mib in _USUAL_PARTS] + [exact, -(-exact // MIB) * MIB]
    return [part for part in dict.fromkeys(found) if part > 0 and -(-size // part) == count]


def _digest(path: str, start: int, length: int) -> Any:
    digest = hashlib.md5()  # noqa: S324 (S3's own form)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while length > 0:
            chunk = file.read(min(4 * MIB, length))
            if not chunk:
                break
            digest.update(chunk)
            length -= len(chunk)
    return digest


def part_size(bucket: Any, key: str, item: Entry) -> int:
    """How large the parts of an object are, as S3 tells of its first; 0 where it does not."""
    count = count_of_parts(item.etag) or 1
    if "-" not in item.etag:
        return 0
    if count == 1:
        return max(item.size, 1)
    headers = {"If-Match": '"%s"' % item.etag}
    try:
        _, got, _ = bucket.ask("HEAD", key, query={"partNumber": "1"}, headers=headers)
    except StoreRefused:  # not every store knows parts; what is gone is found out by who reads it
        return 0
    size = int(got.get("content-length") or 0)
    return size if size and -(-item.size // size) == count else 0


def is_md5(headers: Dict[str, str]) -> bool:
    """Whether the ETag of an answer is an MD5: with keys of KMS or of the customer it is none."""
    kind = headers.get("x-amz-server-side-encryption", "")
    return not kind.startswith("aws:kms") and "x-amz-server-side-encryption-customer-algorithm" not in headers


def inside(folder: str, key: str) -> str:
    """The path of a key in a folder. Raises OSError where a link or a file lies on the way."""
    path = folder
    parts = key.split("/")
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
            raise NotADirectoryError(20, "%s is no folder" % os.path.relpath(path, folder), path)
    return os.path.join(path, parts[-1])
