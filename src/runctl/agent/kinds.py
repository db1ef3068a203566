"""What a file or a folder of a tree is, as far as its name tells."""

from __future__ import annotations

import os
import re
from typing import Optional, Tuple

from .progress import step_of_name

_WEIGHTS = re.compile(
    r"\.(?:pt|pth|ckpt|bin|safetensors|npz|npy|keras|h5|hdf5|pkl|pickle|joblib|dill|cloudpickle|ubj|msgpack"
    r"|index|distcp|eqx|pdparams|pdopt|pdstate|params|states|caffemodel|solverstate|model|tar|orbax|cbm"
    r"|cbsnapshot|lgb|bst|onnx|gguf|zip|nemo|pt2|gz|bz2|xz)"
)
"""Suffixes of files in which training is saved."""
_AS_OFTEN_DATA = re.compile(
    r"\.(?:npy|npz|pkl|pickle|joblib|h5|hdf5|zip|tar|gz|bz2|xz|bin|model|index|msgpack|params|onnx|gguf)"
)
"""Those of them in which a script's own folder has its data just as well."""
_NEVER = re.compile(
    r"\.(?:csv|tsv|log|md|rst|py|pyc|ipynb|sh|html?|css|js|png|jpe?g|gif|svg|pdf|mp4|wav|toml|ini|cfg|ya?ml|jsonl"
    r"|out|err|pid|lock|tmp|part|partial|wandb|c|cpp|h|so|parquet|arrow|feather|tfrecord|sqlite|db)"
)
"""Suffixes of code, logs, pictures, settings and tables."""
_TEXT = frozenset([".json", ".txt", ".xml", ""])

_NO_CHECKPOINT = re.compile(
    r"training_args\.bin|tokenizer.*|special_tokens_map.*|vocab\..*|merges\.txt|added_tokens.*|readme.*|license.*"
    r"|.*config.*\.json|(?:hparams|args|metrics|history|evals|losses|loss|scores)(?:\.[a-z]+)?|results?\..*"
    r"|(?:.*[-_.])?logs?(?:[-_][^.]*)?(?:\.txt|\.json)?|std(?:out|err).*|events\.out\.tfevents.*|requirements.*"
    r"|profile[^.]*(?:\.json|\.txt)?|commit_success\.txt|zero_to_fp32\.py|(?:latest|last)(?:_[a-z_]*)?(?:\.txt)?|latest_checkpoint.*\.txt|checkpoint",
    re.IGNORECASE,
)
_NONE_BELOW = frozenset(
    [
        *("wandb", "mlruns", "data", "dataset", "datasets", "raw"),
        *("cache", "logs", "tokenizer", "profile", "catboost_info"),
    ]
)
"""Names of folders in which no checkpoint is looked for."""

