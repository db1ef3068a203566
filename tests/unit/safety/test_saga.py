"""Plans in the journal: carried out, cut short anywhere, resumed or rolled back; nothing is half done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.errors import CapacityError, CloudError, Conflict
from runctl.events import Event, Notice, ignore
from runctl.ledger import Ledger
from runctl.safety import saga, transaction
from runctl.safety.saga import Call, Plan, PlannedStep, Result, result_of

NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, its `finally` included."""


@dataclass
class World:
    """Things by token, and the calls that were made; dies before or after one of them."""

    things: dict[str, str] = field(default_factory=dict[str, str])
    gone: list[str] = field(default_factory=list[str])
    calls: list[str] = field(default_factory=list[str])
    die_at: int = 0
    die_before: bool = True
    refuse: set[str] = field(default_factory=set[str])
    full: set[str] = field(default_factory=set[str])
    lose: set[str] = field(default_factory=set[str])
    stuck: set[str] = field(default_factory=set[str])
    hidden: bool = False

    def call(self, what: str) -> None:
        self.calls.append(what)
        if len(self.calls) == self.die_at and self.die_before:
            raise Killed

    def after(self) -> None:
        if len(self.calls) == self.die_at and not self.die_before:
            raise Killed


class Make:
    """Makes a thing of its token; idempotent, as calls with a client token are."""

    final = False

    def __init__(self, world: World) -> None:
        self.world = world

    def do(self, call: Call) -> Result:
        self.world.call(f"make {call.request['thing']}")
        thing = str(call.request["thing"])
        if thing in self.world.full:
            raise CapacityError(thing, service="s", operation="o", code="Full")
        if thing in self.world.refuse:
            raise CloudError(thing, service="s", operation="o", code="No")
        self.world.things[call.token] = thing
        self.world.after()
        if thing in self.world.lose:
            raise CloudError(thing, service="s", operation="o", code="Lost", lost_answer=True)
        return {"id": call.token, "thing": thing}

    def find(self, call: Call) -> Result | None:
        if self.world.hidden:
            raise CloudError("no answer", service="s", operation="o", code="Lost", retryable=True)
        return {"id": call.token} if call.token in self.world.things else None

    def undo(self, call: Call, result: Result) -> None:
        assert result["id"] == call.token
        if call.request["thing"] in self.world.stuck:
            raise CloudError("stuck", service="s", operation="o", code="Stuck")
        self.world.call(f"unmake {call.request['thing']}")
        self.world.things.pop(call.token, None)
        self.world.after()


