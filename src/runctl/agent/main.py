"""The agent's command line: run an attempt, boot one on a fresh machine, ask one to stop."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import List, Optional

from .attempt import Attempt
from .files import read_json, write_atomically
from .imds import Metadata
from .run import Run
from .s3 import StoreAway, StoreRefused
from .store import BucketStore

REFUSED = 3
FETCH_TRIES = 20


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="agent", description="Runs one attempt of a runctl job.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the attempt whose spec.json is given")
    run.add_argument("spec")
    boot = commands.add_parser("boot", help="fetch an attempt's spec from the store and run it")
    for name in ("bucket", "prefix", "attempt", "region"):
        boot.add_argument("--" + name, required=True)
    stop = commands.add_parser("stop", help="ask a running attempt to end gracefully")
    stop.add_argument("folder")
    options = parser.parse_args(arguments)
    if options.command == "stop":
        with open(os.path.join(options.folder, "stop"), "wb"):
            return
    if options.command == "boot":
        folder = fetch_spec(options.bucket, options.prefix, int(options.attempt), options.region)
    else:
        folder = os.path.dirname(os.path.abspath(options.spec))
    sys.exit(run_attempt(folder))


def run_attempt(folder: str) -> int:
    """Run the attempt in a folder once and never again."""
    state = read_json(os.path.join(folder, "state.json"))
    if state is not None and (state.get("phase") == "ended" or _is_alive(int(state.get("agent_pid") or 0))):
        sys.stderr.write("agent: this attempt was begun before\n")
        return REFUSED
    attempt = Attempt(folder)
    return Run(attempt, runctl_home()).run()


def fetch_spec(bucket: str, prefix: str, number: int, region: str) -> str:
    """The folder of an attempt whose spec was fetched. A machine that cannot have it ends itself."""
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


def _is_alive(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return b"agent" in file.read()
    except OSError:
        return False