_STEP_FOLDER = re.compile(
    r"(?:.*[-_.])?(?:checkpoint|ckpt|chkpt|global_?step|step|iter|iteration|epoch|snapshot|save)"
    r"[-_=.]?\d+(?:[-_.=].*)?",
    re.IGNORECASE,
)
_SAVE_FOLDER = re.compile(
    r"(?:.*[-_.])?(?:last|latest|best|final|current|previous|state|checkpoint|ckpt|snapshot|backup)",
    re.IGNORECASE,
)
ORBAX = frozenset(["_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "_sharding"])
_MARKS = re.compile(
    r"trainer_state\.json|\.metadata|mp_rank_\d+.*|(?:bf16_|fp16_)?zero_pp_rank_.*|random_states_\d+\.pkl"
    r"|.*\.distcp|(?:model\.safetensors|pytorch_model\.bin)\.index\.json|model-\d+-of-\d+\.safetensors"
    r"|distrib_optim\.pt|training_metadata\.json|saved_model\.pb|" + "|".join(map(re.escape, sorted(ORBAX)))
)
_LEAST = re.compile(
    r"(?:.*[-_.])?(?:best|final|ema|swa|pretrained|init|initial|prev|previous|old|bak|bkp|backup)(?![a-z]).*|.*~",
    re.IGNORECASE,
)
_LESS = re.compile(r"(?:.*[-_.])?(?:model|weights|optim\w*|sched\w*|recipe_state)(?![a-z]).*", re.IGNORECASE)
_APART = re.compile(
    r"(?:.*[-_.])?(?P<word>best|last|latest|final|prev|previous|old|bak|bkp|backup)(?![a-z]).*", re.IGNORECASE
)
_SAYS_SO = re.compile(r"(?:^|[-_.=/])(?:checkpoint|ckpt|chkpt|snapshot)s?(?![a-z])", re.IGNORECASE)
_VERSION = re.compile(r"-v\d+(?=\.[a-z0-9]+$)", re.IGNORECASE)
_COMPANION = re.compile(
    r"model|net|weight|param|optim|sched|scaler|rng|random"
    r"|gen(?:erator)?(?![a-z])|disc(?:riminator)?(?![a-z])|(?<![a-z])[gd](?![a-z])|actor"
    r"|critic|policy|value|encoder|decoder|backbone|head|teacher|student|state|trainer|amp",
    re.IGNORECASE,
)
_COMPANION_TEXT = re.compile(
    r"(?:.*[-_.])?(?:train\w*|trainer|state|progress|meta(?:data)?|resume|step|epoch|iteration|counter|rng|position)"
    r"(?:[-_].*)?\.(?:json|txt)",
    re.IGNORECASE,
)
_SECOND = re.compile(
    r"optim|sched|scaler|rng|random|replay|buffer|normaliz|\.pdopt|\.pdstate|\.states", re.IGNORECASE
)
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)?", re.IGNORECASE)
_TF_DATA = re.compile(r"(?P<stem>.*)\.data-\d{5}-of-\d{5}")
_OF_A_PROCESS = re.compile(
    r"[-_.]?(?:rank|gpu|worker|node|shard|part|host|proc(?:ess)?)[-_.=]?\d+", re.IGNORECASE
)
_TORN = re.compile(
    r"incomplete|\.tmp(?:$|[-_.0-9/])|\.(?:partial|part|crdownload|lock)(?:$|/)|orbax-checkpoint-tmp|\.corrupt-"
    r"|\.tempstate\d*",
    re.IGNORECASE,
)


def base(path: str) -> str:
    return path.rpartition("/")[2]


def suffix(path: str) -> str:
    return os.path.splitext(base(path))[1].lower()


def is_torn(path: str) -> bool:
    """Whether writers use such a name, or that of a folder above, until what has it is whole."""
    return _TORN.search(path) is not None


def is_weights(path: str) -> bool:
    name = base(path)
    if _NO_CHECKPOINT.fullmatch(name):
        return False
    return (
        _WEIGHTS.fullmatch(suffix(name)) is not None
        or name.lower().endswith((".pth.bak", ".pt.bak", ".ckpt.bak"))
        or _TF_DATA.fullmatch(name) is not None
        or "snapshot_iter_" in name
        or (suffix(name) == "" and _STEP_FOLDER.fullmatch(name) is not None)
    )


def may_be_data(path: str) -> bool:
    """Whether such a file is a script's data just as well, for nothing in its name speaks of training."""
    name = base(path)
    return (
        _AS_OFTEN_DATA.fullmatch(suffix(name)) is not None
        and step_of_name(name) is None
        and not _APART.fullmatch(name)
        and not re.search(
            r"model|ckpt|checkpoint|weight|optim|state|snapshot|train|net(?![a-z])", name, re.IGNORECASE
        )
    )


def is_text(name: str) -> bool:
    """Whether it is a checkpoint only where nothing else is one, or belongs to one."""
    return suffix(name) in _TEXT


def may_be_any(name: str) -> bool:
    """Whether it is of a kind that we do not know."""
    return not is_text(name) and _NEVER.fullmatch(suffix(name)) is None


def is_no_checkpoint(name: str) -> bool:
    """Whether files of this name lie beside checkpoints and are none."""
    return _NO_CHECKPOINT.fullmatch(name) is not None


def is_called_checkpoint(path: str) -> bool:
    """Whether a text calls itself one, or has a step and lies in a folder that does: `ckpts/00400.json`."""
    name = base(path)
    return _SAYS_SO.search(name) is not None or (
        step_of_name(name) is not None and _SAYS_SO.search(path) is not None
    )


def is_judged(path: str) -> bool:
    """Whether a file of a checkpoint is worth a look at its format."""
    return suffix(path) in (".json", ".txt") or _WEIGHTS.fullmatch(suffix(path)) is not None


def is_mark(name: str) -> bool:
    """Whether only a checkpoint of several files has such a file in its folder."""
    return _MARKS.fullmatch(name) is not None


def is_looked_into(folder: str) -> bool:
    return not any(part.lower() in _NONE_BELOW for part in folder.split("/"))


def is_step_folder(name: str) -> bool:
    return _STEP_FOLDER.fullmatch(name) is not None


def is_save_folder(name: str) -> bool:
    """`last`, `best`, `state`: a folder that a script writes over, if nothing in it has a step."""
    return _SAVE_FOLDER.fullmatch(name) is not None


def has_companions(name: str) -> bool:
    """Whether one save writes others beside it, though it has no step: `model.pt` and `optimizer.pt`."""
    return _COMPANION.search(name) is not None


def has_others(name: str) -> bool:
    """Whether a name says that others of the same save may come: `G_10.pth`, `step_10_rank0.pt`."""
    return has_companions(name) or _OF_A_PROCESS.search(name) is not None


def may_be_mapped(path: str) -> bool:
    """Whether scripts write over parts of such a file in place, so that its form is good all the time."""
    return suffix(path) in (".npy", ".h5", ".hdf5")


def is_companion_text(name: str) -> bool:
    """Whether it tells what a resume needs beside the weights: `training_state.json`."""
    return _COMPANION_TEXT.fullmatch(name) is not None and not is_no_checkpoint(name)


def apart(name: str) -> str:
    """`best`, `last-v1`: what is saved beside the others in its own time; empty for the others."""
    word, version = _APART.fullmatch(name), _VERSION.search(name)
    return (word["word"].lower() if word else "") + (version.group() if version else "")


def is_second(name: str) -> bool:
    """Whether it holds an optimizer's state or the like, which is not what a resume is given first."""
    return _SECOND.search(name) is not None


def rank(name: str, step: object) -> int:
    """0 for what a script has beside the checkpoints that it resumes from, such as `best.pt`; 2 for those."""
    if _LEAST.fullmatch(name) and (step is None or apart(name) == "best"):
        return 0
    return 1 if step is None and (_LESS.fullmatch(name) or suffix(name) in (".txt", ".xml")) else 2


def stem(name: str) -> str:
    """Without the numbers of shards and processes, and without what TensorFlow adds to its own."""
    found = _TF_DATA.fullmatch(name)
    if found:
        return str(found["stem"])
    found = _SHARD.fullmatch(name)
    if found:
        return str(found["stem"]) + (found["suffix"] or "")
    if name.endswith(".index"):
        return name[: -len(".index")]
    return _OF_A_PROCESS.sub("", name)


def is_tensorflow_data(name: str) -> bool:
    return _TF_DATA.fullmatch(name) is not None


def shard(path: str) -> Optional[Tuple[str, int, int]]:
    """Of one of several files that are one: what they have in common, its number, and how many they are."""
    found = _SHARD.fullmatch(path)
    if found is None:
        return None
    return found["stem"] + (found["suffix"] or ""), int(found["number"]), int(found["count"])
