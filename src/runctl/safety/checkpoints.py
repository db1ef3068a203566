"""The checkpoints under a prefix of S3: which there are, which are kept, and what the rules say of the rest.

What counts: a snapshot of a job (a folder below `checkpoints/`, whole once its manifest is there), a folder
with a number such as `checkpoint-500` that holds files of a framework, and a single such file. Those of one
series lie beside each other and have the same name but for the number: `best.pt` is a series of its own.

A snapshot's files may lie in the folders of earlier ones: what stays is marked first, by the manifests of all
that stay, whoever wrote them. Only what has no mark is swept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from runctl import config
from runctl.model import JobState
from runctl.safety import metrics
from runctl.safety.protection import CHECKPOINT_YOUTH, evaluate
from runctl.safety.vocabulary import Action, Facts, Request, ResourceKind, Verdict
from runctl.storage.entries import Entry
from runctl.storage.review import is_checkpoint

MANIFEST = "manifest.json"
_COMMIT = re.compile(r"(?P<series>(?:.*/)?checkpoints)/(?P<name>[0-9]+-[^/]+)/.+")
_FOLDER = re.compile(
    r"(?P<path>(?:.*?/)??(?:global_?)?(?:checkpoint|ckpt|step|epoch|iter(?:ation)?)[-_=]?[0-9][^/]*)/.+",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"(?<=step|poch|iter|tion)(?P<mark>[-_=]?)(?P<number>[0-9]+)", re.IGNORECASE)
_LAST = re.compile(r"(?P<mark>)(?P<number>[0-9]+)(?=[^0-9]*$)")
_IS_LOW = re.compile(
    r"(?<![a-z])(?:loss|err|error|perplexity|ppl|mae|mse|rmse|wer|cer)(?![a-z])", re.IGNORECASE
)
_JOB = re.compile(r"(?:^|/)runctl/jobs/(?P<job>[^/]+)/")


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint in S3: the objects in its own folder, by key relative to the prefix, with their bytes.

    `whole` says that nothing of it is missing, as far as its kind lets that be known. `needs` are the keys of
    all its files if it is a snapshot, in whichever folder they lie; `point` names the checkpoint that
    it holds, so that two snapshots of one count as one; None for a snapshot that has none. `value` is that
    of the metric by which the best one is known.
    """

    name: str
    series: str
    order: tuple[int, ...]
    objects: dict[str, int]
    modified: datetime
    job: str = ""
    whole: bool
    needs: frozenset[str] = frozenset()
    point: str | None = None
    step: int | None = None
    value: float | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The manifest comes first: without it a snapshot is none, and must not be taken for one."""
        return tuple(sorted(self.objects, key=lambda key: (not key.endswith(f"/{MANIFEST}"), key)))

    @property
    def size(self) -> int:
        """Bytes in its own folder."""
        return sum(self.objects.values())


class Keep(msgspec.Struct, frozen=True):
    """What stays of each series: the newest `last`, each whose step is a multiple of `every`, the best one.

    `best` is a metric as names have it, such as `val_loss=0.25`, or as the log has it by step. The lowest is
    the best one of a loss, an error or a perplexity, else the highest.
    """

    last: int
    every: int | None = None
    best: str | None = None

    def value(self, name: str) -> float | None:
        """The metric in a name."""
        found = _metric(self.best).search(name) if self.best else None
        return float(found["value"]) if found else None

    def better(self, one: float, other: float) -> bool:
        return one < other if _IS_LOW.search(self.best or "") else one > other


class CleanupItem(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is older than those to keep, and what the rules say of its deletion.

    `freed` are the bytes that its deletion frees: what others need stays.
    """

    checkpoint: StoredCheckpoint
    verdict: Verdict
    freed: int = 0


class CheckpointCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup keeps and what may go, by name; `why` has the reason for each that is kept."""

    kept: tuple[StoredCheckpoint, ...]
    items: tuple[CleanupItem, ...]
    why: Mapping[str, str] = {}

    @property
    def allowed(self) -> tuple[CleanupItem, ...]:
        return tuple(item for item in self.items if item.verdict.allowed)

    @property
    def size(self) -> int:
        """Bytes that are freed."""
        return sum(item.freed for item in self.allowed)


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of jobs: their states by id, and the commits that attempts of live ones began from."""

    states: Mapping[str, JobState] = {}
    resumed: Mapping[str, frozenset[str]] = {}


class Told(msgspec.Struct, frozen=True):
    """What a manifest says: where each file lies below the folder of snapshots, with its bytes."""

    files: Mapping[str, int]
    point: str | None = None
    step: int | None = None
    checkpoint: str = ""


