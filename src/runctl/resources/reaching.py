"""How storage reaches S3 with a session's credentials: any bucket, and the job bucket."""

from __future__ import annotations

import functools

import msgspec

from runctl.errors import CloudError, NotFound
from runctl.providers.aws.session import Session
from runctl.storage.access import S3Access


def access_of(session: Session) -> S3Access:
    """To any bucket, in whichever region it is."""
    endpoint = session.s3_endpoint
    return S3Access(
        endpoint=endpoint,
        region=session.region,
        fips=endpoint is None and session.uses_fips,
        dual_stack=endpoint is None and session.uses_dual_stack,
        credentials=session.credentials,
        locate=None if endpoint else functools.cache(functools.partial(_locate, session)),
        cloud=session.cloud,
    )


def job_access(session: Session) -> S3Access:
    """To the job bucket, which must be this account's own and in the session's region."""
    return msgspec.structs.replace(access_of(session), owner=session.account, locate=None)


def _locate(session: Session, bucket: str) -> str:
    try:
        return session.bucket_region(bucket)
    except (CloudError, NotFound):
        return session.region  # what is asked of the bucket next says why
