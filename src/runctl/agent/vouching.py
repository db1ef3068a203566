"""Whether a checkpoint is whole: by the formats of its files, and by what its framework writes last.

What vouches for others counts only if it is not older than they are: a save that writes over the one before
leaves that one's mark standing until its end.
"""

from __future__ import annotations

import os
import re
from typing import Callable, Dict, Iterable, Mapping, Optional, Set, Tuple

from . import pickled
from .files import open_regular, read_json
from .formats import verdict
from .kinds import ORBAX, base, is_judged, is_tensorflow_data, is_torn, shard
from .sets import CheckpointSet
from .walk import Found

_MOST_METADATA = 64 * 1024 * 1024
_Times = Mapping[str, int]


def state_of(root: str, one: CheckpointSet, found: Mapping[str, Found]) -> Optional[bool]:
    """True where a format or a rule of its kind vouches for a set, False where one denies it, None where its
    files are whole as far as can be told, but not whether these are all.
    """
    try:
        if any(map(is_torn, one.paths)) or not _has_all_shards(one.paths):
            return False
        verdicts = [verdict(os.path.join(root, path)) for path in one.paths if is_judged(path)]
        if False in verdicts:
            return False
        times = {path: found[path].mtime_ns for path in one.paths if path in found}
        told = [rule(root, one, times) for rule in _RULES]
    except OSError:  # one of them vanished
        return False
    if False in told:
        return False
    if True in told:
        return True
    return verdicts[0] if len(one.paths) == 1 and verdicts and not one.folder else None


def _tensorflow(_root: str, one: CheckpointSet, times: _Times) -> Optional[bool]:
    """The index is written after the data that it names."""
    for index in [path for path in one.paths if path.endswith(".index")]:
        data = [path for path in one.paths if path.startswith(index[: -len("index")] + "data-")]
        if not data or _newest(times, data) > times.get(index, 0):
            return False
        if all(path == index or is_tensorflow_data(path) for path in one.paths):
            return True
    if any(map(is_tensorflow_data, one.paths)) and not any(path.endswith(".index") for path in one.paths):
        return False
    return None


def _torch_distributed(root: str, one: CheckpointSet, times: _Times) -> Optional[bool]:
    """torch DCP moves `.metadata` to its place last, but leaves that of the save before until then.

    Within one tick of the kernel's clock for files it cannot be told which of the two it is.
    """
    shards = [path for path in one.paths if path.endswith(".distcp")]
    is_younger = True
    for folder in {path.rpartition("/")[0] for path in shards}:
        metadata = folder + "/.metadata" if folder else ".metadata"
        own = [path for path in shards if path.rpartition("/")[0] == folder]
        if metadata not in one.paths or times.get(metadata, 0) < _newest(times, own):
            return False
        is_younger = is_younger and times.get(metadata, 0) > _newest(times, own)
        with open_regular(os.path.join(root, metadata)) as file:
            if pickled.is_whole(file, os.fstat(file.fileno()).st_size) is False:
                return False
            file.seek(0)
            told = set(re.findall(rb"__\d+_\d+\.distcp", file.read(_MOST_METADATA)))
        if not told <= {os.fsencode(base(path)) for path in own}:
            return False
    return True if shards and is_younger else None


def _hugging_face(root: str, one: CheckpointSet, times: _Times) -> Optional[bool]:
    """The Trainer writes its state last; what it did not write is not its concern."""
    states = [path for path in one.paths if base(path) == "trainer_state.json"]
    if states:
        state = min(states, key=len)
        first = ("model", "optimizer", "pytorch_", "adapter_model")
        weights = [path for path in one.paths if base(path).startswith(first)]
        is_last = times.get(state, 0) >= _newest(times, weights)
        return is_last and read_json(os.path.join(root, state)) is not None
    names = {base(path) for path in one.paths}
    if "training_args.bin" in names and re.fullmatch(r"checkpoint-\d+", one.name):
        return False
    return None


def _accelerate(_root: str, one: CheckpointSet, times: _Times) -> Optional[bool]:
    """The states of the random generators are written after the weights, and do not say what follows."""
    random = [path for path in one.paths if re.fullmatch(r"random_states_\d+\.pkl", base(path))]
    first = [path for path in one.paths if re.match(r"(?:model|pytorch_model|optimizer)\b", base(path))]
    return False if random and _newest(times, first) > _newest(times, random) else None


def _keras(root: str, one: CheckpointSet, times: _Times) -> Optional[bool]:
    """BackupAndRestore writes its weights, then which epoch they are of, both in place."""
    told = [path for path in one.paths if base(path) == "training_metadata.json"]
    weights = [path for path in one.paths if base(path) == "latest.weights.h5"]
    if not told and not weights:
        return None
    if not told or not weights or times.get(told[0], 0) < times.get(weights[0], 0):
        return False
    return read_json(os.path.join(root, told[0])) is not None


def _orbax(_root: str, one: CheckpointSet, _times: _Times) -> Optional[bool]:
    """It gives a folder its name when all is in it."""
    return True if any(base(path) in ORBAX for path in one.paths) else None


def _pointed_at(root: str, one: CheckpointSet, _times: _Times) -> Optional[bool]:
    """DeepSpeed and Megatron write beside their folders which one is the newest, after it."""
    if not one.folder:
        return None
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


_RULES: Tuple[Callable[[str, CheckpointSet, _Times], Optional[bool]], ...] = (
    _tensorflow,
    _torch_distributed,
    _hugging_face,
    _accelerate,
    _keras,
    _orbax,
    _pointed_at,
)


def _newest(times: _Times, paths: Iterable[str]) -> int:
    return max((times.get(path, 0) for path in paths), default=0)


def _has_all_shards(paths: Iterable[str]) -> bool:
    """`model-00001-of-00003.safetensors` comes with two others."""
    have: Dict[Tuple[str, int], Set[int]] = {}
    for path in paths:
        told = shard(path)
        if told:
            have.setdefault((told[0], told[2]), set()).add(told[1])
    return all(len(numbers) >= count for (_, count), numbers in have.items())
