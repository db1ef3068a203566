"""A volume with the data: its device found once it is attached, and mounted so that nobody writes to it."""

from __future__ import annotations

import glob
import os
import subprocess
import time
from typing import Optional

PATH = "/mnt/runctl-data"


class NoVolume(Exception):
    """The volume did not come, or cannot be read."""


def mounted(volume: str, device: str, patience: float) -> str:
    """The folder of a volume, mounted read-only; waits for its device for `patience` real seconds.

    `device` is the name that it was attached with, which Xen machines know it by. Raises NoVolume.
    """
    until = time.monotonic() + patience
    while True:
        found = find_device(volume, device)
        if found is not None:
            return _mount(found, volume)
        if time.monotonic() >= until:
            raise NoVolume("no device of %s appeared within %d s" % (volume, patience))
        time.sleep(0.5)


def find_device(volume: str, device: str = "") -> Optional[str]:
    """By udev's links, by the serial number of NVMe, by the name on Xen."""
    plain = volume.replace("-", "")
    dev = os.environ.get("RUNCTL_DEV", "/dev")
    for link in sorted(glob.glob(os.path.join(dev, "disk", "by-id", "*%s*" % plain))):
        if "-part" not in os.path.basename(link) and os.path.exists(link):
            return os.path.realpath(link)
    for serial in glob.glob(os.path.join(os.environ.get("RUNCTL_SYS", "/sys"), "class/nvme/nvme*/serial")):
        try:
            with open(serial) as file:
                if file.read().strip() == plain:
                    return os.path.join(dev, os.path.basename(os.path.dirname(serial)) + "n1")
        except OSError:  # the device went
            continue
    name = os.path.basename(device)
    for known in (name, name.replace("sd", "xvd", 1)):
        if known and os.path.exists(os.path.join(dev, known)):
            return os.path.realpath(os.path.join(dev, known))
    return None


def _mount(device: str, volume: str) -> str:
    there = _run("findmnt", "-n", "-o", "TARGET", "--source", device)
    if there.returncode == 0 and there.stdout.strip():
        return there.stdout.decode("utf-8", "surrogateescape").splitlines()[0]
    path = os.environ.get("RUNCTL_ROOT", "") + PATH
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise NoVolume("%s cannot be made: %s" % (path, error)) from error
    done = _run("mount", "-o", "ro", device, path)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise NoVolume("%s cannot be mounted: %s" % (volume, said))
    return path


def _run(*command: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoVolume("%s: %s" % (command[0], error)) from error
