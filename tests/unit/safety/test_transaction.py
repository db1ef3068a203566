from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from runctl.errors import CapacityError, CloudError, ConfigError, Conflict, TrainctlError, TransferError
from runctl.ledger import Ledger, Owner, StepRecord
from runctl.safety import transaction

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def error(kind: type[CloudError] = CloudError, **fields: Any) -> CloudError:
    return kind("the cloud says no", service="ec2", operation="run_instances", code="Code", **fields)


def begin(ledger: Any) -> Any:
    return transaction.begin(ledger, "launch", subject="digits/1", payload=b"", at=NOW)


@dataclass
class Calls:
    """Steps that note what was done and undone, and fail on demand."""

    log: list[str] = field(default_factory=list)

    def step(
        self, tx: transaction.Transaction, name: str, *, fails: Exception | None = None, undo: Any = None
    ) -> bytes:
        def do() -> bytes:
            self.log.append(f"do {name}")
            if fails:
                raise fails
            return name.encode()

        def take_back(result: bytes) -> None:
            self.log.append(f"undo {result.decode()}")
            if undo:
                raise undo

        return tx.step(name, token=f"{tx.id}-{name}", request=b"", do=do, undo=take_back)

    def all(
        self, tx: transaction.Transaction, *names: str, last_fails: Exception, undo_of_b: Any = None
    ) -> None:
        """Every step in turn; the last one fails."""
        for name in names:
            fails = last_fails if name == names[-1] else None
            self.step(tx, name, fails=fails, undo=undo_of_b if name == "b" else None)


def outcomes(ledger: Ledger) -> tuple[str | None, list[str | None]]:
    (record,) = ledger.journal.list()
    return record.outcome, [step.outcome for step in record.steps]


def test_a_transaction_that_succeeds_keeps_everything(ledger: Ledger) -> None:
    calls = Calls()
    with begin(ledger) as tx:
        assert calls.step(tx, "a") == b"a"
        calls.step(tx, "b")
        assert transaction.abandoned(ledger) == []
    assert calls.log == ["do a", "do b"]
    assert outcomes(ledger) == ("finished", ["done", "done"])


def test_a_failure_undoes_what_was_done_the_last_first(ledger: Ledger) -> None:
    calls = Calls()
    with pytest.raises(CapacityError), begin(ledger) as tx:
        calls.all(tx, "a", "b", "c", last_fails=error(CapacityError))
    assert calls.log == ["do a", "do b", "do c", "undo b", "undo a"]
    assert outcomes(ledger) == ("rolled-back", ["undone", "undone", "failed"])


@pytest.mark.parametrize(
    "lost", [error(retryable=True), error(lost_answer=True), TransferError("torn"), OSError()]
)
def test_a_lost_answer_leaves_the_transaction_for_recovery(ledger: Ledger, lost: Exception) -> None:
    calls = Calls()
    with pytest.raises(type(lost)), begin(ledger) as tx:
        calls.all(tx, "a", "b", last_fails=lost)
    assert calls.log[-1] == "undo a"
    assert outcomes(ledger) == (None, ["undone", None])
    # This process has given it up: it may be recovered without waiting for the process to die.
    assert [record.id for record in transaction.abandoned(ledger)] == [tx.id]


def test_a_lost_answer_that_the_block_swallows_is_not_forgotten(ledger: Ledger) -> None:
    calls = Calls()
    with begin(ledger) as tx:
        with pytest.raises(CloudError):
            calls.step(tx, "a", fails=error(lost_answer=True))
        calls.step(tx, "b")
    assert outcomes(ledger) == (None, [None, "done"])


@pytest.mark.parametrize("refusal", [error(), error(CapacityError), ConfigError("no key")])
def test_a_refusal_left_nothing(ledger: Ledger, refusal: TrainctlError) -> None:
    with pytest.raises(type(refusal)), begin(ledger) as tx:
        Calls().step(tx, "a", fails=refusal)
    assert outcomes(ledger) == ("rolled-back", ["failed"])
    assert refusal.what in str(ledger.journal.get(tx.id).steps[0].error)


