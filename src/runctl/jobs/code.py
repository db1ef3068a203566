"""What machines of a job run, in its bucket: each object is called by a digest that is computed here.

Nothing in the bucket says what the digest should be: it is kept in the ledger, and told to the machine in its
boot arguments.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runctl.events import Emit, Notice, Progress
from runctl.jobs.place import Place
from runctl.jobs.spec import Carried, Code, JobSpec
from runctl.resources.reaching import job_access

if TYPE_CHECKING:
    from runctl.storage.bundle import BundlePlan


def send_code(place: Place, plan: BundlePlan, emit: Emit) -> Code:
    """Pack the code here and have it in the bucket, which is created where it is missing."""
    from runctl.providers.aws import account
    from runctl.storage import bundle

    assert place.session is not None and place.bucket is not None  # noqa: PT018, S101 (clouds only)
    if account.ensure_bucket(place.session, place.bucket):
        emit(Notice(text=f"created the bucket {place.bucket}"))
    with tempfile.TemporaryDirectory(prefix="runctl-bundle-") as folder:
        archive = Path(folder, "bundle.tar.gz")
        bundle.write(plan, archive)
        data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    code = Code(key=f"runctl/bundles/{digest}.tar.gz", sha256=digest)
    emit(Progress(task="sending the code", done=0, total=len(data), unit="B"))
    if _ensure(place, code.key, data):
        emit(Notice(text=f"sent the code: {len(plan.files)} files, {plan.total_bytes} bytes"))
    else:
        emit(Notice(text="the code is unchanged and was not sent again"))
    return code


def send_agent(place: Place) -> tuple[str, str]:
    """The key and the SHA-256 of the agent, which is in the bucket then."""
    from runctl.agent import archive

    agent = archive.build()
    digest = hashlib.sha256(agent).hexdigest()
    key = f"runctl/agents/{digest}.py"
    _ensure(place, key, agent)
    return key, digest


def send_uv(place: Place, spec: JobSpec) -> JobSpec:
    """Have the wheels of uv that a spec names in the bucket; those that are no longer here are left out."""
    if not spec.python.carried:
        return spec
    from runctl.jobs import uv

    sent: list[Carried] = []
    for wheel in spec.python.carried:
        data = uv.bytes_of(wheel)
        if data is not None:
            _ensure(place, wheel.key, data)
            sent.append(wheel)
    return msgspec.structs.replace(spec, python=msgspec.structs.replace(spec.python, carried=tuple(sent)))


def _ensure(place: Place, key: str, data: bytes) -> bool:
    from runctl.storage import pinned

    assert place.session is not None and place.bucket is not None  # noqa: PT018, S101 (clouds only)
    return pinned.ensure(place.bucket, job_access(place.session), key, data)
