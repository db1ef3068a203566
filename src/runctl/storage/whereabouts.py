"""In which region a bucket of AWS is. S3 tells everybody, also those whom it refuses the bucket itself.

Source: HeadBucket in the Amazon S3 API Reference; `GetBucketRegion` of AWS's SDK for Go asks the same way.
"""

from __future__ import annotations

import functools
import http.client

from runctl import partitions

_PATIENCE = 10.0
_HEADER = "x-amz-bucket-region"


@functools.cache  # of the module, so that datasets that hold it travel to other processes
def region_of(bucket: str, near: str, *, fips: bool = False, dual_stack: bool = False) -> str:
    """Ask S3 in the region `near`, without credentials; `near` where it does not tell or cannot be asked."""
    host = partitions.s3_host(near, fips=fips, dual_stack=dual_stack)
    connection = http.client.HTTPSConnection(host, timeout=_PATIENCE)
    try:
        connection.request("HEAD", f"/{bucket}")
        return connection.getresponse().getheader(_HEADER) or near
    except (OSError, http.client.HTTPException):
        return near  # what is asked of the bucket next says why
    finally:
        connection.close()
