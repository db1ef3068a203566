"""What there is, what it costs and what holds it: one look at the cloud, for the graph and for cleanup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from runctl.errors import Conflict
from runctl.ledger import AttemptRecord, JobRecord
from runctl.model import TAG_JOB
from runctl.providers.aws.session import Session
from runctl.resources import costs, inventory
from runctl.resources.inventory import Inventory
from runctl.resources.operation import Operation
from runctl.safety import cleanup_plan
from runctl.safety.dependencies import graph_of, marks
from runctl.safety.graph import Graph

RECENT = timedelta(days=7)
"""How long a job that is over stays in the graph where nothing of it is left in the cloud."""

_MANY = 100_000


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """An inventory, its graph, and by id the rule that holds a resource for good."""

    inventory: Inventory
    graph: Graph
    marks: dict[str, str]


def survey(operation: Operation, sessions: Sequence[Session], *, user: str) -> Survey:
    """Read the cloud and note it in the ledger. Raises CloudError where nothing of it could be read."""
    seen = inventory.read(sessions, emit=operation.emit)
    inventory.refresh(operation.ledger, sessions, seen)
    by_region = {session.region: session for session in sessions}
    rates = {
        found.id: costs.rate(by_region[found.region], operation.ledger, found)
        for found in (*seen.instances, *seen.volumes, *seen.snapshots)
    }
    held = marks(
        instances=seen.instances,
        volumes=seen.volumes,
        snapshots=seen.snapshots,
        images=seen.images,
        user=user,
        now=seen.taken,
    )
    jobs = _jobs(operation, seen)
    graph = graph_of(
        instances=[found for found in seen.instances if found.state != "terminated"],
        volumes=seen.volumes,
        snapshots=seen.snapshots,
        images=seen.images,
        jobs=jobs,
        attempts=_attempts(operation, jobs),
        rates=rates,
        protected=held,
    )
    return Survey(inventory=seen, graph=graph, marks=held)


def for_cleanup(found: Survey) -> cleanup_plan.Inventory:
    """What a cleanup plan is made of. Raises Conflict where a part of it could not be read."""
    seen = found.inventory
    if seen.failures:
        raise Conflict(
            "Nothing is cleaned up by half a view",
            why=f"not read: {'; '.join(seen.failures)}",
            next="try again when everything answers",
        )
    return cleanup_plan.Inventory(
        cloud=seen.cloud,
        region=seen.regions[0],
        instances=[one for one in seen.instances if one.state not in {"shutting-down", "terminated"}],
        volumes=seen.volumes,
        snapshots=seen.snapshots,
        graph=found.graph,
        marks=found.marks,
    )


def _jobs(operation: Operation, seen: Inventory) -> list[JobRecord]:
    shown = {
        one.tags.get(TAG_JOB, "")
        for one in (*seen.instances, *seen.volumes)
        if one.state not in {"terminated", "deleting"}
    }
    return [
        job
        for job in operation.ledger.jobs.list(limit=_MANY)
        if job.cloud == seen.cloud
        and (not job.state.final or job.id in shown or seen.taken - job.updated < RECENT)
    ]


def _attempts(operation: Operation, jobs: Sequence[JobRecord]) -> list[AttemptRecord]:
    return [attempt for job in jobs for attempt in operation.ledger.jobs.attempts(job.id)]
