"""Big objects put together in S3 from objects that are there already, without a byte leaving it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from runctl.errors import CloudError, NotFound
from runctl.providers.aws.session import Session

_AT_ONCE = 8


class Part(NamedTuple):
    """An object that is to be a part of another, in the state that `etag` names."""

    bucket: str
    key: str
    etag: str


def compose(
    session: Session,
    bucket: str,
    key: str,
    parts: Sequence[Part],
    *,
    begun: Callable[[str], None],
) -> tuple[str, list[str]]:
    """Make `key` of whole objects in order, each of 5 MiB at least but for the last.

    `begun` is told the upload's id before anything is copied. Answers the ETag, and those of the copied
    parts. Raises CloudError, with the code PreconditionFailed where a part has another state, NotFound;
    then the upload was aborted, as far as S3 answers.
    """
    upload = session.call("s3", "create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
    begun(upload)

    def copy(number: int) -> dict[str, object]:
        part = parts[number - 1]
        answer = session.call(
            "s3",
            "upload_part_copy",
            Bucket=bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": part.bucket, "Key": part.key},
            CopySourceIfMatch=f'"{part.etag}"',
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            copied = list(pool.map(copy, range(1, len(parts) + 1)))
        answer = session.call(
            "s3",
            "complete_multipart_upload",
            Bucket=bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": copied},
        )
    except BaseException:
        abort(session, bucket, key, upload)
        raise
    return str(answer["ETag"]).strip('"'), [str(part["ETag"]).strip('"') for part in copied]


def abort(session: Session, bucket: str, key: str, upload: str) -> None:
    """End an upload for good; one that is over is no error."""
    try:
        session.call("s3", "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)
    except NotFound:
        pass
    except CloudError as error:
        if error.code != "NoSuchUpload":
            raise
