"""The door to storage: objects by key, in a bucket or in a folder, behind one small interface."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runctl.storage.folder import FolderStore
from runctl.storage.objects import ObjectInfo, Store
from runctl.storage.s3 import Credentials, S3Access, S3Store
from runctl.storage.tree import Transferred, upload_folder

__all__ = [
    "Credentials",
    "FolderStore",
    "ObjectInfo",
    "S3Access",
    "S3Store",
    "Store",
    "Transferred",
    "digest",
    "open_store",
    "upload_folder",
]


def open_store(bucket: str, prefix: str, access: S3Access) -> Store:
    """The objects of `bucket` under `prefix`; nothing is asked of S3 before the first call."""
    return S3Store(bucket, prefix, access)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
