"""A job as its bucket tells of it: what an adopted job may be, and what of it only the user can name."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from runctl.jobs.script import environment_digest
from runctl.jobs.spec import KEEP_WRITTEN, Code, JobSpec
from runctl.storage import claims
from runctl.storage.claims import MiB, claim

Argument = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z", max_length=128 * 1024)]
"""A word of the command: shown before it runs."""
Requirement = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][^\x00-\x1f\x7f-\x9f]*\Z", max_length=1000)]
"""Never an option of the program that installs it."""
_LARGEST_BUDGET = 1_000_000
_Path = Annotated[str, msgspec.Meta(max_length=4096)]
"""Of another computer: never used."""


class ClaimedPython(msgspec.Struct, frozen=True, kw_only=True):
    """As `PythonSpec`."""

    kind: claims.Word = "none"
    requirements: Annotated[tuple[Requirement, ...], msgspec.Meta(max_length=2000)] = ()
    requires_python: Annotated[str, msgspec.Meta(pattern=r"\A[0-9<>=!~.,* a-z]{1,100}\Z")] | None = None
    digest: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""


class ClaimedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """As `DataVolume`."""

    id: Annotated[str, msgspec.Meta(pattern=r"\Avol-[0-9a-f]{8,17}\Z")]
    zone: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{0,32}\Z")]


class ClaimedCode(msgspec.Struct, frozen=True, kw_only=True):
    """As `Code`: what a bundle is called there, and the SHA-256 that it is said to have."""

    key: Annotated[str, msgspec.Meta(pattern=r"\Arunctl/bundles/[0-9a-f]{64}\.tar\.gz\Z")]
    sha256: claims.Sha256


@claim("spec of a job", largest=2 * MiB)
class ClaimedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """As `JobSpec`, field by field, with what each may hold where somebody else may have written it."""

    name: claims.Name
    on: Annotated[str, msgspec.Meta(pattern=r"\A(sandbox|aws|i-[0-9a-f]{8,17})\Z")]
    root: _Path
    workdir: claims.Folder
    command: Annotated[tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=4096)]
    python: ClaimedPython = ClaimedPython()
    instance_type: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,24}\.[a-z0-9-]{1,24}\Z")] | None = None
    gpus: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    spot: bool = False
    fallback: bool = True
    data: _Path | None = None
    data_strategy: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{0,32}\Z")] = ""
    data_volumes: Annotated[tuple[ClaimedVolume, ...], msgspec.Meta(max_length=64)] = ()
    data_fallback: bool = False
    output: _Path | None = None
    checkpoints: claims.RelativePath | None = None
    checkpoint_pattern: claims.RelativePath | None = None
    keep_written: claims.Bytes = KEEP_WRITTEN
    resume_arg: Annotated[str, msgspec.Meta(pattern=r"\A--?[A-Za-z0-9][A-Za-z0-9_.-]{0,63}=?\Z")] | None = (
        None
    )
    resume_from: claims.CommitName | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    budget: Decimal | None = None
    max_hours: Annotated[float, msgspec.Meta(gt=0, le=100_000)] | None = None
    keep: bool = False
    grace_seconds: claims.Seconds = 90.0
    stop_asked: bool = False
    code: ClaimedCode | None = None
    project: claims.Name = ""
    user: claims.Name = ""

    def __post_init__(self) -> None:
        if self.budget is not None and not (self.budget.is_finite() and 0 < self.budget <= _LARGEST_BUDGET):
            raise ValueError("the budget is no amount of USD")


class Unnamed(msgspec.Struct, frozen=True, kw_only=True):
    """What an adopted job was said to use, and what nobody but the user may name: places and code."""

    root: str
    output: str | None
    data: str | None
    code: Code | None


def as_adopted(said: ClaimedSpec, *, on: str) -> JobSpec:
    """The spec that an adopted job of the cloud `on` has: it sends nothing, writes nothing, runs nothing.

    Its code, its outputs' and its local data's place are what `jobs resume` has the user name.
    """
    python = said.python
    needs_any = bool(python.requirements) or python.requires_python is not None
    # An environment is called by its digest and shared by jobs: one with other packages never gets that name.
    digest = environment_digest(python.requirements, python.requires_python) if needs_any else ""
    data = said.data if said.data and said.data.startswith("s3://") else None
    changes = {
        "on": said.on if said.on.startswith("i-") else on,
        "root": "",
        "output": None,
        "code": None,
        "data": data,
        "data_strategy": said.data_strategy if data else "",
        "data_volumes": msgspec.to_builtins(said.data_volumes) if data else (),
        "resume_from": None,
        "not_from": (),
        "stop_asked": False,
        "python": {**msgspec.to_builtins(python), "digest": digest},
    }
    return msgspec.convert({**msgspec.to_builtins(said), **changes}, JobSpec)


def unnamed(said: ClaimedSpec) -> Unnamed:
    code = Code(key=said.code.key, sha256=said.code.sha256) if said.code else None
    return Unnamed(root=said.root, output=said.output, data=said.data, code=code)
