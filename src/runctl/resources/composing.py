"""Big files on their way to S3: staged in pieces, put together there of what their sender says it staged."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from runctl.agent.objects import composite
from runctl.agent.report import sealed
from runctl.errors import CloudError, TransferError
from runctl.providers.aws.session import Session
from runctl.providers.aws.uploads import Part, compose
from runctl.resources.leg_plan import Pair, Parcel
from runctl.storage import etags
from runctl.storage.bulk import BulkStore
from runctl.storage.staging import UPLOADS, SigningStore


class Composer:
    """Makes objects of what is staged; `unproven` is told the names of those that S3 gives no MD5 of.

    `sent` are the ETags of the pieces by their names, as their sender got them from S3; `key` is the
    transfer's, in hex.
    """

    def __init__(
        self,
        session: Session,
        staging: SigningStore,
        key: str,
        sent: Mapping[str, str],
        unproven: Callable[[list[str]], None],
    ) -> None:
        self._session = session
        self._staging = staging
        self._unproven = unproven
        self._key = key
        self._sent = sent

    def put_together(self, store: SigningStore, pair: Pair, parcels: Sequence[Parcel]) -> None:
        """Raises TransferError where the object is not what was sent: then it is removed. CloudError.

        S3 compared each piece with its MD5 when it came, and takes no piece that has another ETag by now.
        """
        staging = self._staging
        record = f"{UPLOADS}{secrets.token_hex(8)}"
        key = f"{store.prefix}/{pair.target}" if store.prefix else pair.target

        def note(upload: str) -> None:
            told = {"bucket": store.bucket, "key": key, "upload": upload}
            staging.write(record, sealed(told, self._key, record))

        ordered = sorted(parcels, key=lambda parcel: parcel.slices[0][1])
        pieces = [self._sent.get(parcel.name, "") for parcel in ordered]
        if not all(pieces):
            raise _not_sent(key, "its sender does not say that it staged all of it")
        staged = [
            Part(staging.bucket, f"{staging.prefix}/{parcel.name}", piece)
            for parcel, piece in zip(ordered, pieces, strict=True)
        ]
        try:
            etag, copied = compose(self._session, store.bucket, key, staged, begun=note)
        except CloudError as error:
            if error.code != "PreconditionFailed":
                raise
            raise _not_sent(key, "somebody else wrote to the staging prefix") from error
        size = store.info(pair.target).size
        proven = _is_proven(etag, copied, pieces)
        if proven is False and not (_has_md5(staging, ordered[0].name) and _has_md5(store, pair.target)):
            proven = None
        if proven is None:
            self._unproven([pair.target])
        if size != pair.source.size or proven is False:
            # Newer than the file and of its size, it would be taken for equal the next time.
            store.remove([pair.target])
            raise TransferError(
                f"{key} was not put together rightly",
                why=f"S3 says {size} bytes and {etag} of what was sent as {pair.source.size} bytes",
                next="run the same command again",
            )
        staging.remove([record, *(parcel.name for parcel in parcels)])


def _not_sent(key: str, why: str) -> TransferError:
    return TransferError(f"{key} is not what was sent", why=why, next="run the same command again")


def _is_proven(etag: str, copied: Sequence[str], pieces: Sequence[str]) -> bool | None:
    """By MD5s, the pieces' and those of their copies; None where one is none to look at."""
    if any(etags.parts_of(one) != 1 for one in (*copied, *pieces)):
        return None
    return list(copied) == list(pieces) and composite([bytes.fromhex(one) for one in pieces]) == etag


def _has_md5(place: SigningStore, key: str) -> bool:
    """With keys of KMS or of a customer, an ETag is none."""
    store = BulkStore(place.bucket, place.prefix, place.access)
    try:
        return bool(store.proof(key, 0, "0" * 32, ()).algorithm)
    finally:
        store.close()
