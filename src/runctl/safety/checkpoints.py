"""The checkpoints under a prefix of S3: which there are, which are kept, and what the rules say of the rest.

What counts: a commit of a job (a folder below `checkpoints/`, whole once its manifest is there), a folder
with a number such as `checkpoint-500` that holds files of a framework, and a single such file. Those of one
series lie beside each other and have the same name but for the number: `best.pt` is a series of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from runctl import config
from runctl.model import JobState
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
_JOB = re.compile(r"(?:^|/)runctl/jobs/(?P<job>[^/]+)/")


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint in S3: the keys of its objects relative to the prefix, their size in bytes.

    `whole` says that nothing of it is missing, as far as its kind lets that be known.
    """

    name: str
    series: str
    order: tuple[int, ...]
    keys: tuple[str, ...]
    size: int
    modified: datetime
    job: str = ""
    whole: bool


class CleanupItem(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is older than those to keep, and what the rules say of its deletion."""

    checkpoint: StoredCheckpoint
    verdict: Verdict


class CheckpointCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup keeps and what may go, by name."""

    kept: tuple[StoredCheckpoint, ...]
    items: tuple[CleanupItem, ...]

    @property
    def allowed(self) -> tuple[CleanupItem, ...]:
        return tuple(item for item in self.items if item.verdict.allowed)

    @property
    def size(self) -> int:
        """Bytes that are freed."""
        return sum(item.checkpoint.size for item in self.allowed)


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of jobs: their states by id, and the commits that attempts of live ones began from."""

    states: Mapping[str, JobState] = {}
    resumed: Mapping[str, frozenset[str]] = {}


Manifest = Callable[[str], Mapping[str, int] | None]
"""The files that the manifest at a key names, with their sizes in bytes; None for one that is torn."""


def found_in(
    entries: Iterable[Entry], prefix: str, now: datetime, manifest: Manifest
) -> list[StoredCheckpoint]:
    """The checkpoints among the objects under `prefix`, the oldest of each series first."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if (name := _place(entry.key)) is not None:
            groups.setdefault(name, []).append(entry)
    found = [
        _checkpoint(name, group, prefix, now, manifest)
        for name, group in groups.items()
        if any(is_checkpoint(entry.key) for entry in group)  # a folder of logs is none
    ]
    return sorted(found, key=lambda one: (one.series, one.order, one.modified))


def plan(
    checkpoints: Iterable[StoredCheckpoint],
    keep: int,
    *,
    jobs: Jobs,
    request: Request,
    now: datetime,
    policy: config.Protection,
) -> CheckpointCleanup:
    """Keep the newest `keep` whole ones of each series, and what is newer than they; judge the others."""
    series: dict[str, list[StoredCheckpoint]] = {}
    for one in checkpoints:
        series.setdefault(one.series, []).append(one)
    kept: list[StoredCheckpoint] = []
    items: list[CleanupItem] = []
    for beside in series.values():
        whole = [one for one in beside if one.whole]
        first = whole[-keep:][0].order if whole else ()
        for one in beside:
            if not whole or one.order >= first:
                kept.append(one)
                continue
            known = _facts(one, whole, jobs)
            verdict = evaluate(Action.DELETE, one.name, known, request, now, policy)
            items.append(CleanupItem(checkpoint=one, verdict=verdict))
    return CheckpointCleanup(kept=tuple(kept), items=tuple(items))


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
    if commit := _COMMIT.fullmatch(key):
        return f"{commit['series']}/{commit['name']}"
    if folder := _FOLDER.fullmatch(key):
        return folder["path"]  # with the configurations and tokens beside the weights
    return key if is_checkpoint(key) else None


def _numbered(name: str) -> tuple[str, tuple[int, ...]]:
    """The series of a name, and its place there: steps and epochs count, else the last number.

    Other numbers, such as a version or a loss, make another series: what is not understood is kept.
    """
    parent, slash, last = name.rpartition("/")
    stem, dot, ending = last.rpartition(".") if not last.rpartition(".")[2].isdigit() else (last, "", "")
    stem, dot, ending = (stem, dot, ending) if stem else (last, "", "")
    pattern = _COUNTED if _COUNTED.search(stem) else _LAST
    order = tuple(int(found["number"]) for found in pattern.finditer(stem))
    return f"{parent}{slash}{pattern.sub('#', stem)}{dot}{ending}", order


def _checkpoint(
    name: str, entries: list[Entry], prefix: str, now: datetime, manifest: Manifest
) -> StoredCheckpoint:
    modified = max(datetime.fromtimestamp(entry.modified / 1e9, UTC) for entry in entries)
    job = _JOB.search(f"{prefix}/{name}/")
    if commit := _COMMIT.fullmatch(entries[0].key):
        series, order = commit["series"], (int(commit["name"].partition("-")[0]),)
    else:
        series, order = _numbered(name)
    return StoredCheckpoint(
        name=name,
        series=series,
        order=order,
        keys=tuple(_manifest_first(entry.key for entry in entries)),
        size=sum(entry.size for entry in entries),
        modified=modified,
        job=job["job"] if job else "",
        whole=_is_whole(name, entries, now - modified, manifest),
    )


def _manifest_first(keys: Iterable[str]) -> Iterator[str]:
    """Without its manifest a commit is none: it must not be taken for one while its files go."""
    yield from sorted(keys, key=lambda key: (not key.endswith(f"/{MANIFEST}"), key))


def _is_whole(name: str, entries: list[Entry], age: timedelta, manifest: Manifest) -> bool:
    if entries[0].key == name:
        return True  # one object: S3 shows it whole or not at all
    if not _COMMIT.fullmatch(entries[0].key):
        return age > CHECKPOINT_YOUTH  # nobody tells when a folder is complete
    sizes = {entry.key.removeprefix(f"{name}/"): entry.size for entry in entries}
    files = manifest(f"{name}/{MANIFEST}") if MANIFEST in sizes else None
    return files is not None and all(sizes.get(file) == size for file, size in files.items())