class Destroy:
    """Cannot be undone."""

    final = True

    def __init__(self, world: World) -> None:
        self.world = world

    def do(self, call: Call) -> Result:
        self.world.call(f"destroy {call.request['old']}")
        if call.request["old"] in self.world.refuse:
            raise CloudError("no", service="s", operation="o", code="No")
        if call.request["old"] not in self.world.gone:
            self.world.gone.append(call.request["old"])
        self.world.after()
        return {"id": call.request["old"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["old"]}

    def undo(self, call: Call, result: Result) -> None:
        raise AssertionError(f"a final step was undone: {call} {result}")


def kinds(world: World) -> dict[str, saga.Kind]:
    return {"make": Make(world), "destroy": Destroy(world)}


def plan(*steps: PlannedStep) -> Plan:
    return Plan(operation="test", subject="x", cloud="c", region="r", steps=steps)


def make(name: str, *things: str) -> PlannedStep:
    return PlannedStep(name=name, kind="make", requests=tuple({"thing": thing} for thing in things))


def destroy(name: str, old: str) -> PlannedStep:
    return PlannedStep(name=name, kind="destroy", requests=({"old": old},))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def test_later_steps_are_handed_what_earlier_ones_made(ledger: Ledger) -> None:
    world = World()
    second = PlannedStep(
        name="b", kind="make", requests=({"thing": "b", "deep": [{"of": result_of("a", "thing")}]},)
    )
    saga.carry_out(ledger, plan(make("a", "one"), second), kinds(world), emit=ignore, at=NOW)
    (record,) = ledger.journal.newest()
    assert record.outcome == "finished"
    assert b'"deep":[{"of":"one"}]' in record.steps[1].request


def test_without_capacity_the_next_way_is_tried_and_the_reason_told(ledger: Ledger) -> None:
    world, said = World(full={"spot"}), list[Event]()
    results = saga.carry_out(
        ledger, plan(make("a", "spot", "on-demand")), kinds(world), emit=said.append, at=NOW
    )
    assert results["a"]["thing"] == "on-demand"
    assert [event.text for event in said if isinstance(event, Notice)] == ["this way: Full, trying the next"]


def test_a_refusal_undoes_what_was_done(ledger: Ledger) -> None:
    world = World(refuse={"b"})
    with pytest.raises(CloudError):
        saga.carry_out(ledger, plan(make("a", "a"), make("b", "b")), kinds(world), emit=ignore, at=NOW)
    assert world.things == {}
    assert ledger.journal.newest()[0].outcome == "rolled-back"


def test_a_refused_final_step_is_rolled_back_like_any_other(ledger: Ledger) -> None:
    world = World(refuse={"old"})
    with pytest.raises(CloudError):
        saga.carry_out(ledger, plan(make("a", "a"), destroy("d", "old")), kinds(world), emit=ignore, at=NOW)
    assert world.things == {}
    assert ledger.journal.newest()[0].outcome == "rolled-back"


def test_after_a_final_step_nothing_is_undone_but_finished_later(ledger: Ledger) -> None:
    world = World(refuse={"b"})
    steps = plan(make("a", "a"), destroy("d", "old"), make("b", "b"))
    with pytest.raises(CloudError) as raised:
        saga.carry_out(ledger, steps, kinds(world), emit=ignore, at=NOW)
    (record,) = transaction.abandoned(ledger)
    assert any(record.id in note for note in raised.value.__notes__)
    with pytest.raises(Conflict, match="cannot be rolled back"):
        saga.roll_back(ledger, record, kinds(world))
    assert set(world.things.values()) == {"a"}


def carry_out_in_vain(ledger: Ledger, world: World, *steps: PlannedStep) -> None:
    with pytest.raises(CloudError):
        saga.carry_out(ledger, plan(*steps), kinds(world), emit=ignore, at=NOW)


def test_what_a_lost_answer_made_is_undone_before_what_it_stands_on(ledger: Ledger) -> None:
    """A volume was detached while the mount, whose answer was lost, held it."""
    world = World(lose={"b"})
    carry_out_in_vain(ledger, world, make("a", "a"), make("b", "b"))
    assert world.calls == ["make a", "make b", "unmake b", "unmake a"]
    assert world.things == {}
    assert ledger.journal.newest()[0].outcome == "rolled-back"


def test_while_nobody_knows_what_a_lost_answer_made_nothing_below_it_is_undone(ledger: Ledger) -> None:
    world = World(lose={"b"}, hidden=True)
    carry_out_in_vain(ledger, world, make("a", "a"), make("b", "b"))
    (record,) = transaction.abandoned(ledger)
    assert [step.outcome for step in record.steps] == ["done", None]
    world.lose, world.hidden = set(), False
    resume(ledger, record, kinds(world))
    assert ledger.journal.get(record.id).outcome == "finished"
    assert sorted(world.things.values()) == ["a", "b"]


def test_what_was_half_undone_is_not_gone_on_from(ledger: Ledger) -> None:
    """A volume that was being detached counted as attached, and the operation as finished."""
    world = World(lose={"c"}, stuck={"b"})
    carry_out_in_vain(ledger, world, make("a", "a"), make("b", "b"), make("c", "c"))
    (record,) = transaction.abandoned(ledger)
    assert [step.outcome for step in record.steps] == ["done", "undoing", "undone"]
    with pytest.raises(Conflict, match="being rolled back"):
        resume(ledger, record, kinds(world))
    (record,) = transaction.abandoned(ledger)
    world.stuck = set()
    saga.roll_back(ledger, record, kinds(world))
    assert ledger.journal.get(record.id).outcome == "rolled-back"
    assert world.things == {}


def test_an_operation_that_is_taken_up_does_not_end_while_a_call_is_unaccounted_for(ledger: Ledger) -> None:
    """It was ended as rolled back, and the thing that nobody had looked for stayed and cost money."""
    world = World()
    record = cut_short(ledger, world, plan(make("a", "a"), make("b", "b")), at=2, before=False)
    assert record is not None
    world.die_at = 0
    with pytest.raises(KeyboardInterrupt), transaction.resumed(ledger, record):
        raise KeyboardInterrupt
    (record,) = transaction.abandoned(ledger)
    saga.roll_back(ledger, record, kinds(world))
    assert world.things == {}


def test_what_is_being_rolled_back_is_not_resumed(ledger: Ledger) -> None:
    world = World(die_at=4)  # the undoing of the first thing
    record = cut_short(ledger, world, plan(make("a", "a"), make("b", "b")), at=2, before=False)
    world.die_at, world.die_before = len(world.calls) + 2, True
    with pytest.raises(Killed):
        saga.roll_back(ledger, record, kinds(world))
    (again,) = transaction.abandoned(ledger)
    with pytest.raises(Conflict, match="is being rolled back"):
        saga.resume(ledger, again, kinds(world), emit=ignore)


STEPS = st.lists(st.sampled_from("mmmd"), min_size=1, max_size=5)


@settings(max_examples=150)
@given(shape=STEPS, at=st.integers(1, 6), before=st.booleans(), undo=st.booleans(), full=st.booleans())
def test_cut_short_anywhere_it_is_finished_or_undone(
    tmp_path_factory: pytest.TempPathFactory, shape: list[str], at: int, before: bool, undo: bool, full: bool
) -> None:
    steps = [
        make(f"s{number}", f"first{number}", f"second{number}")
        if kind == "m"
        else destroy(f"s{number}", f"o{number}")
        for number, kind in enumerate(shape)
    ]
    made = sum(kind == "m" for kind in shape)
    world = World(full={"first0", "first2"} if full else set())
    with Ledger.open(tmp_path_factory.mktemp("ledger")) as ledger:
        record = cut_short(ledger, world, plan(*steps), at=at, before=before)
        if record is None:
            assert len(world.things) == made
            return
        world.die_at = 0
        try:
            (saga.roll_back if undo else resume)(ledger, record, kinds(world))
        except Conflict:
            assert undo
            resume(ledger, record, kinds(world))
        outcome = ledger.journal.get(record.id).outcome
        if outcome == "finished":
            assert len(world.things) == made, "each thing once, whatever was repeated"
            assert world.gone == [f"o{number}" for number, kind in enumerate(shape) if kind == "d"]
        else:
            assert outcome == "rolled-back"
            assert world.things == {}
            assert world.gone == []


def resume(ledger: Ledger, record: transaction.TransactionRecord, of: dict[str, saga.Kind]) -> None:
    saga.resume(ledger, record, of, emit=ignore)


def cut_short(
    ledger: Ledger, world: World, steps: Plan, *, at: int, before: bool
) -> transaction.TransactionRecord | None:
    """Carry out until the process is killed at a call; what it left, None where it came to its end before."""
    world.die_at, world.die_before = at, before
    with pytest.MonkeyPatch.context() as patch:
        # A killed process rolls nothing back.
        patch.setattr(transaction.Transaction, "roll_back", _never)
        try:
            saga.carry_out(ledger, steps, kinds(world), emit=ignore, at=NOW)
        except Killed:
            return next(iter(transaction.abandoned(ledger)))
    return None


def _never(self: transaction.Transaction) -> None:
    raise Killed
