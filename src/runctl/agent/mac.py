"""How the sides of a transfer know what the other sent from what somebody else put in its place.

Every message that lies between them carries an HMAC by the transfer's key, over what it is called, too: none
counts in another's place. The key itself never lies there: machines are handed it with their command.
"""

from __future__ import annotations

import hashlib
import hmac

LENGTH = 32
_DOMAIN = b"runctl transfer 1\0"


def of(key: str, name: str, data: bytes) -> bytes:
    """The HMAC of the message `name`; `key` is the transfer's, in hex."""
    return hmac.new(bytes.fromhex(key), _DOMAIN + name.encode() + b"\0" + data, hashlib.sha256).digest()


def holds(key: str, name: str, data: bytes, found: bytes) -> bool:
    """Whether a message has the HMAC that it should."""
    return hmac.compare_digest(found, of(key, name, data))
