"""What was taken into the ledger, as people read it."""

from __future__ import annotations

from runctl.jobs.adopt import Adopted
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


def _cancel(request: SpotRequest) -> str:
    return (
        f"aws ec2 cancel-spot-instance-requests --region {quoted(request.region)}"
        f" --spot-instance-request-ids {quoted(request.id)}"
    )


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"{', '.join(ids[:3])}{more}"
