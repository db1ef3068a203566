"""The agent's command line: run an attempt, boot one on a fresh machine, ask one to stop."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from typing import List, NamedTuple, Optional

from . import private
from .attempt import Attempt
from .boot import Order, Refused, fetch_spec, refuse
from .files import read_json
from .imds import Metadata
from .machine import end_after
from .run import Run

REFUSED = 3
UNUSABLE = 2


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="agent", description="Runs one attempt of a runctl job.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the attempt whose spec.json is given")
    run.add_argument("spec", help="<job folder>/attempt-N/spec.json")
    starting = commands.add_parser("boot", help="fetch an attempt's spec from the store and run it")
    for name in ("bucket", "host", "owner", "prefix", "region", "spec-sha256"):
        starting.add_argument("--" + name, required=True)
    starting.add_argument("--attempt", type=int, required=True)
    starting.add_argument("--disposable", action="store_true", help="end the machine where nothing can start")
    stop = commands.add_parser("stop", help="ask a running attempt to end gracefully")
    stop.add_argument("folder")
    staging = commands.add_parser("stage", help="make a folder equal to a dataset in S3, as spec.json says")
    staging.add_argument("spec")
    carrying = commands.add_parser("carry", help="one side of a transfer; the spec's URL is read from stdin")
    carrying.add_argument("--stop", metavar="TRANSFER", help="end what works for a transfer instead")
    options = parser.parse_args(arguments)
    if options.command == "carry":
        from . import carry

        home = runctl_home()
        sys.exit(carry.stop(home, options.stop) if options.stop else carry.carry(home))
    if options.command == "stage":
        from .stage import stage

        code = stage(options.spec)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if options.command == "stop":
        with open(os.path.join(options.folder, "stop"), "wb"):
            return
    private.begin()
    if options.command == "boot":
        job = os.path.basename(options.prefix.rstrip("/"))
        order = Order(job, options.attempt, options.spec_sha256, options.disposable)
        place = Place(options.bucket, options.region, options.host, options.owner, options.prefix)
        code = boot(place, order)
    else:
        code = run_attempt(os.path.dirname(os.path.abspath(options.spec)))
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # it goes to a disk that is full
            pass
    os._exit(code)  # a download that hangs must not hold up the end


def run_attempt(folder: str, at_boot: bool = False) -> int:
    """Run the attempt in a folder once and never again.

    `at_boot` says that a machine of the job's own has just booted: one on which the attempt began before was
    restarted or has crashed, which is told, and it ends.
    """
    with open(os.path.join(folder, "agent.lock"), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("agent: another agent runs this attempt\n")
            return REFUSED
        path = os.path.join(folder, "state.json")
        began, state = os.path.exists(path), read_json(path)
        if state is not None and state.get("phase") == "ended":
            sys.stderr.write("agent: this attempt has ended\n")
            if at_boot:
                end_after(read_json(os.path.join(folder, "spec.json")) or {})
            return REFUSED
        try:
            attempt = Attempt(folder)
        except (ValueError, KeyError) as error:
            sys.stderr.write("agent: the spec cannot be used: %s\n" % error)
            return UNUSABLE
        return Run(attempt, runctl_home(), restarted=at_boot and began).run()


class Place(NamedTuple):
    """Where a job lies: its bucket, S3's host in the bucket's region, its owner's account."""

    bucket: str
    region: str
    host: str
    owner: str
    prefix: str


def boot(place: Place, order: Order) -> int:
    """Fetch the spec that was launched and run it. A machine that cannot have it says so and ends itself."""
    from .bucket_store import BucketStore

    store = BucketStore(place.bucket, place.prefix, place.region, Metadata(), place.owner, place.host)
    folder = os.path.join(runctl_home(), "jobs", order.job, "attempt-%d" % order.attempt)
    os.makedirs(folder, exist_ok=True)
    try:
        fetch_spec(store, order, folder)
    except Refused as error:
        refuse(store, order, folder, str(error))
        return UNUSABLE
    return run_attempt(folder, at_boot=order.disposable)


def runctl_home() -> str:
    return os.path.join(os.environ.get("HOME") or "/root", ".runctl")
