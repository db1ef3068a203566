"""What the filling of a volume would cost, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runctl.quoting import quoted
from runctl.render import figures, output

if TYPE_CHECKING:
    from runctl.resources.prefixes import Dataset
    from runctl.resources.warming import Warming


def show_warming(dataset: Dataset, found: Warming) -> None:
    """The plan for people: dataset, machine with what stands in for it, time and money."""
    output.write_line(
        f"{dataset.location}: {figures.count(dataset.files, 'file')}, {figures.size(dataset.bytes)},"
        f" version {dataset.version[:12]}"
    )
    for number, offer in enumerate(found.offers):
        price = figures.usd(offer.price.usd_per_hour if offer.price else None)
        word = "machine" if number == 0 else "  else"
        output.write_line(f"{word}: {offer.instance_type} {offer.market} in {offer.zone}, {price}/h")
    if not found.offers:
        output.write_line(f"machine: the one that is named, {found.estimate.instance_type}")
    if dataset.refused:
        count = figures.count(len(dataset.refused), "key")
        output.write_line(
            f"{count} cannot be files and will be left out, such as {_shown(dataset.refused[0][0])}"
        )
    cost = f", about {figures.usd(found.estimate.usd)}" if found.offers else ""
    output.write_line(
        f"about {figures.duration(found.estimate.duration)} at {found.estimate.mibs:.0f} MiB/s{cost},"
        " if nothing of it is there yet"
    )


def show_staged(staged: Mapping[str, Any], snapshot: str | None) -> None:
    """What was copied, what was there, what could not come and why; all as talk."""
    copied, seconds = staged["copied_bytes"], max(staged["seconds"], 0.1)
    rate = f" in {seconds:.0f} s" if staged["copied_files"] else ""
    amount = f"{figures.count(staged['copied_files'], 'file')} ({figures.size(copied)}) copied{rate}"
    output.talk(f"{staged['location']}: {amount}, {staged['equal_files']} there already")
    cost = "" if staged["usd"] in {None, "0"} else f"; the machine cost about ${float(staged['usd']):.4f}"
    output.talk(f"version {staged['version'][:12]}, {staged['files']} files in all{cost}")
    if staged["deleted_files"]:
        output.talk(f"{figures.count(staged['deleted_files'], 'file')} gone from S3 removed")
    if staged["extra_files"]:
        count = figures.count(staged["extra_files"], "file")
        output.talk(f"{count} gone from S3 kept on the volume: --delete removes them", style="yellow")
    for name, why in staged["left_out"]:
        output.talk(f"left out: {_shown(name)}: {why}", style="yellow")
    if (more := staged["left_out_files"] - len(staged["left_out"])) > 0:
        output.talk(f"and {more} more left out", style="yellow")
    if snapshot:
        output.talk(
            f"{snapshot} holds it for other zones: runctl data stage {quoted(staged['location'])} --zone ZONE"
        )


def _shown(name: str) -> str:
    """Names come from a bucket, and a terminal obeys what it is shown."""
    return name if name.isprintable() else repr(name)
