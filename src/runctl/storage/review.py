"""What lies under a prefix: by kind and age, and what it costs a month."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.storage.entries import Entry

_KINDS = {
    "checkpoints": (".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".keras", ".distcp", ".pkl", ".msgpack"),
    "images": (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"),
    "tables and shards": (
        ".parquet",
        ".arrow",
        ".csv",
        ".tsv",
        ".jsonl",
        ".bin",
        ".npy",
        ".npz",
        ".tfrecord",
    ),
    "archives": (".tar", ".gz", ".zst", ".zip", ".bz2", ".xz", ".tgz"),
    "logs": (".log", ".out", ".txt"),
}
AGES = (("under a day", 1), ("under a week", 7), ("under a month", 30), ("under a year", 365))
"""Days."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one kind; sizes in bytes, `usd_per_month` None where the price is not known.

    The price is the standard class's: it is not known where objects lie in another one, too.
    """

    kind: str
    files: int
    size: int
    by_age: dict[str, int]
    by_class: dict[str, int]
    oldest: datetime
    newest: datetime
    usd_per_month: Decimal | None


def kind_of(key: str) -> str:
    """What an object seems to be, by its place and name."""
    if "/checkpoints/" in f"/{key}":
        return "checkpoints"
    name = key.rpartition("/")[2].lower()
    return next((kind for kind, ends in _KINDS.items() if name.endswith(ends)), "other")


def is_checkpoint(key: str) -> bool:
    """Whether an object seems to be one, or a part of one."""
    return kind_of(key) == "checkpoints"


def review(
    entries: Iterable[tuple[Entry, str]], now: datetime, usd_per_gb_month: Decimal | None
) -> list[Group]:
    """The kinds of entries with their storage classes, the biggest first.

    S3 bills decimal gigabytes; versions and open parts are in no listing.
    """
    found: dict[str, list[tuple[Entry, str]]] = {}
    for entry, storage_class in entries:
        found.setdefault(kind_of(entry.key), []).append((entry, storage_class))
    groups = [_group(kind, of_kind, now, usd_per_gb_month) for kind, of_kind in found.items()]
    return sorted(groups, key=lambda group: -group.size)


def _group(kind: str, found: list[tuple[Entry, str]], now: datetime, price: Decimal | None) -> Group:
    entries = [entry for entry, _ in found]
    by_class: dict[str, int] = {}
    for entry, storage_class in found:
        by_class[storage_class] = by_class.get(storage_class, 0) + entry.size
    size = sum(entry.size for entry in entries)
    moments = [datetime.fromtimestamp(entry.modified / 1e9, now.tzinfo) for entry in entries]
    by_age: dict[str, int] = {}
    for entry, moment in zip(entries, moments, strict=True):
        age = age_of(now - moment)
        by_age[age] = by_age.get(age, 0) + entry.size
    return Group(
        kind=kind,
        files=len(entries),
        size=size,
        by_age=by_age,
        by_class=by_class,
        oldest=min(moments),
        newest=max(moments),
        usd_per_month=price * size / 10**9 if price is not None and set(by_class) <= {"STANDARD"} else None,
    )


def age_of(age: timedelta) -> str:
    return next((name for name, days in AGES if age < timedelta(days=days)), "older")
