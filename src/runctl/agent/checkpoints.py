"""Which checkpoints lie in a folder, and whether they are complete by their own format's rules."""

from __future__ import annotations

import json
import os
import stat
import struct
from typing import Dict, List, NamedTuple, Optional, Tuple

from .files import open_regular, read_json
from .progress import step_of_name

ZIP_SUFFIXES = (".pt", ".pth", ".ckpt", ".npz", ".keras", ".zip", ".bin")
_ALWAYS_ZIP = (".npz", ".keras", ".zip")
_BEING_WRITTEN = (".tmp", ".part", ".partial", ".lock")
_LARGEST_HEADER = 100 * 1024 * 1024  # of safetensors; the format's own readers refuse more


class File(NamedTuple):
    """A file of a checkpoint; `path` is relative to the checkpoint's parent folder."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class Checkpoint(NamedTuple):
    """A file or folder in the checkpoint folder, as it stands now: another version is another value.

    `left_out` has the path and the kind of what lies in it and is no file.
    """

    name: str
    is_folder: bool
    files: Tuple[File, ...]
    left_out: Tuple[Tuple[str, str], ...] = ()

    @property
    def newest(self) -> int:
        return max((file.mtime_ns for file in self.files), default=0)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def scan(folder: str) -> List[Checkpoint]:
    """Everything that may be a checkpoint, the oldest first. What vanishes meanwhile is left out."""
    found = []
    try:
        entries = list(os.scandir(folder))
    except OSError:  # there is no folder yet
        return []
    for entry in entries:
        if _is_being_written(entry.name):
            continue
        try:
            if entry.is_symlink() and os.path.dirname(os.path.realpath(entry.path)) == os.path.realpath(
                folder
            ):
                continue  # "last" is a second name of one that is seen under its own
            if entry.is_dir():
                files, left_out = _below(folder, entry.name)
                if files:
                    found.append(Checkpoint(entry.name, True, files, left_out))
            elif entry.is_file():
                found.append(Checkpoint(entry.name, False, (_file(folder, entry.name),)))
        except OSError:  # it vanished
            continue
    return sorted(found, key=lambda one: (one.newest, step_of_name(one.name) or -1, one.name))


def completeness(folder: str, checkpoint: Checkpoint) -> Optional[bool]:
    """True or False where the format tells; None where only standing still can tell."""
    try:
        if checkpoint.is_folder:
            return _folder_completeness(os.path.join(folder, checkpoint.name), checkpoint)
        return _file_completeness(os.path.join(folder, checkpoint.name))
    except OSError:  # it vanished
        return False


def step_of(folder: str, checkpoint: Checkpoint) -> Optional[int]:
    """The step that a checkpoint's name or its trainer's own state tells; nothing is unpickled."""
    state = read_json(os.path.join(folder, checkpoint.name, "trainer_state.json"))
    told = (state or {}).get("global_step")
    if isinstance(told, int) and 0 <= told < 1 << 53:
        return int(told)
    return step_of_name(checkpoint.name)


def _is_being_written(name: str) -> bool:
    lower = name.lower()
    return (
        name.startswith(".")
        or lower.endswith(_BEING_WRITTEN)
        or ".tmp" in lower
        or "orbax-checkpoint-tmp" in lower
        or "incomplete" in lower
        or ".corrupt-" in lower
    )


def _file(folder: str, path: str) -> File:
    info = os.stat(os.path.join(folder, path))
    return File(path, info.st_size, info.st_mtime_ns, info.st_ino)


def _below(folder: str, name: str) -> Tuple[Tuple[File, ...], Tuple[Tuple[str, str], ...]]:
    """The files of a folder, and what is none and cannot travel. Raises OSError if a file vanishes."""
    files: List[File] = []
    left_out: List[Tuple[str, str]] = []
    for parent, folders, leaves in os.walk(os.path.join(folder, name)):
        for leaf in [*leaves, *(inner for inner in folders if os.path.islink(os.path.join(parent, inner)))]:
            path = os.path.relpath(os.path.join(parent, leaf), folder)
            kind = kind_of(os.path.join(parent, leaf))
            if kind:
                left_out.append((path, kind))
            else:
                files.append(_file(folder, path))
    return tuple(sorted(files)), tuple(sorted(left_out))


def kind_of(path: str) -> str:
    """What it is that cannot travel; empty for a regular file or a link to one. Raises OSError."""
    mode = os.lstat(path).st_mode
    is_link = stat.S_ISLNK(mode)
    if is_link:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return "a link that leads nowhere"
    if stat.S_ISREG(mode):
        try:
            path.encode()
        except UnicodeEncodeError:
            return "a file whose name is no UTF-8"
        return ""
    if stat.S_ISDIR(mode):
        return "a link to a folder" if is_link else "a folder"
    return "a pipe, a socket or a device"


def _file_completeness(path: str) -> Optional[bool]:
    lower = path.lower()
    if lower.endswith(".safetensors"):
        return _is_whole_safetensors(path)
    with open_regular(path) as file:
        magic = file.read(4)
    if magic == b"PK\x03\x04":
        return _is_whole_zip(path)
    if lower.endswith(_ALWAYS_ZIP) or (lower.endswith(ZIP_SUFFIXES) and len(magic) < 4):
        return False
    return None  # legacy pickles and unknown formats


def _is_whole_zip(path: str) -> bool:
    """The central directory is there, and every entry that it names lies between the file's start and it.

    A torn archive may end with the directory of an archive inside it: that one does not begin at 0.
    """
    import zipfile

    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            end, entries = archive.start_dir, archive.infolist()
            return (
                bool(entries)
                and min(entry.header_offset for entry in entries) == 0
                and all(entry.header_offset + entry.compress_size <= end for entry in entries)
            )
    except (zipfile.BadZipFile, OSError, ValueError, struct.error):
        return False


def _is_whole_safetensors(path: str) -> bool:
    """8 bytes of header length, a JSON header, then exactly as many bytes as its last offset says."""
    size = os.path.getsize(path)
    with open_regular(path) as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return False
        length = struct.unpack("<Q", prefix)[0]
        if length > min(size - 8, _LARGEST_HEADER):
            return False
        try:
            header: Dict[str, Dict[str, List[int]]] = json.loads(file.read(length))
            ends = [int(tensor["data_offsets"][1]) for key, tensor in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False
    return size == 8 + length + max(ends, default=0)


def _folder_completeness(path: str, checkpoint: Checkpoint) -> Optional[bool]:
    inside = {os.path.relpath(file.path, checkpoint.name) for file in checkpoint.files}
    if any("incomplete" in name or name.endswith((".tmp", ".part", ".partial")) for name in inside):
        return False
    verdicts = [
        _file_completeness(os.path.join(path, name))
        for name in inside
        if name.lower().endswith((".safetensors", *ZIP_SUFFIXES))
    ]
    if False in verdicts:
        return False
    sharded = {os.path.dirname(name) for name in inside if name.endswith(".distcp")}
    if any(os.path.join(parent, ".metadata") not in inside for parent in sharded):
        return False  # torch DCP renames .metadata to its place last
    if checkpoint.name.startswith("checkpoint-"):  # Hugging Face writes trainer_state.json last
        if "trainer_state.json" in inside:
            return read_json(os.path.join(path, "trainer_state.json")) is not None
        if any(name.startswith(("model", "pytorch_model", "optimizer")) for name in inside):
            return False
    return True if sharded else None
