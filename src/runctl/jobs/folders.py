"""The folder of a local job beside its code, and the user's folders that it writes to."""

from __future__ import annotations

from pathlib import Path

from runctl import private_files
from runctl.jobs.spec import JobSpec
from runctl.links import refuse_brought
from runctl.storage.location import LocalPath, parse

JOBS_FOLDER = Path(".runctl") / "jobs"


def job_folder(root: Path, job: str) -> Path:
    """Where a local job lies: beside the code, out of version control."""
    return root / JOBS_FOLDER / job


def make(folder: Path) -> None:
    """Make a local job's folder. Raises ValidationError where the repository would lead it elsewhere."""
    own = folder.parent.parent
    for path in (folder, own / ".gitignore"):
        refuse_brought(path, root=own.parent)
    for path in (own, folder.parent, folder):
        private_files.make_folder(path)
    with open(own / ".gitignore", "w", encoding="ascii", opener=private_files.opener) as file:
        file.write("*\n")


def check(spec: JobSpec) -> None:
    """Where a job writes here, no link of the repository may lead it. Raises ValidationError."""
    root = Path(spec.root)
    if spec.is_local and spec.checkpoints:
        refuse_brought(root / spec.workdir / spec.checkpoints, root=root)
    if spec.output is not None and isinstance(location := parse(spec.output), LocalPath):
        refuse_brought(location.path, root=root)
