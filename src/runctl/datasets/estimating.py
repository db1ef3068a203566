"""What each strategy takes: times and costs as terms over the figures of a situation."""

from __future__ import annotations

from decimal import Decimal

from runctl.datasets.arithmetic import Factor, Term, term, total
from runctl.datasets.situation import GIB, MB, PART_BYTES, SYSTEM_GIB, Figures, OwnVolume, Situation, exact
from runctl.datasets.strategy import Estimate, Strategy, complete
from runctl.model import HOURS_PER_MONTH
from runctl.pricing import catalog
from runctl.resources import fillers

LARGEST_VOLUME_GIB = 65_536
_NVME_ROOM = Decimal("0.95")
"""Of an instance store, what a file system leaves for files."""

_GETS = f"(files + size // {PART_BYTES}) * get / 1000"
"""At most so many requests, however the bytes are spread over the files."""

_PAGES = "max(1, ceil(files / 1000))"
"""A LIST request answers 1,000 objects, and even nothing takes one."""

_FROM_S3 = "size / 1000000 / {rate} + files * first / readers"


def direct(situation: Situation) -> Estimate:
    """Stream from S3 in every epoch."""
    figures = Figures(situation)
    rate = _s3_rate(figures)
    passing = term(
        "read from S3 once", "s", _FROM_S3.format(rate="s3"), *_reading(figures, rate.factor("s3"))
    )
    waiting = (_listing_time(figures), _epochs(situation, figures, passing, figures.epochs))
    gets = _gets(figures, figures.runs, figures.epochs)
    found = Estimate(
        strategy=Strategy.DIRECT_S3,
        rates=(rate, passing),
        waiting=waiting,
        costs=(
            gets,
            _listing_cost(figures, figures.runs),
            *_transfer(situation, figures, figures.runs, figures.epochs),
            _gpu(figures, waiting),
        ),
        slow=_too_slow(situation, passing, "S3 streams"),
        obstacles=_unknown(rate, f"the network of {situation.machine.instance_type} is not known"),
    )
    return complete(found)


def cached(situation: Situation) -> Estimate:
    """Load onto the machine's biggest local disk in each run, then read from there."""
    figures = Figures(situation)
    from_s3, (disk, iops, room, where) = _s3_rate(figures), _local_disk(situation, figures)
    fill = term("fill the disk", "MB/s", "min(s3, disk)", from_s3.factor("s3"), disk.factor("disk"))
    formula = f"runs * ({_FROM_S3.format(rate='fill')})"
    loading = term("load in each run", "s", formula, figures.runs, *_reading(figures, fill.factor("fill")))
    passing = _read_disk(f"read {where} once", disk, iops, figures)
    in_memory = Factor("reads", "epochs read from disk", Decimal(0), "", "what was loaded stays in memory")
    reads = in_memory if figures.fits_memory else figures.epochs
    waiting = (_listing_time(figures), loading, _epochs(situation, figures, passing, reads))
    obstacles = _unknown(from_s3, f"the network of {situation.machine.instance_type} is not known")
    obstacles += _unknown(disk, f"the disks of {situation.machine.instance_type} are not known")
    if situation.bytes > room:
        there = f"{where} of {situation.machine.instance_type} has room for {float(room) / GIB:.1f} GiB"
        obstacles += (f"{situation.bytes / GIB:.1f} GiB do not fit: {there}",)
    found = Estimate(
        strategy=Strategy.LOCAL_CACHE,
        rates=(from_s3, disk, fill, passing),
        waiting=waiting,
        costs=(
            _gets(figures, figures.runs),
            _listing_cost(figures, figures.runs),
            *_transfer(situation, figures, figures.runs),
            _gpu(figures, waiting),
        ),
        slow="" if figures.fits_memory else _too_slow(situation, passing, f"{where} reads"),
        obstacles=obstacles,
        notes=("a run on a machine that has the cache already loads nothing: that is not counted",),
    )
    return complete(found)


