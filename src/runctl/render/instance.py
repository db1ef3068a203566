"""Instances and what runs on them, as people read it."""

from __future__ import annotations

from datetime import timedelta

from runctl.render import figures, output
from runctl.resources.noting import InstanceStatus
from runctl.resources.processes import Gpu, Processes


def show_status(status: InstanceStatus) -> None:
    """The instance, its disks, its training and its cost."""
    found = status.instance
    name = f" {found.name!r}" if found.name else ""
    output.write_line(
        f"{found.id}{name}: {found.state}, {found.instance_type} {found.market} in {found.zone}"
    )
    output.write_line(f"  since      {figures.moment(found.launched)} UTC")
    if found.reason:
        output.write_line(f"  reason     {found.reason}")
    output.write_line(f"  training   {status.activity}: {status.activity_reason}")
    output.write_line(f"  costs      {figures.usd(status.usd_per_hour)} an hour with its disks")
    for volume, disk in status.disks:
        lock = "persistent" if volume.tags.get("runctl:persistent") == "true" else ""
        ends = "ends with it" if disk.delete_on_termination and not lock else "stays"
        output.write_line(
            f"  {disk.device:<10} {volume.id} {volume.size_gib} GiB {volume.volume_type},"
            f" {', '.join(filter(None, [lock, ends]))}"
        )


def show_processes(found: Processes, limit: int) -> None:
    """GPUs in a line each, then the busiest processes."""
    for gpu in found.gpus:
        output.write_line(_gpu(gpu))
    output.write_table(
        ("pid", "user", "cpu %", "mem %", "memory", "gpu memory", "for", "command"),
        [
            (
                str(process.pid),
                process.user,
                f"{process.cpu_percent:.1f}",
                f"{process.memory_percent:.1f}",
                figures.size(process.memory_kib * 1024),
                "" if process.gpu_memory_mib is None else figures.size(process.gpu_memory_mib * 2**20),
                figures.duration(timedelta(seconds=process.seconds)),
                process.command,
            )
            for process in found.processes[:limit]
        ],
        right=("pid", "cpu %", "mem %", "memory", "gpu memory"),
    )


def _gpu(gpu: Gpu) -> str:
    busy = "busy unknown" if gpu.busy_percent is None else f"{gpu.busy_percent}% busy"
    used = "unknown" if gpu.memory_used_mib is None else figures.size(gpu.memory_used_mib * 2**20)
    whole = "unknown" if gpu.memory_mib is None else figures.size(gpu.memory_mib * 2**20)
    return f"GPU {gpu.index} {gpu.name}: {busy}, {used} of {whole}"
