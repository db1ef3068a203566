"""What must be there before the script can start: code, Python, data, the checkpoint to go on from."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import clock
from .attempt import Attempt
from .environment import Chosen, EnvironmentFailed, prepare
from .failures import StoreAway, StoreRefused
from .private import as_the_user
from .restoring import CorruptSnapshot, bring_back, read_manifest, snapshot_names
from .snapshot import WORK, Entry, Manifest, sequence_of
from .trees import Tree, bundle_files

PATIENCE = 900.0  # seconds of the cloud's time in which a store that is away may return


class PreparationFailed(Exception):
    """The script cannot start; the attempt's state says at which step."""


class Prepared(NamedTuple):
    """All that a script's start needs."""

    command: List[str]
    workdir: str
    environment: Dict[str, str]
    manifest: Optional[Manifest]
    lying: List[Entry]
    made: Optional[str]
    """The folder of an environment that was made for this attempt."""


class _Resume(NamedTuple):
    """The snapshot that was brought back, its files that lie here, and the path of its checkpoint."""

    manifest: Optional[Manifest] = None
    lying: Tuple[Entry, ...] = ()
    path: Optional[str] = None


def prepare_attempt(attempt: Attempt, store: Any, home: str, trees: List[Tree]) -> Prepared:
    """Run every step; each is named in the state before it begins. Raises PreparationFailed."""
    spec = attempt.spec
    if spec.get("bundle"):
        from .bundle import unpack_bundle  # what a local job does not need is not loaded

        _step(attempt, "bundle", lambda: unpack_bundle(attempt, store))
        for tree in trees:
            if tree.name == WORK:
                tree.leave_to_others(bundle_files(attempt.job_folder))
    chosen: Chosen = _step(attempt, "environment", lambda: _python(attempt, store, home))
    attempt.event("environment", python=chosen.told)
    python = chosen.python
    data = None
    if (spec.get("data") or {}).get("location"):
        from .dataset import fetch_data

        data = _step(attempt, "data", lambda: fetch_data(attempt))
    folder = attempt.in_job(spec["checkpoint_dir"])
    output = attempt.in_job(spec["output_dir"])
    for path in (folder, output):
        with as_the_user() if attempt.is_outside(path) else nullcontext():
            os.makedirs(path, exist_ok=True)
    with as_the_user():
        resume: _Resume = _step(attempt, "checkpoint", lambda: _restore(attempt, store, trees))
    return Prepared(
        command=_command(spec, python, resume.path),
        workdir=attempt.in_job(spec["workdir"]),
        environment=_environment(attempt, python, folder, output, data, resume.path),
        manifest=resume.manifest,
        lying=list(resume.lying),
        made=chosen.made,
    )


def _python(attempt: Attempt, store: Any, home: str) -> Chosen:
    needs = attempt.spec.get("python") or {}

    def carried_uv() -> Optional[str]:
        from .carried_uv import fetch_uv  # what a local job does not need is not loaded

        return fetch_uv(needs.get("uv"), store, home)

    def restored(folder: str) -> bool:
        if not (store.mirrors and attempt.seal):
            return False
        from .kept_environment import restore

        return restore(store, attempt.seal, home, folder, attempt.note)

    return prepare(needs, home, attempt.path("agent.log"), carried_uv, restored)


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
            CorruptSnapshot,
            OSError,
            ValueError,
        ) as error:
            raise PreparationFailed("%s: %s" % (name, error)) from error


def _restore(attempt: Attempt, store: Any, trees: List[Tree]) -> _Resume:
    """The newest snapshot that verifies; one that was asked for must, unless later ones of its line do."""
    told = attempt.spec.get("resume") or {}
    wanted, trusted = str(told.get("from") or "newest"), told.get("trusted") or {}
    if wanted == "none":
        return _Resume()
    names = [name for name in reversed(snapshot_names(store)) if name not in (told.get("not_from") or ())]
    since = int(told.get("since") or attempt.number)
    if wanted != "newest":
        later = [name for name in names if sequence_of(name) > sequence_of(wanted)]
        names = [*(later if attempt.number > since else ()), wanted]
    code = str((attempt.spec.get("bundle") or {}).get("sha256") or "")
    for name in names:
        try:
            manifest = read_manifest(store, name, attempt.seal, trusted)
            if wanted not in (name, "newest") and manifest.attempt < since:
                continue  # of an attempt before the user went back to an older one
            restored = bring_back(store, manifest, trees, exact=name == wanted, code=code)
        except CorruptSnapshot as error:
            if name == wanted:
                raise CorruptSnapshot("%s cannot be resumed from: %s" % (name, error)) from error
            skipped = [*attempt.state["checkpoints_skipped"], {"name": name, "reason": str(error)}]
            attempt.update(checkpoints_skipped=skipped)
            attempt.event("checkpoint-skipped", name=name, reason=str(error))
            continue
        for path, why in restored.left:
            attempt.event("not-restored", path=path, reason=why)
        attempt.event("checkpoint-restored", name=name, step=manifest.step)
        if manifest.checkpoint is None:
            return _Resume(manifest, tuple(restored.lying))
        attempt.update(resumed_from=name, resumed_step=manifest.step)
        root = next((tree.root for tree in trees if tree.name == manifest.checkpoint[0]), None)
        path = None if root is None else os.path.join(root, manifest.checkpoint[1])
        return _Resume(manifest, tuple(restored.lying), path)
    return _Resume()


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
    location = str((attempt.spec.get("data") or {}).get("location") or "")
    if location:
        environment.pop("RUNCTL_DATA_DIR", None)
        environment["RUNCTL_DATA_LOCATION"] = location
        environment.pop("RUNCTL_DATA_REGION", None)
        if attempt.spec["data"].get("region"):
            environment["RUNCTL_DATA_REGION"] = str(attempt.spec["data"]["region"])
    if data:
        environment["RUNCTL_DATA_DIR"] = data
    if resume:
        environment["RUNCTL_RESUME_FROM"] = resume
    if python:
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", "")
    return environment
