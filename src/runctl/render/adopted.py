"""What was taken into the ledger, as people read it."""

from __future__ import annotations

from runctl.jobs.adopt import Adopted
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord
from runctl.providers.aws.spot_requests import SpotRequest
from runctl.quoting import quoted
from runctl.render import figures, output
from runctl.resources.costs import Sums


def show_adopted(found: Adopted, total: Sums) -> None:
    """What there is by kind and what of it is new, then what it cost so far."""
    new = set(found.new)
    kinds = (
        ("instances", found.instances),
        ("volumes", found.volumes),
        ("snapshots", found.snapshots),
        ("jobs", found.jobs),
    )
    rows = [
        (kind, str(len(ids)), str(len(new.intersection(ids))), _some([one for one in ids if one in new]))
        for kind, ids in kinds
    ]
    rows.append(
        ("spot requests", str(len(found.spot_requests)), "", _some([one.id for one in found.spot_requests]))
    )
    output.write_table(("what", "found", "new", ""), rows, right=("found", "new"))
    for job, user in found.theirs.items():
        output.talk(f"[note] {job} is said to be {user}'s", style="dim")
    for place in found.staging:
        output.write_line(f"{place.location}: {place.objects} objects, {figures.size(place.bytes)}")
        if not place.job:
            output.talk(
                f"[note] if no transfer goes on: aws s3 rm --recursive {quoted(place.location)}", style="dim"
            )
    for request in found.spot_requests:
        if request.instance is None:
            output.talk(
                f"[warning] {request.id} is {request.state}: it may start a machine yet; to cancel it: "
                f"{_cancel(request)}",
                style="yellow",
            )
    unknown = f", and {total.unknown} at unknown prices" if total.unknown else ""
    output.talk(f"{figures.usd(total.usd_per_hour)} an hour, {figures.usd(total.usd_total)} so far{unknown}")


def show_claims(job: JobRecord, spec: JobSpec) -> None:
    """What an adopted job would do that its bucket, or the user, says of it."""
    code = "not named: --root FOLDER, or --accept-code"
    if spec.code is not None:
        code = f"the bundle of the bucket with SHA-256 {spec.code.sha256}"
    elif spec.root:
        code = f"of {spec.root}"
    lines = [
        ("user", f"said to be {job.user}'s"),
        ("code", code),
        ("folder", f"runs in {spec.workdir}"),
        ("packages", ", ".join(spec.python.requirements) or "none"),
        ("data", spec.data or "none"),
        ("outputs", spec.output or f"stay in {job.store}"),
        ("keeps", _kept(spec)),
        ("limits", _limits(spec)),
    ]
    if spec.accepted is not None:
        lines.append(("trusts", f"{spec.accepted.name}, which no machine of yours committed"))
    for name, text in lines:
        output.talk(f"  {name:<9} {text}")
    output.talk("  note      this job was adopted: who can write to the bucket may have written its command")


def _kept(spec: JobSpec) -> str:
    pattern = f"; a checkpoint is what {spec.checkpoint_pattern} matches" if spec.checkpoint_pattern else ""
    return f"up to {figures.size(spec.keep_written)} of what the script writes in its folder{pattern}"


def _limits(spec: JobSpec) -> str:
    budget = f"a budget of {figures.usd(spec.budget)}" if spec.budget is not None else "no budget"
    hours = f"{spec.max_hours:g} hours" if spec.max_hours is not None else "no limit of hours"
    return f"{budget}, {hours}, at most {spec.max_attempts} attempts"


def _cancel(request: SpotRequest) -> str:
    return (
        f"aws ec2 cancel-spot-instance-requests --region {quoted(request.region)}"
        f" --spot-instance-request-ids {quoted(request.id)}"
    )


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"{', '.join(ids[:3])}{more}"
