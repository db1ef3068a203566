"""What an interruption changed in a script's work, and what is to blame for it.

Two straight runs say what can be compared at all: what differs between them differs without any interruption.
A cut run is then compared with them step by step from where it resumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from runctl.proving.compared import Left, different
from runctl.proving.readings import Key, Reading, alike, by_key

BEGINS_ANEW = "begins anew"
FAILS = "fails on resume"
METRICS = "metrics file overwritten"
NOT_ATOMIC = "save is not atomic"
OPTIMIZER = "optimizer not restored"
ORDER = "order of data"
OUTPUTS = "results differ"
RNG = "random state not restored"
SCHEDULE = "schedule restarted"
SKIPPED = "data skipped"
WRONG_FILE = "wrong file chosen"

_NEXT = {
    BEGINS_ANEW: "look for the newest checkpoint when the script starts, or take RUNCTL_RESUME_FROM",
    FAILS: "run it once by hand on the folder that an interruption leaves: --keep shows where it is",
    METRICS: 'open it to append ("a") after a resume, and write its head only if it is empty',
    NOT_ATOMIC: "write to a temporary name in the same folder, then os.replace it",
    OPTIMIZER: "save optimizer.state_dict() (momentum, Adam's averages) and load it with the weights",
    ORDER: "save the sampler's order or seed and the place in it, or derive the order from seed and epoch",
    OUTPUTS: "save all that the next step depends on",
    RNG: "save and restore the states of the generators (random, numpy, torch, CUDA)",
    SCHEDULE: "save the scheduler's state, or derive the rate from the global step",
    SKIPPED: "resume at the batch after the last one that was trained on, not at the next epoch or file",
    WRONG_FILE: "choose by step or modification time, not by name: ckpt_9 sorts after ckpt_10",
}
_RATE = re.compile(r"(?:^|[_./-])lr(?:$|[_./\d-])|learning_?rate", re.IGNORECASE)
_LEAST_NOISE = 1e-6
_MOST_NOISE = 1e-3
_LATE_WORDS = 2
"""Steps that a script may have done and saved, whose lines it could not print before it was killed."""


class Saved(msgspec.Struct, frozen=True):
    """A checkpoint that lay there whole when the run was cut: its name, and the step in it."""

    name: str
    step: int | None


class Cut(msgspec.Struct, frozen=True):
    """How and when a run was cut: `kind` is notice, lost (killed) or save (killed in mid-save)."""

    kind: str
    step: float | None
    whole: tuple[Saved, ...] = ()
    torn: tuple[str, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """One run to its end: readings of each attempt, the files it left, and how it ended."""

    attempts: Sequence[Sequence[Reading]]
    files: Mapping[str, Left]
    succeeded: bool
    last_words: str = ""
    cut: Cut | None = None


class Source(msgspec.Struct, frozen=True):
    """What the script's text speaks of."""

    shuffles: bool = False
    draws: bool = False
    optimizes: bool = False
    schedules: bool = False


class Finding(msgspec.Struct, frozen=True):
    """One culprit with what was seen and what helps."""

    culprit: str
    evidence: str
    next: str


class Baseline(msgspec.Struct, frozen=True):
    """What two straight runs agree on. `noise` is by name the relative difference that they have anyway."""

    order: tuple[Key, ...]
    readings: Mapping[Key, Reading]
    noise: Mapping[str, float]
    same_ids: bool
    files: Mapping[str, Left]
    changing: frozenset[str]

    @property
    def comparable(self) -> bool:
        """Whether anything that the script prints is the same each time."""
        return bool(self.noise) or self.same_ids


def source_of(text: str) -> Source:
    """What a script's text speaks of, its comments left aside."""
    code = re.sub(r"#.*", "", text)

    def speaks(pattern: str) -> bool:
        return re.search(pattern, code, re.IGNORECASE) is not None

    return Source(
        shuffles=speaks(r"shuffle|permutation|randperm|Sampler|\.sample\(|choices?\("),
        draws=speaks(
            r"dropout|\brandn?\b|normal\(|gauss\(|noise|uniform\(|augment|bernoulli|random\.random\("
        ),
        optimizes=speaks(r"momentum|adam|velocity|optim|exp_avg|rmsprop|\bm\s*=.*beta|sgd"),
        schedules=speaks(r"sched|warmup|decay|cosine|anneal|\blr\s*\*|gamma"),
    )


