"""Jobs that were adopted: what they are said to be, and what the user has to name before they act."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl.errors import NotFound, Protected, ValidationError
from runctl.jobs import checkpoints
from runctl.jobs.checkpoints import Snapshot
from runctl.jobs.claimed import ClaimedSpec, Unnamed, unnamed
from runctl.jobs.place import Place
from runctl.jobs.spec import Accepted, JobSpec, PythonSpec, check
from runctl.ledger import JobRecord
from runctl.quoting import quoted
from runctl.storage import claims
from runctl.storage.claims import Unbelievable
from runctl.storage.location import LocalPath, parse
from runctl.storage.objects import TooLarge

THEIRS = "another user's"
"""The rule of protection that keeps from the jobs of others."""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What the user names for an adopted job.

    `root` is a folder of this computer, to be sent as the code; `code` instead the SHA-256 of the bundle
    that the bucket says is the job's.
    """

    root: Path | None = None
    code: str | None = None
    output: str | None = None
    data: str | None = None

    @property
    def nothing(self) -> bool:
        return self == Named()


def require_mine(job: JobRecord, *, user: str, of_user: str | None, verb: str) -> None:
    """Raises Protected for a job of somebody else that was not named as theirs."""
    if job.adopted_at is None or job.user in {user, of_user}:
        return
    raise Protected(
        f"Job {job.id} is not {verb}",
        reasons=(THEIRS,),
        why=f"it was adopted, and is said to be {claims.spelled(job.user)}'s; you are {claims.spelled(user)}",
        next=f"where it is yours to act on, name its user: --of-user {quoted(job.user)}",
    )


def has_code(spec: JobSpec) -> bool:
    """Whether it is known what a further attempt runs; an adopted job's user must have named it."""
    return bool(spec.root) or spec.code is not None


def said_of(place: Place) -> Unnamed | None:
    """What the bucket says of the job's code and places; None where it says nothing that can be."""
    try:
        said = claims.read(place.store, "spec.json", ClaimedSpec)
    except (NotFound, Unbelievable, TooLarge):
        return None
    return unnamed(said)


def require_code(job: JobRecord, spec: JobSpec, said: Unnamed | None) -> None:
    """Raises ValidationError where nobody named what the job runs."""
    if has_code(spec):
        return
    code = said.code if said else None
    accept = f", or --accept-code {quoted(code.sha256)}" if code else ""
    told = (
        f"; the bucket names the bundle {code.sha256[:12]}, sent from {said.root!r}" if code and said else ""
    )
    raise ValidationError(
        f"Job {job.id} was adopted: name the code that it runs",
        why=f"what the bucket says of it may be anybody's who can write there{claims.spelled(told)}",
        next=f"runctl jobs resume {quoted(job.id)} --root FOLDER{accept}",
    )


def with_named(spec: JobSpec, named: Named, said: Unnamed | None) -> JobSpec:
    """The spec with what the user named. Raises ValidationError for what cannot be, NotFound."""
    if named.root is not None and named.code is not None:
        raise ValidationError("--root and --accept-code exclude each other", next="give one of them")
    changes: dict[str, object] = {}
    if named.root is not None:
        if not named.root.is_dir():
            raise NotFound(f"There is no folder {named.root}", next="--root FOLDER: where its code lies here")
        changes |= {"root": str(named.root.resolve()), "code": None, "python": _python(spec, named.root)}
    if named.code is not None:
        code = said.code if said else None
        if code is None or named.code != code.sha256:
            raise ValidationError(
                "That is not the code that the bucket has for this job",
                why=f"the bucket names {code.sha256 if code else 'none'}",
                next="--root FOLDER sends code of this computer instead",
            )
        changes |= {"root": "", "code": code}
    if named.output is not None:
        changes["output"] = named.output
    if named.data is not None:
        changes["data"] = named.data
        if isinstance(parse(named.data), LocalPath):
            changes |= {"data_strategy": "", "data_volumes": (), "data_fallback": False}
    return check(msgspec.structs.replace(spec, **changes))


def resumption(
    place: Place, job: JobRecord, spec: JobSpec, named: Named, checkpoint: Snapshot | None
) -> JobSpec:
    """The spec of a resumption with what only the user can name or accept. Raises ValidationError, NotFound.

    `checkpoint` is the one that was asked for; of an adopted job it is accepted, or the newest is.
    """
    if job.adopted_at is None:
        if not named.nothing:
            raise ValidationError(
                f"Job {job.id} was not adopted",
                why="its code and places are those that it was made with",
                next=f"runctl jobs resume {quoted(job.id)}",
            )
        if checkpoint is not None and not checkpoint.ours:
            raise ValidationError(
                f"No machine of job {job.id} committed {checkpoint.name}",
                why="its seal is missing or wrong: whoever can write to the bucket may have put it there",
                next="leave --from out",
            )
        return spec
    spec = with_named(spec, named, said_of(place))
    found = checkpoint or checkpoints.newest(place, job.seal)
    if found is None or found.ours:
        return spec
    return msgspec.structs.replace(spec, accepted=Accepted(name=found.name, sha256=found.sha256))


def _python(spec: JobSpec, root: Path) -> PythonSpec:
    """What the script needs of Python, read from the code that travels, and not from what was said of it."""
    from runctl.jobs.script import python_needs

    for word in spec.command:
        script = root / spec.workdir / word
        if word.endswith(".py") and script.is_file() and script.resolve().is_relative_to(root.resolve()):
            needs = python_needs(script, root)
            return PythonSpec(
                kind=needs.kind,
                requirements=tuple(needs.requirements),
                requires_python=needs.requires_python,
                digest=needs.digest,
            )
    return PythonSpec()
