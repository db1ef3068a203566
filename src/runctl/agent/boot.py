"""The start on a fresh machine: fetch the attempt's spec, and take no other than the one that was launched.

The machine's boot arguments are not in the bucket. They pin the spec, the spec pins the code.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from typing import Any, Dict, NamedTuple, Optional

from . import clock, seal
from .failures import StoreAway, StoreRefused
from .files import to_json, write_atomically
from .machine import end_at_once

FETCH_TRIES = 20
MISSING_TRIES = 5
"""The spec was written before the machine was asked for: where it is missing, it will not come."""
TELL_TRIES = 5
LARGEST_SPEC = 16 * 1024 * 1024


class Refused(Exception):
    """This machine starts nothing."""


class Order(NamedTuple):
    """What the boot arguments say: the SHA-256 of the spec, and whether the machine ends where it fails."""

    job: str
    attempt: int
    spec_sha256: str
    disposable: bool


def fetch_spec(store: Any, order: Order, folder: str) -> None:
    """Write the spec into the attempt's folder. Raises Refused for any other, and where there is none."""
    why, missing = "", 0
    for tried in range(FETCH_TRIES):
        try:
            spec = store.get("attempt-%d/spec.json" % order.attempt, LARGEST_SPEC)
        except (StoreAway, StoreRefused) as error:
            why = str(error)
        else:
            if spec is not None and hashlib.sha256(spec).hexdigest() == order.spec_sha256:
                try:
                    write_atomically(os.path.join(folder, "spec.json"), spec)
                except OSError as error:
                    raise Refused("spec: it cannot be written: %s" % error) from error
                return
            if spec is not None:
                raise Refused(
                    "spec: attempt-%d/spec.json in the bucket is not what was launched, its SHA-256 differs: "
                    "somebody else wrote it, and this machine runs nothing of it" % order.attempt
                )
            why, missing = "there is none", missing + 1
            if missing == MISSING_TRIES:
                break
        sys.stderr.write("agent: no spec yet: %s\n" % why)
        clock.sleep(min(0.5 * 2**tried, 10.0))
    raise Refused("spec: it could not be fetched: %s" % why)


def refuse(store: Any, order: Order, folder: str, why: str) -> None:
    """Say why nothing starts, to whoever waits for the attempt, and end a machine that is for it alone."""
    sys.stderr.write("agent: %s\n" % why)
    said, key = _last_word(order, why), seal.read(folder)
    if key:
        said["seal"] = seal.of(key, said, seal.STATE)
    data = to_json(said)
    try:
        write_atomically(os.path.join(folder, "state.json"), data)
    except OSError as error:
        sys.stderr.write("agent: %s\n" % error)
    for tried in range(TELL_TRIES):
        try:
            store.put("attempt-%d/state.json" % order.attempt, data)
            break
        except StoreAway as error:
            sys.stderr.write("agent: not told yet: %s\n" % error)
            time.sleep(0.5 * 2**tried)
        except StoreRefused as error:
            sys.stderr.write("agent: not told: %s\n" % error)
            break
    if order.disposable:
        end_at_once()


def _last_word(order: Order, why: str) -> Dict[str, Any]:
    now = clock.now()
    booted: Optional[float] = clock.booted()
    return {
        "format": 1,
        "job": order.job,
        "attempt": order.attempt,
        "phase": "ended",
        "step_name": "spec",
        "cause": "prepare-failed",
        "message": why,
        "booted": booted,
        "started": now,
        "ended": now,
        "heartbeat": now,
        "agent_pid": os.getpid(),
    }
