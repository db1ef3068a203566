"""Bringing a finished job's outputs to where its spec says.

They lie in the bucket without a seal: others may have written them. So nothing in the user's folder is lost
to them, and nothing arrives where git would run it.
"""

from __future__ import annotations

import filecmp
import os
import tempfile
from pathlib import Path

from runctl.errors import TransferError
from runctl.events import Emit, Notice, ignore
from runctl.jobs import folders
from runctl.jobs.place import Place, s3_access
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord
from runctl.storage.location import LocalPath, S3Location, parse
from runctl.storage.objects import Store, partial_file, rename_durably
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
        download_prefix(
            place.store,
            "outputs/",
            location.path,
            task="fetching the outputs",
            emit=emit,
            fetch=lambda key, path: _bring(place.store, key, path, emit),
        )
    elif isinstance(location, S3Location):
        target = S3Store(location.bucket, location.key, s3_access(place.session))
        with tempfile.TemporaryDirectory(prefix="runctl-outputs-") as folder:
            download_prefix(place.store, "outputs/", Path(folder), task="fetching the outputs", emit=emit)
            upload_folder(Path(folder), target, "", task="sending the outputs", emit=emit)
    return spec.output


def _bring(store: Store, key: str, path: Path, emit: Emit) -> None:
    """Fetch one output. What lies there and differs gets another name, and the user is told."""
    why = _unwelcome(key, path)
    if why:
        emit(Notice(text=f"{key!r} was left where it is: {why}", warning=True))
    elif not os.path.lexists(path):
        store.download(key, path)
    else:
        try:
            aside = _replace(store, key, path)
        except OSError as error:
            raise TransferError(f"{path} could not be replaced by an output", why=str(error)) from error
        if aside is not None:
            emit(Notice(text=f"another {path} lay there: it is {aside.name} now", warning=True))


def _replace(store: Store, key: str, path: Path) -> Path | None:
    """Where the file that lay there is now; None where it is the output already. Raises OSError."""
    with partial_file(path) as partial:
        store.download(key, partial)
        if path.is_file() and filecmp.cmp(partial, path, shallow=False):
            return None
        aside = _aside(path)
        path.rename(aside)
        rename_durably(partial, path)
    return aside


def _unwelcome(key: str, path: Path) -> str:
    """Why an output may not be a file of the user's folder; empty where it may."""
    if any(part.casefold() == ".git" for part in key.split("/")):
        return "git runs what lies in a folder of this name"
    if path.is_dir():
        return f"{path} is a folder"
    return ""


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(found := path.with_name(f"{path.name}.before-{number}")):
        number += 1
    return found
