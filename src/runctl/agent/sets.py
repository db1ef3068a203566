"""Which files of a tree are one checkpoint, whether it is whole, and what a resume is given of it.

A checkpoint is a folder (`checkpoint-500/`), a file (`step_120.pt`), or files beside each other: those of one
step (`G_10.pth`, `D_10.pth`), or those without a step that a script writes over in place.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .files import open_regular, read_json
from .formats import verdict
from .progress import step_of_name
from .walk import FILE, Found

_WEIGHTS = frozenset(
    [
        *(
            ".pt",
            ".pth",
            ".ckpt",
            ".bin",
            ".safetensors",
            ".npz",
            ".keras",
            ".h5",
            ".hdf5",
            ".pkl",
            ".pickle",
        ),
        *(
            ".joblib",
            ".dill",
            ".ubj",
            ".msgpack",
            ".index",
            ".distcp",
            ".eqx",
            ".pdparams",
            ".pdopt",
            ".params",
        ),
        *(".model", ".tar", ".orbax", ".cbm", ".lgb", ".bst", ".npy", ".onnx", ".gguf", ".zip"),
    ]
)
"""Suffixes of files in which training is saved, wherever they lie."""

_NEVER = frozenset(
    [
        *(
            ".csv",
            ".tsv",
            ".log",
            ".md",
            ".rst",
            ".py",
            ".pyc",
            ".ipynb",
            ".sh",
            ".html",
            ".htm",
            ".css",
            ".js",
        ),
        *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".mp4", ".wav", ".toml", ".ini", ".cfg", ".yaml"),
        *(
            ".yml",
            ".jsonl",
            ".out",
            ".err",
            ".pid",
            ".lock",
            ".tmp",
            ".part",
            ".partial",
            ".wandb",
            ".c",
            ".cpp",
        ),
        *(".h", ".so", ".parquet", ".arrow", ".feather", ".tfrecord", ".sqlite", ".db"),
    ]
)
_TEXT = frozenset([".json", ".txt", ".xml", ""])
_NO_CHECKPOINT = re.compile(
    r"training_args\.bin|tokenizer.*|special_tokens_map.*|vocab\..*|merges\.txt|added_tokens.*|readme.*|license.*"
    r"|.*config.*\.json|hparams.*|args.*|metrics.*|history.*|results?\..*|events\.out\.tfevents.*"
    r"|profile.*|requirements.*|commit_success\.txt|zero_to_fp32\.py|latest(_.*)?(\.txt)?|checkpoint",
    re.IGNORECASE,
)
"""Names of files that lie beside checkpoints and are none."""
_NONE_BELOW = frozenset(
    ["wandb", "mlruns", "data", "dataset", "datasets", "raw", "cache", "logs", "tokenizer", "profile"]
)

_STEP_FOLDER = re.compile(
    r"(?:.*[-_.])?(?:checkpoint|ckpt|chkpt|global_?step|step|iter|iteration|epoch|snapshot|save)"
    r"[-_=.]?\d+(?:[-_.=].*)?",
    re.IGNORECASE,
)
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "_sharding")
_MARKS = re.compile(
    r"trainer_state\.json|\.metadata|mp_rank_\d+.*|zero_pp_rank_.*|random_states_\d+\.pkl|.*\.distcp"
    r"|model\.safetensors\.index\.json|pytorch_model\.bin\.index\.json|model-\d+-of-\d+\.safetensors"
    r"|distrib_optim\.pt|training_metadata\.json|" + "|".join(re.escape(name) for name in _ORBAX)
)
"""Files that only a checkpoint of several files has in its folder."""
_LEAST = re.compile(r"(?:.*[-_.])?(?:best|final|ema|swa|pretrained|init|initial)(?![a-z]).*", re.IGNORECASE)
_LESS = re.compile(r"(?:.*[-_.])?(?:model|weights)(?![a-z]).*", re.IGNORECASE)
_APART = re.compile(r"(?:.*[-_.])?(?:best|last|latest|final)(?![a-z]).*|.*-v\d+\.[a-z0-9]+", re.IGNORECASE)
_COMPANION = re.compile(
    r"model|net|weight|param|optim|sched|scaler|rng|random|gen(?:erator)?\b|disc(?:riminator)?\b|\b[GD]\b|actor"
    r"|critic|policy|value|encoder|decoder|backbone|head|teacher|student|state|trainer|amp",
    re.IGNORECASE,
)
"""Words in the names of files that one save writes beside each other, without a step."""
_SECOND = re.compile(r"optim|sched|scaler|rng|random", re.IGNORECASE)
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)?", re.IGNORECASE)
_TF_DATA = re.compile(r"(?P<stem>.*)\.data-\d{5}-of-\d{5}")
_TORN = re.compile(
    r"incomplete|\.tmp(?:$|[-_.0-9])|\.partial$|\.part$|orbax-checkpoint-tmp|\.corrupt-", re.IGNORECASE
)


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
    files = [one for one in found if one.kind == FILE and not _TORN.search(one.path)]
    if pattern is not None:
        return _ordered(_matching(files, pattern))
    folders = _set_folders(files)
    inside: Dict[str, List[Found]] = {folder: [] for folder in folders}
    beside: Dict[str, List[Found]] = {}
    for one in [one for one in found if one.kind == FILE]:
        folder = next((above for above in _above(one.path) if above in inside), None)
        if folder is not None:
            inside[folder].append(one)
        elif not _TORN.search(one.path):
            beside.setdefault(one.path.rpartition("/")[0], []).append(one)
    sets = [_of(_base(folder), items, folder) for folder, items in inside.items()]
    for folder, items in beside.items():
        if _is_looked_into(folder):
            sets.extend(_beside(items, own))
    if own and not sets:
        sets = [one for items in beside.values() for one in _plain_sets(items)]
    return _ordered(sets)


def state_of(root: str, one: CheckpointSet, found: Mapping[str, Found]) -> Optional[bool]:
    """Whether a set is whole: True where a format or a rule of its kind vouches for it, False where one
    denies it, None where its files are whole as far as can be told, but not whether these are all.
    """
    try:
        if any(_TORN.search(path) for path in one.paths) or not _has_all_shards(one.paths):
            return False
        verdicts = [verdict(os.path.join(root, path)) for path in one.paths if _is_judged(path)]
        if False in verdicts:
            return False
        if one.folder:
            return _folder_state(root, one, found)
    except OSError:  # one of them vanished
        return False
    if any(path.endswith(".index") for path in one.paths) and any(map(_TF_DATA.fullmatch, one.paths)):
        return True  # TensorFlow writes the index last
    return verdicts[0] if len(one.paths) == 1 and verdicts else None


def resume_path(one: CheckpointSet, found: Mapping[str, Found]) -> str:
    """What RUNCTL_RESUME_FROM names, relative to the tree: a folder, a file, or the main one of several."""
    if one.folder:
        return one.folder
    if len(one.paths) == 1:
        return one.paths[0]
    for path in one.paths:  # TensorFlow's own name for it has no suffix
        if path.endswith(".index") and any(map(_TF_DATA.fullmatch, one.paths)):
            return path[: -len(".index")]

    return max(one.paths, key=lambda path: _weight(path, found[path].size if path in found else 0))


def _folder_state(root: str, one: CheckpointSet, found: Mapping[str, Found]) -> Optional[bool]:
    names = {_base(path) for path in one.paths}
    times = {path: found[path].mtime_ns for path in one.paths if path in found}
    shards = [path for path in one.paths if path.endswith(".distcp")]
    if shards and not _dcp_is_whole(root, one, shards, times):
        return False
    trainers = _trainers_state(root, one, names, times)
    if trainers is not None or shards:
        return trainers is not False
    is_orbax = bool(names & set(_ORBAX))  # it gives a folder its name when it is whole
    return True if is_orbax else _pointed_at(root, one)


def _trainers_state(
    root: str, one: CheckpointSet, names: Set[str], times: Mapping[str, int]
) -> Optional[bool]:
    """The Hugging Face Trainer writes its state last; None for a folder that it did not write."""
    if "trainer_state.json" in names:
        state = one.folder + "/trainer_state.json"
        first = ("model", "optimizer", "pytorch_")
        weights = [at for path, at in times.items() if _base(path).startswith(first)]
        return read_json(os.path.join(root, state)) is not None and times.get(state, 0) >= max(
            weights, default=0
        )
    if "training_args.bin" in names and re.fullmatch(r"checkpoint-\d+", one.name):
        return False
    return None


def _dcp_is_whole(root: str, one: CheckpointSet, shards: Sequence[str], times: Mapping[str, int]) -> bool:
    """torch DCP moves `.metadata` to its place last, but leaves that of the save before until then."""
    for folder in {path.rpartition("/")[0] for path in shards}:
        metadata = folder + "/.metadata"
        own = [path for path in shards if path.rpartition("/")[0] == folder]
        if metadata not in one.paths or times.get(metadata, 0) < max(times.get(path, 0) for path in own):
            return False
        with open_regular(os.path.join(root, metadata)) as file:
            told = set(re.findall(rb"__\d+_\d+\.distcp", file.read(64 * 1024 * 1024)))
        if not told <= {os.fsencode(_base(path)) for path in own}:
            return False
    return True


def _pointed_at(root: str, one: CheckpointSet) -> Optional[bool]:
    """DeepSpeed and Megatron write beside their folders which one is the newest, after it."""
    above = os.path.dirname(os.path.join(root, one.folder))
    number = re.search(r"\d+", one.name)
    for name in ("latest", "latest_checkpointed_iteration.txt"):
        path = os.path.join(above, name)
        try:
            with open_regular(path) as file:
                said = file.read(256).decode("utf-8", "replace").strip()
            at = os.stat(path).st_mtime_ns
        except OSError:  # there is none
            continue
        if said == one.name or (said.isdigit() and number is not None and int(said) == int(number.group())):
            return None if at < one.newest else True
        return False if at < one.newest else None
    return None


def _has_all_shards(paths: Iterable[str]) -> bool:
    """`model-00001-of-00003.safetensors` comes with two others."""
    have: Dict[Tuple[str, int, str], Set[int]] = {}
    for path in paths:
        shard = _SHARD.fullmatch(path)
        if shard:
            key = (shard["stem"], int(shard["count"]), shard["suffix"] or "")
            have.setdefault(key, set()).add(int(shard["number"]))
    return all(len(numbers) >= count for (_, count, _), numbers in have.items())


def _set_folders(files: Sequence[Found]) -> Set[str]:
    """The topmost folders that are a checkpoint, by their name and what is in them, or by a mark."""
    weights: Set[str] = set()
    marked: Set[str] = set()
    for one in files:
        folder, _, name = one.path.rpartition("/")
        if not folder or not _is_looked_into(folder):
            continue
        is_mark = _MARKS.fullmatch(name) is not None
        if is_mark:
            marked.add(folder)
        if is_mark or _is_weights(one.path) or (_suffix(name) == "" and not _NO_CHECKPOINT.fullmatch(name)):
            weights.update(_above(one.path))
    named = {folder for folder in weights if _is_named(folder, marked)}
    chosen: Set[str] = set()
    for folder in sorted(named | marked, key=lambda path: path.count("/")):
        holds_others = folder not in named and any(other.startswith(folder + "/") for other in named)
        if not holds_others and not any(above in chosen for above in _above(folder)):
            chosen.add(folder)
    return chosen


def _is_named(folder: str, marked: Set[str]) -> bool:
    """Whether its name says so; a bare number needs a mark in it."""
    name = _base(folder)
    if name.isdigit():
        return any(mark == folder or mark.startswith(folder + "/") for mark in marked)
    return _STEP_FOLDER.fullmatch(name) is not None


def _beside(items: Sequence[Found], own: bool) -> List[CheckpointSet]:
    """The sets among the files of one folder: those of a step, those without one, `best` and `last`."""
    marked = [one for one in items if _MARKS.fullmatch(_base(one.path))]
    by_step: Dict[Optional[int], List[Found]] = {}
    texts: Dict[int, List[Found]] = {}
    sets: List[CheckpointSet] = []
    for one in items:
        name = _base(one.path)
        suffix = _suffix(name)
        if name.startswith(".") or _NO_CHECKPOINT.fullmatch(name):
            continue
        step = _step_beside(name)
        if suffix in _TEXT and step is not None:
            texts.setdefault(step, []).append(one)
        if not _is_weights(name) and (not own or suffix in _NEVER or suffix in _TEXT):
            continue
        is_alone = step is None and _COMPANION.search(name) is None
        if not marked and (is_alone or _APART.fullmatch(name)):
            sets.append(_of(name, [one]))
        else:
            by_step.setdefault(step, []).append(one)
    for step, group in by_step.items():
        more = marked if step is None else texts.get(step, [])
        sets.append(_of(_main(group), list(dict.fromkeys([*group, *more]))))
    return sets


def _plain_sets(items: Sequence[Found]) -> List[CheckpointSet]:
    """Where nothing else lies in the folder for checkpoints, texts may be what a script resumes from."""
    by_step: Dict[Tuple[Optional[int], str], List[Found]] = {}
    for one in items:
        name = _base(one.path)
        if _suffix(name) in _TEXT and not name.startswith(".") and not _NO_CHECKPOINT.fullmatch(name):
            step = _step_beside(name)
            by_step.setdefault((step, "" if step is not None else name), []).append(one)
    return [_of(_main(group), group) for group in by_step.values()]


def _matching(files: Sequence[Found], pattern: str) -> List[CheckpointSet]:
    """Files that match, and folders that do, with all that is in them."""
    folders: Dict[str, List[Found]] = {}
    sets: List[CheckpointSet] = []
    for one in files:
        folder = next((above for above in reversed(_above(one.path)) if _matches(above, pattern)), None)
        if folder is not None:
            folders.setdefault(folder, []).append(one)
        elif _matches(one.path, pattern):
            sets.append(_of(_base(one.path), [one]))
    return sets + [_of(_base(folder), items, folder) for folder, items in folders.items()]


def _matches(path: str, pattern: str) -> bool:
    wanted = pattern.rstrip("/")
    return fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(_base(path), wanted)


def _ordered(sets: Iterable[CheckpointSet]) -> List[CheckpointSet]:
    """The newest last; weights alone, such as `best.pt`, before what tells where the script is."""
    return sorted(
        sets,
        key=lambda one: (_rank(one), one.newest, -1 if one.step is None else one.step, one.name),
    )


def _rank(one: CheckpointSet) -> int:
    if _LEAST.fullmatch(one.name) and (one.step is None or "best" in one.name.lower()):
        return 0
    return 1 if one.step is None and _LESS.fullmatch(one.name) else 2


def _of(name: str, items: Sequence[Found], folder: str = "") -> CheckpointSet:
    return CheckpointSet(
        name,
        tuple(sorted(one.path for one in items)),
        step_of_name(name),
        max(one.mtime_ns for one in items),
        sum(one.size for one in items),
        folder,
    )


def _main(items: Sequence[Found]) -> str:
    return _base(max(items, key=lambda one: _weight(one.path, one.size)).path)


def _weight(path: str, size: int) -> Tuple[bool, bool, int, str]:
    """Of several files the largest weights are the main one, and not the state of an optimizer."""
    return _is_weights(path), _SECOND.search(_base(path)) is None, size, path


def _step_beside(name: str) -> Optional[int]:
    data = _TF_DATA.fullmatch(name)
    shard = _SHARD.fullmatch(name)
    return step_of_name(data["stem"] if data else shard["stem"] if shard else name)


def _is_judged(path: str) -> bool:
    return _suffix(path) in _WEIGHTS


def _is_weights(path: str) -> bool:
    name = _base(path)
    if _NO_CHECKPOINT.fullmatch(name):
        return False
    return _suffix(name) in _WEIGHTS or _TF_DATA.fullmatch(name) is not None or "snapshot_iter_" in name


def _is_looked_into(folder: str) -> bool:
    return not any(part.lower() in _NONE_BELOW for part in folder.split("/"))


def _above(path: str) -> List[str]:
    """The folders above, the nearest first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _suffix(path: str) -> str:
    return os.path.splitext(_base(path))[1].lower()