def baseline(straight: Run, again: Run | None) -> Baseline:
    """What can be compared; with one straight run only, all of it is."""
    one = by_key(straight.attempts[0])
    other = by_key(again.attempts[0]) if again is not None else one
    noise: dict[str, float] = {}
    for key, reading in one.items():
        for name, value in reading.values.items():
            twin = other[key].values.get(name) if key in other else None
            noise[name] = max(noise.get(name, 0.0), _distance(value, twin))
    same_ids = any(reading.ids for reading in one.values()) and all(
        key in other and other[key].ids == reading.ids for key, reading in one.items()
    )
    files = again.files if again is not None else straight.files
    changing = {
        path
        for path in straight.files.keys() | files.keys()
        if path not in straight.files
        or path not in files
        or straight.files[path].digest != files[path].digest
    }
    return Baseline(
        order=tuple(one),
        readings=one,
        noise={name: found for name, found in noise.items() if found <= _MOST_NOISE},
        same_ids=same_ids,
        files=straight.files,
        changing=frozenset(changing),
    )


def _distance(one: float, other: float | None) -> float:
    if other is None:
        return float("inf")
    if alike(one, other, 0.0):
        return 0.0
    return abs(one - other) / max(abs(one), abs(other), 1e-12)


def judged(straight: Baseline, run: Run, source: Source) -> list[Finding]:
    """The culprits of one cut run, the one that explains most first; none if nothing was lost."""
    if run.cut is None or not run.attempts or (len(run.attempts) < 2 and run.succeeded):
        return []
    place = {key: number for number, key in enumerate(straight.order)}
    before = [place[one.key] for one in run.attempts[0] if one.key in place]
    after = [one for attempt in run.attempts[1:] for one in attempt]
    known = [one for one in after if one.key in place]
    reached = max(before, default=-1)
    if not run.succeeded and (not known or place[known[-1].key] < len(straight.order) - 1):
        return [_failed(run)]
    if not known:
        return _of_files(straight, run, explained=False)
    first = place[known[0].key]
    found = _of_beginning(straight, run, first, reached, known)
    if not any(one.culprit in (BEGINS_ANEW, NOT_ATOMIC) for one in found):
        found += _of_ids(straight, known, place)
        if not found:
            found += _of_rates(straight, known, place)
        if not found:
            found += _of_values(straight, known, place, run, source)
    found += _of_files(straight, run, explained=bool(found))
    return _once(found)


def _finding(culprit: str, evidence: str) -> Finding:
    return Finding(culprit, evidence, _NEXT[culprit])


def _once(found: Iterable[Finding]) -> list[Finding]:
    seen: dict[str, Finding] = {}
    for one in found:
        seen.setdefault(one.culprit, one)
    return list(seen.values())


def _failed(run: Run) -> Finding:
    assert run.cut is not None  # noqa: S101 (the caller looked)
    words = f"the attempt after it failed: {run.last_words}"
    if run.cut.torn:
        return _finding(NOT_ATOMIC, f"cut while it was saved, {run.cut.torn[0]} is torn, and {words}")
    return _finding(FAILS, words)


def _of_beginning(
    straight: Baseline, run: Run, first: int, reached: int, known: Sequence[Reading]
) -> list[Finding]:
    """Where the attempt after the cut began, beside where it could have."""
    cut = run.cut
    assert cut is not None  # noqa: S101 (the caller looked)
    began = straight.readings[straight.order[first]].number
    if first == 0 and reached > 0:
        return _began_anew(cut, began)
    if first > reached + 1 + _LATE_WORDS or (first > reached + 1 and _differs_at(straight, known[0])):
        missing = straight.readings[straight.order[reached + 1]].number
        last = straight.readings[straight.order[first - 1]].number
        steps = f"step {missing:g}" if missing == last else f"steps {missing:g} to {last:g}"
        return [_finding(SKIPPED, f"{steps} never came: it resumed at step {began:g}")]
    steps = [(one.step, one.name) for one in cut.whole if one.step is not None]
    newest, name = max(steps, default=(-1, ""))
    has_older = any(step < newest for step, _ in steps)
    if has_older and began < newest and _in_one_unit(straight, newest, reached):
        seen = f"it resumed at step {began:g}, although {name} of step {newest} was there, whole"
        return [_finding(WRONG_FILE, seen)]
    return []


