"""Objects that are called by their digest: what lies under such a name is checked, never believed."""

from __future__ import annotations

import hashlib

from runctl.errors import NotFound
from runctl.storage.access import S3Access
from runctl.storage.bulk import BulkStore, Proof


def ensure(bucket: str, access: S3Access, key: str, data: bytes) -> bool:
    """Have these very bytes under a key; whether they had to be sent.

    S3 itself says what SHA-256 the object has: it verified that when the object was written, whoever wrote
    it. An object of which S3 keeps none is replaced. Raises as every store does.
    """
    store = BulkStore(bucket, "", access)
    try:
        if _proof(store, key, len(data)) == Proof("sha256", hashlib.sha256(data).hexdigest()):
            return False
        store.send_long(key, data)
        return True
    finally:
        store.close()


def _proof(store: BulkStore, key: str, size: int) -> Proof | None:
    try:
        return store.proof(key, size, "", ("sha256",))
    except NotFound:
        return None
