"""On-demand prices as AWS tells them now, kept for a week; the bundled catalog where it does not tell.

The Price List answers in us-east-1 for every region. Source: its API reference, GetProducts.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from runctl.clouds import home
from runctl.errors import CloudError, ConfigError, TrainctlError
from runctl.model import Price
from runctl.pricing import catalog, live
from runctl.providers.aws.session import Session

KEPT = timedelta(days=7)
_FILE = "prices.json"
_writing = threading.Lock()
_refused: dict[str, str] = {}
"""Why the Price List of a cloud did not answer, by the cloud's key: it is asked once in a process."""


class _Kept(msgspec.Struct, frozen=True):
    """An answer and when it came; None where the Price List knows no one price."""

    price: Price | None
    at: datetime


_known: dict[tuple[Path, str], _Kept] = {}
"""What this process has read or asked already: a listing asks for the same types again and again."""


def on_demand(session: Session, instance_type: str) -> Price | None:
    """USD/h of a type in the session's region; None is unknown. The source says where it came from."""
    name = f"{session.cloud.key}/{session.region}/{instance_type}"
    path, now = home() / _FILE, session.cloud.clock.now()
    kept = _known.get((path, name)) or _read(path).get(name)
    if kept is None or not timedelta(0) <= now - kept.at < KEPT:
        try:
            kept = _Kept(_ask(session, instance_type, now), now)
        except TrainctlError as error:
            # What AWS told once is nearer to the truth than a catalog, however old it is; it has its date.
            old = kept.price if kept else None
            return old or _from_catalog(session, instance_type, _why(error))
        _keep(path, name, kept)
    _known[path, name] = kept
    return kept.price or _from_catalog(session, instance_type, "the Price List has no one price")


def _ask(session: Session, instance_type: str, now: datetime) -> Price | None:
    key = session.cloud.key
    if key in _refused:
        raise ConfigError(_refused[key])
    try:
        answer = session.pages(
            "pricing",
            "get_products",
            "PriceList",
            ServiceCode="AmazonEC2",
            Filters=live.product_filters(instance_type, session.region),
        )
        return live.on_demand(list(answer), as_of=now)
    except TrainctlError as error:
        _refused[key] = _why(error)
        raise


def _why(error: TrainctlError) -> str:
    return error.code if isinstance(error, CloudError) else error.what


def _from_catalog(session: Session, instance_type: str, why: str) -> Price | None:
    price = catalog.on_demand(instance_type, session.region)
    return price and msgspec.structs.replace(price, source=f"{price.source} ({why})")


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
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(_read(path) | {name: kept}))
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)  # a full disk costs a question more next time
