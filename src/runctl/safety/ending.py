"""Ends training as its owner would: it is asked to save and upload, and awaited."""

from __future__ import annotations

from datetime import timedelta

from runctl.errors import ConfigError, Protected, TrainctlError
from runctl.events import Emit, Notice, Progress
from runctl.ledger import Ledger
from runctl.providers.aws import instances, shell
from runctl.providers.aws.provider import AwsProvider
from runctl.providers.aws.session import Session
from runctl.quoting import quoted
from runctl.safety import activity
from runctl.safety.activity import Sighting
from runctl.safety.vocabulary import Activity

PATIENCE = timedelta(minutes=20)
"""On the cloud's clock: the grace of the script, then the upload of its last checkpoint and its outputs."""

POLL_SECONDS = 3.0
RULE = "running training"


def end_training(
    session: Session,
    ledger: Ledger,
    instance_id: str,
    seen: Sighting,
    *,
    emit: Emit,
    patience: timedelta = PATIENCE,
) -> Sighting:
    """Ask what trains to save and end, and wait until it has, or until its agent ended the machine.

    Answers what was seen last: nothing that trains.

    Raises Protected where it cannot be asked or does not end in time: nothing was stopped then.
    """
    if not seen.reachable:
        raise _goes_on(instance_id, f"{seen.reason}, and it cannot be asked to save")
    emit(Notice(text=f"{instance_id}: {seen.reason}; it is asked to save and end"))
    try:
        _ask(session, instance_id, seen)
    except ConfigError:
        raise
    except TrainctlError as error:
        raise _goes_on(instance_id, f"it could not be asked to save: {error.why or error.what}") from error
    return _await(session, ledger, instance_id, emit=emit, patience=patience)


def _ask(session: Session, instance_id: str, seen: Sighting) -> None:
    provider = AwsProvider(session)
    for agent in seen.agents:
        provider.ask_to_stop(instance_id, agent.job, agent.attempt)
    if not seen.agents:
        # Without an agent, SIGTERM is the word that a training script may know.
        pids = " ".join(str(pid) for pid in seen.processes)
        shell.run(
            session, instance_id, f"kill -TERM {pids} 2>/dev/null; true", comment="runctl: end training"
        )


def _await(
    session: Session, ledger: Ledger, instance_id: str, *, emit: Emit, patience: timedelta
) -> Sighting:
    clock = session.cloud.clock
    begun = clock.now()
    while True:
        instance = instances.get(session, instance_id)
        if instance is None:
            return Sighting(activity=Activity.IDLE, reason="the instance is gone")
        seen = activity.detect(session, ledger, instance)
        if seen.activity is Activity.IDLE:
            return seen
        waited = clock.now() - begun
        if waited > patience:
            raise _goes_on(instance_id, f"it has not ended after {patience}: {seen.reason}")
        emit(
            Progress(
                task=f"{instance_id} saves and ends its training",
                done=waited.total_seconds(),
                total=None,
                unit="s",
            )
        )
        clock.sleep(POLL_SECONDS)


def _goes_on(instance_id: str, why: str) -> Protected:
    return Protected(
        f"{instance_id} is left as it is: training may run on it",
        reasons=(RULE,),
        why=why,
        next=f"runctl aws status {quoted(instance_id)}; --now --force ends it without saving",
    )
