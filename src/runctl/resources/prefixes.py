"""A dataset under an S3 prefix, as its listing shows it: how much there is, and which state it is in."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.providers.aws.session import Session
from runctl.resources.reaching import access_of
from runctl.storage.entries import Entry, dataset_version
from runctl.storage.location import S3Location, parse


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """`prefix` is empty or ends with a slash; sizes in bytes; `version` names the state of the listing.

    `refused` are the keys that cannot be files, with the reason; they count as files.
    """

    location: str
    bucket: str
    prefix: str
    region: str
    files: int
    bytes: int
    version: str
    refused: tuple[tuple[str, str], ...] = ()


def dataset_of(session: Session, text: str) -> Dataset:
    """List a dataset. Raises ValidationError for what is no S3 prefix, NotFound where nothing is there."""
    from runctl.agent import objects

    place = place_of(text)
    region = _region_of(session, place.bucket)
    found = list(_listed(session, place.bucket, place.key, region))
    if not found:
        raise NotFound(f"There is nothing at {place}", next="a prefix, such as s3://bucket/imagenet")
    return Dataset(
        location=str(place),
        bucket=place.bucket,
        prefix=f"{place.key}/" if place.key else "",
        region=region,
        files=len(found),
        bytes=sum(entry.size for entry in found),
        version=dataset_version(found),
        refused=tuple(objects.split(objects.Entry(one.key, one.size, one.etag, 0.0) for one in found)[1]),
    )


def place_of(text: str) -> S3Location:
    """The prefix that a user wrote, without a slash at its end. Raises ValidationError."""
    place = parse(text)
    if not isinstance(place, S3Location):
        raise ValidationError(f"{text} is no place in S3", next="such as s3://bucket/imagenet")
    return S3Location(place.bucket, place.key.rstrip("/"))


def _region_of(session: Session, bucket: str) -> str:
    """Where a bucket is: machines ask it there. Raises NotFound, CloudError."""
    try:
        return session.bucket_region(bucket)
    except NotFound:
        raise NotFound(f"There is no bucket {bucket}", next="aws s3 ls") from None


def _listed(session: Session, bucket: str, key: str, region: str) -> Iterator[Entry]:
    from runctl.storage.s3 import S3Store

    access = msgspec.structs.replace(access_of(session), region=region, locate=None)
    return S3Store(bucket, key, access).entries()
