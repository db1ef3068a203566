"""What protection said, as people read it."""

from __future__ import annotations

from runctl.render import output
from runctl.safety.protection import Effect, Verdict

_WORDS = {
    Effect.ALLOW: "allows it",
    Effect.WARN: "warns",
    Effect.GRACEFUL: "ends the training first",
    Effect.FORCE: "needs --force",
    Effect.FORBID: "forbids it",
}


def show_verdict(verdict: Verdict, *, every_rule: bool) -> None:
    """One line for the verdict, and one for each rule: all of them, or those that had something to say."""
    answer = "allowed" if verdict.allowed else "refused"
    output.write_line(f"{verdict.action} {verdict.resource}: {answer}")
    rows = [
        (finding.rule, _WORDS[finding.effect], finding.reason)
        for finding in verdict.findings
        if every_rule or finding.effect is not Effect.ALLOW
    ]
    if rows:
        output.write_table(("rule", "", "because"), rows)
    for finding in verdict.blocking:
        if finding.next:
            output.talk(f"  next: {finding.next}")