def prewarmed(situation: Situation) -> Estimate:
    """Fill a volume once, by a temporary machine, and attach it to each run's machine."""
    figures = Figures(situation)
    mibs = situation.warm.mibs if situation.warm else Decimal(catalog.GP3_INCLUDED_MIBS)
    rate, passing, waiting = _volume_reads(situation, figures, mibs)
    gib = max(4, int(situation.bytes / GIB * 1.15) + 2)
    preparing: tuple[Term, ...] = ()
    costs: tuple[Term, ...] = ()
    notes = ("a volume serves one zone; a snapshot of it serves others",)
    if situation.warm is None:
        filling, price = _filling(situation, figures, mibs)
        preparing = (filling,)
        costs = (
            term("the filling machine", "USD", "fill / 3600 * filler", filling.factor("fill"), price),
            _gets(figures),
            _listing_cost(figures),
            *_transfer(situation, figures),
        )
    else:
        notes += (f"{situation.warm.id} in {situation.warm.zone} holds this version already",)
    obstacles = _unknown(rate, f"the EBS throughput of {situation.machine.instance_type} is not known")
    if gib > LARGEST_VOLUME_GIB:
        obstacles += (f"{gib} GiB are more than a volume holds, {LARGEST_VOLUME_GIB}",)
    found = Estimate(
        strategy=Strategy.PREWARMED_EBS,
        rates=(rate, passing),
        preparing=preparing,
        waiting=waiting,
        costs=(*costs, _volume_cost(situation, figures, gib, (*preparing, *waiting)), _gpu(figures, waiting)),
        slow=_too_slow(situation, passing, "the volume reads"),
        obstacles=obstacles,
        notes=notes,
    )
    return complete(found)


def existing(situation: Situation, volume: OwnVolume) -> Estimate:
    """Attach a volume that the user has; its own price is paid whatever is chosen."""
    figures = Figures(situation)
    rate, passing, waiting = _volume_reads(situation, figures, volume.mibs)
    obstacles = _unknown(rate, f"the EBS throughput of {situation.machine.instance_type} is not known")
    found = Estimate(
        strategy=Strategy.EXISTING_EBS,
        rates=(rate, passing),
        waiting=waiting,
        costs=(_gpu(figures, waiting),),
        slow=_too_slow(situation, passing, "the volume reads"),
        obstacles=obstacles + ((volume.obstacle,) if volume.obstacle else ()),
        notes=(f"{volume.id} is paid for whatever is chosen, and not counted",),
    )
    return complete(found)


# Rates in MB/s (10^6 bytes)


def _s3_rate(figures: Figures) -> Term:
    factors = (figures.network, figures.readers, figures.stream)
    return term("from S3", "MB/s", "min(net * 1000 / 8, readers * stream)", *factors)


def _local_disk(situation: Situation, figures: Figures) -> tuple[Term, Factor, Decimal, str]:
    """The biggest local disk: its rate, its reads a second, its room in bytes, and what it is."""
    nvme = situation.machine.throughput.nvme_gb
    if nvme:
        rate = term("the instance store", "MB/s", "nvme", figures.nvme)
        return rate, figures.nvme_iops, nvme * 10**9 * _NVME_ROOM, "the instance store"
    room = Decimal(max(0, situation.machine.root_gib - SYSTEM_GIB) * GIB)
    rate = _ebs_rate("the root disk", figures, Decimal(catalog.GP3_INCLUDED_MIBS))
    return rate, figures.iops, room, "the root disk"


def _ebs_rate(name: str, figures: Figures, mibs: Decimal) -> Term:
    volume = Factor("mibs", "throughput of the volume", mibs, "MiB/s", "gp3 includes 125")
    return term(name, "MB/s", "min(mibs * 1.048576, ebs * 1000 / 8)", volume, figures.ebs)


# Times


def _reading(figures: Figures, rate: Factor) -> tuple[Factor, ...]:
    """The factors of reading all from S3 at a rate."""
    return figures.bytes, rate, figures.files, figures.first_byte, figures.readers


def _read_disk(name: str, rate: Term, iops: Factor, figures: Figures) -> Term:
    factors = (figures.bytes, rate.factor("disk"), figures.files, figures.reads_a_file, iops)
    return term(name, "s", "size / 1000000 / disk + files * each / iops", *factors)


def _volume_reads(
    situation: Situation, figures: Figures, mibs: Decimal
) -> tuple[Term, Term, tuple[Term, ...]]:
    rate = _ebs_rate("the volume", figures, mibs)
    passing = _read_disk("read the volume once", rate, figures.iops, figures)
    in_memory = Factor("reads", "epochs read from disk", Decimal(1), "", "what was read stays in memory")
    reads = in_memory if figures.fits_memory else figures.epochs
    attaching = term("attach in each run", "s", "runs * attach", figures.runs, figures.attach)
    return rate, passing, (attaching, _epochs(situation, figures, passing, reads))


