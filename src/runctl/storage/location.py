"""The three places that a user can name: a local path, an S3 prefix, a path on an instance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runctl.errors import ValidationError

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
# S3's naming rules: 3 to 63 characters, lower case, no neighbouring dots.
_BUCKET = re.compile(r"^(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_INSTANCE = re.compile(r"^(i-[0-9a-f]{8,17}):(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file or folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a key or prefix in it; the key has no leading slash."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class InstancePath:
    """An absolute path on an instance."""

    instance: str
    path: str

    def __str__(self) -> str:
        return f"{self.instance}:{self.path}"


Location = LocalPath | S3Location | InstancePath


def parse(text: str) -> Location:
    """Read a location as the user wrote it. Raises ValidationError for what is none."""
    if not text.strip() or "\0" in text:
        raise _no_location(text, "it is empty")
    if scheme := _SCHEME.match(text):
        if scheme[1] != "s3":
            raise _no_location(text, f"{scheme[1]}:// is no place that runctl knows")
        return _parse_s3(text)
    if instance := _INSTANCE.match(text):
        if not instance[2].startswith("/"):
            raise _no_location(text, "the path on an instance must be absolute")
        return InstancePath(instance[1], instance[2])
    return LocalPath(Path(text).expanduser() if text.startswith("~/") else Path(text))


def _parse_s3(text: str) -> S3Location:
    bucket, _, key = text.removeprefix("s3://").partition("/")
    if not _BUCKET.match(bucket):
        raise _no_location(text, f"{bucket!r} is no bucket name: 3 to 63 of a-z, 0-9, dot and hyphen")
    return S3Location(bucket, key.lstrip("/"))


def _no_location(text: str, why: str) -> ValidationError:
    return ValidationError(
        f"This is no location: {text!r}",
        why=why,
        next="a location is a local path, s3://bucket/key or i-0123456789abcdef0:/path",
    )
