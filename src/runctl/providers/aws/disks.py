"""Volumes on the machine itself: their device found, a file system made once, mounted and unmounted.

Each is one POSIX shell script that runs through SSM and bears running twice. Its last line is for us:
`runctl: ok WHAT` or `runctl: error CODE WHAT`.
"""

from __future__ import annotations

import re
import shlex
from datetime import timedelta

from runctl.errors import CloudError, Conflict, TrainctlError, ValidationError
from runctl.providers.aws import shell
from runctl.providers.aws.session import Session

PATIENCE = timedelta(minutes=10)
_LAST_LINE = re.compile(r"^runctl: (ok|error (?P<code>[a-z-]+)) (?P<what>.*)$", re.MULTILINE)
_VOLUME = re.compile(r"vol-[0-9a-f]{8,17}")

FIND = r"""
volume={volume}
dev="${{RUNCTL_DEV:-/dev}}"
sys="${{RUNCTL_SYS:-/sys}}"
fail() {{ code=$1; shift; echo "runctl: error $code $*"; exit 1; }}
plain=$(printf %s "$volume" | tr -d -)
find_device() {{
  # The links of udev, by every rule that is in use; partitions aside.
  for link in "$dev"/disk/by-id/*"$plain"*; do
    case "$link" in *-part*) continue ;; esac
    if [ -e "$link" ]; then readlink -f "$link"; return 0; fi
  done
  # The serial number that NVMe devices of EBS carry is the volume's id.
  for serial in "$sys"/class/nvme/nvme*/serial; do
    [ -e "$serial" ] || continue
    if [ "$(tr -d ' \n' < "$serial")" = "$plain" ]; then
      controller=${{serial%/serial}}
      echo "$dev/${{controller##*/}}n1"
      return 0
    fi
  done
  # Xen has no serial numbers: the name asked for, or the one that the kernel makes of it.
  for name in {names}; do
    if [ -e "$dev/$name" ]; then readlink -f "$dev/$name"; return 0; fi
  done
  return 1
}}
"""

_WAIT = r"""
tries=0
until device=$(find_device); do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || fail no-device "no device of $volume appeared"
  sleep 0.5
done
"""

_MOUNT = (
    FIND
    + _WAIT
    + r"""
path="${{RUNCTL_ROOT:-}}"{path}
at=$(findmnt -n -o TARGET --source "$device" 2>/dev/null | head -n 1)
if [ "$at" = "$path" ]; then echo "runctl: ok $device"; exit 0; fi
[ -z "$at" ] || fail mounted-elsewhere "$device is mounted at $at"
if [ -e "$path" ] && [ ! -d "$path" ]; then fail no-folder "$path is no folder"; fi
if [ -n "$(findmnt -n -o SOURCE --mountpoint "$path" 2>/dev/null)" ]; then
  fail path-in-use "something else is mounted at $path"
fi
if [ -d "$path" ] && [ -n "$(ls -A "$path")" ]; then fail path-in-use "$path is not empty"; fi
kind=$(blkid -p -o value -s TYPE "$device" 2>/dev/null)
case $? in
  0) ;;
  2) kind= ;;
  *) fail unclear "blkid finds more than one signature on $device" ;;
esac
if [ -z "$kind" ]; then
  table=$(blkid -p -o value -s PTTYPE "$device" 2>/dev/null)
  [ -z "$table" ] || fail partitioned "$device has a partition table ($table)"
  if [ -b "$device" ] && [ "$(head -c 1048576 "$device" | tr -d '\0' | head -c 1 | wc -c)" -ne 0 ]; then
    fail not-blank "$device has data and no file system that is known"
  fi
  mkfs.ext4 -q -m 0 "$device" >/dev/null || fail mkfs "mkfs.ext4 failed on $device"
  kind=ext4
fi
case "$kind" in
  ext2|ext3|ext4|xfs|btrfs) ;;
  *) fail foreign "$device has a file system of type $kind" ;;
esac
mkdir -p "$path" || fail no-folder "$path cannot be made"
mount "$device" "$path" || fail mount "$device cannot be mounted at $path"
echo "runctl: ok $device"
"""
)

_UNMOUNT = (
    FIND
    + r"""
device=$(find_device) || {{ echo "runctl: ok none"; exit 0; }}
sync
while at=$(findmnt -n -o TARGET --source "$device" 2>/dev/null | head -n 1) && [ -n "$at" ]; do
  if ! said=$(umount "$at" 2>&1); then
    users=$(command -v fuser >/dev/null && fuser -m "$at" 2>/dev/null | tr -s ' ' | head -c 200)
    fail busy "$at is in use${{users:+ by processes$users}}: $(printf %s "$said" | head -n 1)"
  fi
done
echo "runctl: ok $device"
"""
)

