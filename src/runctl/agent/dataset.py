"""The script's data: a path of this machine, a volume, a cache on a local disk, or a place to stream from."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import List, Optional, Tuple

from .attempt import Attempt
from .credentials import Credentials
from .failures import StoreRefused
from .imds import Metadata
from .s3 import Bucket

DOWNLOADS = 8
DIRECT, CACHE, VOLUMES = "direct-s3", "local-cache", ("prewarmed-ebs", "existing-ebs")


def fetch_data(attempt: Attempt) -> Optional[str]:
    """Where the data lies on this machine, None where the script streams it.

    What is here is not fetched again. Raises StoreAway, StoreRefused, OSError.
    """
    data = attempt.spec["data"]
    location, strategy = str(data["location"]), data.get("strategy")
    if not location.startswith("s3://"):
        if not os.path.exists(location):
            raise StoreRefused("there is no data at %s" % location)
        return location
    if strategy == DIRECT:
        attempt.event("data", strategy=DIRECT, location=location)
        return None
    if strategy in VOLUMES:
        from .volume import NoVolume, mounted

        try:
            folder = mounted(str(data["volume"]), str(data.get("device") or ""), float(data["patience"]))
            attempt.event("data", strategy=strategy, volume=data["volume"], folder=folder)
            return folder
        except NoVolume as error:
            if data.get("otherwise") != CACHE:
                raise StoreRefused(str(error)) from error
            attempt.event("note", text="%s; the data is loaded from S3 instead" % error)
    bucket_name, _, prefix = location[len("s3://") :].partition("/")
    # The data's bucket may be in another region than the job's; where nobody knows, it is in the same.
    where = data if data.get("region") else attempt.spec["store"]
    region = str(where.get("region") or os.environ.get("AWS_REGION", "us-east-1"))
    host = str(where.get("host") or "")
    bucket = Bucket(bucket_name, region, Credentials(Metadata()), host=host)
    if strategy in (CACHE, *VOLUMES):
        from .dataset_cache import load

        disposable = bool((attempt.spec.get("machine") or {}).get("disposable"))
        cached = load(bucket, prefix, region, host, disposable)
        if cached is not None:
            attempt.event("data", strategy=CACHE, folder=cached)
            return cached
    return _fetch_into_job(attempt, bucket, prefix)


def _fetch_into_job(attempt: Attempt, bucket: Bucket, prefix: str) -> str:
    """Into the job's own folder: the data that was sent with the job, and single objects."""
    folder = attempt.in_job("data")
    root = prefix if prefix.endswith("/") or not prefix else prefix + "/"
    objects = [item for item in bucket.list(prefix) if item.key == prefix or item.key.startswith(root)]
    if not objects:
        raise StoreRefused("there is nothing at s3://%s/%s" % (bucket.name, prefix))
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
