"""Which modules a script imports that neither Python nor its own project has: read, never run."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_MOST_FILES = 200
_LARGEST = 1024 * 1024
_OTHER_NAMES = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "git": "gitpython",
    "lightning_fabric": "lightning",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "pytorch_lightning": "pytorch-lightning",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
"""Modules that are called otherwise than the package that has them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def third_party(script: Path, root: Path) -> dict[str, str]:
    """Top-level modules that a script needs from elsewhere, and the file that imports each first.

    Modules of the project are followed; an import that is tried (`try: import x`) counts for nothing.
    """
    found: dict[str, str] = {}
    waiting, seen = [script], set[Path]()
    while waiting and len(seen) < _MOST_FILES:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        for module in _imported(path):
            name = module.partition(".")[0]
            if name in sys.stdlib_module_names or name == "__future__":
                continue
            own = [*_own_files(module, path.parent), *_own_files(module, script.parent)]
            own = own or [*_own_files(module, root), *_own_files(module, root / "src")]
            if own:
                waiting += own
            elif name not in found:
                found[name] = path.name
    return found


def package_of(module: str) -> str:
    """The name under which a module is listed, as package indexes normalise it."""
    return normalised(_OTHER_NAMES.get(module, module))


def listed(requirement: str) -> str:
    """The package that a line of a list names, normalised; "" for an option."""
    match = _NAME.match(requirement)
    return normalised(match[0]) if match else ""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > _LARGEST:
            return
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the script's own Python will say it
    tried = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in tried:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _own_files(module: str, folder: Path) -> list[Path]:
    """The files of the project that an import runs; empty if it is none of its modules."""
    top = folder / module.partition(".")[0]
    if not (top.is_dir() or top.with_suffix(".py").is_file()):
        return []
    path = folder.joinpath(*module.split("."))
    near = [path.with_suffix(".py"), path / "__init__.py", top / "__init__.py"]
    return [one for one in near if one.is_file()] or [top]
