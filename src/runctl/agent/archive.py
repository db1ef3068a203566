"""The agent as one file: a zip that Python runs, the same bytes for the same sources."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_PACKAGE = "runctl_agent"
_START = f"from {_PACKAGE}.main import main\n\nmain()\n"
_DATE = (1980, 1, 1, 0, 0, 0)


def build() -> bytes:
    """The file that is shipped to machines; runnable as `python3 agent.py`, whatever its name."""
    folder = Path(__file__).parent
    modules = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    contents = {f"{_PACKAGE}/{name}": text for name, text in modules.items() if name != "archive.py"}
    contents["__main__.py"] = _START
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(contents.items()):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return buffer.getvalue()