def _began_anew(cut: Cut, began: float) -> list[Finding]:
    if cut.torn:
        return [_finding(NOT_ATOMIC, f"cut while it was saved, {cut.torn[0]} is torn, and it began anew")]
    if not cut.whole:
        return []
    seen = f"it began at step {began:g} again, although {cut.whole[-1].name} was there, whole"
    return [_finding(BEGINS_ANEW, seen)]


def _in_one_unit(straight: Baseline, saved: int, reached: int) -> bool:
    """Whether the step in a checkpoint's name counts what the log counts."""
    numbers = [straight.readings[key].number for key in straight.order[: reached + 1]]
    ascending = all(one < other for one, other in pairwise(numbers))
    return bool(numbers) and ascending and numbers[0] <= saved <= numbers[-1] + 1


def _differs_at(straight: Baseline, reading: Reading) -> bool:
    return bool(_differences(straight, reading)) or (
        straight.same_ids and reading.ids != straight.readings[reading.key].ids
    )


def _differences(straight: Baseline, reading: Reading) -> list[str]:
    """Names whose values are not those of the straight run at this step."""
    calm = straight.readings[reading.key].values
    return [
        name
        for name, value in reading.values.items()
        if name in straight.noise
        and name in calm
        and not alike(value, calm[name], max(_LEAST_NOISE, 10 * straight.noise[name]))
    ]


def _of_ids(straight: Baseline, known: Sequence[Reading], place: Mapping[Key, int]) -> list[Finding]:
    if not straight.same_ids:
        return []
    for one in known:
        calm = straight.readings[one.key].ids
        if not one.ids or not calm or one.ids == calm:
            continue
        at = f"step {one.number:g}: samples {_few(one.ids)}, straight {_few(calm)}"
        shift = _shift(straight, [other for other in known if place[other.key] >= place[one.key]], place)
        if shift is not None and shift > 0:
            return [_finding(SKIPPED, f"{at}: those of {_steps(shift)} later")]
        if shift is not None:
            return [_finding(ORDER, f"{at}: those of {_steps(-shift)} earlier, so it saw them twice")]
        return [_finding(ORDER, at)]
    return []


def _shift(straight: Baseline, found: Sequence[Reading], place: Mapping[Key, int]) -> int | None:
    """By how many steps the samples of all that follow are those of the straight run."""
    compared = [one for one in found if one.ids][:4]
    calm = {straight.readings[key].ids: number for number, key in enumerate(straight.order)}
    shifts = {calm[one.ids] - place[one.key] if one.ids in calm else None for one in compared}
    return shifts.pop() if len(shifts) == 1 else None


def _of_rates(straight: Baseline, known: Sequence[Reading], place: Mapping[Key, int]) -> list[Finding]:
    for one in known:
        for name in _differences(straight, one):
            if not _RATE.search(name):
                continue
            calm = straight.readings[one.key].values[name]
            earlier = next(
                (
                    straight.readings[key].number
                    for key in straight.order[: place[one.key]]
                    if alike(straight.readings[key].values.get(name, float("nan")), one.values[name])
                ),
                None,
            )
            as_at = "" if earlier is None else f", as at step {earlier:g}"
            return [
                _finding(
                    SCHEDULE, f"step {one.number:g}: {name} {one.values[name]:g}{as_at}, straight {calm:g}"
                )
            ]
    return []


