"""Looks at the trees: what lies there, which sets of it are checkpoints, and what a snapshot should take."""

from __future__ import annotations

import functools
import os
import time
from typing import (
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from . import clock
from .choosing import Known
from .progress import Steps
from .rest import Moment, Rest
from .sets import CheckpointSet, checkpoint_sets
from .snapshot import CHECKPOINTS
from .trees import Stamp, Tree, stamp_of
from .vouching import state_of
from .walk import Found
from .writers import held_for_writing

PLAIN_SECONDS = 120.0
"""The cloud's seconds after which files that are no checkpoint are worth a snapshot of their own."""
_LEAST_PLAIN_SECONDS = 10.0  # real ones
QUICK_LOOK = 0.02
"""Seconds of CPU; trees that take longer are not looked through only to know how much is to be sent."""


class View(NamedTuple):
    """The trees at one moment, by their names; `others` are what cannot be kept, with the tree's name."""

    moment: Moment

    found: Dict[str, List[Found]]
    sets: Dict[str, List[CheckpointSet]]
    others: List[Tuple[str, Found]]

    def as_sent(self, stamps: Mapping[Tuple[str, str], Stamp]) -> View:
        """With the states in which files were sent: a log had grown, a file had got a second name."""

        def sent(tree: str, one: Found) -> Found:
            stamp = stamps.get((tree, one.path))
            return one if stamp is None else one._replace(**stamp._asdict())

        found = {tree: [sent(tree, one) for one in found] for tree, found in self.found.items()}
        return self._replace(found=found)


class Choice(NamedTuple):
    """The paths of each tree that are taken as they are now, and whether that is worth a snapshot."""

    take: Dict[str, Set[str]]
    worth: bool


class Looking:
    """The eyes of `snapshots`: it reads no file but to judge its format, and changes nothing."""

    def __init__(
        self,
        trees: List[Tree],
        steps: Optional[Steps] = None,
        processes: Callable[[], Iterable[int]] = lambda: (),
        pattern: Optional[str] = None,
    ) -> None:
        """`steps` are those that the log named, `processes` are the script's."""
        self.trees = trees
        self.took = 0.0
        """Seconds of CPU that the last look took."""
        self._steps = steps or Steps()
        self._processes = processes
        self._pattern = pattern
        self._rest = {tree.name: Rest() for tree in trees}
        self.beyond: Dict[str, List[Found]] = {}
        """The files of each tree that exceed its bound and are not kept."""
        self.known: Mapping[str, Mapping[str, Known]] = {tree.name: {} for tree in trees}
        """The states of each tree's files that need no sending."""
        self._kept: Dict[str, FrozenSet[Tuple[str, str]]] = {tree.name: frozenset() for tree in trees}
        self._last: Optional[View] = None
        self._in_sets: Dict[str, Set[str]] = {}
        self._settled = False
        self._waited = False  # the last snapshot has sets as they were before
        self._plain_at = clock.now()
        self._plain_really_at = time.monotonic()

    @property
    def is_quick(self) -> bool:
        return self.took < QUICK_LOOK

    def begin(self) -> View:
        """What lies there now is no change."""
        view = self.look()
        for tree in self.trees:
            self._kept[tree.name] = self._shape(view.found[tree.name])
            known = self.known[tree.name]
            sets = [one for one in view.sets[tree.name] if all(path in known for path in one.paths)]
            self._rest[tree.name].committed(sets)
        return view

    def mates(self, tree: Tree) -> Mapping[str, Tuple[str, ...]]:
        """Of each file of a set that was committed last: all files of it."""
        return self._rest[tree.name].mates

    def look(self) -> View:
        begun, began, progressed = time.thread_time(), clock.now(), self._steps.changed_at
        found: Dict[str, List[Found]] = {}
        others: List[Tuple[str, Found]] = []
        for tree in self.trees:
            seen = tree.look()
            found[tree.name] = [one for one in seen if one.kind != "other"]
            others.extend((tree.name, one) for one in seen if one.kind == "other")
        last = self._last
        sets = {
            name: last.sets[name]
            if last is not None and last.found[name] == seen
            else checkpoint_sets(seen, self._pattern, own=name == CHECKPOINTS)
            for name, seen in found.items()
        }
        self.took = time.thread_time() - begun
        view = View(Moment(began, clock.now(), progressed), found, sets, others)
        if last is None or last.found != found:
            self._settled = False
            self._in_sets = {name: {path for one in own for path in one.paths} for name, own in sets.items()}
        self._last = view
        return view

    def choose(self, view: View, final: bool, whole: bool, suspect: FrozenSet[Tuple[int, int]]) -> Choice:
        """`final`: nobody writes any more; `whole`: and whoever wrote was not cut off."""
        if self._settled and not final:
            return Choice({}, False)
        held = None if final else held_for_writing(self._processes(), [tree.root for tree in self.trees])
        take: Dict[str, Set[str]] = {}
        worth = waits = differs = False
        for tree in self.trees:
            found, sets = view.found[tree.name], view.sets[tree.name]
            known = {path: have.stamp for path, have in self.known[tree.name].items()}
            verdict = functools.partial(_verdict, tree.root, {one.path: one for one in found})
            rest = self._rest[tree.name]
            unchanged = {one.path for one in found if known.get(one.path) == stamp_of(one)}
            if final:
                choice = rest.final(view.moment, found, sets, verdict, unchanged, whole, suspect)
            else:
                choice = rest.look(view.moment, found, held, sets, verdict, unchanged)
            taken, beyond = _within(tree.most, found, sets, set(choice.take) | (unchanged - set(choice.wait)))
            take[tree.name] = taken
            self.beyond[tree.name] = beyond
            waits = waits or bool(choice.wait)
            worth = worth or choice.worth
            differs = differs or bool(taken - unchanged) or self._shape(found) != self._kept[tree.name]
        if not worth and final:
            worth = differs or self._waited
        elif not worth and differs:
            worth = self._is_time_for_plain()
        self._settled = not waits and not differs
        return Choice(take, worth)

    def committed(self, view: View, take: Mapping[str, Set[str]]) -> None:
        """A snapshot of this view was committed."""
        self._waited = False
        for tree in self.trees:
            sets = [one for one in view.sets[tree.name] if take[tree.name].issuperset(one.paths)]
            self._rest[tree.name].committed(sets)
            self._kept[tree.name] = self._shape(view.found[tree.name])
            waited = any(not take[tree.name].issuperset(one.paths) for one in view.sets[tree.name])
            self._waited = waited or self._waited
        self._plain_at, self._plain_really_at = clock.now(), time.monotonic()

    def what_waits(self) -> str:
        """What the last look saw of checkpoints, in words: why there is no new one."""
        if self._last is None:
            return "nothing was looked at yet"
        newest: Optional[CheckpointSet] = None
        for tree in self.trees:
            for one in self._last.sets[tree.name]:
                why = self._rest[tree.name].why.get(one.paths[0])
                is_kept = all(path in self.known[tree.name] for path in one.paths)
                if why is not None and not is_kept:
                    return "%s %s" % (_printable(one.name), why)
                newest = one if newest is None or one.newest > newest.newest else newest
        if newest is not None:
            return "the newest that lies there is %s" % _printable(newest.name)
        return "no file that it wrote is known as one"

    def is_plain(self, tree: Tree, path: str) -> bool:
        """Whether a file is of no checkpoint, so that any state of it counts that it really had."""
        return path not in self._in_sets.get(tree.name, ())

    def _is_time_for_plain(self) -> bool:
        return (
            clock.now() - self._plain_at >= PLAIN_SECONDS
            and time.monotonic() - self._plain_really_at >= _LEAST_PLAIN_SECONDS
        )

    def step_of(self, one: CheckpointSet) -> Optional[int]:
        """In the log's own unit, if the log tells steps: names may count epochs."""
        logged = self._steps.at(one.newest / 1e9)
        if logged is None or (one.step is not None and abs(one.step - logged) <= max(5, logged // 50)):
            return one.step
        return logged

    def _shape(self, found: Sequence[Found]) -> FrozenSet[Tuple[str, str]]:
        """What lies there but for the files' contents: names that go or come are a change, too."""
        return frozenset((one.path, one.target) for one in found)


def _printable(name: str) -> str:
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def _verdict(root: str, by_path: Mapping[str, Found], one: CheckpointSet) -> Optional[bool]:
    return state_of(root, one, by_path)


def _within(
    most: Optional[int], found: Sequence[Found], sets: Sequence[CheckpointSet], take: Set[str]
) -> Tuple[Set[str], List[Found]]:
    """Of what is taken, so much as the bound allows: the newest checkpoints first, then the newest files."""
    by_path = {one.path: one for one in found if one.path in take and one.kind == "file"}
    if most is None or sum(one.size for one in by_path.values()) <= most:
        return take, []
    left, kept = most, set()
    for one in reversed(sets):
        own = [by_path[path] for path in one.paths if path in by_path and path not in kept]
        if sum(item.size for item in own) <= left:
            left -= sum(item.size for item in own)
            kept.update(item.path for item in own)
    of_sets = {path for one in sets for path in one.paths}
    for item in sorted(by_path.values(), key=lambda item: -item.mtime_ns):
        if item.path not in of_sets and item.size <= left:
            left -= item.size
            kept.add(item.path)
    return kept, [item for path, item in sorted(by_path.items()) if path not in kept]
