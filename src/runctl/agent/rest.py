"""Which files of a tree a snapshot takes as they are now, and which stay as the snapshot before has them.

A save takes its time, and a look may come in the middle of it. So a set of files is taken when nobody holds
one of them open for writing, its format does not say that it is torn, and something tells that the save is
over.
Times of files are the system's (`wall`), waits are the cloud's (`now`), both in seconds.
"""

from __future__ import annotations

import re
from typing import (
    AbstractSet,
    Callable,
    Dict,
    FrozenSet,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from .progress import LATE_SECONDS
from .sets import CheckpointSet
from .walk import FILE, Found

QUIET_SECONDS = 30.0
"""The cloud's seconds in which nothing of a set changed, after which it is taken for saved: scripts were seen
to pause for 12 s between two files of one checkpoint."""
STILL_LOOKS = 2
_NUMBER = re.compile(r"\d+")
_BEING_WRITTEN = re.compile(
    r"\.(?:tmp|part|partial|lock|crdownload|incomplete)$|\.tmp|orbax-checkpoint-tmp", re.IGNORECASE
)
_POINTERS = re.compile(
    r"checkpoint|latest(?:_.*)?(?:\.txt)?|last(?:_.*)?(?:\.txt)?|[^.]*\.json", re.IGNORECASE
)
"""Files that name the newest checkpoint beside them: they wait for it."""

Verdict = Callable[[CheckpointSet], Optional[bool]]
Held = Optional[AbstractSet[Tuple[int, int]]]


class Moment(NamedTuple):
    """When a look is made; `progressed` is when the log last named another step, on the wall's clock."""

    now: float
    wall: float
    progressed: Optional[float] = None


class Choice(NamedTuple):
    """The paths that are taken and those that wait; `worth`: a new checkpoint is among the first."""

    take: List[str]
    wait: List[str]
    worth: bool


class _Seen(NamedTuple):
    state: Tuple[Tuple[str, int, int], ...]
    since: float
    looks: int


class Rest:
    """What was seen of one tree so far."""

    def __init__(self) -> None:
        self._seen: Dict[Tuple[str, ...], _Seen] = {}
        self._beside: Dict[
            str, Set[str]
        ] = {}  # of each member, its digits taken out: what whole sets had, too

    def look(
        self,
        moment: Moment,
        found: Sequence[Found],
        held: Held,
        sets: Sequence[CheckpointSet],
        verdict: Verdict,
        known: AbstractSet[str],
    ) -> Choice:
        """While the script runs. `held` are device and inode of files that are open for writing, None where
        the system does not tell; `known` are the paths whose bytes the store has as they are now.
        """
        files = {one.path: one for one in found if one.kind == FILE}
        self._note(moment.now, files, sets)

        def is_over(one: CheckpointSet) -> bool:
            if _is_in(one, files, held or frozenset()):
                return False
            told = verdict(one)
            if told is False:
                return False
            return self._is_over(moment, one, sets, told)

        return _choice(files, sets, known, is_over)

    def final(
        self,
        moment: Moment,
        found: Sequence[Found],
        sets: Sequence[CheckpointSet],
        verdict: Verdict,
        known: AbstractSet[str],
        whole: bool,
        suspect: FrozenSet[Tuple[int, int]],
    ) -> Choice:
        """When nobody writes any more. `whole`: nobody was cut off; else `suspect` were being written."""
        files = {one.path: one for one in found if one.kind == FILE}

        def is_over(one: CheckpointSet) -> bool:
            told = verdict(one)
            if told is False or whole:
                return told is not False
            if told is True:
                return not self._lacks(one)
            if _is_in(one, files, suspect) or self._lacks(one):
                return False
            seen = self._seen.get(_key(one))
            stood = seen is not None and seen.state == _state(one, files) and seen.looks > STILL_LOOKS
            return stood or _has_newer(one, sets) or _went_on(moment, one)

        return _choice(files, sets, known, is_over)

    def committed(self, sets: Sequence[CheckpointSet]) -> None:
        """These are whole: what is saved later under such names should have as many files."""
        for one in sets:
            shape = _shape(one)
            for member in shape:
                self._beside.setdefault(member, set()).update(shape)

    def _note(self, now: float, files: Mapping[str, Found], sets: Sequence[CheckpointSet]) -> None:
        seen = {}
        for one in sets:
            state, before = _state(one, files), self._seen.get(_key(one))
            if before is not None and before.state == state:
                seen[_key(one)] = before._replace(looks=before.looks + 1)
            else:
                seen[_key(one)] = _Seen(state, now, 1)
        self._seen = seen

    def _is_over(
        self, moment: Moment, one: CheckpointSet, sets: Sequence[CheckpointSet], told: Optional[bool]
    ) -> bool:
        seen = self._seen[_key(one)]
        stood = seen.looks >= STILL_LOOKS
        quiet = stood and moment.now - seen.since >= QUIET_SECONDS
        went_on = _went_on(moment, one)
        if self._lacks(one):
            return quiet and went_on
        if told and (len(one.paths) > 1 or any(member in self._beside for member in _shape(one))):
            return True  # its own marker says so, or it is as those before it
        if _has_newer(one, sets) or quiet or (went_on and (told or stood)):
            return True
        return bool(told) and stood and moment.progressed is None

    def _lacks(self, one: CheckpointSet) -> bool:
        """Whether earlier ones had files that this one does not have (yet)."""
        shape = _shape(one)
        return any(not self._beside.get(member, set()) <= shape for member in shape)


def is_being_written(path: str) -> bool:
    """Whether a name, or that of a folder above, is one that writers use until a file is whole."""
    return any(_BEING_WRITTEN.search(part) for part in path.split("/"))


def _choice(
    files: Mapping[str, Found],
    sets: Sequence[CheckpointSet],
    known: AbstractSet[str],
    is_over: Callable[[CheckpointSet], bool],
) -> Choice:
    take: List[str] = []
    wait: List[str] = []
    of_sets: Set[str] = set()
    worth = False
    for one in sets:
        of_sets.update(one.paths)
        is_new = not known >= set(one.paths)
        if not is_new or is_over(one):
            take.extend(one.paths)
            worth = worth or is_new
        else:
            wait.extend(one.paths)
    pointing = {path.rpartition("/")[0] for path in wait} | {
        one.folder.rpartition("/")[0] for one in sets if one.folder and one.paths[0] in wait
    }
    for path in files:
        if path in of_sets or is_being_written(path):
            continue
        if _POINTERS.fullmatch(path.rpartition("/")[2]) and path.rpartition("/")[0] in pointing:
            wait.append(path)
        else:
            take.append(path)
    return Choice(take, wait, worth)


def _key(one: CheckpointSet) -> Tuple[str, ...]:
    return (one.name, one.folder or one.paths[0])


def _state(one: CheckpointSet, files: Mapping[str, Found]) -> Tuple[Tuple[str, int, int], ...]:
    return tuple((path, files[path].size, files[path].mtime_ns) for path in one.paths if path in files)


def _shape(one: CheckpointSet) -> FrozenSet[str]:
    return frozenset(_NUMBER.sub("#", path) for path in one.paths)


def _is_in(one: CheckpointSet, files: Mapping[str, Found], places: AbstractSet[Tuple[int, int]]) -> bool:
    return any((files[path].device, files[path].inode) in places for path in one.paths if path in files)


def _series(one: CheckpointSet) -> str:
    return _NUMBER.sub("#", one.name)


def _has_newer(one: CheckpointSet, sets: Sequence[CheckpointSet]) -> bool:
    """Whether another of its series was written after it: scripts save one after another."""
    return any(
        other.newest > one.newest and other.name != one.name and _series(other) == _series(one)
        for other in sets
    )


def _went_on(moment: Moment, one: CheckpointSet) -> bool:
    """Whether the log named another step after the set was written: then the save is over.

    One that was named just before the save may be seen after it began.
    """
    return moment.progressed is not None and moment.progressed > one.newest / 1e9 + LATE_SECONDS
