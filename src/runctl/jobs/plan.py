"""A plan is a value: what an attempt will run on, what it costs, what to know before. Reads only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runctl.errors import ValidationError
from runctl.events import Emit, ignore
from runctl.jobs.place import Place, architecture_of, guard, near_data, offers, root_disk
from runctl.jobs.spec import JobSpec
from runctl.model import JobId, Market, Offer, Price

if TYPE_CHECKING:
    from runctl.jobs.data import DataPlan


_LARGEST_SCRIPT = 1024 * 1024
_OURS = re.compile("RUNCTL_")


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What the last job of the same name kept: bytes of its newest snapshot, and what so much costs a month.

    `bound` are the bytes, and `bound_usd` the USD a month, of as many snapshots as stay, if none shared a
    file; None where their number is not bounded.
    """

    job: JobId
    bytes: int
    usd_per_month: Decimal | None
    bound: int | None = None
    bound_usd: Decimal | None = None


class Plan(msgspec.Struct, frozen=True):
    """What will be done. `disk` is the USD/h of the machine's disk, None where there is none or unknown.

    `data` is how the machine reads what lies in S3, `before` what an earlier job of this name kept;
    `python` says which Python the machine will have, and why.
    """

    job: JobId
    spec: JobSpec
    offers: tuple[Offer, ...]
    disk: Price | None
    disk_gib: int
    bucket: str | None
    bucket_is_new: bool
    code_files: int
    code_bytes: int
    warnings: tuple[str, ...]
    data: DataPlan | None = None
    before: Before | None = None
    python: str = ""

    @property
    def best(self) -> Offer:
        return self.offers[0]

    @property
    def usd_per_hour(self) -> Decimal | None:
        """Machine and disk of the best offer together, None where a price is unknown."""
        if self.best.price is None:
            return None
        return self.best.price.usd_per_hour + (self.disk.usd_per_hour if self.disk else Decimal(0))

    @property
    def hours_in_budget(self) -> Decimal | None:
        rate = self.usd_per_hour
        if self.spec.budget is None or not rate:
            return None
        return self.spec.budget / rate


def _unbounded(spec: JobSpec) -> Iterator[str]:
    """What a job on a machine may cost its user, in money or in work, by what was left out or asked for."""
    if spec.budget is None and spec.max_hours is None:
        yield "no --budget and no --max-hours: only the script's end stops the spending"
    if not spec.keep_written:
        yield "--keep-written 0: what the script writes in its own folder ends with the machine"
        if not spec.checkpoints and _names_no_folder(spec):
            yield "it may keep nothing: the script names neither RUNCTL_CHECKPOINT_DIR nor RUNCTL_OUTPUT_DIR"


def _names_no_folder(spec: JobSpec) -> bool:
    """Whether the script's own text tells of no folder that is kept; what it calls may know one."""
    script = next((word for word in spec.command[:2] if word.endswith((".py", ".sh"))), None)
    if script is None or any(_OURS.search(word) for word in spec.command):
        return False
    try:
        with (Path(spec.root) / spec.workdir / script).open("rb") as file:
            text = file.read(_LARGEST_SCRIPT + 1)
    except OSError:
        return False
    return len(text) <= _LARGEST_SCRIPT and not _OURS.search(text.decode("utf-8", "replace"))


def make_plan(
    job: JobId, spec: JobSpec, place: Place, *, code_files: int = 0, code_bytes: int = 0, emit: Emit = ignore
) -> Plan:
    """Find offers and check what an account must have, before anything is made. Raises as its parts do."""
    guard(place, spec, emit=emit)
    found = offers(place, spec, emit=emit)
    warnings: list[str] = []
    new_bucket = False
    disk = None
    if place.session is not None and place.bucket is not None:
        from runctl.providers.aws import account

        new_bucket = not account.bucket_exists(place.session, place.bucket)
        if not spec.instance:
            account.require_profile(place.session, place.settings.instance_profile)
            disk = root_disk(place, found[0].instance_type)
        warnings.extend(_unbounded(spec))
    data = None
    if spec.data:
        from runctl.jobs.data import decide  # what a job without data does not need is not loaded

        spec, data = decide(place, spec, found, root_gib=disk.gib if disk else 0, emit=emit)
        found = near_data(found, spec)
    if data is not None:
        warnings.extend(data.warnings)
    if spec.spot and spec.fallback and any(offer.market is Market.ON_DEMAND for offer in found):
        warnings.append("without spot capacity it falls back to on-demand; --no-fallback forbids that")
    if any(offer.price is None for offer in found):
        warnings.append("some prices are unknown; a budget cannot count what has no price")
    if spec.budget is not None:
        found = [offer for offer in found if offer.price is not None]
        if not found:
            raise ValidationError(
                "A budget needs prices, and no offer has one",
                why=f"neither the cloud nor the catalog knows what {spec.instance_type or 'it'} costs here",
                next="leave --budget out and give --max-hours",
            )
    return Plan(
        job=job,
        spec=spec,
        offers=tuple(found),
        disk=disk.price if disk else None,
        disk_gib=disk.gib if disk else 0,
        bucket=place.bucket,
        bucket_is_new=new_bucket,
        code_files=code_files,
        code_bytes=code_bytes,
        warnings=tuple(warnings),
        data=data,
    )


def with_python(plan: Plan, place: Place, *, emit: Emit = ignore) -> Plan:
    """The plan with the Python and the packages that its machine will have. Raises as `pythons.decide`."""
    if place.session is None:
        return plan
    from runctl.jobs import pythons  # what a local job does not need is not loaded

    names = dict.fromkeys(offer.instance_type for offer in plan.offers)
    decision = pythons.decide(plan.spec, [architecture_of(name) for name in names], emit=emit)
    return msgspec.structs.replace(
        plan,
        spec=msgspec.structs.replace(plan.spec, python=decision.python),
        python=decision.told,
        warnings=(*plan.warnings, *decision.warnings),
    )