def test_an_undo_that_fails_hides_neither_the_cause_nor_the_rest(ledger: Ledger) -> None:
    calls = Calls()
    with pytest.raises(CapacityError) as caught, begin(ledger) as tx:
        calls.all(tx, "a", "b", "c", last_fails=error(CapacityError), undo_of_b=error())
    assert "could not be rolled back" in caught.value.__notes__[0]
    assert outcomes(ledger) == (None, ["done", "undoing", "failed"])
    assert [record.id for record in transaction.abandoned(ledger)] == [tx.id]


def test_a_call_whose_outcome_could_not_be_written_is_undone(ledger: Ledger) -> None:
    calls = Calls()
    journal = FailingJournal(ledger.journal, "done")
    with pytest.raises(Conflict), begin(Namespace(journal)) as tx:
        calls.step(tx, "a")
    assert calls.log == ["do a", "undo a"]
    assert outcomes(ledger) == ("rolled-back", ["undone"])


@dataclass
class FailingJournal:
    real: Any
    fails: str

    def __getattr__(self, name: str) -> Any:
        if name == self.fails:
            raise Conflict("The ledger is busy")
        return getattr(self.real, name)


@dataclass
class Namespace:
    journal: Any


# Recovery: whatever crashes and whenever, nothing leaks and nothing that was there before is gone.


class Crash(BaseException):
    """The process is gone: from here on it neither writes nor calls."""


@dataclass
class Fuse:
    """Counts every moment at which a process can die, and kills it at one of them."""

    blows_at: int | None
    moment: int = 0

    def burn(self) -> None:
        if self.blows_at is not None and self.moment >= self.blows_at:
            raise Crash
        self.moment += 1

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.burn()
            result = function(*arguments, **named)
            self.burn()
            return result

        return call


@dataclass
class FusedJournal:
    real: Any
    fuse: Fuse

    def __getattr__(self, name: str) -> Any:
        return self.fuse.around(getattr(self.real, name))


@dataclass
class Cloud:
    """Things made under a token, and attachments of a thing that was there before."""

    things: dict[str, str] = field(default_factory=lambda: {"the user's own": "vol-0"})
    attached: set[str] = field(default_factory=lambda: {"before"})
    ids: Iterator[int] = field(default_factory=count)

    def make(self, token: str) -> bytes:
        return self.things.setdefault(token, f"i-{next(self.ids)}").encode()

    def delete(self, thing: bytes) -> None:
        for token in [token for token, known in self.things.items() if known == thing.decode()]:
            del self.things[token]

    def attach(self, token: str) -> bytes:
        self.attached.add(token)
        return token.encode()

    def undoings(self, fuse: Fuse) -> dict[str, transaction.Undoing]:
        def find_thing(step: StepRecord) -> bytes | None:
            found = self.things.get(step.token)
            return None if found is None else found.encode()

        def find_attachment(step: StepRecord) -> bytes | None:
            return step.token.encode() if step.token in self.attached else None

        return {
            "make": transaction.Undoing(
                find=fuse.around(find_thing), undo=fuse.around(lambda _, result: self.delete(result))
            ),
            "attach": transaction.Undoing(
                find=fuse.around(find_attachment),
                undo=fuse.around(lambda _, result: self.attached.discard(result.decode())),
            ),
        }


@dataclass(frozen=True)
class Planned:
    kind: str
    goes: str  # well, refused, lost (carried out, no answer), unsent (not carried out, no answer)


def operate(journal: Any, cloud: Cloud, fuse: Fuse, plan: list[Planned]) -> None:
    with begin(Namespace(journal)) as tx:
        for number, planned in enumerate(plan):
            token = f"{tx.id}-{number}"
            call = cloud.make if planned.kind == "make" else cloud.attach

            def do(call: Any = call, token: str = token, goes: str = planned.goes) -> bytes:
                fuse.burn()
                if goes == "refused":
                    raise error()
                if goes == "unsent":
                    raise error(retryable=True)
                result: bytes = call(token)
                fuse.burn()
                if goes == "lost":
                    raise error(lost_answer=True)
                return result

            def undo(result: bytes, kind: str = planned.kind) -> None:
                cloud.undoings(fuse)[kind].undo(None, result)  # type: ignore[arg-type]

            tx.step(planned.kind, token=token, request=b"", do=do, undo=undo)


plans = st.lists(
    st.builds(
        Planned,
        kind=st.sampled_from(["make", "attach"]),
        goes=st.sampled_from(["well", "well", "well", "refused", "lost", "unsent"]),
    ),
    max_size=4,
)


