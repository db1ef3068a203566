"""What a machine can prove objects by that it gets by presigned URLs: asked of S3 before they travel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from runctl.agent.proof import ALGORITHMS
from runctl.errors import NotFound
from runctl.resources.leg_plan import PIECE, SideFile
from runctl.storage import etags
from runctl.storage.bulk import BulkStore, Proof
from runctl.storage.staging import SigningStore

_AT_ONCE = 16

Row = tuple[int, str, str, int]
"""A file's number, and its proof as the agent reads it: algorithm, what is expected, part size in bytes."""


def ask(place: SigningStore, files: Sequence[SideFile]) -> tuple[list[Row], list[int]]:
    """Proofs of those files that need one, and the numbers of those that S3 keeps nothing of.

    Raises CloudError, ConfigError. What is gone meanwhile is in neither: whoever fetches it will see.
    """
    asked = [number for number, file in enumerate(files) if _needs_asking(file)]
    store = BulkStore(place.bucket, place.prefix, place.access)

    def one(number: int) -> Proof | None:
        file = files[number]
        try:
            return store.proof(file.key, file.size, file.etag, ALGORITHMS)
        except NotFound:
            return None

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = [
                (number, proof)
                for number, proof in zip(asked, pool.map(one, asked), strict=True)
                if proof is not None
            ]
    finally:
        store.close()
    rows = [(number, proof.algorithm, proof.expected, proof.part_size) for number, proof in found]
    return [row for row in rows if row[1]], [row[0] for row in rows if not row[1]]


def _needs_asking(file: SideFile) -> bool:
    """Small objects of one piece are proven by the MD5 that their ETag is, or come twice."""
    return file.size > 0 and (file.size > PIECE or etags.parts_of(file.etag) != 1)
