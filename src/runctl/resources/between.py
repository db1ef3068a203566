"""What lies between the sides of a transfer: a prefix of a bucket, or a folder here that tunnels lead to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any

from runctl.clouds import home
from runctl.errors import CloudError, NotFound
from runctl.events import Emit, Notice
from runctl.providers.aws import instances, ssh_access
from runctl.providers.aws.session import Session
from runctl.providers.aws.tunnel import Tunnel
from runctl.resources.reaching import job_access
from runctl.storage.loopback import LoopbackStaging, serving
from runctl.storage.staging import SigningStore, Staging


def transfer_id(request: dict[str, Any]) -> str:
    """By which the machines' agents know the transfer."""
    return str(request["prefix"]).rpartition("/")[2]


def key_of(request: dict[str, Any]) -> str:
    """By which the transfer's sides know each other's messages, in hex: nothing in the bucket holds it."""
    return str(request["key"])


def staging_of(session: Session, request: dict[str, Any]) -> SigningStore | LoopbackStaging:
    """Where a transfer stages, to be looked at and emptied; URLs of a folder open nothing here."""
    if request["bucket"]:
        return SigningStore(request["bucket"], request["prefix"], job_access(session))
    return LoopbackStaging(home() / "staging" / transfer_id(request), b"", "http://127.0.0.1:9")


@contextmanager
def staged_for(session: Session, request: dict[str, Any], emit: Emit) -> Generator[Callable[[str], Staging]]:
    """What a machine sees of the staging place, by its id, and this computer by none, while the block lasts.

    A machine's tunnel opens when it is first asked for. Raises ConfigError, CloudError, TransferError then.
    """
    place = staging_of(session, request)
    if isinstance(place, SigningStore):
        yield lambda _: place
        return
    with ExitStack() as open_now:
        here, port = open_now.enter_context(serving(place.root))
        seen: dict[str, Staging] = {"": here}

        def seen_by(instance: str) -> Staging:
            if instance not in seen:
                tunnel = Tunnel(session, instance, port, _mark(request), emit)
                open_now.callback(tunnel.close)
                seen[instance] = here.at(tunnel.port)
            return seen[instance]

        yield seen_by


def withdraw(session: Session, machines: Iterable[str], request: dict[str, Any], emit: Emit) -> None:
    """Take the transfer's key from machines that still run; where that fails, say when it runs out."""
    for instance in machines:
        try:
            found = instances.get(session, instance)
            if found is not None and found.state in {"pending", "running"}:
                ssh_access.withdraw(session, instance, _mark(request))
        except (CloudError, NotFound) as error:
            text = (
                f"the transfer's key stays on {instance}, where it runs out in {ssh_access.HOURS} h: {error}"
            )
            emit(Notice(text=text, warning=True))


def _mark(request: dict[str, Any]) -> str:
    return f"runctl-{transfer_id(request)}"
