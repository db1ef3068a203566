"""What a job's script said of a metric, by step: in its files of the newest snapshot, and in its log."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runctl.agent.snapshot import TREES, Entry
from runctl.errors import TrainctlError
from runctl.jobs import checkpoints, proven
from runctl.jobs.place import Place
from runctl.safety import metrics
from runctl.storage.objects import TooLarge

LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is read for its metrics, and of what is read of the log."""
MOST_FILES = 50
_TELLS = re.compile(
    r"(?:.*/)?(?:trainer_state[.]json|[^/]*(?:metric|log|result|history|progress|eval|train)[^/]*[.](?:csv|tsv|jsonl?|txt|log))",
    re.IGNORECASE,
)


def measured(place: Place, seal: str, attempts: int, metric: str) -> dict[int, float]:
    """By step. What cannot be read tells nothing."""
    return metrics.values([*_log(place, attempts), *_files(place, seal)], metric)


def _files(place: Place, seal: str) -> Iterator[str]:
    """Of several states of a Trainer the one of the newest step comes last."""
    try:
        newest = checkpoints.newest(place, seal)
    except TrainctlError:
        return
    if newest is None or not newest.ours:
        return
    fit = [one for one in newest.files(*TREES) if _TELLS.fullmatch(one.path) and one.size <= LARGEST]
    for entry in sorted(fit, key=lambda one: one.mtime)[-MOST_FILES:]:
        if (data := _read(place, entry)) is not None:
            yield data.decode("utf-8", "replace")


def _read(place: Place, entry: Entry) -> bytes | None:
    data = bytearray(entry.size)

    def take(at: int, piece: bytes) -> None:
        data[at : at + len(piece)] = piece

    try:
        for stretch in proven.stretches(entry):
            proven.receive(place.store, proven.key_of(entry, place.commits()), stretch, take)
    except TrainctlError:
        return None
    return bytes(data)


def _log(place: Place, attempts: int) -> Iterator[str]:
    """The newest part of each attempt's log, the newest attempt's last."""
    for number in range(1, attempts + 1):
        pieces, left = list[bytes](), LARGEST
        try:
            keys = sorted((item.key, item.size) for item in place.store.list(f"attempt-{number}/log/"))
            for key, size in reversed(keys):
                left -= size
                if left < 0:
                    break
                pieces.insert(0, place.store.read(key, largest=LARGEST))
        except (TrainctlError, TooLarge):
            continue
        yield b"".join(pieces).decode("utf-8", "replace")
