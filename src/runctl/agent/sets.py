"""Which files of a tree are one checkpoint, and what a resume is given of it.

A checkpoint is a folder (`checkpoint-500/`), a file (`step_120.pt`), or files beside each other: those of one
step (`G_10.pth`, `D_10.pth`), or those without a step that a script writes over in place.
"""

from __future__ import annotations

import fnmatch
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .kinds import (
    apart,
    base,
    has_companions,
    is_called_checkpoint,
    is_companion_text,
    is_looked_into,
    is_mark,
    is_no_checkpoint,
    is_save_folder,
    is_second,
    is_step_folder,
    is_text,
    is_torn,
    is_weights,
    may_be_any,
    may_be_data,
    rank,
    stem,
    suffix,
)
from .progress import step_of_name
from .walk import FILE, Found


class CheckpointSet(NamedTuple):
    """The files of one checkpoint: `name` without the folders above, `paths` relative to the tree.

    `newest` is their newest modification time in nanoseconds, `size` their bytes. `folder` is the path of the
    folder that it is, empty where it is files beside others.
    """

    name: str
    paths: Tuple[str, ...]
    step: Optional[int]
    newest: int
    size: int
    folder: str = ""


def checkpoint_sets(
    found: Sequence[Found], pattern: Optional[str] = None, own: bool = True
) -> List[CheckpointSet]:
    """The sets in a tree, the one to resume from last. `own`: the tree is there for checkpoints, so a file of
    any kind may be one. With `pattern`, what matches it (a path or a name) and nothing else.
    """
    files = [one for one in found if one.kind == FILE]
    settled = [one for one in files if not is_torn(one.path)]
    if pattern is not None:
        return _ordered(_matching(settled, pattern))
    inside: Dict[str, List[Found]] = {folder: [] for folder in _set_folders(settled, own)}
    beside: Dict[str, List[Found]] = {}
    for one in files:
        folder = next((above for above in _above(one.path) if above in inside), None)
        if folder is not None:
            inside[folder].append(one)
        elif not is_torn(one.path):
            beside.setdefault(one.path.rpartition("/")[0], []).append(one)
    sets = [_of(base(folder), items, folder) for folder, items in inside.items()]
    for folder, items in beside.items():
        if is_looked_into(folder):
            called = [one for one in items if is_called_checkpoint(one.path)]
            sets.extend(_beside(items, own) or _plain_sets(called))
    if own and not sets:
        sets = [one for items in beside.values() for one in _plain_sets(items)]
    return _ordered(sets)


def resume_path(one: CheckpointSet, found: Mapping[str, Found]) -> str:
    """What RUNCTL_RESUME_FROM names, relative to the tree: a folder, a file, or the main one of several."""
    if one.folder:
        return one.folder
    for path in one.paths:
        if path.endswith(".index") and len(one.paths) > 1:
            return path[: -len(".index")]  # TensorFlow's own name for it has no suffix
    leads = _leads(one.paths)
    return max(one.paths, key=lambda path: _weight(path, found[path].size if path in found else 0, leads))


def _set_folders(files: Sequence[Found], own: bool) -> Set[str]:
    """The topmost folders that are a checkpoint, by their name and what is in them, or by a mark."""
    weights: Dict[str, List[str]] = {}
    counts: Dict[str, int] = {}
    marked: Set[str] = set()
    for one in files:
        folder, _, name = one.path.rpartition("/")
        if not folder or not is_looked_into(folder):
            continue
        for above in _above(one.path):
            counts[above] = counts.get(above, 0) + 1
        if is_mark(name):
            marked.add(folder)
        if is_mark(name) or is_weights(one.path) or (suffix(name) == "" and not is_no_checkpoint(name)):
            for above in _above(one.path):
                weights.setdefault(above, []).append(one.path)
    named = {
        folder for folder, paths in weights.items() if _is_named(folder, paths, counts[folder], marked, own)
    }
    chosen: Set[str] = set()
    for folder in sorted(named | marked, key=lambda path: path.count("/")):
        holds_others = not is_step_folder(base(folder)) and any(
            other.startswith(folder + "/") for other in named
        )
        if not holds_others and not any(above in chosen for above in _above(folder)):
            chosen.add(folder)
    return chosen


def _is_named(folder: str, paths: Sequence[str], count: int, marked: Set[str], own: bool) -> bool:
    """Whether its name says so. A bare number needs a mark in it, or no other step below; so does `last`."""
    name = base(folder)
    if is_step_folder(name):
        return True
    inner = [path[len(folder) + 1 :] for path in paths]
    steps = {step for path in inner for step in map(step_of_name, path.split("/")) if step is not None}
    if name.isdigit():
        has_mark = any(mark == folder or mark.startswith(folder + "/") for mark in marked)
        return has_mark or (own and steps <= {int(name)})
    return is_save_folder(name) and not steps and count > 1


def _beside(items: Sequence[Found], own: bool) -> List[CheckpointSet]:
    """The sets among the files of one folder: those of a step, those without one, `best` and `last`."""
    marked = any(is_mark(base(one.path)) for one in items)
    groups: Dict[Tuple[Optional[int], str, str], List[Found]] = {}
    texts: List[Found] = []
    names = {base(one.path) for one in items}
    for one in items:
        name = base(one.path)
        mark = marked and is_mark(name)
        if not mark and (name.startswith(".") or is_no_checkpoint(name)):
            continue
        if is_text(name) and not mark and not is_weights(name):
            texts.append(one)
        elif (
            mark
            or (is_weights(name) and (own or marked or not may_be_data(name)))
            or (own and may_be_any(name))
        ):
            groups.setdefault(_group(_lead(name, names), marked), []).append(one)
    _join_by_name(groups)
    _join_texts(groups, texts)
    return [
        _of(_main(group), group)
        for group in groups.values()
        if not all(is_text(base(one.path)) and not is_weights(one.path) for one in group)
    ]


