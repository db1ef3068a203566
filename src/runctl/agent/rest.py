"""Which files of a tree a snapshot takes as they are now, and which stay as the snapshot before has them.

A save takes its time, and a look may come in the middle of it. So a set of files is taken when nobody holds
one of them open for writing, its format does not say that it is torn, and something tells that the save is
over.
Times of files are the system's, waits are the cloud's, both in seconds.
"""

from __future__ import annotations

import bisect
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

from .kinds import has_others, is_torn, is_weights, may_be_mapped
from .progress import LATE_SECONDS
from .sets import CheckpointSet
from .walk import FILE, Found

QUIET_SECONDS = 30.0
"""The cloud's seconds in which nothing of a set changed, after which it is taken for saved: scripts were seen
to pause for 12 s between two files of one checkpoint."""
FIRST_SECONDS = 12.0
"""So long what is the first of its kind must have stood still if its format does not tell, or its name speaks
of others beside it: a thread may save while the steps go on."""
STILL_LOOKS = 2
_MOST_STEPS = 1000
_NUMBER = re.compile(r"\d+")
_POINTERS = re.compile(
    r"checkpoint|latest(?:_.*)?(?:\.txt)?|last(?:_.*)?(?:\.txt)?|[^.]*\.json", re.IGNORECASE
)
"""Files that name the newest checkpoint beside them: they wait for it."""

Verdict = Callable[[CheckpointSet], Optional[bool]]
Held = Optional[AbstractSet[Tuple[int, int]]]


class Moment(NamedTuple):
    """When a look began and ended, on the cloud's clock, and when the log last named another step before it.

    `progressed` is on the system's clock. What is said while a look goes on proves nothing of what it saw.
    """

    began: float
    ended: float
    progressed: Optional[float] = None


class Choice(NamedTuple):
    """The paths that are taken and those that wait; `worth`: a new checkpoint is among the first."""

    take: List[str]
    wait: List[str]
    worth: bool


_State = Tuple[Tuple[str, int, int], ...]
"""Path, size and modification time of each file of a set."""


class _Seen(NamedTuple):
    state: _State
    since: float
    looks: int


class Rest:
    """What was seen of one tree so far.

    A *shape* is the paths of a set with their digits taken out: `G_#.pth` and `D_#.pth`. If several are the
    same then, as those of the ranks of a step, they are counted.
    """

    def __init__(self) -> None:
        self._seen: Dict[Tuple[str, ...], _Seen] = {}
        self._beside: Dict[str, Set[str]] = {}  # of each member of a shape: what was ever seen with it
        self._whole: Set[FrozenSet[str]] = set()  # shapes of sets that were committed
        self._sound: Dict[FrozenSet[str], _State] = {}  # shapes of sets with a good format: one that was seen
        self._steps: List[float] = []  # when the log named another step, as the looks saw it
        self._overlaps = False  # steps were named while a set was being written: they tell nothing of saves
        self.why: Dict[str, str] = {}
        """Why sets wait, by a path of theirs: what the last look saw."""
        self.mates: Dict[str, Tuple[str, ...]] = {}
        """Of each file of a set that was committed: all files of it."""

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
        self._note(moment, files, sets)
        self.why = {}

        def is_over(one: CheckpointSet) -> bool:
            if held and (_is_in(one, files, held) or _is_joined(one, files, held)):
                self.why[one.paths[0]] = "is open for writing"
                return False
            told = verdict(one)
            if told is False:
                self.why[one.paths[0]] = "is torn, by its format"
                return False
            self.why[one.paths[0]] = "changes, or does not tell whether its save is over"
            return self._is_over(moment, one, sets, told)

        return _choice(files, sets, known, is_over, self._has_lost)

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
            if self._lacks(one):
                return False
            if told is True and not (_is_in(one, files, suspect) and any(map(may_be_mapped, one.paths))):
                return True
            if _is_in(one, files, suspect) or _is_joined(one, files, suspect):
                return False
            # Of a set that is written over in place, a part may be of the save before.
            as_before = _shape(one) in self._whole and not any(path in known for path in one.paths)
            return as_before or self._stood(one, files) or _has_newer(one, sets) or self._went_on(moment, one)

        return _choice(files, sets, known, is_over, self._has_lost)

    def committed(self, sets: Sequence[CheckpointSet]) -> None:
        """These are whole: what is saved later under such names should have as many files."""
        self._whole.update(map(_shape, sets))
        self.mates = {path: one.paths for one in sets for path in one.paths}

    def _note(
        self,
        moment: Moment,
        files: Mapping[str, Found],
        sets: Sequence[CheckpointSet],
    ) -> None:
        if moment.progressed is not None and moment.progressed not in self._steps[-1:]:
            self._steps = [*self._steps[-_MOST_STEPS:], moment.progressed]
        seen = {}
        for one in sets:
            self._overlaps = self._overlaps or self._was_overlapped(one, files)
            for member in _shape(one):
                self._beside.setdefault(member, set()).update(_shape(one))
            state, before = _state(one, files), self._seen.get(_key(one))
            if before is not None and before.state == state:
                seen[_key(one)] = before._replace(looks=before.looks + 1)
            else:
                seen[_key(one)] = _Seen(state, moment.ended, 1)
        self._seen = seen

    def _is_over(
        self, moment: Moment, one: CheckpointSet, sets: Sequence[CheckpointSet], told: Optional[bool]
    ) -> bool:
        seen = self._seen[_key(one)]
        stood = seen.looks >= STILL_LOOKS
        quiet = stood and moment.began - seen.since >= QUIET_SECONDS
        went_on = self._went_on(moment, one)
        if self._lacks(one):
            return quiet and (went_on or moment.progressed is None)
        if told and (len(one.paths) > 1 or self._is_as_before(one, seen.state)):
            return True
        if _has_newer(one, sets) or quiet:
            return True
        is_sure = bool(told) and not has_others(one.name)
        if not (is_sure or _shape(one) in self._whole or moment.began - seen.since >= FIRST_SECONDS):
            return False
        if went_on:
            return bool(told) or stood
        return bool(told) and stood and moment.progressed is None

    def _is_as_before(self, one: CheckpointSet, state: _State) -> bool:
        """Whether another of its shape was seen, or this one before it was written over: then all is there.

        Files may be removed faster than the looks come: none of them may be seen twice.
        """
        shape = _shape(one)
        earlier = self._sound.setdefault(shape, state)
        if shape in self._whole or earlier == state or not has_others(one.name):
            return shape in self._whole or earlier != state
        (path, _, at), (other, _, before) = state[0], earlier[0]
        return path != other or at - before >= FIRST_SECONDS * 1e9

    def _went_on(self, moment: Moment, one: CheckpointSet) -> bool:
        """Whether the log named another step after the set was written: then the save is over.

        One that was named just before the save may be seen after it began.
        """
        if self._overlaps or moment.progressed is None:
            return False
        return moment.progressed > one.newest / 1e9 + LATE_SECONDS

    def _was_overlapped(self, one: CheckpointSet, files: Mapping[str, Found]) -> bool:
        """Whether the log named a step between the first and the last file of a save.

        Of files that are written over in place some may be of the save before.
        """
        if one.step is None or len(one.paths) == 1:
            return False
        times = [files[path].mtime_ns / 1e9 for path in one.paths if path in files and is_weights(path)]
        if not times:
            return False
        place = bisect.bisect_right(self._steps, min(times) + LATE_SECONDS)
        return place < len(self._steps) and self._steps[place] < max(times)

    def _has_lost(self, one: CheckpointSet) -> bool:
        """Whether files of it are gone that it was committed with: it is being removed."""
        return any(not set(self.mates.get(path, ())) <= set(one.paths) for path in one.paths)

    def _stood(self, one: CheckpointSet, files: Mapping[str, Found]) -> bool:
        seen = self._seen.get(_key(one))
        return seen is not None and seen.state == _state(one, files) and seen.looks > STILL_LOOKS

    def _lacks(self, one: CheckpointSet) -> bool:
        """Whether earlier ones had files that this one does not have (yet)."""
        shape = _shape(one)
        return any(not self._beside.get(member, set()) <= shape for member in shape)


