"""What the choice of a loading strategy depends on: the dataset, the training, the machine, the prices."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from runctl.datasets.arithmetic import Factor
from runctl.model import Price
from runctl.pricing import catalog

MB = Decimal(10**6)
GIB = 2**30

READERS = 16
"""Requests to S3 at once, which is what runctl's own readers send."""

STREAM_MBS = Decimal(85)
"""MB/s of one request: S3 user guide, "Performance design patterns", 85 to 90."""

FIRST_BYTE = Decimal("0.1")
"""Seconds until an object begins to come: S3 user guide, the same page, 100 to 200 ms."""

PART_BYTES = 16 * 2**20
NVME_MBS = Decimal(500)
"""MB/s of an instance store. An assumption: AWS publishes no such figure by type, only IOPS."""

NVME_IOPS = 30_000
"""Reads a second of an instance store. An assumption: the smallest GPU types have more."""

ATTACH = Decimal(15)
"""Seconds to attach and mount a volume. An assumption, as usual on EC2."""

MEMORY_PART = Decimal("0.5")
"""Of a machine's memory, what keeps files that were read. An assumption."""

SYSTEM_GIB = 20
"""Of a root disk, what the system takes. An assumption; images with CUDA take more, and have larger disks."""

READS_A_FILE = 2
"""Its place and its bytes. An assumption."""


class OwnVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that holds the dataset; `mibs` is its throughput in MiB/s, `obstacle` why it cannot serve."""

    id: str
    zone: str
    mibs: Decimal
    obstacle: str = ""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What trains; `root_gib` is its root disk."""

    instance_type: str
    memory_gib: Decimal
    throughput: catalog.Throughput
    price: Price | None
    root_gib: int = 30


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """One question: a dataset of so many files and bytes, read `epochs` times in each of `runs` trainings.

    `keep_days` is how long a pre-warmed volume waits between two runs. `needs` is what the training reads
    in MB/s when it never waits; None is unknown, and then every read counts as waiting. `volume` is one that
    the user named, `warm` one that was pre-warmed with this very version. A `bucket_region` that is another
    than the machine's is billed for what leaves it; empty is the same.
    """

    bytes: int
    files: int
    epochs: int
    runs: int
    machine: Machine
    keep_days: Decimal = Decimal(1)
    needs: Decimal | None = None
    region: str = catalog.REGION
    bucket_region: str = ""
    volume: OwnVolume | None = None
    warm: OwnVolume | None = None


def machine_of(
    instance_type: str, region: str, *, spot: bool = False, price: Price | None = None, root_gib: int = 30
) -> Machine:
    """A type by the catalog; its price too, where none is given. Raises ValidationError for unknown types."""
    kind = catalog.instance_type(instance_type)
    listed = catalog.spot_estimate if spot else catalog.on_demand
    return Machine(
        instance_type=instance_type,
        memory_gib=Decimal(str(kind.memory_gib)),
        throughput=catalog.throughput(instance_type),
        price=price or listed(instance_type, region),
        root_gib=root_gib,
    )


class Figures:
    """The factors of a situation, each with its source."""

    def __init__(self, situation: Situation) -> None:
        self._of = situation
        machine = situation.machine
        asked, types = "asked for", "AWS's instance types, sustained"
        name = machine.instance_type
        self.bytes = Factor("size", "bytes of the dataset", Decimal(situation.bytes), "B", "listing")
        self.files = Factor("files", "files of the dataset", Decimal(situation.files), "files", "listing")
        self.epochs = Factor("epochs", "epochs a run", Decimal(situation.epochs), "", asked)
        self.runs = Factor("runs", "runs", Decimal(situation.runs), "", asked)
        self.days = Factor(
            "days", "days that a volume waits between runs", situation.keep_days, "days", asked
        )
        self.network = Factor("net", f"network of {name}", machine.throughput.network_gbps, "Gbit/s", types)
        self.ebs = Factor("ebs", f"EBS of {name}", machine.throughput.ebs_gbps, "Gbit/s", types)
        self.readers = Factor("readers", "requests at once", Decimal(READERS), "", "runctl")
        self.stream = Factor("stream", "one request to S3", STREAM_MBS, "MB/s", "S3 user guide")
        self.first_byte = Factor("first", "until an object begins", FIRST_BYTE, "s", "S3 user guide")
        self.nvme = Factor("nvme", "instance store", NVME_MBS, "MB/s", "assumption")
        self.attach = Factor("attach", "attach and mount", ATTACH, "s", "assumption")
        each = Decimal(READS_A_FILE)
        self.reads_a_file = Factor("each", "reads that a file takes", each, "", "assumption")
        iops = Decimal(catalog.GP3_INCLUDED_IOPS)
        self.iops = Factor("iops", "reads a second", iops, "1/s", "gp3 includes 3,000")
        self.nvme_iops = Factor("iops", "reads a second", Decimal(NVME_IOPS), "1/s", "assumption")
        self.needs = Factor("needs", "what the GPU reads when it never waits", situation.needs, "MB/s", asked)
        self.machine = _price("price", f"{name} an hour", machine.price)
        requests = catalog.request_prices(situation.region)
        dated = f"{requests.source}, {requests.as_of:%Y-%m-%d}" if requests else f"none of {situation.region}"
        get, listing = (requests.get, requests.list_put) if requests else (None, None)
        self.get = Factor("get", "1,000 GET requests", get, "USD", dated)
        self.listing = Factor("list", "1,000 LIST requests", listing, "USD", dated)

    @property
    def fits_memory(self) -> bool:
        """Whether files stay in memory once they were read."""
        return self._of.bytes <= self._of.machine.memory_gib * GIB * MEMORY_PART

    def volume_month(self) -> Factor:
        known = catalog.gib_month("gp3", region=self._of.region)
        price, source = (known[0], f"catalog, {known[1]}") if known else (None, f"none of {self._of.region}")
        return Factor("month", "a GiB of gp3 a month", price, "USD", source)

    def filler(self, instance_type: str) -> Factor:
        price = catalog.on_demand(instance_type, self._of.region)
        return _price("filler", f"{instance_type} an hour, which fills the volume", price)


def _price(symbol: str, name: str, price: Price | None) -> Factor:
    if price is None:
        return Factor(symbol, name, None, "USD", "unknown")
    return Factor(symbol, name, price.usd_per_hour, "USD", f"{price.source}, {price.as_of:%Y-%m-%d}")


def exact(value: float) -> Decimal:
    """A figure as it is written, not as it is stored."""
    return Decimal(str(value))
