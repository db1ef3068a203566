"""The script's data: a path of this machine, or objects that are fetched into the job's folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import List, Tuple

from .attempt import Attempt
from .credentials import Credentials
from .failures import StoreRefused
from .imds import Metadata
from .s3 import Bucket

DOWNLOADS = 8


def fetch_data(attempt: Attempt) -> str:
    """Where the data lies on this machine; what is there already in its size is not fetched again.

    Raises StoreAway, StoreRefused, OSError.
    """
    location = str(attempt.spec["data"]["location"])
    if not location.startswith("s3://"):
        if not os.path.exists(location):
            raise StoreRefused("there is no data at %s" % location)
        return location
    bucket_name, _, prefix = location[len("s3://") :].partition("/")
    region = str(attempt.spec["store"].get("region") or os.environ.get("AWS_REGION", "us-east-1"))
    bucket = Bucket(bucket_name, region, Credentials(Metadata()))
    folder = attempt.in_job("data")
    root = prefix if prefix.endswith("/") or not prefix else prefix + "/"
    objects = [item for item in bucket.list(prefix) if item.key == prefix or item.key.startswith(root)]
    if not objects:
        raise StoreRefused("there is nothing at %s" % location)
    wanted: List[Tuple[str, str]] = []
    for item in objects:
        relative = item.key[len(root) :] if item.key.startswith(root) else item.key.rpartition("/")[2]
        path = os.path.join(folder, relative)
        if relative.endswith("/") or not relative:
            continue
        if os.path.isabs(relative) or ".." in relative.split("/"):
            raise StoreRefused("%r would leave the data folder" % item.key)
        if not os.path.exists(path) or os.path.getsize(path) != item.size:
            wanted.append((item.key, path))
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for done in [pool.submit(_download, bucket, key, path) for key, path in wanted]:
            done.result()
    return folder


def _download(bucket: Bucket, key: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = path + ".part"
    if not bucket.get_file(key, temporary):
        raise StoreRefused("%s vanished" % key)
    os.replace(temporary, path)