def _choice(
    files: Mapping[str, Found],
    sets: Sequence[CheckpointSet],
    known: AbstractSet[str],
    is_over: Callable[[CheckpointSet], bool],
    has_lost: Callable[[CheckpointSet], bool],
) -> Choice:
    take: List[str] = []
    wait: List[str] = []
    of_sets: Set[str] = set()
    worth = False
    for one in sets:
        of_sets.update(one.paths)
        is_new = not known >= set(one.paths)
        if (not is_new and not has_lost(one)) or is_over(one):
            take.extend(one.paths)
            worth = worth or is_new
        else:
            wait.extend(one.paths)
    pointing = {path.rpartition("/")[0] for path in wait} | {
        one.folder.rpartition("/")[0] for one in sets if one.folder and one.paths[0] in wait
    }
    for path in files:
        if path in of_sets or is_torn(path):
            continue
        if _POINTERS.fullmatch(path.rpartition("/")[2]) and path.rpartition("/")[0] in pointing:
            wait.append(path)
        else:
            take.append(path)
    return Choice(take, wait, worth)


def _key(one: CheckpointSet) -> Tuple[str, ...]:
    return (one.name, one.folder or one.paths[0])


def _state(one: CheckpointSet, files: Mapping[str, Found]) -> _State:
    return tuple((path, files[path].size, files[path].mtime_ns) for path in one.paths if path in files)


def _shape(one: CheckpointSet) -> FrozenSet[str]:
    counts: Dict[str, int] = {}
    members = []
    for path in one.paths:
        member = _NUMBER.sub("#", path)
        count = counts[member] = counts.get(member, 0) + 1
        members.append(member if count == 1 else "%s %d" % (member, count))
    return frozenset(members)


def _is_in(one: CheckpointSet, files: Mapping[str, Found], places: AbstractSet[Tuple[int, int]]) -> bool:
    return any((files[path].device, files[path].inode) in places for path in one.paths if path in files)


def _is_joined(one: CheckpointSet, files: Mapping[str, Found], held: AbstractSet[Tuple[int, int]]) -> bool:
    """Whether a file that will be of the set is written under a name for the time being: `D_10.pth.tmp`."""
    folders, numbers = {path.rpartition("/")[0] for path in one.paths}, _numbers(one.paths[0])
    return any(
        is_torn(path)
        and path.rpartition("/")[0] in folders
        and _numbers(path)[: len(numbers)] == numbers
        and (about.device, about.inode) in held
        for path, about in files.items()
    )


def _numbers(path: str) -> List[str]:
    return _NUMBER.findall(path)


def _has_newer(one: CheckpointSet, sets: Sequence[CheckpointSet]) -> bool:
    """Whether another of its series was written after it: scripts save one after another."""
    shape = _shape(one)
    return any(
        other.newest > one.newest and other.paths != one.paths and shape & _shape(other) for other in sets
    )
