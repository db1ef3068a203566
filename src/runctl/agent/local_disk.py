"""The biggest local disk: an instance store where the machine has one, else the disk of the home folder."""

from __future__ import annotations

import glob
import os
import subprocess
from typing import Dict, List

STORE = "Instance Storage"
PATH = "/mnt/runctl-local"
KNOWN = ("/opt/dlami/nvme",)
"""Where images with deep learning software put the instance stores together."""


def cache_folder(home: str, disposable: bool) -> str:
    """The folder for what can be fetched again. A blank instance store is used on a machine that is ours."""
    chosen = os.environ.get("RUNCTL_CACHE_DIR")
    if chosen:
        return os.path.join(chosen, "datasets")
    stores = _mounted_stores()
    if not stores and disposable:
        stores = _make_store()
    folders = [home] + [os.path.join(store, "runctl") for store in stores]
    biggest = max(folders, key=free)
    return os.path.join(biggest, "cache", "datasets")


def free(folder: str) -> int:
    """Bytes that can be written at a place that may not be there yet."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize if os.access(folder, os.W_OK) else 0


def _devices() -> List[str]:
    """The instance stores of this machine; none in a sandbox, whose host's disks are no business of ours."""
    dev = os.environ.get("RUNCTL_DEV", "/dev")
    system = os.environ.get("RUNCTL_SYS", "/sys" if dev == "/dev" else "")
    found: List[str] = []
    for model in sorted(glob.glob(os.path.join(system, "class/nvme/nvme*/model"))) if system else []:
        try:
            with open(model) as file:
                is_store = STORE in file.read()
        except OSError:  # the device went
            continue
        device = os.path.join(dev, os.path.basename(os.path.dirname(model)) + "n1")
        if is_store and os.path.exists(device):
            found.append(device)
    return found


def _mounted_stores() -> List[str]:
    mounts = _mounts()
    found = [mounts[device] for device in _devices() if device in mounts]
    return found + [path for path in KNOWN if path in mounts.values()]


def _mounts() -> Dict[str, str]:
    """Where each device is mounted."""
    try:
        with open(os.environ.get("RUNCTL_MOUNTS", "/proc/mounts")) as file:
            rows = [line.split() for line in file]
    except OSError:
        return {}
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _make_store() -> List[str]:
    """Format and mount the first blank instance store; nothing where that does not work."""
    for device in _devices():
        if _is_blank(device) and _ok("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard", device):
            path = os.environ.get("RUNCTL_ROOT", "") + PATH
            os.makedirs(path, exist_ok=True)
            if _ok("mount", device, path):
                return [path]
    return []


def _is_blank(device: str) -> bool:
    """No signature that blkid knows, nobody that holds it, and a first MiB of zeros."""
    try:
        if subprocess.run(["blkid", "-p", device], capture_output=True).returncode != 2:
            return False
        if glob.glob("/sys/block/%s/holders/*" % os.path.basename(device)):
            return False
        with open(device, "rb") as file:
            return not file.read(1 << 20).strip(b"\0")
    except OSError:  # a disk that cannot be looked at is not taken for empty
        return False


def _ok(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:  # there is no such program
        return False
