"""Files that two runs left: tables by their rows, checkpoints by what is in them, others by their bytes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_LARGEST_TABLE = 64 << 20
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Table(msgspec.Struct, frozen=True):
    """The rows of a file, each by what it begins with (a step, an epoch), in their order."""

    keys: tuple[str, ...]


class Left(msgspec.Struct, frozen=True):
    """A file of a run: SHA-256 of the whole, and of each entry of an archive or JSON object by name."""

    digest: str
    entries: Mapping[str, str] = {}
    table: Table | None = None


def left_in(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Left]:
    """What lies below a folder by path, without the folders of these names at any depth."""
    found: dict[str, Left] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or leave_out.intersection(inner.parts):
            continue
        try:
            found[inner.as_posix()] = _left(path)
        except OSError:
            continue
    return found


def _left(path: Path) -> Left:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.suffix.lower() in _TABLES and path.stat().st_size <= _LARGEST_TABLE:
        return Left(digest, table=Table(_rows(path)))
    return Left(digest, _entries(path))


def _rows(path: Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return tuple(key for line in text.splitlines() if (key := _json_key(line)))
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    return tuple(row[0].strip() for row in rows if row and _NUMBER.fullmatch(row[0].strip()))


def _json_key(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(row, dict):
        return ""
    for name in ("global_step", "step", "iteration", "iter", "epoch"):
        if name in row:
            return str(row[name])  # pyright: ignore
    return ""


def _entries(path: Path) -> dict[str, str]:
    """Of a zip (`.npz`, `.pt`, `.keras`) each member, of safetensors each tensor, of JSON each field."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return {one.filename: f"{one.CRC:08x}" for one in archive.infolist() if not one.is_dir()}
        if path.suffix == ".safetensors":
            return _tensors(path)
        if path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(value, dict):
                return {str(name): _digest(item) for name, item in value.items()}  # pyright: ignore
    except (OSError, ValueError, zipfile.BadZipFile):
        pass
    return {}


def _tensors(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, 100 << 20)))
        found: dict[str, str] = {}
        for name, about in header.items():
            if name != "__metadata__":
                start, end = about["data_offsets"]
                file.seek(8 + length + start)
                found[name] = hashlib.sha256(file.read(end - start)).hexdigest()
        return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def different(one: Left, other: Left) -> tuple[str, ...]:
    """Names of entries that differ; empty if the files are the same or have no entries to compare."""
    if one.digest == other.digest or not one.entries or not other.entries:
        return ()
    names = one.entries.keys() | other.entries.keys()
    return tuple(sorted(name for name in names if one.entries.get(name) != other.entries.get(name)))