Manifest = Callable[[str], Told | None]
"""What the manifest at a key says; None for one that is torn."""


class Look(msgspec.Struct, frozen=True):
    """How checkpoints are looked for: the time, how manifests are read and what is known of single files.

    `verdict` says whether a file is whole, None if nobody can tell. An object in S3 is seen whole.
    """

    now: datetime
    manifest: Manifest
    keep: Keep = Keep(1)
    verdict: Callable[[str], bool | None] = lambda _key: True


def found_in(entries: Iterable[Entry], prefix: str, look: Look) -> list[StoredCheckpoint]:
    """The checkpoints among the objects under `prefix`, the oldest of each series first."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if (name := _place(entry.key)) is not None:
            groups.setdefault(name, []).append(entry)
    sizes = {entry.key: entry.size for group in groups.values() for entry in group}
    found = [
        _checkpoint(name, group, sizes, prefix, look)
        for name, group in groups.items()
        if any(is_checkpoint(entry.key) for entry in group)  # a folder of logs is none
    ]
    return sorted(found, key=lambda one: (one.series, one.order, one.modified))


def plan(
    checkpoints: Iterable[StoredCheckpoint],
    keep: Keep,
    *,
    jobs: Jobs,
    request: Request,
    now: datetime,
    policy: config.Protection,
) -> CheckpointCleanup:
    """Keep what `keep` says of each series, and what is newer than its newest; judge the others.

    Snapshots of one checkpoint count as one.
    """
    series: dict[str, list[StoredCheckpoint]] = {}
    for one in checkpoints:
        series.setdefault(one.series, []).append(one)
    kept: list[StoredCheckpoint] = []
    items: list[CleanupItem] = []
    why: dict[str, str] = {}
    for beside in series.values():
        whole = [one for one in beside if one.whole]
        wanted = _wanted(whole, keep)
        first = _first_kept(whole, keep.last)
        for one in beside:
            if not whole or one.order >= first:
                wanted.setdefault(one.name, "newest" if one.whole else "not whole yet")
            if one.name in wanted:
                why[one.name] = wanted[one.name]
                kept.append(one)
                continue
            known = _facts(one, whole, jobs)
            verdict = evaluate(Action.DELETE, one.name, known, request, now, policy)
            items.append(CleanupItem(checkpoint=one, verdict=verdict))
    marked = needed(kept, (item.checkpoint for item in items if not item.verdict.allowed))
    items = [msgspec.structs.replace(item, freed=_freed(item.checkpoint, marked)) for item in items]
    going = tuple(item for item in items if swept(item.checkpoint, marked))
    return CheckpointCleanup(kept=tuple(kept), items=going, why=why)


def measured(
    found: Iterable[StoredCheckpoint], values: Callable[[StoredCheckpoint], Mapping[int, float]]
) -> list[StoredCheckpoint]:
    """Checkpoints, the oldest of each series first, with the metric of their steps if no name tells it."""
    known: list[StoredCheckpoint] = []
    before: dict[str, int] = {}
    for one in found:
        after = before.get(one.series)
        if one.step is not None:
            if after == one.step:
                after = None  # it is of the same step
            before[one.series] = one.step
        value = metrics.at(values(one), one.step, after) if one.value is None else one.value
        known.append(msgspec.structs.replace(one, value=value))
    return known


def needed(*staying: Iterable[StoredCheckpoint]) -> frozenset[str]:
    """The keys that what stays needs, in whichever folder they lie."""
    return frozenset(key for some in staying for one in some for key in one.needs)


def swept(one: StoredCheckpoint, marked: frozenset[str]) -> tuple[str, ...]:
    """The keys that go with a checkpoint, in their order, if what is `marked` stays."""
    return tuple(key for key in one.keys if key not in marked)


def _freed(one: StoredCheckpoint, marked: frozenset[str]) -> int:
    return sum(one.objects[key] for key in swept(one, marked))


def _wanted(whole: list[StoredCheckpoint], keep: Keep) -> dict[str, str]:
    """Those that stay whatever their age, by name, with the reason."""
    found: dict[str, str] = {}
    if keep.every:
        every = f"a multiple of {keep.every} steps"
        found |= {one.name: every for one in whole if one.step is not None and not one.step % keep.every}
    best: StoredCheckpoint | None = None
    for one in whole:  # of two that are alike, the older one came first
        if one.value is not None and (best is None or keep.better(one.value, best.value or 0.0)):
            best = one
    if best is not None:
        found[best.name] = f"best {keep.best}: {best.value:g}"
    return found


def _metric(name: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![A-Za-z0-9]){re.escape(name)}[-_=]?(?P<value>-?[0-9]+(?:[.][0-9]+)?(?:e-?[0-9]+)?)",
        re.IGNORECASE,
    )


def _first_kept(whole: list[StoredCheckpoint], keep: int) -> tuple[int, ...]:
    """The place in the series of the oldest of the newest `keep` whole ones."""
    first: tuple[int, ...] = ()
    points: set[str] = set()
    for one in reversed(whole):
        points.add(one.name if one.point is None else one.point)
        if len(points) > keep:
            break
        first = one.order
    return first


def _facts(one: StoredCheckpoint, whole: list[StoredCheckpoint], jobs: Jobs) -> Facts:
    return Facts(
        kind=ResourceKind.CHECKPOINT,
        created=one.modified,
        # Whoever wrote a newer one has ended with this, or has left it for ever.
        being_written=not one.whole and one.order > whole[-1].order,
        newest_complete=one.whole and one is max(whole, key=lambda other: (other.modified, other.order)),
        resumed_by=_resumed_by(one, jobs),
    )


def _resumed_by(one: StoredCheckpoint, jobs: Jobs) -> tuple[str, ...] | None:
    if not one.job:
        return ()
    state = jobs.states.get(one.job)
    if state is None:
        return None
    name = one.name.rpartition("/")[2]
    live = not state.final and name in jobs.resumed.get(one.job, frozenset())
    return (one.job,) if live else ()


def _place(key: str) -> str | None:
    """The name of the checkpoint that an object may belong to: its key, or that of a folder."""
    if f"/{key}".endswith("/checkpoints/latest.json"):
        return None  # it names a snapshot, and is none
    if commit := _COMMIT.fullmatch(key):
        return f"{commit['series']}/{commit['name']}"
    if folder := _FOLDER.fullmatch(key):
        return folder["path"]  # with the configurations and tokens beside the weights
    return key if is_checkpoint(key) else None


def _numbered(name: str, metric: str | None) -> tuple[str, tuple[int, ...]]:
    """The series of a name, and its place there: steps and epochs count, else the last number.

    Other numbers, such as a version or a loss, make another series: what is not understood is kept. The value
    of `metric` is understood.
    """
    parent, slash, last = name.rpartition("/")
    if metric:
        last = _metric(metric).sub(metric, last)
    stem, dot, ending = last.rpartition(".") if not last.rpartition(".")[2].isdigit() else (last, "", "")
    stem, dot, ending = (stem, dot, ending) if stem else (last, "", "")
    pattern = _COUNTED if _COUNTED.search(stem) else _LAST
    order = tuple(int(found["number"]) for found in pattern.finditer(stem))
    return f"{parent}{slash}{pattern.sub('#', stem)}{dot}{ending}", order


def _checkpoint(
    name: str,
    entries: list[Entry],
    sizes: Mapping[str, int],
    prefix: str,
    look: Look,
) -> StoredCheckpoint:
    """`sizes` has every object below the prefix: a snapshot's files may lie in the folders of others."""
    modified = max(datetime.fromtimestamp(entry.modified / 1e9, UTC) for entry in entries)
    job = _JOB.search(f"{prefix}/{name}/")
    one = StoredCheckpoint(
        name=name,
        series=name,
        order=(),
        objects={entry.key: entry.size for entry in entries},
        modified=modified,
        job=job["job"] if job else "",
        whole=_is_whole(name, entries, look, is_old=look.now - modified > CHECKPOINT_YOUTH),
    )
    commit = _COMMIT.fullmatch(entries[0].key)
    if commit is None:
        series, order = _numbered(name, look.keep.best)
        step = order[-1] if order else None
        value = look.keep.value(name.rpartition("/")[2])
        return msgspec.structs.replace(one, series=series, order=order, step=step, value=value)
    key = f"{name}/{MANIFEST}"
    told = look.manifest(key) if key in one.objects else None
    files = {f"{commit['series']}/{at}": size for at, size in told.files.items()} if told else {}
    return msgspec.structs.replace(
        one,
        series=commit["series"],
        order=(int(commit["name"].partition("-")[0]),),
        whole=told is not None and all(sizes.get(at) == size for at, size in files.items()),
        needs=frozenset(files),
        point=told.point if told else None,
        step=told.step if told else None,
        value=look.keep.value(told.checkpoint) if told else None,
    )


def _is_whole(name: str, entries: list[Entry], look: Look, *, is_old: bool) -> bool:
    """Whether nothing is missing of what is no snapshot: nobody tells when a folder is complete."""
    verdicts = [look.verdict(entry.key) for entry in entries]
    if False in verdicts:
        return False
    return is_old or (entries[0].key == name and None not in verdicts)
