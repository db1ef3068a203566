"""The three places that a user can name: a local path, an S3 prefix, a path on an instance."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from runctl.errors import ValidationError

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_INSTANCE = re.compile(r"(i-[0-9a-f]+):(.*)", re.DOTALL)
_NEEDS_A_DOT = re.compile(r"s3:|~|i-[0-9a-f]+:|\s+$", re.IGNORECASE)
_INSTANCE_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")


class LocalPath(msgspec.Struct, frozen=True):
    """A file or folder on this machine."""

    path: Path

    def __str__(self) -> str:
        text = str(self.path)
        return f"./{text}" if _NEEDS_A_DOT.match(text) else text


class S3Location(msgspec.Struct, frozen=True):
    """A bucket and a key or prefix in it; the key has no leading slash and is empty for the whole bucket."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class InstancePath(msgspec.Struct, frozen=True):
    """An absolute path on an instance."""

    instance: str
    path: str

    def __str__(self) -> str:
        return f"{self.instance}:{self.path}"


def parse(text: str) -> LocalPath | S3Location | InstancePath:
    """Read a location as the user wrote it. Raises ValidationError for what is none.

    A local path that looks like another kind is written with `./` before it. Bucket names follow
    the rules of the S3 user guide for general purpose buckets.
    """
    if not text.strip():
        raise _no_location(text, "it is empty")
    if "\0" in text:
        raise _no_location(text, "no path holds a NUL character")
    if scheme := _SCHEME.match(text):
        if scheme[1].lower() != "s3":
            raise _no_location(text, f"{scheme[1]}:// is no place that runctl knows")
        return _parse_s3(text, text[scheme.end() :])
    if text.lower().startswith("s3:"):
        raise _no_location(text, "S3 locations begin with s3: and two slashes")
    if instance := _INSTANCE.fullmatch(text):
        return _parse_instance(text, instance[1], instance[2])
    return LocalPath(_expand_home(text))


def _parse_s3(text: str, rest: str) -> S3Location:
    bucket, _, key = rest.partition("/")
    if why := _bucket_fault(bucket):
        raise _no_location(text, why)
    parts = key.removesuffix("/").split("/") if key else []
    if any(part in {".", ".."} for part in parts):
        raise _no_location(text, "a key with '.' or '..' as a part could not be told from a path")
    if "" in parts:
        raise _no_location(text, "the key has an empty part: two slashes follow each other")
    return S3Location(bucket, key)


def _bucket_fault(bucket: str) -> str | None:
    if not bucket:
        return "the bucket is missing"
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or ".-" in bucket or "-." in bucket:
        return f"{bucket!r} is no bucket name: 3 to 63 of a-z, 0-9, hyphen and dot, no such sign at an end"
    if bucket.startswith(_RESERVED_STARTS) or bucket.endswith(_RESERVED_ENDS):
        return f"{bucket!r} is no bucket name: S3 keeps names like it reserved"
    try:
        ipaddress.IPv4Address(bucket)
    except ValueError:
        return None
    return f"{bucket!r} is an IP address, and no bucket may be named like one"


def _parse_instance(text: str, instance: str, path: str) -> InstancePath:
    if not _INSTANCE_ID.fullmatch(instance):
        raise _no_location(text, f"{instance} is no instance id: i- and 8 or 17 hexadecimal digits")
    if not path.startswith("/"):
        raise _no_location(text, "the path on an instance must be absolute")
    return InstancePath(instance, path)


def _expand_home(text: str) -> Path:
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def _no_location(text: str, why: str) -> ValidationError:
    return ValidationError(
        f"This is no location: {text!r}",
        why=why,
        next="a location is a local path, s3://bucket/key or i-0123456789abcdef0:/path",
    )
