"""The script's code: fetched, verified, unpacked nowhere but in its folder."""

from __future__ import annotations

import os
import shutil
import tarfile
from typing import Any, Dict

from .attempt import Attempt
from .digest import file_digest
from .failures import StoreRefused
from .files import write_atomically
from .trees import note_bundle_files


def unpack_bundle(attempt: Attempt, store: Any) -> None:
    """Fetch, verify and unpack the code, once for each bundle. Raises StoreAway, StoreRefused, OSError."""
    bundle = attempt.spec["bundle"]
    code = attempt.in_job("code")
    mark = os.path.join(code, ".runctl-bundle")
    if _text_of(mark) == bundle["sha256"]:
        return
    archive = attempt.in_job("bundle.tar.gz")
    if not store.get_shared(bundle["key"], archive):
        raise StoreRefused("there is no %s" % bundle["key"])
    if file_digest(archive) != bundle["sha256"]:
        raise StoreRefused("the code bundle is not what was sent: its checksum differs")
    shutil.rmtree(code, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            _extract(tar, code)
    except tarfile.TarError as error:
        raise StoreRefused("the code bundle cannot be unpacked: %s" % error) from error
    os.unlink(archive)
    note_bundle_files(attempt.job_folder, code)
    write_atomically(mark, str(bundle["sha256"]).encode())


def _extract(tar: tarfile.TarFile, folder: str) -> None:
    members = tar.getmembers()
    links = {os.path.normpath(member.name) for member in members if member.issym()}
    for member in members:
        _refuse_escape(member)
        parts = os.path.normpath(member.name).split(os.sep)
        if any(os.sep.join(parts[:depth]) in links for depth in range(1, len(parts))):
            raise StoreRefused("the code bundle holds %r, which lies behind a link" % member.name)
    os.makedirs(folder, exist_ok=True)
    own_filter: Dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    tar.extractall(folder, members, **own_filter)  # noqa: S202 (every member was looked at)


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:  # there is none
        return ""


def _refuse_escape(member: tarfile.TarInfo) -> None:
    inside = os.path.normpath(
        os.path.join(os.path.dirname(member.name), member.linkname if member.issym() else "")
    )
    paths = (os.path.normpath(member.name), inside)
    if not (member.isfile() or member.isdir() or member.issym()) or any(
        os.path.isabs(path) or path.split(os.sep)[0] == ".." for path in paths
    ):
        raise StoreRefused("the code bundle holds %r, which would leave its folder" % member.name)