@st.composite
def accidents(draw: st.DrawFn) -> tuple[list[Planned], int | None, int | None]:
    """A plan, the moment at which its process dies, and the one at which its recovery does."""
    plan = draw(plans)
    moments = 4 + 6 * len(plan)
    return (
        plan,
        draw(st.none() | st.integers(0, moments)),
        draw(st.none() | st.integers(0, moments)),
    )


@given(accident=accidents())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whenever_it_dies_nothing_leaks_and_nothing_older_is_gone(
    ledger: Ledger, accident: tuple[list[Planned], int | None, int | None]
) -> None:
    plan, dies_at, recovery_dies_at = accident
    cloud, fuse = Cloud(), Fuse(dies_at)
    known = len(ledger.journal.list(limit=10_000))
    try:
        operate(FusedJournal(ledger.journal, fuse), cloud, fuse, plan)
    except Crash:
        event("the operation died")
    except CloudError:
        event("the operation failed")
    for dies_again_at in (recovery_dies_at, None):
        fuse = Fuse(dies_again_at)
        for record in transaction.abandoned(ledger):
            try:
                transaction.roll_back(
                    Namespace(FusedJournal(ledger.journal, fuse)),  # type: ignore[arg-type]
                    record,
                    cloud.undoings(fuse),
                )
            except Crash:
                event("the recovery died")
    assert ledger.journal.unfinished() == []
    records = ledger.journal.list(limit=10_000)
    made, attached = 0, 0
    if len(records) > known and records[0].outcome == "finished":
        event("finished")
        assert all(planned.goes == "well" for planned in plan)
        made = sum(planned.kind == "make" for planned in plan)
        attached = len(plan) - made
    assert cloud.things["the user's own"] == "vol-0"
    assert "before" in cloud.attached
    assert len(cloud.things) == 1 + made
    assert len(cloud.attached) == 1 + attached


def test_a_plan_without_faults_finishes(ledger: Ledger) -> None:
    """The model above is not about transactions that all fail."""
    cloud = Cloud()
    operate(ledger.journal, cloud, Fuse(None), [Planned("make", "well"), Planned("attach", "well")])
    assert (len(cloud.things), len(cloud.attached)) == (2, 2)


def test_recovery_undoes_the_last_step_first(ledger: Ledger) -> None:
    calls, undone = Calls(), list[bytes]()
    with pytest.raises(CloudError), begin(ledger) as tx:
        calls.all(tx, "a", "b", "c", last_fails=error(lost_answer=True), undo_of_b=error())
    undoing = transaction.Undoing(
        find=lambda step: step.name.encode(), undo=lambda step, result: undone.append(result)
    )
    transaction.roll_back(ledger, ledger.journal.get(tx.id), dict.fromkeys("abc", undoing))
    assert undone == [b"c", b"b", b"a"]
    assert outcomes(ledger) == ("rolled-back", ["undone"] * 3)


def test_a_step_that_nobody_can_undo_is_left_alone(ledger: Ledger) -> None:
    with pytest.raises(CloudError), begin(ledger) as tx:
        Calls().step(tx, "unheard-of", fails=error(lost_answer=True))
    with pytest.raises(Conflict, match="cannot be rolled back"):
        transaction.roll_back(ledger, ledger.journal.get(tx.id), {})
    assert outcomes(ledger) == (None, [None])


def test_an_outcome_that_cannot_be_found_out_leaves_it_unfinished(ledger: Ledger) -> None:
    with pytest.raises(CloudError), begin(ledger) as tx:
        Calls().step(tx, "a", fails=error(lost_answer=True))

    def find(step: StepRecord) -> bytes | None:
        raise error(retryable=True)

    undoings = {"a": transaction.Undoing(find=find, undo=lambda step, result: None)}
    with pytest.raises(CloudError):
        transaction.roll_back(ledger, ledger.journal.get(tx.id), undoings)
    assert outcomes(ledger) == (None, [None])
    assert [record.id for record in transaction.abandoned(ledger)] == [tx.id]


