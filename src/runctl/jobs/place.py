"""Where a job's attempts run: the provider, the store and the clock of one place, and its offers."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runctl.clock import Clock, SystemClock
from runctl.clouds import Cloud
from runctl.errors import ValidationError
from runctl.events import Emit, ignore
from runctl.jobs.attempt import AttemptView, LocalAttempt, StoredAttempt
from runctl.jobs.spec import JobSpec
from runctl.model import InstanceType, Market, Offer, Price
from runctl.pricing import catalog
from runctl.providers.base import Provider
from runctl.providers.local import INSTANCE_TYPE, LocalProvider, died_at_start
from runctl.quoting import quoted
from runctl.storage.folder import FolderStore
from runctl.storage.objects import JOBS_PREFIX, Store

if TYPE_CHECKING:
    from runctl.providers.aws.market import Image
    from runctl.providers.aws.session import Session


class AwsSettings(msgspec.Struct, frozen=True):
    """What the configuration says of machines on AWS; the disk in GiB, the lease in minutes."""

    bucket: str | None = None
    instance_profile: str = "runctl-instance"
    subnets: tuple[str, ...] = ()
    security_group: str | None = None
    image: str | None = None
    root_volume_gib: int = 30
    lease_minutes: int = 15
    warn_instances: int = 10
    refuse_instances: int = 50


class Place(msgspec.Struct, frozen=True):
    """One place as one job sees it; `session` and `bucket` are None on this machine."""

    cloud_key: str
    clock: Clock
    provider: Provider
    store: Store
    settings: AwsSettings
    session: Session | None = None
    bucket: str | None = None
    prefix: str = ""

    def view(self, number: int, seal: str = "") -> AttemptView:
        """An attempt; with a `seal`, only what a machine that has this key wrote is believed."""
        if self.session:
            return StoredAttempt(self.store, number, seal)
        assert isinstance(self.store, FolderStore)  # noqa: S101 (this machine)
        folder = self.store.root / f"attempt-{number}"
        return LocalAttempt(self.store, number, lambda: died_at_start(folder))

    @property
    def ended(self) -> str:
        """Why the cloud of this place is over; empty while it lives, and on this machine."""
        return self.session.cloud.ended if self.session else ""

    def owner(self) -> str:
        """The account that the job bucket must belong to."""
        return self.session.account() if self.session else ""

    def commits(self) -> str:
        """The folder of committed checkpoints in the store."""
        return "checkpoints/" if self.session else "committed/"


def local_place(folder: Path) -> Place:
    """This machine; the job's folder is its store."""
    return Place(
        cloud_key="local",
        clock=SystemClock(),
        provider=LocalProvider(),
        store=FolderStore(folder),
        settings=AwsSettings(),
    )


def cloud_place(
    cloud: Cloud,
    job: str,
    spec: JobSpec,
    settings: AwsSettings,
    *,
    bucket: str | None = None,
    emit: Emit = ignore,
) -> Place:
    """AWS or the sandbox. Raises ConfigError without credentials or region."""
    from runctl.providers.aws import account
    from runctl.providers.aws.provider import AwsProvider, NamedInstance
    from runctl.providers.aws.session import Session
    from runctl.resources.reaching import job_access
    from runctl.storage.s3 import S3Store

    session = Session(cloud, emit=emit)
    name = bucket or settings.bucket or account.default_bucket(session)
    prefix = f"{JOBS_PREFIX}/{job}"
    provider = NamedInstance(session) if spec.instance else AwsProvider(session)
    return Place(
        cloud_key=cloud.key,
        clock=cloud.clock,
        provider=provider,
        store=S3Store(name, prefix, job_access(session)),
        settings=settings,
        session=session,
        bucket=name,
        prefix=prefix,
    )


class RootDisk(msgspec.Struct, frozen=True):
    """The image that a machine starts from and the disk that it gets; the price is None where unknown."""

    image: Image
    gib: int
    price: Price | None


