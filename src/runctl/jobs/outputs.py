"""Bringing a finished job's outputs to where its spec says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from runctl.events import Emit, ignore
from runctl.jobs import folders
from runctl.jobs.place import Place, s3_access
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord
from runctl.storage.location import LocalPath, S3Location, parse
from runctl.storage.store import S3Store, download_prefix, upload_folder


def deliver(place: Place, spec: JobSpec, job: JobRecord, *, emit: Emit = ignore) -> str:
    """Copy outputs to `--output` where it is elsewhere; answers where they are. Idempotent."""
    if spec.output is None:
        return f"{job.store}/outputs"
    if place.session is None:
        return spec.output  # the script wrote there itself
    location = parse(spec.output)
    if isinstance(location, LocalPath):
        folders.check(spec)
        download_prefix(place.store, "outputs/", location.path, task="fetching the outputs", emit=emit)
    elif isinstance(location, S3Location):
        target = S3Store(location.bucket, location.key, s3_access(place.session))
        with tempfile.TemporaryDirectory(prefix="runctl-outputs-") as folder:
            download_prefix(place.store, "outputs/", Path(folder), task="fetching the outputs", emit=emit)
            upload_folder(Path(folder), target, "", task="sending the outputs", emit=emit)
    return spec.output
