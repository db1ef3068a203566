"""Setting one value in a file, with its comments kept."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

from runctl.config.checking import check, flatten, line_of, parse, place
from runctl.config.sources import read, text_of
from runctl.errors import ConfigError
from runctl.links import refuse_brought


def set_value(path: Path, key: str, text: str, *, dry_run: bool = False, users: bool = False) -> Any:
    """Set one key in a file and keep its comments; answers the value. `dry_run` checks alone.

    A user's own file (`users`) may be reached by any link, such as into a repository of such files. Raises
    ConfigError for a key or value that is none, or a file that is no TOML, ValidationError for a link.
    """
    import tomlkit

    value = check(key, text, "", strict=False)
    before = text_of(path, read(path)) if path.is_file() else ""
    for other, found in flatten(parse(path, before)):
        check(other, found, place(path, line_of(before, other)))
    if not users:
        refuse_brought(path)
    if dry_run:
        return value
    document = tomlkit.parse(before)
    *tables, leaf = key.split(".")
    inner: Any = document
    for table in tables:
        if table not in inner:
            inner[table] = tomlkit.table()
        inner = inner[table]
    if isinstance(value, tuple):
        value = list[Any](value)  # pyright: ignore[reportUnknownArgumentType]
    inner[leaf] = float(value) if isinstance(value, Decimal) else value
    try:
        _replace(path, tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written", why=error.strerror or str(error)) from error
    return value


def _replace(path: Path, text: str) -> None:
    """All or nothing: a full disk leaves the old file as it was."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        if target.exists():
            fresh.chmod(target.stat().st_mode & 0o777)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