def _of_values(
    straight: Baseline,
    known: Sequence[Reading],
    place: Mapping[Key, int],
    run: Run,
    source: Source,
) -> list[Finding]:
    """What of the losses tells: at once means weights, data or chance; later means what moves the weights."""
    told = [one for one in known if any(name in straight.noise for name in one.values)]
    wrong = next((number for number, one in enumerate(told) if _differences(straight, one)), None)
    if wrong is None:
        return []
    one = told[wrong]
    name = _differences(straight, one)[0]
    calm = straight.readings[one.key].values[name]
    seen = f"step {one.number:g}: {name} {one.values[name]:g}, straight {calm:g}"
    if (earlier := _as_earlier(straight, told[wrong:], place, name)) is not None and not source.shuffles:
        return [_finding(WRONG_FILE, f"{seen}: that is the one of step {earlier:g}, from older weights")]
    if wrong > 0:
        before = f"{seen}; it was right at step {told[wrong - 1].number:g}"
        culprits = [OPTIMIZER] if source.optimizes or not source.schedules else [SCHEDULE]
        if source.optimizes and source.schedules and not any(_RATE.search(one) for one in straight.noise):
            culprits = _by_absence(run, [OPTIMIZER, SCHEDULE])
        return [_finding(culprit, before) for culprit in culprits]
    chance = [
        culprit
        for culprit, has in ((ORDER, source.shuffles and not straight.same_ids), (RNG, source.draws))
        if has
    ]
    if not chance and source.optimizes:
        chance = [OPTIMIZER]
    return [_finding(culprit, seen) for culprit in chance or [RNG]]


_STATES = {
    OPTIMIZER: re.compile(
        r"optim|momentum|velocity|exp_avg|adam|(?:^|[_./])[mv](?:$|[_./\d])", re.IGNORECASE
    ),
    SCHEDULE: re.compile(r"sched|(?:^|[_./])lr|warmup", re.IGNORECASE),
}


def _by_absence(run: Run, culprits: Sequence[str]) -> list[str]:
    """Those whose state no checkpoint names; all, if that does not tell."""
    names = [name for left in run.files.values() for name in left.entries]
    missing = [one for one in culprits if not any(_STATES[one].search(name) for name in names)]
    return missing if names and missing else list(culprits)


def _as_earlier(
    straight: Baseline, told: Sequence[Reading], place: Mapping[Key, int], name: str
) -> float | None:
    """The step whose values these are, one by one, if there is one before."""
    values = [one.values[name] for one in told[:3] if name in one.values]
    calm = [straight.readings[key].values.get(name) for key in straight.order]
    if len(values) < 2 or len(set(values)) < 2:
        return None
    for start in range(place[told[0].key]):
        window = calm[start : start + len(values)]
        if len(window) == len(values) and all(
            one is not None and alike(one, other) for one, other in zip(window, values, strict=True)
        ):
            return straight.readings[straight.order[start]].number
    return None


def _of_files(straight: Baseline, run: Run, *, explained: bool) -> list[Finding]:
    found: list[Finding] = []
    for path, calm in straight.files.items():
        table = run.files[path].table if path in run.files else None
        if calm.table is None or len(calm.table.keys) < 2:
            continue
        kept = set(table.keys) if table else set[str]()
        gone = [key for key in dict.fromkeys(calm.table.keys) if key not in kept]
        if gone and (not explained or calm.table.keys[0] in gone):
            found.append(
                _finding(METRICS, f"{path} has no rows {_span(gone)}: {len(gone)} of {len(calm.table.keys)}")
            )
    if found or explained:
        return found
    for path, calm in straight.files.items():
        if path in straight.changing or calm.table is not None or path not in run.files:
            continue
        if run.files[path].digest == calm.digest:
            continue
        names = different(calm, run.files[path])
        inner = f" in {', '.join(names[:3])}" if names else ""
        if names and all(_STATES[OPTIMIZER].search(name) for name in names):
            return [_finding(OPTIMIZER, f"{path} differs{inner}")]
        if names or not calm.entries:
            found.append(_finding(OUTPUTS, f"{path} is not what the straight run left{inner}"))
    return found[:1]


def _span(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"


def _few(ids: Sequence[str]) -> str:
    return " ".join(ids[:6]) + (" ..." if len(ids) > 6 else "")


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
