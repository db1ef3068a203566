"""Steps that go on while no checkpoint is kept."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.looking import Looking
from runctl.agent.silence import FIRST_SECONDS, LEAST_SECONDS, LEAST_STEPS, USUAL_TIMES, Silence
from runctl.agent.trees import Tree


def running(*, kept_at: tuple[float, ...] = ()) -> Silence:
    silence = Silence()
    silence.begins(0.0)
    for at in kept_at:
        silence.kept(at)
    return silence


def goes_on(silence: Silence, first: int = 0) -> None:
    for step in range(first, first + LEAST_STEPS):
        silence.stepped(step)


def test_several_usual_intervals_without_a_checkpoint_are_a_silence_until_there_is_one():
    silence = running(kept_at=(100.0, 200.0, 310.0))
    goes_on(silence)
    assert silence.since(310 + USUAL_TIMES * 110) is None
    assert silence.since(311 + USUAL_TIMES * 110) == 310
    silence.kept(900.0)
    goes_on(silence, 100)
    assert silence.since(1000.0) is None


def test_where_nothing_was_kept_yet_it_takes_longer_and_who_does_not_go_on_is_not_told():
    silence = running()
    assert silence.since(10 * FIRST_SECONDS) is None, "it may still load its data"
    silence.stepped(1)
    silence.stepped(1)
    assert silence.since(10 * FIRST_SECONDS) is None
    goes_on(silence, 2)
    assert silence.since(FIRST_SECONDS) is None
    assert silence.since(FIRST_SECONDS + 1) == 0


@given(st.lists(st.floats(0.1, 5000.0), min_size=1, max_size=20))
def test_who_saves_as_usual_is_never_told(intervals: list[float]):
    """An interval up to four times as long as the longest of the last five is usual."""
    silence, now = running(), 0.0
    for interval in intervals:
        now += interval
        silence.kept(now)
    goes_on(silence)
    usual = max(LEAST_SECONDS, USUAL_TIMES * max(intervals[-5:]))
    assert silence.since(now + usual * 0.99) is None
    assert silence.since(now + usual * 1.01 + 1) == now


def test_what_was_seen_of_checkpoints_is_told(tmp_path):
    looking = Looking([Tree("checkpoints", str(tmp_path))], processes=lambda: [os.getpid()])

    def seen() -> str:
        looking.choose(looking.look(), final=False, whole=False, suspect=frozenset())
        return looking.what_waits()

    assert looking.what_waits() == "nothing was looked at yet"
    assert seen() == "no file that it wrote is known as one"
    path = tmp_path / "step_1.pt"
    path.write_bytes(b"PK\3\4 torn")
    assert seen() == "step_1.pt is torn, by its format"
    with path.open("ab"):
        assert seen() == "step_1.pt is open for writing"
    path.unlink()
    (tmp_path / "step_2\33.eqx").write_bytes(b"x")
    assert seen().endswith("whether its save is over")
    assert seen().startswith("step_2?.eqx ")
