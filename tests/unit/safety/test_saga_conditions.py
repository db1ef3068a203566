"""Steps that are left out by what came of earlier ones: the same decision at every resumption."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runctl.errors import CloudError
from runctl.events import ignore
from runctl.ledger import Ledger
from runctl.safety import saga, transaction
from runctl.safety.saga import Call, Plan, PlannedStep, Result, result_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process is gone."""


class Say:
    """Answers what its request says, notes it, and what it was given."""

    final = False

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.die_at = ""
        self.refuse = ""

    def do(self, call: Call) -> Result:
        word = call.request["say"]
        if word == self.die_at:
            raise Killed
        if word == self.refuse:
            raise CloudError("no", service="s", operation="o", code="No")
        self.said.append((word, call.request.get("given")))
        return {"id": word, "lost": call.request.get("lost")}

    def find(self, call: Call) -> Result | None:
        return None

    def undo(self, call: Call, result: Result) -> None:
        self.said.append((f"not {result['id']}", None))


def step(name: str, **more: Any) -> PlannedStep:
    conditions = {key: more.pop(key) for key in ("only_if", "unless") if key in more}
    return PlannedStep(name=name, kind="say", requests=({"say": name, **more},), **conditions)


def rounds(lost: int) -> Plan:
    """Three machines, of which the first `lost` are lost in the copying."""
    steps: list[PlannedStep] = []
    for number in range(1, 4):
        whole = tuple(result_of(f"check-{n}") for n in range(1, number))
        steps += [
            step(f"machine-{number}", unless=whole),
            step(f"copy-{number}", only_if=(result_of(f"machine-{number}"),), lost=number <= lost),
            step(
                f"check-{number}",
                only_if=(result_of(f"copy-{number}"),),
                unless=(result_of(f"copy-{number}", "lost"),),
            ),
        ]
    steps.append(step("mark", given=[result_of(f"check-{n}") for n in range(1, 4)]))
    return Plan(operation="test", subject="x", cloud="c", region="r", steps=tuple(steps))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (0, ["machine-1", "copy-1", "check-1", "mark"]),
        (1, ["machine-1", "copy-1", "machine-2", "copy-2", "check-2", "mark"]),
        (2, ["machine-1", "copy-1", "machine-2", "copy-2", "machine-3", "copy-3", "check-3", "mark"]),
    ],
)
def test_what_is_not_asked_for_is_left_out_and_leaves_no_trace(
    ledger: Ledger, lost: int, said: list[str]
) -> None:
    kind = Say()
    made = saga.carry_out(ledger, rounds(lost), {"say": kind}, emit=ignore, at=NOW)
    assert [word for word, _ in kind.said] == said
    (record,) = ledger.journal.newest(limit=1)
    assert [row.name for row in record.steps] == said
    given = [None] * 3
    given[lost] = f"check-{lost + 1}"  # type: ignore[call-overload]
    assert kind.said[-1] == ("mark", given)
    assert {name for name, result in made.items() if not result} == {
        row.name for row in rounds(lost).steps
    } - set(said)


@pytest.mark.parametrize("die_at", ["copy-1", "machine-2", "check-2", "mark"])
def test_a_resumption_decides_as_the_first_life_did(
    ledger: Ledger, die_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Say()
    kind.die_at = die_at
    with monkeypatch.context() as dying:
        # Who is killed rolls nothing back.
        dying.setattr(transaction, "_roll_back_for", lambda *_: None)
        with pytest.raises(Killed):
            saga.carry_out(ledger, rounds(1), {"say": kind}, emit=ignore, at=NOW)
    kind.die_at = ""
    (record,) = transaction.abandoned(ledger)
    saga.resume(ledger, record, {"say": kind}, emit=ignore)
    wanted = ["machine-1", "copy-1", "machine-2", "copy-2", "check-2", "mark"]
    assert [word for word, _ in kind.said] == wanted
    assert ledger.journal.get(record.id).outcome == "finished"


def test_what_was_left_out_is_not_undone(ledger: Ledger) -> None:
    kind = Say()
    kind.refuse = "mark"
    with pytest.raises(CloudError):
        saga.carry_out(ledger, rounds(0), {"say": kind}, emit=ignore, at=NOW)
    said = [word for word, _ in kind.said]
    assert said == ["machine-1", "copy-1", "check-1", "not check-1", "not copy-1", "not machine-1"]