def test_only_one_process_takes_up_an_abandoned_transaction(ledger: Ledger) -> None:
    dead = Owner(pid=2**22 + 1, started=1.0, host=transaction.this_process().host)
    ledger.journal.begin("launch", subject="s", payload=b"", owner=dead, at=NOW)
    (seen_by_one,) = transaction.abandoned(ledger)
    (seen_by_other,) = transaction.abandoned(ledger)
    ledger.journal.adopt(
        seen_by_one.id, msgspec.structs.replace(dead, pid=2**22 + 2), formerly=seen_by_one.owner
    )
    with pytest.raises(Conflict, match="cannot be taken up"):
        transaction.take_up(ledger, seen_by_other)


def test_an_ended_transaction_is_not_taken_up(ledger: Ledger) -> None:
    with begin(ledger) as tx:
        pass
    with pytest.raises(Conflict) as caught:
        transaction.take_up(ledger, ledger.journal.get(tx.id))
    assert "finished by now" in caught.value.why


# Real processes: kill and Ctrl-C.

CHILD = """
    import select, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from runctl.errors import CapacityError
    from runctl.ledger import Ledger
    from runctl.safety import transaction
    folder, how = Path(sys.argv[1]), sys.argv[2]

    def say(text):
        with (folder / "log").open("a") as log:
            log.write(text + "\\n")
        print(text, flush=True)

    def slow(result):
        def call(*_):
            say(f"{result.decode()} begins")
            heard = False
            while not select.select([sys.stdin], [], [], 0.02)[0]:
                if not heard and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                    heard = True
                    print("heard", flush=True)
            if how == "refused":
                raise CapacityError("none", service="ec2", operation="run", code="None")
            say(f"{result.decode()} ends")
            return result
        return call

    try:
        with Ledger.open(folder) as ledger, transaction.begin(
            ledger, "launch", subject="digits/1", payload=b"", at=datetime.now(UTC)
        ) as tx:
            tx.step("a", token="a", request=b"", do=lambda: b"a", undo=lambda _: say("a undone"))
            tx.step("b", token="b", request=b"", do=slow(b"b"), undo=lambda _: say("b undone"))
            say("the block ends")
    except BaseException as error:
        say(type(error).__name__)
"""


@dataclass
class Child:
    """A process in the middle of step b."""

    process: subprocess.Popen[str]
    folder: Path

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def interrupt_and_wait_until_heard(self) -> None:
        self.interrupt()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "heard\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def log(self) -> list[str]:
        self.process.wait(timeout=30)
        return (self.folder / "log").read_text().split("\n")[:-1]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], Child]]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str = "well") -> Child:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "b begins\n"
        return Child(process, tmp_path)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_process_leaves_its_intent_to_others(ledger: Ledger, child: Callable[..., Child]) -> None:
    running = child()
    assert transaction.abandoned(ledger) == []
    running.process.kill()
    # Not even reaped by its parent, it is dead: a zombie works on nothing.
    deadline = time.monotonic() + 60
    while not transaction.abandoned(ledger) and time.monotonic() < deadline:
        time.sleep(0.02)
    (record,) = transaction.abandoned(ledger)
    assert [step.outcome for step in record.steps] == ["done", None]
    assert running.process.returncode is None, "it was to be a zombie"


def test_the_first_ctrl_c_finishes_the_step_and_rolls_back(
    ledger: Ledger, child: Callable[..., Child]
) -> None:
    running = child()
    running.interrupt_and_wait_until_heard()
    running.go_on()
    assert running.log() == ["b begins", "b ends", "b undone", "a undone", "KeyboardInterrupt"]
    assert outcomes(ledger) == ("rolled-back", ["undone", "undone"])


def test_a_refusal_does_not_swallow_the_ctrl_c(ledger: Ledger, child: Callable[..., Child]) -> None:
    running = child("refused")
    running.interrupt_and_wait_until_heard()
    running.go_on()
    assert running.log() == ["b begins", "a undone", "KeyboardInterrupt"]
    assert outcomes(ledger) == ("rolled-back", ["undone", "failed"])


def test_the_second_ctrl_c_leaves_at_once_with_the_journal_intact(
    ledger: Ledger, child: Callable[..., Child]
) -> None:
    running = child()
    running.interrupt_and_wait_until_heard()
    running.interrupt()
    assert running.log() == ["b begins", "LeftAtOnce"]
    assert outcomes(ledger) == (None, ["done", None])
    assert len(transaction.abandoned(ledger)) == 1