_MOUNTED = (
    FIND
    + r"""
device=$(find_device) || {{ echo "runctl: ok "; exit 0; }}
at=$(findmnt -n -o TARGET --source "$device" 2>/dev/null | head -n 1)
echo "runctl: ok ${{at#"${{RUNCTL_ROOT:-}}"}}"
"""
)

_WHY = {
    "foreign": "it is not formatted again: what is on it may be somebody's",
    "partitioned": "it is not formatted: what is on it may be somebody's",
    "not-blank": "it is not formatted: what is on it may be somebody's",
    "unclear": "it is not formatted: what is on it may be somebody's",
    "busy": "a process holds files on it",
}


def mount(session: Session, instance_id: str, volume_id: str, path: str) -> None:
    """Mount an attached volume at an absolute path; one that is there already is fine.

    A file system (ext4) is made on a device that carries nothing, and on no other. Raises Conflict for a
    foreign file system, a partition table, unknown data, or a path in use; CloudError, ValidationError.
    """
    place = shlex.quote(mount_point(path))
    script = _MOUNT.format(volume=_id(volume_id), names=_names(session, volume_id), path=place)
    _run(session, instance_id, script, f"mount {volume_id}")


def mount_point(path: str) -> str:
    """A path at which a volume can be mounted, in the one way to write it. Raises ValidationError."""
    if not path.startswith("/") or "\0" in path or "\n" in path:
        raise ValidationError(f"{path!r} is no absolute path", next="such as --mount /data")
    clean = "/" + "/".join(part for part in path.split("/") if part not in {"", "."})
    if clean == "/" or ".." in clean.split("/"):
        raise ValidationError(f"A volume cannot be mounted at {path!r}", next="such as --mount /data")
    return clean


def unmount(session: Session, instance_id: str, volume_id: str) -> None:
    """Write out and unmount a volume wherever it is mounted; one that is not mounted is fine.

    Raises Conflict while a process holds it, CloudError.
    """
    script = _UNMOUNT.format(volume=_id(volume_id), names=_names(session, volume_id))
    _run(session, instance_id, script, f"unmount {volume_id}")


def mounted_at(session: Session, instance_id: str, volume_id: str) -> str | None:
    """Where an attached volume is mounted; None where it is not. Raises CloudError."""
    script = _MOUNTED.format(volume=_id(volume_id), names=_names(session, volume_id))
    found = _LAST_LINE.search(_run(session, instance_id, script, f"where is {volume_id}"))
    return (found["what"].strip() if found else "") or None


def parse(output: str) -> TrainctlError | None:
    """What a script's last line says; None for success. Anything else is a CloudError."""
    found = list(_LAST_LINE.finditer(output))
    if not found:
        return _failed("NoAnswer", f"the shell's answer ends with {output[-200:]!r}")
    if found[-1]["code"] is None:
        return None
    code, what = found[-1]["code"], found[-1]["what"].strip()
    if code in {"no-device", "mkfs", "mount"}:
        return _failed(code, what)
    return Conflict(what, why=_WHY.get(code, ""))


def _run(session: Session, instance_id: str, script: str, comment: str) -> str:
    result = shell.run(session, instance_id, script, comment=comment, timeout=PATIENCE)
    if (error := parse(result.output)) is not None:
        if not error.why and result.error:
            error.why = result.error.strip()[-300:]
        raise error
    return result.output


def _failed(code: str, why: str) -> CloudError:
    return CloudError(
        "The disk could not be reached on its machine",
        service="ssm",
        operation="send_command",
        code=code,
        why=why,
    )


def _id(volume_id: str) -> str:
    if not _VOLUME.fullmatch(volume_id):
        raise ValidationError(f"{volume_id!r} is no volume id")
    return volume_id


def _names(session: Session, volume_id: str) -> str:
    """The device names under which a Xen machine may show the volume, as shell words."""
    from runctl.providers.aws import volumes

    volume = volumes.describe(session, volume_id)
    names: list[str] = []
    for attachment in volume.attachments if volume else ():
        name = attachment.device.removeprefix("/dev/")
        names += [name, name.replace("sd", "xvd", 1)] if name.startswith("sd") else [name]
    return " ".join(shlex.quote(name) for name in names) or "''"
