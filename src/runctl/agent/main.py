"""The agent's command line: run an attempt, boot one on a fresh machine, ask one to stop."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from typing import List, Optional

from .attempt import Attempt
from .failures import StoreAway, StoreRefused
from .files import read_json, write_atomically
from .imds import Metadata
from .run import Run

REFUSED = 3
UNUSABLE = 2
FETCH_TRIES = 20


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="agent", description="Runs one attempt of a runctl job.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the attempt whose spec.json is given")
    run.add_argument("spec", help="<job folder>/attempt-N/spec.json")
    boot = commands.add_parser("boot", help="fetch an attempt's spec from the store and run it")
    for name in ("bucket", "prefix", "attempt", "region"):
        boot.add_argument("--" + name, required=True)
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
    if options.command == "boot":
        folder = fetch_spec(options.bucket, options.prefix, int(options.attempt), options.region)
    else:
        folder = os.path.dirname(os.path.abspath(options.spec))
    code = run_attempt(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a download that hangs must not hold up the end


def run_attempt(folder: str) -> int:
    """Run the attempt in a folder once and never again."""
    with open(os.path.join(folder, "agent.lock"), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("agent: another agent runs this attempt\n")
            return REFUSED
        state = read_json(os.path.join(folder, "state.json"))
        if state is not None and state.get("phase") == "ended":
            sys.stderr.write("agent: this attempt has ended\n")
            return REFUSED
        try:
            attempt = Attempt(folder)
        except (ValueError, KeyError) as error:
            sys.stderr.write("agent: the spec cannot be used: %s\n" % error)
            return UNUSABLE
        return Run(attempt, runctl_home()).run()


def fetch_spec(bucket: str, prefix: str, number: int, region: str) -> str:
    """The folder of an attempt whose spec was fetched. A machine that cannot have it ends itself."""
    from .bucket_store import BucketStore

    store = BucketStore(bucket, prefix, region, Metadata())
    folder = os.path.join(runctl_home(), "jobs", os.path.basename(prefix.rstrip("/")), "attempt-%d" % number)
    os.makedirs(folder, exist_ok=True)
    for tried in range(FETCH_TRIES):
        try:
            spec = store.get("attempt-%d/spec.json" % number)
        except (StoreAway, StoreRefused) as error:
            sys.stderr.write("agent: no spec yet: %s\n" % error)
        else:
            if spec is not None:
                write_atomically(os.path.join(folder, "spec.json"), spec)
                return folder
            sys.stderr.write("agent: there is no spec for attempt %d\n" % number)
        time.sleep(min(0.5 * 2**tried, 10.0))
    # Whether the machine is disposable stands in the spec; its birth timer says it too, and ends it.
    sys.exit("agent: the spec could not be fetched; the machine's own timer ends it")


def runctl_home() -> str:
    return os.path.join(os.environ.get("HOME") or "/root", ".runctl")
