"""The files of a folder here, as the objects of a bucket are looked at and removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from runctl.agent import formats
from runctl.agent.walk import walk
from runctl.errors import NotFound, TransferError
from runctl.links import refuse_brought
from runctl.storage.entries import Entry
from runctl.storage.objects import too_large


class FolderObjects:
    """Files below `root`. One that a link in the folder leads to is not shown: it has another name in use."""

    bucket = prefix = ""

    def __init__(self, root: Path) -> None:
        """Raises NotFound."""
        if not root.is_dir():
            raise NotFound(f"There is no folder {root}")
        self.root = root

    def entries(self) -> Iterator[Entry]:
        found = walk(str(self.root))
        led_to = {str((self.root / one.path).resolve()) for one in found if one.kind == "link"}
        for one in found:
            whole = str((self.root / one.path).resolve())
            above = {str(parent) for parent in Path(whole).parents}
            if one.kind == "file" and not one.target and whole not in led_to and not led_to & above:
                yield Entry(one.path, one.size, one.mtime_ns)

    def read(self, key: str, *, largest: int) -> bytes:
        """Raises NotFound, TooLarge."""
        try:
            with (self.root / key).open("rb") as file:
                data = file.read(largest + 1)
        except OSError as error:
            raise NotFound(f"There is no {key}", why=str(error)) from None
        if len(data) > largest:
            raise too_large(key, len(data), largest)
        return data

    def verdict(self, key: str) -> bool | None:
        """Whether a file is whole by its format, None where it cannot tell."""
        return formats.verdict(str(self.root / key))

    def remove(self, keys: list[str]) -> None:
        """Remove files, and the folders that are empty then. Idempotent. Raises TransferError."""
        refuse_brought(self.root)
        for key in keys:
            path = self.root / key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise TransferError(f"{path} cannot be removed", why=error.strerror or str(error)) from error
            for folder in path.parents:
                if folder == self.root:
                    break
                with contextlib.suppress(OSError):  # something lies there yet
                    folder.rmdir()
