"""The trees of a job that are kept: where each lies, and what in it is none of the script's work."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Container, Dict, List, NamedTuple, Optional, Tuple

from .files import read_json, write_atomically
from .snapshot import CHECKPOINTS, OUTPUTS, WORK
from .walk import Found, walk

KEEP_WRITTEN = 50 * 1024**3
"""Bytes of the working folder that are kept where the spec does not say."""

INCOMING = ".incoming-"
"""How the folders begin into which a snapshot is fetched before its files get their names."""

_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
_MADE_AGAIN = frozenset(
    [
        *("__pycache__", ".git", ".hg", ".svn", ".jj", ".runctl", ".venv", "node_modules", "site-packages"),
        *(".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".tox", ".nox"),
        *(".eggs", ".triton", ".torch_compile", "torchinductor_cache"),
    ]
)
"""Folders of a working folder whose files come again by themselves: caches, environments, histories."""
_ASIDE = re.compile(r".*\.corrupt-[0-9]+")
_CACHE_TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir
_BUNDLE_FILES = "bundle-files.json"


class Stamp(NamedTuple):
    """What tells two states of a file apart without reading it; size in bytes, times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp_of(found: Found) -> Stamp:
    return Stamp(found.size, found.mtime_ns, found.ctime_ns, found.inode)


class Tree:
    """One tree on this machine. `most` is how many bytes of it are kept at most, None for all."""

    def __init__(self, name: str, root: str, apart: Tuple[str, ...] = (), most: Optional[int] = None) -> None:
        """`apart` are folders below the root that are trees of their own."""
        self.name = name
        self.root = os.path.abspath(root)
        self.most = most
        self._apart = frozenset(os.path.abspath(path) for path in apart) - {self.root}
        self._not_ours: Dict[str, Tuple[int, int]] = {}

    def look(self) -> List[Found]:
        """What lies in it now that the script made or changed, in order of path."""
        found = walk(self.root, self._is_skipped)
        if not self._not_ours:
            return found
        return [
            one
            for one in found
            if self._not_ours.get(one.path) != (one.size, one.mtime_ns) or one.kind == "other"
        ]

    def leave_to_others(self, files: Dict[str, Tuple[int, int]]) -> None:
        """Files that are none of the script's work as long as size and modification time (ns) are these."""
        self._not_ours.update(files)

    def leave_what_lies_there(
        self, before: Optional[float] = None, but: Container[str] = frozenset()
    ) -> None:
        """What lies there now is none of the script's; with `before`, what is older (seconds since 1970)."""
        self.leave_to_others(
            {
                one.path: (one.size, one.mtime_ns)
                for one in self.look()
                if one.path not in but and (before is None or one.mtime_ns < before * 1e9)
            }
        )

    def is_others(self, path: str) -> bool:
        """Whether the file lies here as it was before the script."""
        try:
            about = os.lstat(os.path.join(self.root, path))
        except OSError:
            return False
        return self._not_ours.get(path) == (about.st_size, about.st_mtime_ns)

    def _is_skipped(self, path: str, entry: os.DirEntry[str]) -> bool:
        name = entry.name
        if name.startswith(INCOMING) or _ASIDE.fullmatch(name):
            return True
        if entry.path in self._apart:
            return True
        if self.name != WORK:
            return False
        if name in _MADE_AGAIN or name.endswith(".pyc") or path == ".runctl-bundle":
            return True
        return entry.is_dir(follow_symlinks=False) and _comes_again(entry.path)


def _comes_again(folder: str) -> bool:
    return any(os.path.lexists(os.path.join(folder, name)) for name in (*_ENVIRONMENTS, _CACHE_TAG))


def trees_of(attempt: Any, mirrors: bool) -> List[Tree]:
    """Those of an attempt. A local job's outputs and working folder stay where they are."""
    spec = attempt.spec
    checkpoints, outputs = attempt.in_job(spec["checkpoint_dir"]), attempt.in_job(spec["output_dir"])
    trees = [Tree(CHECKPOINTS, checkpoints, (outputs,) if _is_below(outputs, checkpoints) else ())]
    if not mirrors:
        return trees
    if os.path.abspath(outputs) != os.path.abspath(checkpoints):
        trees.append(Tree(OUTPUTS, outputs, (checkpoints,)))
    most = int(KEEP_WRITTEN if spec.get("keep_written") is None else spec["keep_written"])
    if spec.get("bundle") and most > 0:
        trees.append(Tree(WORK, attempt.in_job("code"), (checkpoints, outputs), most))
    return trees


def _is_below(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.abspath(folder) + os.sep)


def note_bundle_files(job_folder: str, code: str) -> None:
    """Remember what came with the code, which was just unpacked. Raises OSError."""
    files = {one.path: (one.size, one.mtime_ns) for one in walk(code) if one.kind != "other"}
    data = json.dumps(files).encode()  # a name that is no UTF-8 has its bytes in surrogates
    write_atomically(os.path.join(job_folder, _BUNDLE_FILES), data)


def bundle_files(job_folder: str) -> Dict[str, Tuple[int, int]]:
    """Size and modification time (ns) of each file that came with the code."""
    told = read_json(os.path.join(job_folder, _BUNDLE_FILES)) or {}
    return {path: (int(about[0]), int(about[1])) for path, about in told.items()}
