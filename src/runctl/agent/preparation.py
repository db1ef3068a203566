"""What must be there before the script can start: code, Python, data, the checkpoint to go on from."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import clock
from .attempt import Attempt
from .environment import EnvironmentFailed, prepare
from .failures import StoreAway, StoreRefused
from .private import as_the_user
from .restoring import CorruptCheckpoint, commit_names, read_manifest, restore, sequence_of

PATIENCE = 900.0  # seconds of the cloud's time in which a store that is away may return


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
    if spec.get("bundle"):
        from .bundle import unpack_bundle  # what a local job does not need is not loaded

        _step(attempt, "bundle", lambda: unpack_bundle(attempt, store))
    python = _step(
        attempt, "environment", lambda: prepare(spec.get("python") or {}, home, attempt.path("agent.log"))
    )
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
            ValueError,
        ) as error:
            raise PreparationFailed("%s: %s" % (name, error)) from error


def _restore(attempt: Attempt, store: Any, folder: str) -> Optional[str]:
    """The newest commit that verifies; one that was asked for must, unless later ones of its line do."""
    told = attempt.spec.get("resume") or {}
    wanted, trusted = str(told.get("from") or "newest"), told.get("trusted") or {}
    if wanted == "none":
        return None
    names = list(reversed(commit_names(store)))
    since = int(told.get("since") or attempt.number)
    if wanted != "newest":
        later = [name for name in names if sequence_of(name) > sequence_of(wanted)]
        names = [*(later if attempt.number > since else ()), wanted]
    for name in names:
        try:
            if wanted not in (name, "newest") and _was_left_behind(attempt, store, name, since):
                continue
            manifest = restore(store, name, folder, attempt.seal, trusted)
        except CorruptCheckpoint as error:
            if name == wanted:
                raise CorruptCheckpoint("%s cannot be resumed from: %s" % (name, error)) from error
            skipped = [*attempt.state["checkpoints_skipped"], {"name": name, "reason": str(error)}]
            attempt.update(checkpoints_skipped=skipped)
            attempt.event("checkpoint-skipped", name=name, reason=str(error))
            continue
        attempt.update(resumed_from=name, resumed_step=manifest.step)
        attempt.event("checkpoint-restored", name=name, step=manifest.step)
        return os.path.join(folder, manifest.source)
    return None


def _was_left_behind(attempt: Attempt, store: Any, name: str, since: int) -> bool:
    """Whether a commit is of an attempt before `since`, when the user went back to an older one.

    Raises CorruptCheckpoint, StoreAway, StoreRefused.
    """
    return read_manifest(store, name, attempt.seal).attempt < since


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
    if data:
        environment["RUNCTL_DATA_DIR"] = data
    if resume:
        environment["RUNCTL_RESUME_FROM"] = resume
    if python:
        environment["PATH"] = os.path.dirname(python) + os.pathsep + environment.get("PATH", "")
    return environment
