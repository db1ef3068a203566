"""How a job's machine reads data in S3: decided in the plan, told to the agent, volumes attached."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.datasets.strategy import Choice, Strategy
from runctl.errors import CloudError, NotFound, TrainctlError, ValidationError
from runctl.events import Emit, Notice
from runctl.jobs.spec import DataVolume, JobSpec
from runctl.model import Market, Offer
from runctl.quoting import quoted
from runctl.storage.location import S3Location, parse

if TYPE_CHECKING:
    from runctl.datasets.situation import OwnVolume, Situation
    from runctl.jobs.place import Place
    from runctl.providers.aws.session import Session
    from runctl.resources.prefixes import Dataset

EPOCHS = 3
"""What `auto` reckons with where nobody says how often the script reads its data."""

PATIENCE = timedelta(minutes=10)
FREE_PATIENCE = timedelta(minutes=5)
"""How long a volume may still be at the machine of the attempt before."""

AGENT_PATIENCE = 300.0
DEVICE = "/dev/sdf"
_ON_VOLUMES = frozenset({Strategy.PREWARMED_EBS, Strategy.EXISTING_EBS})


class DataPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The strategy of a job and why; `usd` is what its loading costs, the waiting machine included."""

    strategy: str
    why: str
    usd: Decimal | None = None
    warnings: tuple[str, ...] = ()


def decide(
    place: Place, spec: JobSpec, offers: Sequence[Offer], *, root_gib: int, emit: Emit
) -> tuple[JobSpec, DataPlan | None]:
    """The spec with the strategy of its data, and why. Raises ValidationError for one that cannot be."""
    if spec.data is None or not isinstance(parse(spec.data), S3Location):
        if spec.data_strategy not in {"", Strategy.AUTO} or spec.data_volumes:
            raise ValidationError(
                f"A strategy of loading is for data in S3, not for {spec.data}",
                next="--data s3://BUCKET/PREFIX",
            )
        return msgspec.structs.replace(spec, data_strategy=""), None
    wanted = Strategy(spec.data_strategy or Strategy.AUTO)
    if spec.data_volumes and wanted is Strategy.AUTO:
        wanted = Strategy.EXISTING_EBS
    if (wanted in _ON_VOLUMES or spec.data_volumes) and (place.session is None or spec.instance):
        raise ValidationError(
            f"{wanted} needs a machine of the job's own",
            why="nothing is attached to a machine that is there already",
            next="--data-strategy local-cache, or runctl aws ebs attach and --data PATH",
        )
    if (wanted is Strategy.EXISTING_EBS) != bool(spec.data_volumes):
        raise ValidationError("existing-ebs and --data-volume go together", next="--data-volume VOLUME")
    if wanted in {Strategy.DIRECT_S3, Strategy.LOCAL_CACHE}:
        return msgspec.structs.replace(spec, data_strategy=wanted), DataPlan(strategy=wanted, why="as asked")
    if place.session is None or spec.instance:
        why = "kept on its disk for every job of this machine"
        return _with(spec, Strategy.LOCAL_CACHE), DataPlan(strategy=Strategy.LOCAL_CACHE, why=why)
    if wanted in _ON_VOLUMES:
        return _on_volume(place.session, spec, wanted)
    return _cheapest(place.session, spec, offers, root_gib, emit)


def _with(
    spec: JobSpec, strategy: Strategy, volumes: Sequence[DataVolume] = (), *, fallback: bool = False
) -> JobSpec:
    return msgspec.structs.replace(
        spec, data_strategy=strategy, data_volumes=tuple(volumes), data_fallback=fallback
    )


def _on_volume(session: Session, spec: JobSpec, wanted: Strategy) -> tuple[JobSpec, DataPlan]:
    """As asked: the volumes that are there, and no other way."""
    from runctl.datasets import volumes
    from runctl.resources.prefixes import dataset_of

    assert spec.data  # noqa: S101 (decided before)
    dataset = dataset_of(session, spec.data)
    if wanted is Strategy.EXISTING_EBS:
        own = volumes.named(session, spec.data_volumes[0].id, dataset)
        if own.obstacle:
            raise ValidationError(
                f"{own.id} does not have this data",
                why=own.obstacle,
                next=f"runctl aws ebs pre-warm {quoted(own.id)} {quoted(spec.data)}",
            )
        found = [DataVolume(id=own.id, zone=own.zone)]
    else:
        found = _warm(volumes.holding(session, dataset))
    if not found:
        raise ValidationError(
            f"No volume has been pre-warmed with {spec.data} as it is now",
            why=f"none of {session.region} has the tags of version {dataset.version[:12]}",
            next=f"runctl data stage {quoted(spec.data)} --zone ZONE",
        )
    places = ", ".join(f"{volume.id} in {volume.zone}" for volume in found)
    return _with(spec, wanted, found), DataPlan(strategy=wanted, why=f"as asked, on {places}")


def _warm(found: Sequence[Any]) -> list[DataVolume]:
    """One volume a zone: those at no machine come first."""
    by_zone: dict[str, DataVolume] = {}
    for volume in found:
        by_zone.setdefault(volume.zone, DataVolume(id=volume.id, zone=volume.zone))
    return list(by_zone.values())


