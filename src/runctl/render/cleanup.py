"""Cleanup plans and what became of them, as people and scripts read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from runctl.errors import CloudError, Conflict, Interrupted, Protected, TrainctlError
from runctl.quoting import quoted
from runctl.render import figures, output
from runctl.safety.cleanup import Outcome, Report
from runctl.safety.cleanup_plan import Item, Plan
from runctl.safety.vocabulary import Action, Verdict


def show_plan(plan: Plan, *, as_json: bool, quiet: bool, verdicts: Sequence[Verdict] | None = None) -> None:
    """What would be done, why, what it saves, and what stays."""
    if as_json:
        body = {
            "plan": plan,
            "count": len(plan.items),
            "saves_per_month": plan.saves_per_month,
            "skipped": _by_rule(plan),
        }
        output.write_json(body if verdicts is None else {**body, "verdicts": verdicts})
        return
    if quiet:
        for item in plan.items:
            output.write_line(item.id)
        return
    if plan.items:
        rows = [
            (item.id, item.name, item.action, _why(item), figures.usd(item.saves_per_month), item.command)
            for item in plan.items
        ]
        columns = ("resource", "name", "what", "why", "saves/month", "the same by hand")
        output.write_table(columns, rows, right=("saves/month",))
    output.talk(_sum(plan) if plan.items else "there is nothing to do")
    for rule, count in _by_rule(plan).items():
        output.talk(f"  {count} stay{'s' if count == 1 else ''}: {rule}")


def question(plan: Plan) -> str:
    """What is asked before it happens."""
    return f"{_sum(plan)}. Go on?"


def show_report(plan: Plan, report: Report, *, as_json: bool, quiet: bool) -> None:
    """What became of each item."""
    if as_json:
        output.write_json(
            {
                "transaction": report.tx,
                "results": [
                    {
                        "id": result.item.id,
                        "kind": result.item.kind,
                        "action": result.item.action,
                        "outcome": result.outcome,
                        "why": result.why,
                        "next": result.next,
                        "saves_per_month": result.item.saves_per_month,
                    }
                    for result in report.results
                ],
                "done": len(report.having(Outcome.DONE)),
                "saved_per_month": report.saved_per_month,
                "skipped": _by_rule(plan),
            }
        )
        return
    if quiet:
        for result in report.having(Outcome.DONE):
            output.write_line(result.item.id)
        return
    rows = [(result.item.id, result.item.action, result.outcome, result.why) for result in report.results]
    output.write_table(("resource", "what", "outcome", "why"), rows)
    done = len(report.having(Outcome.DONE))
    output.talk(f"{done} of {len(report.results)} done, saving {figures.usd(report.saved_per_month)} a month")


def shortfall(report: Report) -> TrainctlError | None:
    """The error that a report is, where not everything was done."""
    done = len(report.having(Outcome.DONE, Outcome.GONE))
    what = f"{done} of {len(report.results)} done"
    if report.interrupted:
        return Interrupted(what, why="it was interrupted", next="runctl resources cleanup")
    if failed := report.having(Outcome.FAILED):
        return CloudError(
            what,
            service="ec2",
            operation="cleanup",
            code="PartialFailure",
            why="; ".join(f"{result.item.id}: {result.why}" for result in failed[:3]),
            next=f"runctl tx show {quoted(report.tx)}; then plan again: what failed is found again",
        )
    if over := report.having(Outcome.OVER_LIMIT):
        return Conflict(what, why=over[0].why, next="look at the plan, then raise the limit")
    if refused := report.having(Outcome.PROTECTED):
        return Protected(
            what,
            reasons=("protected meanwhile",),
            why="; ".join(f"{result.item.id}: {result.why}" for result in refused[:3]),
            next=refused[0].next,
        )
    if changed := report.having(Outcome.CHANGED):
        why = "; ".join(f"{result.item.id}: {result.why}" for result in changed[:3])
        return Conflict(what, why=f"changed since the plan: {why}", next="make a new plan")
    return None


def _by_rule(plan: Plan) -> dict[str, int]:
    return dict(Counter(skipped.rule for skipped in plan.skipped).most_common())


def _sum(plan: Plan) -> str:
    counts = Counter((item.kind, item.action) for item in plan.items)
    words = ", ".join(
        f"{count} {kind}{'s' if count > 1 else ''} to {action}" for (kind, action), count in counts.items()
    )
    unknown = f", and what {plan.unpriced} of unknown price cost" if plan.unpriced else ""
    return f"{words}: saves {figures.usd(plan.saves_per_month)} a month{unknown}"


def _why(item: Item) -> str:
    taken = f"; takes along {', '.join(item.takes)}" if item.takes and item.action is Action.TERMINATE else ""
    return item.why + taken
