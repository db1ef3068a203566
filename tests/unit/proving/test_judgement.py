"""Who is to blame for what differs after a resume, from runs made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runctl.proving import judgement
from runctl.proving.compared import Left, Table
from runctl.proving.judgement import Cut, Run, Saved, Source, baseline, judged
from runctl.proving.readings import Reading

STEPS = 20
EVERYTHING = Source(shuffles=True, draws=True, optimizes=True, schedules=True)


def reading(step: int, **changed: float) -> Reading:
    values = {"loss": 1 / step, "lr": 0.1 * min(1, step / 10)} | changed
    return Reading((None, step), values, tuple(str(4 * step + number) for number in range(4)))


def with_ids_of(step: int, other: int) -> Reading:
    return Reading((None, step), reading(step).values, reading(other).ids)


def straight(files: dict[str, Left] | None = None) -> Run:
    return Run([[reading(step) for step in range(1, STEPS + 1)]], files or {}, succeeded=True)


def cut(
    after: list[Reading],
    *,
    last: int = 12,
    files: dict[str, Left] | None = None,
    whole: tuple[Saved, ...] = (),
) -> Run:
    first = [reading(step) for step in range(1, last + 1)]
    there = whole or (Saved("ckpt_10.pt", 10),)
    return Run([first, after], files or {}, succeeded=True, cut=Cut("lost", last, there))


def from_step(begin: int, make: Callable[[int], Reading] = reading) -> list[Reading]:
    return [make(step) for step in range(begin, STEPS + 1)]


def culprits(run: Run, source: Source = EVERYTHING, calm: Run | None = None) -> list[str]:
    calm = calm or straight()
    return [one.culprit for one in judged(baseline(calm, calm), run, source)]


def test_steps_that_are_done_again_and_come_out_the_same_are_no_fault() -> None:
    assert culprits(cut(from_step(11))) == []
    assert culprits(cut(from_step(13))) == []


def test_a_line_that_could_not_be_printed_any_more_is_no_skipped_step() -> None:
    assert culprits(cut(from_step(14))) == []


def test_before_the_first_save_a_script_may_begin_anew() -> None:
    run = cut(from_step(1), last=3)
    assert culprits(Run(run.attempts, {}, succeeded=True, cut=Cut("lost", 3))) == []
    assert culprits(run) == [judgement.BEGINS_ANEW]


@pytest.mark.parametrize(
    ("after", "culprit"),
    [
        (from_step(11, lambda step: with_ids_of(step, step - 10)), judgement.ORDER),
        (from_step(11, lambda step: with_ids_of(step, 1000 + 7 * step % 13)), judgement.ORDER),
        (from_step(17), judgement.SKIPPED),
        (from_step(11, lambda step: reading(step, lr=0.1 * min(1, (step - 10) / 10))), judgement.SCHEDULE),
        (from_step(11, lambda step: reading(step, loss=1 / step + 0.1 * (step > 11))), judgement.OPTIMIZER),
        (from_step(11, lambda step: reading(step, loss=1 / step + 0.01 * step)), judgement.RNG),
    ],
)  # fmt: skip
def test_what_differs_names_its_culprit(after: list[Reading], culprit: str) -> None:
    found = culprits(cut(after))
    assert found[0] == culprit


def test_samples_of_later_steps_are_skipped_data() -> None:
    calm = straight()
    after = [with_ids_of(step, step + 3) for step in range(11, 15)]
    run = cut(after)
    assert culprits(run, calm=calm) == [judgement.SKIPPED]


def test_an_older_checkpoint_than_the_newest_is_the_wrong_one() -> None:
    there = (Saved("ckpt-9", 9), Saved("ckpt-10", 10))
    assert culprits(cut(from_step(9), whole=there)) == [judgement.WRONG_FILE]
    assert culprits(cut(from_step(10), whole=there)) == [], "some count the next step in the name"
    assert culprits(cut(from_step(9), whole=(Saved("epoch_3", 3), Saved("seed-99", 99)))) == []


def test_older_weights_are_known_by_their_losses() -> None:
    after = from_step(11, lambda step: reading(step, loss=1 / (step - 5)))
    assert culprits(cut(after), Source(optimizes=True)) == [judgement.WRONG_FILE]


def test_a_table_without_its_first_rows_was_overwritten() -> None:
    def table(begin: int) -> dict[str, Left]:
        keys = tuple(str(step) for step in range(begin, STEPS + 1))
        return {"metrics.csv": Left(f"from {begin}", table=Table(keys))}

    calm = straight(table(1))
    assert culprits(cut(from_step(11), files=table(11)), calm=calm) == [judgement.METRICS]
    twice = {"metrics.csv": Left("twice", table=Table((*map(str, range(1, 13)), *map(str, range(11, 21)))))}
    assert culprits(cut(from_step(11), files=twice), calm=calm) == []


def test_what_differs_between_two_straight_runs_is_not_compared() -> None:
    again = Run([[reading(step, loss=2 / step) for step in range(1, STEPS + 1)]], {}, succeeded=True)
    calm = baseline(straight(), again)
    assert "loss" not in calm.noise
    run = cut(from_step(11, lambda step: reading(step, loss=9.0)))
    assert judged(calm, run, EVERYTHING) == []


def test_a_resume_that_fails_says_so_and_blames_a_torn_file_if_there_is_one() -> None:
    failed = Run(
        [[reading(1), reading(2)], []], {}, succeeded=False, last_words="EOFError", cut=Cut("save", 2)
    )
    assert culprits(failed) == [judgement.FAILS]
    torn = Run(
        failed.attempts, {}, succeeded=False, last_words="EOFError", cut=Cut("save", 2, (), ("m.pkl",))
    )
    (one,) = judged(baseline(straight(), None), torn, EVERYTHING)
    assert (one.culprit, "m.pkl" in one.evidence, "EOFError" in one.evidence) == (
        judgement.NOT_ATOMIC,
        True,
        True,
    )


def test_final_weights_are_compared_where_nothing_is_printed() -> None:
    def left(digest: str, **entries: str) -> dict[str, Left]:
        return {"final.npz": Left(digest, entries)}

    silent = [Reading((None, step), {}) for step in range(1, STEPS + 1)]
    calm = Run([silent], left("a", w="1", momentum="2"), succeeded=True)

    def run(files: dict[str, Left]) -> Run:
        return Run(
            [silent[:12], silent[10:]], files, succeeded=True, cut=Cut("lost", 12, (Saved("c_10", 10),))
        )

    assert culprits(run(left("a", w="1", momentum="2")), calm=calm) == []
    assert culprits(run(left("b", w="1", momentum="3")), calm=calm) == [judgement.OPTIMIZER]
    assert culprits(run(left("b", w="9", momentum="3")), calm=calm) == [judgement.OUTPUTS]