def _cheapest(
    session: Session, spec: JobSpec, offers: Sequence[Offer], root_gib: int, emit: Emit
) -> tuple[JobSpec, DataPlan]:
    """What costs the least of all that gives the script a folder."""
    from runctl.datasets import strategy, volumes
    from runctl.resources.prefixes import dataset_of

    assert spec.data  # noqa: S101 (decided before)
    try:
        dataset = dataset_of(session, spec.data)
        zones = {offer.zone for offer in offers}
        held = [volume for volume in volumes.holding(session, dataset) if volume.zone in zones]
    except TrainctlError as error:
        # The machine may have rights that we have not, and a single object is no dataset.
        why = "its machine reads it; it could not be looked at from here"
        emit(Notice(text=f"{spec.data} was not listed: {error}", warning=not isinstance(error, NotFound)))
        return _with(spec, Strategy.LOCAL_CACHE), DataPlan(strategy=Strategy.LOCAL_CACHE, why=why)
    among = {Strategy.LOCAL_CACHE} | ({Strategy.PREWARMED_EBS} if held else set())
    asked = _situation(session, dataset, offers[0], root_gib, warm=volumes.as_own(held[0]) if held else None)
    try:
        choice = strategy.choose(asked, among=among)
    except ValidationError as error:
        data = DataPlan(
            strategy=Strategy.LOCAL_CACHE, why="it gives the script a folder", warnings=(error.why,)
        )
        return _with(spec, Strategy.LOCAL_CACHE), data
    warm = _warm(held) if choice.strategy is Strategy.PREWARMED_EBS else ()
    return _with(spec, choice.strategy, warm, fallback=bool(warm)), DataPlan(
        strategy=choice.strategy,
        why=choice.why if held else "the way to a folder; no volume is pre-warmed with it",
        usd=choice.estimate.usd,
        warnings=_cheaper(choice),
    )


def _situation(
    session: Session, dataset: Dataset, offer: Offer, root_gib: int, *, warm: OwnVolume | None
) -> Situation:
    from runctl.datasets.situation import Situation, machine_of

    return Situation(
        bytes=dataset.bytes,
        files=dataset.files,
        epochs=EPOCHS,
        runs=1,
        machine=machine_of(
            offer.instance_type,
            session.region,
            spot=offer.market is Market.SPOT,
            price=offer.price,
            root_gib=root_gib,
        ),
        region=session.region,
        bucket_region=dataset.region,
        warm=warm,
    )


def _cheaper(choice: Choice) -> tuple[str, ...]:
    """A word where streaming would cost less: only the script's author can choose it."""
    chosen = choice.estimate
    direct = next(one for one in choice.estimates if one.strategy is Strategy.DIRECT_S3)
    if not direct.feasible or direct.usd is None or chosen.usd is None or direct.usd >= chosen.usd:
        return ()
    less = f"${chosen.usd - direct.usd:.4f} less in {EPOCHS} epochs"
    return (f"--data-strategy direct-s3 would cost {less}, for a script that opens RUNCTL_DATA_LOCATION",)


def volume_for(spec: JobSpec, offer: Offer) -> DataVolume | None:
    """The volume that a machine of an offer gets."""
    if spec.data_strategy not in _ON_VOLUMES:
        return None
    return next((volume for volume in spec.data_volumes if volume.zone == offer.zone), None)


def for_agent(spec: JobSpec, offer: Offer, session: Session | None = None) -> dict[str, Any] | None:
    """The agent's part of it; `docs/agent.md` describes it."""
    if not spec.data:
        return None
    if not spec.data_strategy:
        return {"location": spec.data}
    where = {"location": spec.data, **_whereabouts(session, spec.data)}
    volume = volume_for(spec, offer)
    if volume is None:
        strategy = Strategy.LOCAL_CACHE if spec.data_strategy in _ON_VOLUMES else spec.data_strategy
        return {**where, "strategy": str(strategy)}
    return {
        **where,
        "strategy": spec.data_strategy,
        "volume": volume.id,
        "device": DEVICE,
        "patience": AGENT_PATIENCE,
        "otherwise": str(Strategy.LOCAL_CACHE) if spec.data_fallback else None,
    }


def _whereabouts(session: Session | None, location: str) -> dict[str, str]:
    """The region of the data's bucket and S3's host there: a machine asks nobody else."""
    place = parse(location)
    if session is None or not isinstance(place, S3Location):
        return {}
    try:
        region = session.bucket_region(place.bucket)
    except (CloudError, NotFound):
        return {}  # the agent says what is wrong with it
    return {"region": region, "host": session.s3_host(region)}


def attach(place: Place, spec: JobSpec, offer: Offer, machine_id: str, *, emit: Emit) -> None:
    """Give a new machine the volume with its data; one that has it is left alone.

    Raises CloudError; with a fallback it only says so, and the agent loads the data itself.
    """
    volume = volume_for(spec, offer)
    if volume is None or place.session is None:
        return
    try:
        _attach(place.session, volume.id, machine_id, emit)
    except TrainctlError as error:
        if not spec.data_fallback:
            raise CloudError(
                f"{volume.id} with the data could not be attached to {machine_id}",
                service="ec2",
                operation="attach_volume",
                code=getattr(error, "code", "") or error.kind,
                why=str(error),
                next="--data-strategy local-cache, or free the volume",
            ) from error
        emit(Notice(text=f"{volume.id} stays where it is, the data is loaded from S3: {error}", warning=True))


def _attach(session: Session, volume_id: str, machine_id: str, emit: Emit) -> None:
    from runctl.providers.aws import instances, volumes

    volume = volumes.describe(session, volume_id)
    if volume is None:
        raise NotFound(f"There is no volume {volume_id} any more", next="runctl data stage")
    if not any(one.instance == machine_id for one in volume.attachments):
        volumes.wait_available(session, volume_id, timeout=FREE_PATIENCE, emit=emit)
        instances.wait_state(session, machine_id, "running", timeout=PATIENCE, emit=emit)
        volumes.attach(session, volume_id, machine_id, DEVICE)
    volumes.wait_attached(session, volume_id, machine_id, timeout=PATIENCE, emit=emit)
