"""The commands that find, format and mount disks, for machines whose disks are folders.

`/dev/nvme1n1` of a machine is the folder of a volume (`sandbox/disks.py`): `fs/` are its files, `formatted`
is the kind of its file system, `partitions` of its partition table. Anything else is left to the host. In
namespaces a mount is a bind mount of `fs/`; in plain isolation it is a link in the place of the folder, and
one in `mounts/`, by which the sandbox knows that the disk is in use.
"""

from __future__ import annotations

_REAL = 'PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin exec {name} "$@"\n'

_LAST = """#!/bin/sh
for last; do :; done
disk=$(readlink -f "$last" 2>/dev/null)
"""

_BLKID = (
    _LAST
    + """if [ -f "$disk/disk.json" ]; then
  case " $* " in
    *" PTTYPE "*) file=$disk/partitions ;;
    *) file=$disk/formatted ;;
  esac
  if [ -f "$file" ]; then cat "$file"; exit 0; fi
  [ -f "$disk/partitions" ] && exit 0
  exit 2
fi
"""
    + _REAL.format(name="blkid")
)

_MKFS = (
    _LAST
    + """if [ -f "$disk/disk.json" ]; then
  if [ -n "$(ls -A "$disk/fs")" ]; then rm -rf "$disk/fs" && mkdir "$disk/fs"; fi
  echo {kind} > "$disk/formatted"
  exit 0
fi
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin exec mkfs.{kind} "$@"
"""
)

_MOUNT = """#!/bin/sh
if [ "$1" = -o ] && [ -f "$(readlink -f "$3")/disk.json" ]; then shift 2; fi
disk=$(readlink -f "$1" 2>/dev/null)
if [ $# -eq 2 ] && [ -f "$disk/disk.json" ]; then
  if [ ! -f "$disk/formatted" ]; then
    echo "mount: $2: wrong fs type, bad option, bad superblock on $1" >&2
    exit 32
  fi
  if [ -L /dev ]; then
    PATH=/usr/sbin:/usr/bin:/sbin:/bin exec mount --bind "$disk/fs" "$2"
  fi
  rmdir "$2" && ln -s "$disk/fs" "$2" || exit 32
  ln -sfn "$2" "$RUNCTL_SANDBOX_FOLDER/mounts/${disk##*/}"
  exit 0
fi
""" + _REAL.format(name="mount")

_FINDMNT = """#!/bin/sh
what=$(echo " $* " | grep -c -e " --source ")
for last; do :; done
if [ "$what" -eq 1 ]; then
  disk=$(readlink -f "$last" 2>/dev/null)
  if [ -f "$disk/disk.json" ]; then
    if [ ! -L /dev ]; then
      link=$RUNCTL_SANDBOX_FOLDER/mounts/${disk##*/}
      [ -L "$link" ] && [ -L "$(readlink "$link")" ] || exit 1
      readlink "$link"
      exit 0
    fi
    mine=$(stat -c %d:%i "$disk/fs")
    while read -r _ _ _ _ at _; do
      at=$(printf %b "$at")
      if [ "$at" != "$disk" ] && [ "$(stat -c %d:%i "$at" 2>/dev/null)" = "$mine" ]; then
        echo "$at"
        exit 0
      fi
    done < /proc/self/mountinfo
    exit 1
  fi
elif [ -L /dev ]; then
  while read -r _ _ _ root at _; do
    if [ "$(printf %b "$at")" = "$last" ]; then echo "$root"; exit 0; fi
  done < /proc/self/mountinfo
  exit 1
else
  for link in "$RUNCTL_SANDBOX_FOLDER"/mounts/*; do
    if [ "$(readlink "$link")" = "$last" ] && [ -L "$last" ]; then readlink "$last"; exit 0; fi
  done
  exit 1
fi
""" + _REAL.format(name="findmnt")

_UMOUNT = """#!/bin/sh
for link in "$RUNCTL_SANDBOX_FOLDER"/mounts/*; do
  if [ ! -L /dev ] && [ -L "$link" ] && [ "$(readlink "$link")" = "$1" ]; then
    files=$(readlink -f "$1")
    for process in /proc/[0-9]*; do
      case "$(readlink -f "$process/cwd" 2>/dev/null)/" in
        "$files"/*) echo "umount: $1: target is busy." >&2; exit 32 ;;
      esac
    done
    rm "$1" "$link" && mkdir "$1"
    exit
  fi
done
""" + _REAL.format(name="umount")

SHIMS = {
    "blkid": _BLKID,
    "mkfs.ext4": _MKFS.format(kind="ext4"),
    "mkfs.xfs": _MKFS.format(kind="xfs"),
    "mount": _MOUNT,
    "umount": _UMOUNT,
    "findmnt": _FINDMNT,
}
