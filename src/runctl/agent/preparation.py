"""What must be there before the script can start: code, Python, data, the checkpoint to go on from."""

from __future__ import annotations

import os
import shutil
import tarfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import clock
from .attempt import Attempt
from .commit import CorruptCheckpoint, commit_names, restore
from .credentials import Credentials
from .environment import EnvironmentFailed, prepare
from .failures import StoreAway, StoreRefused
from .files import write_atomically
from .imds import Metadata
from .s3 import Bucket
from .store import file_digest

PATIENCE = 900.0  # seconds of the cloud's time in which a store that is away may return
DOWNLOADS = 8


class PreparationFailed(Exception):
    """The script cannot start; the attempt's state says at which step."""


class Prepared(NamedTuple):
    """All that a script's start needs."""

    command: List[str]
    workdir: str
    environment: Dict[str, str]


def prepare_attempt(attempt: Attempt, store: Any, home: str) -> Prepared:
    """Run every step; each is named in the state before it begins. Raises PreparationFailed."""
    spec = attempt.spec
    _step(attempt, "bundle", lambda: _unpack_bundle(attempt, store))
    python = _step(
        attempt, "environment", lambda: prepare(spec.get("python") or {}, home, attempt.path("agent.log"))
    )
    data = _step(attempt, "data", lambda: _fetch_data(attempt))
    folder = attempt.in_job(spec["checkpoint_dir"])
    output = attempt.in_job(spec["output_dir"])
    os.makedirs(folder, exist_ok=True)
    os.makedirs(output, exist_ok=True)
    resume = _step(attempt, "checkpoint", lambda: _restore(attempt, store, folder))
    return Prepared(
        command=_command(spec, python, resume),
        workdir=attempt.in_job(spec["workdir"]),
        environment=_environment(attempt, python, folder, output, data, resume),
    )


def _step(attempt: Attempt, name: str, do: Callable[[], Any]) -> Any:
    """One step, repeated while the store stumbles."""
    attempt.update(step_name=name)
    until, wait = clock.now() + PATIENCE, 0.5
    while True:
        try:
            return do()
        except StoreAway as error:
            if clock.now() >= until:
                raise PreparationFailed("%s: the store does not answer: %s" % (name, error)) from error
            clock.sleep(wait)
            wait = min(wait * 2, 15.0)
        except (
            StoreRefused,
            EnvironmentFailed,
            CorruptCheckpoint,
            OSError,
            tarfile.TarError,
            ValueError,
        ) as error:
            raise PreparationFailed("%s: %s" % (name, error)) from error


def _unpack_bundle(attempt: Attempt, store: Any) -> None:
    bundle = attempt.spec.get("bundle")
    if not bundle:
        return
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
    with tarfile.open(archive) as tar:
        _extract(tar, code)
    os.unlink(archive)
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
    except OSError:
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


def _fetch_data(attempt: Attempt) -> Optional[str]:
    location = (attempt.spec.get("data") or {}).get("location")
    if not location:
        return None
    if not location.startswith("s3://"):
        if not os.path.exists(location):
            raise StoreRefused("there is no data at %s" % location)
        return str(location)
    from concurrent.futures import ThreadPoolExecutor

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


def _restore(attempt: Attempt, store: Any, folder: str) -> Optional[str]:
    """The newest commit that verifies; one that was asked for by name must."""
    wanted = str((attempt.spec.get("resume") or {}).get("from") or "newest")
    if wanted == "none":
        return None
    names = list(reversed(commit_names(store)))
    if wanted != "newest":
        names = [wanted]
    for name in names:
        try:
            manifest = restore(store, name, folder)
        except CorruptCheckpoint as error:
            if wanted != "newest":
                raise CorruptCheckpoint("%s is corrupt: %s" % (name, error)) from error
            skipped = [*attempt.state["checkpoints_skipped"], {"name": name, "reason": str(error)}]
            attempt.update(checkpoints_skipped=skipped)
            attempt.event("checkpoint-skipped", name=name, reason=str(error))
            continue
        attempt.update(resumed_from=name, resumed_step=manifest.get("step"))
        attempt.event("checkpoint-restored", name=name, step=manifest.get("step"))
        return os.path.join(folder, str(manifest["source"]))
    return None


def _command(spec: Dict[str, Any], python: Optional[str], resume: Optional[str]) -> List[str]:
    command = [str(item) for item in spec["command"]]
    if command[0] in ("python3", "python"):
        command[0] = python or (command[0] if shutil.which(command[0]) else "python3")
    if resume and spec.get("resume_arg"):
        command += [str(spec["resume_arg"]), resume]
    return command


def _environment(
    attempt: Attempt,
    python: Optional[str],
    folder: str,
    output: str,
    data: Optional[str],
    resume: Optional[str],
) -> Dict[str, str]:
    environment = dict(os.environ)
    environment.update(
        {str(key): str(value) for key, value in (attempt.spec.get("environment") or {}).items()}
    )
    environment.update(
        {
            "PYTHONUNBUFFERED": "1",
            "RUNCTL_JOB_ID": str(attempt.spec["job"]),
            "RUNCTL_ATTEMPT": str(attempt.number),
            "RUNCTL_CHECKPOINT_DIR": folder,
            "RUNCTL_OUTPUT_DIR": output,
        }
    )
    environment.pop("RUNCTL_RESUME_FROM", None)
    if data:
        environment["RUNCTL_DATA_DIR"] = data
    if resume:
        environment["RUNCTL_RESUME_FROM"] = resume
    if python:
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", "")
    return environment