def _group(name: str, marked: bool) -> Tuple[Optional[int], str, str]:
    """Files with the same one are one checkpoint: a step, `best` or `last`, a name of its own."""
    short = stem(name)
    step = step_of_name(short)
    if marked and step is None:
        return None, "", ""
    if step is not None or has_companions(_bare(short)):
        return step, apart(short), ""
    return None, apart(short), short


def _lead(name: str, names: Set[str]) -> str:
    """`w2v.model` of `w2v.model.wv.vectors.npy`, if there is such a file; else the name itself."""
    parts = name.split(".")
    leads = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((lead for lead in leads if lead in names and apart(lead) == apart(name)), name)


def _join_by_name(groups: Dict[Tuple[Optional[int], str, str], List[Found]]) -> None:
    """`m.pdopt` belongs to `m.pdparams`."""
    first: Dict[Tuple[str, str], Tuple[Optional[int], str, str]] = {}
    for key in sorted(key for key in groups if key[2] and key[0] is None):
        same = first.setdefault((key[1], _bare(key[2])), key)
        if same != key:
            groups[same].extend(groups.pop(key))


def _join_texts(groups: Dict[Tuple[Optional[int], str, str], List[Found]], texts: Sequence[Found]) -> None:
    """`step_10.json` belongs to `step_10.pt`; without a step, what has the same name or tells of a resume."""
    for one in texts:
        name = base(one.path)
        step = step_of_name(name)
        beside = [key for key in groups if key[0] == step]
        if step is None:
            same = [key for key in beside if any(_bare(name) == _bare(base(it.path)) for it in groups[key])]
            beside = same or ([key for key in beside if not key[1]] if is_companion_text(name) else [])
        for key in beside[:1]:
            groups[key].append(one)


def _bare(name: str) -> str:
    return name.rpartition(".")[0] or name


def _plain_sets(items: Sequence[Found]) -> List[CheckpointSet]:
    """Where nothing else in a folder is a checkpoint, texts may be what a script resumes from."""
    by_step: Dict[Tuple[Optional[int], str], List[Found]] = {}
    for one in items:
        name = base(one.path)
        if is_text(name) and not name.startswith(".") and not is_no_checkpoint(name):
            step = step_of_name(name)
            by_step.setdefault((step, "" if step is not None else name), []).append(one)
    return [_of(_main(group), group) for group in by_step.values()]


def _matching(files: Sequence[Found], pattern: str) -> List[CheckpointSet]:
    """Files that match, those of one step together, and folders that do, with all that is in them."""
    folders: Dict[str, List[Found]] = {}
    beside: Dict[Tuple[str, Optional[int], str], List[Found]] = {}
    for one in files:
        folder = next((above for above in reversed(_above(one.path)) if _matches(above, pattern)), None)
        if folder is not None:
            folders.setdefault(folder, []).append(one)
        elif _matches(one.path, pattern):
            step, word, own = _group(base(one.path), marked=False)
            key = (one.path.rpartition("/")[0] + "/" + word, step, own if step is None else "")
            beside.setdefault(key, []).append(one)
    sets = [_of(_main(group), group) for group in beside.values()]
    return sets + [_of(base(folder), items, folder) for folder, items in folders.items()]


def _matches(path: str, pattern: str) -> bool:
    wanted = pattern.rstrip("/")
    return fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(base(path), wanted)


def _ordered(sets: Iterable[CheckpointSet]) -> List[CheckpointSet]:
    """The newest last; weights alone, such as `best.pt`, before what tells where the script is."""
    all_sets = list(sets)
    folders = {
        (one.folder.rpartition("/")[0], one.step): one.newest
        for one in all_sets
        if one.folder and one.step is not None
    }

    def place(one: CheckpointSet) -> Tuple[int, int, int, bool, str]:
        newest = one.newest
        if not one.folder and one.step is not None:
            # `at-step00000100.safetensors` beside the folder of that step: weights alone.
            newest = folders.get((one.paths[0].rpartition("/")[0], one.step), newest)
        return (
            rank(one.name, one.step),
            newest,
            -1 if one.step is None else one.step,
            bool(one.folder),
            one.name,
        )

    return sorted(all_sets, key=place)


def _of(name: str, items: Sequence[Found], folder: str = "") -> CheckpointSet:
    return CheckpointSet(
        name,
        tuple(sorted(one.path for one in items)),
        step_of_name(name if folder else stem(name)),
        max(one.mtime_ns for one in items),
        sum(one.size for one in items),
        folder,
    )


def _main(items: Sequence[Found]) -> str:
    leads = _leads([one.path for one in items])
    return base(max(items, key=lambda one: _weight(one.path, one.size, leads)).path)


def _leads(paths: Iterable[str]) -> Set[str]:
    """What stands before a dot in the paths: if there is such a file, the others are its parts."""
    leads: Set[str] = set()
    for path in paths:
        parts = path.split(".")
        leads.update(".".join(parts[:count]) for count in range(1, len(parts)))
    return leads


def _weight(path: str, size: int, leads: Set[str]) -> Tuple[bool, bool, bool, int, str]:
    """Of several files the largest weights are the main one, and not the state of an optimizer."""
    return is_weights(path), path in leads, not is_second(base(path)), size, path


def _above(path: str) -> List[str]:
    """The folders above, the nearest first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