def root_disk(place: Place, instance_type: str) -> RootDisk:
    """As large as the settings say, and never smaller than the image. Raises as `market.image_for`."""
    from runctl.providers.aws import market

    assert place.session is not None  # noqa: S101 (clouds only)
    kind, settings = catalog.instance_type(instance_type), place.settings
    catalog.require_driven(kind, settings.image)
    image = market.image_for(
        place.session, architecture=kind.architecture, gpus=kind.gpus, chosen=settings.image
    )
    gib = max(settings.root_volume_gib, image.root_gib)
    return RootDisk(image, gib, catalog.volume_rate("gp3", size_gib=gib, region=place.session.region))


def architecture_of(instance_type: str) -> str:
    """That of an instance type; a user's own machine may be of one that the catalog does not know."""
    try:
        return catalog.instance_type(instance_type).architecture
    except ValidationError:
        return "x86_64"


def guard(place: Place, spec: JobSpec, *, emit: Emit) -> None:
    """Warn and refuse where too many instances run to launch one more. Raises ValidationError."""
    if place.session is None or spec.instance:
        return
    from runctl.resources import instance_limits

    settings = place.settings
    limits = instance_limits.Limits(warn=settings.warn_instances, refuse=settings.refuse_instances)
    instance_limits.guard(place.session, limits, emit=emit)


def offers(place: Place, spec: JobSpec, *, avoid: Collection[str] = (), emit: Emit = ignore) -> list[Offer]:
    """Every way to get a machine for this job, the best first; zones in `avoid` come last.

    Raises ValidationError for an unknown type and where nothing is offered.
    """
    session = place.session
    if session is None:
        return [Offer("local", INSTANCE_TYPE, "", Market.ON_DEMAND, _free(place.clock))]
    if spec.instance:
        return [_named_offer(session, place, spec.instance)]
    from runctl.resources.offers import offers as offers_of

    found = offers_of(
        session,
        wanted_types(spec),
        spot=spec.spot,
        fallback=spec.fallback,
        avoid=avoid,
        subnets=place.settings.subnets,
        emit=emit,
    )
    return near_data(found, spec)


def near_data(found: list[Offer], spec: JobSpec) -> list[Offer]:
    """Where the data is on volumes, their zones come first; without a fallback, no other comes.

    Raises ValidationError where nothing is offered there.
    """
    zones = {volume.zone for volume in spec.data_volumes if volume.zone}
    if not zones:
        return found
    near = [offer for offer in found if offer.zone in zones]
    if spec.data_fallback:
        return near + [offer for offer in found if offer.zone not in zones]
    if not near:
        raise ValidationError(
            f"No machine is offered where the data is: {', '.join(sorted(zones))}",
            next=f"runctl data stage {quoted(spec.data)} --zone ZONE, or --data-strategy local-cache",
        )
    return near


def wanted_types(spec: JobSpec) -> list[InstanceType]:
    """The named type, or the three cheapest with as many GPUs. Raises ValidationError for unknown ones."""
    if spec.instance_type:
        return [catalog.instance_type(spec.instance_type)]
    cheapest = catalog.with_gpus(spec.gpus or 0, market=Market.SPOT if spec.spot else Market.ON_DEMAND)[:3]
    if not cheapest:
        raise ValidationError(
            f"No known machine has exactly {spec.gpus} GPUs", next="try --gpus 1, 4 or 8, or --instance-type"
        )
    return cheapest


def _named_offer(session: Session, place: Place, instance_id: str) -> Offer:
    machine = place.provider.describe(instance_id)
    if machine is None:
        raise ValidationError(
            f"There is no instance {instance_id} in {session.region}",
            next="aws ec2 describe-instances, or another --region",
        )
    price = catalog.on_demand(machine.instance_type, session.region)
    if machine.market is Market.SPOT:
        from runctl.resources.offers import spot_prices

        price = spot_prices(session, place.clock, machine.instance_type).get(machine.zone)
    # A named instance is its own zone: the provider finds it by this.
    return Offer("aws", machine.instance_type, instance_id, machine.market, price)


def _free(clock: Clock) -> Price:
    return Price(usd_per_hour=Decimal(0), source="this machine", as_of=clock.now())
