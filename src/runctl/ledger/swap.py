"""Put another file in the ledger's place: after a kill at any moment it is either the old one or the new one.

The old one goes with its write-ahead log: SQLite would play a log that stays behind into any database. A
marker is the decision; from then on whoever opens the ledger first finishes what was begun.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from runctl.errors import ConfigError
from runctl.quoting import quoted

BESIDE = ("-wal", "-shm")
"""What SQLite keeps beside a database, by what is added to its name."""


def new_file(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}-new")


def begin(ledger: Path, aside: Path) -> None:
    """`new_file(ledger)` takes the ledger's place; what was there goes to the folder `aside`."""
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    aside.mkdir(mode=0o700)
    part = ledger.with_name(f"{ledger.name}-decision")
    part.write_text(aside.name, encoding="utf-8")
    sync(part)
    sync(new_file(ledger))
    part.replace(_marker(ledger))
    sync(ledger.parent)
    finish(ledger)


def finish(ledger: Path) -> None:
    """Nothing to do, unless an exchange was decided and its process was killed."""
    if not _marker(ledger).exists():
        return
    try:
        with _locked(_marker(ledger)) as name:
            if name is not None:
                _exchange(ledger, asides(ledger) / name)
    except OSError as error:
        raise ConfigError(
            f"The ledger {ledger} is being restored, and that cannot be finished",
            why=str(error),
            next=f"look at the disk and its permissions: ls -la {quoted(ledger.parent)}",
        ) from error


def asides(ledger: Path) -> Path:
    """The folder of ledgers that were replaced."""
    return ledger.parent / "ledger-damaged"


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(ledger: Path, aside: Path) -> None:
    new = new_file(ledger)
    if new.exists():  # else all is done but the marker
        for beside in ("", *BESIDE):
            file = ledger.with_name(ledger.name + beside)
            if file.exists():
                file.replace(aside / file.name)
        sync(aside)
        new.replace(ledger)
        sync(ledger.parent)
    _marker(ledger).unlink(missing_ok=True)
    sync(ledger.parent)


def _marker(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}-restoring")


@contextmanager
def _locked(marker: Path) -> Generator[str | None]:
    """What the marker says, None where another process has finished meanwhile."""
    try:
        stream = marker.open(encoding="utf-8")
    except FileNotFoundError:
        yield None
        return
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.read() if marker.exists() else None
