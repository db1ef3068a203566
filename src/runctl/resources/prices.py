"""Prices of machines and disks as AWS tells them now, kept for a week; the bundled catalog else."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from runctl import private_files
from runctl.clouds import home
from runctl.errors import CloudError, TrainctlError
from runctl.model import Price
from runctl.pricing import catalog, live
from runctl.providers.aws import price_list
from runctl.providers.aws.session import Session

KEPT = timedelta(days=7)
_FILE = "prices.json"
_GIB = "GiB of "
_writing = threading.Lock()
_refused: dict[str, str] = {}
"""Why the Price List of a cloud did not answer, by the cloud's key: it is asked once in a process."""


class _Kept(msgspec.Struct, frozen=True):
    """An answer and when it came; None where the Price List knows no one price."""

    price: Price | None
    at: datetime


_known: dict[Path, dict[str, _Kept]] = {}
"""The file as this process has read it, and what it has asked since: a listing asks for a type many times."""


def on_demand(session: Session, instance_type: str) -> Price | None:
    """USD/h of a type in the session's region by what is known here; None is unknown. Nothing is asked.

    The source says where it came from.
    """
    kept = _kept(_name(session, instance_type))
    if kept is not None and kept.price is not None:
        # What AWS told once is nearer to the truth than a catalog, however old it is; it has its date.
        return kept.price
    price = catalog.on_demand(instance_type, session.region)
    why = _refused.get(session.cloud.key) or ("the Price List has no one price" if kept else "")
    return msgspec.structs.replace(price, source=f"{price.source} ({why})") if price and why else price


def gib(cloud: str, region: str, kind: str) -> Price | None:
    """USD/h of one GiB of a volume type, or of snapshots (`live.SNAPSHOT`), where AWS told it."""
    kept = _kept(f"{cloud}/{region}/{_GIB}{kind}")
    return kept.price if kept else None


def learn(session: Session, instance_types: Collection[str], disks: Collection[str] = ()) -> None:
    """Ask AWS for prices that are not known here, or for too long: of types, and of a GiB of disks.

    That an account may not is no error.
    """
    path, now = home() / _FILE, session.cloud.clock.now()
    for wanted in (*sorted(set(instance_types)), *(f"{_GIB}{kind}" for kind in sorted(set(disks)))):
        name = _name(session, wanted)
        kept = _kept(name)
        if kept is not None and timedelta(0) <= now - kept.at < KEPT:
            continue
        if session.cloud.key in _refused:
            return
        try:
            fresh = _Kept(_ask(session, wanted, now), now)
        except TrainctlError as error:
            _refused[session.cloud.key] = error.code if isinstance(error, CloudError) else error.what
            return
        if fresh.price is None and kept is not None and kept.price is not None:
            continue
        _known[path][name] = fresh
        _keep(path, name, fresh)


def _name(session: Session, instance_type: str) -> str:
    return f"{session.cloud.key}/{session.region}/{instance_type}"


def _kept(name: str) -> _Kept | None:
    path = home() / _FILE
    if path not in _known:
        _known[path] = _read(path)
    return _known[path].get(name)


def _ask(session: Session, wanted: str, now: datetime) -> Price | None:
    if wanted.startswith(_GIB):
        kind = wanted.removeprefix(_GIB)
        answer = price_list.products(session, live.disk_filters(kind, session.region))
        return live.gib(answer, kind, as_of=now)
    answer = price_list.products(session, live.product_filters(wanted, session.region))
    return live.on_demand(answer, as_of=now)


def _read(path: Path) -> dict[str, _Kept]:
    """What is kept; nothing where the file is missing or torn: it is but a cache."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Kept])
    except (OSError, msgspec.MsgspecError):
        return {}


def _keep(path: Path, name: str, kept: _Kept) -> None:
    """Put one answer beside the others. Another process may do so at once: the later of the two stays."""
    with _writing:
        fresh = path.with_name(f"{_FILE}.{os.getpid()}")
        try:
            private_files.make_folder(path.parent)
            with open(fresh, "wb", opener=private_files.opener) as file:
                file.write(msgspec.json.encode(_read(path) | {name: kept}))
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)  # a full disk costs a question more next time