def _epochs(situation: Situation, figures: Figures, passing: Term, reads: Factor) -> Term:
    """What the GPU waits for in the epochs of all runs: all that is read, or what computing does not hide."""
    factors = (figures.runs, reads, passing.factor("once"))
    if situation.needs is None:
        return term("read in the epochs", "s", f"runs * {reads.symbol} * once", *factors)
    formula = f"runs * {reads.symbol} * max(0, once - size / 1000000 / needs)"
    return term("wait in the epochs", "s", formula, *factors, figures.bytes, figures.needs)


def _listing_time(figures: Figures) -> Term:
    factors = (figures.runs, figures.files, figures.first_byte)
    return term("list in each run", "s", f"runs * {_PAGES} * first", *factors)


def _filling(situation: Situation, figures: Figures, mibs: Decimal) -> tuple[Term, Factor]:
    """How long a temporary machine works, chosen as `runctl aws ebs pre-warm` does, and its price."""
    work = fillers.Work(files=situation.files, bytes=situation.bytes, volume_mibs=float(mibs))
    chosen = fillers.fitting(work)[0].name
    known = catalog.throughput(chosen)
    gbps = [value for value in (known.ebs_gbps, known.network_gbps) if value is not None]
    filling = term(
        "fill the volume once",
        "s",
        "boot + max(size / 1000000 / (part * min(gbps * 1000 / 8, mibs * 1.048576)), files / pace)",
        Factor("boot", "boot and removal", exact(fillers.BOOT + fillers.ENDING), "s", "as usual on EC2"),
        figures.bytes,
        Factor("part", "of the rate, what copying reaches", exact(fillers.EFFICIENCY), "", "runctl"),
        Factor("gbps", f"the slower of {chosen}'s network and EBS", min(gbps, default=None), "Gbit/s", "AWS"),
        Factor("mibs", "throughput of the volume", mibs, "MiB/s", "gp3 includes 125"),
        figures.files,
        Factor("pace", "files copied a second", exact(fillers.FILES_A_SECOND), "1/s", "runctl"),
    )
    return filling, figures.filler(chosen)


# Costs


def _gets(figures: Figures, *often: Factor) -> Term:
    formula = " * ".join([*(factor.symbol for factor in often), _GETS])
    return term("GET requests", "USD", formula, *often, figures.files, figures.bytes, figures.get)


def _listing_cost(figures: Figures, *often: Factor) -> Term:
    formula = " * ".join([*(factor.symbol for factor in often), _PAGES, "list / 1000"])
    return term("LIST requests", "USD", formula, *often, figures.files, figures.listing)


def _transfer(situation: Situation, figures: Figures, *often: Factor) -> tuple[Term, ...]:
    """Between regions every byte is billed, at a price that the catalog does not know; within one, none."""
    if situation.bucket_region in {"", situation.region}:
        return ()
    between = f"a GB from {situation.bucket_region} to {situation.region}"
    price = Factor("transfer", between, None, "USD", "not in the catalog")
    formula = " * ".join([*(factor.symbol for factor in often), "size / 1000000000 * transfer"])
    return (term("between regions", "USD", formula, *often, figures.bytes, price),)


def _gpu(figures: Figures, waiting: tuple[Term, ...]) -> Term:
    seconds = Factor("waits", "what the GPU waits for", total(waiting), "s", "from above")
    return term("the waiting machine", "USD", "waits / 3600 * price", seconds, figures.machine)


def _volume_cost(situation: Situation, figures: Figures, gib: int, used: tuple[Term, ...]) -> Term:
    computes = Decimal(0)
    if situation.needs is not None:
        computes = situation.runs * situation.epochs * situation.bytes / (MB * situation.needs)
    return term(
        "the volume",
        "USD",
        f"gib * month / {HOURS_PER_MONTH} * ((used + computes) / 3600 + (runs - 1) * days * 24)",
        Factor("gib", "size of the volume", Decimal(gib), "GiB", "the dataset and 15%"),
        figures.volume_month(),
        Factor("used", "filling and reading", total(used), "s", "from above"),
        Factor("computes", "computing", computes, "s", "size / needs; 0 where that is not told"),
        figures.runs,
        figures.days,
    )


# Reasons against


def _too_slow(situation: Situation, passing: Term, what: str) -> str:
    if situation.needs is None or not passing.value:
        return ""
    rate = situation.bytes / MB / passing.value
    if rate >= situation.needs:
        return ""
    return f"{what} {rate:.0f} MB/s, and the GPU needs {situation.needs:.0f}"


def _unknown(rate: Term, why: str) -> tuple[str, ...]:
    return (why,) if rate.value is None else ()
