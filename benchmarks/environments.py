"""What a second attempt saves: an environment with PyTorch installed, kept, and brought back.

`python -m benchmarks.environments [REQUIREMENT...]` installs with uv if there is one on PATH, and with pip,
each from an empty cache, into a home of its own; the store is a folder of this machine.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runctl.agent.environment import prepare
from runctl.agent.kept_environment import Keeper, restore
from runctl.agent.store import FolderStore

GOAL = 0.15
_KEY = "00" * 32


def measure(requirements: list[str], installer: str) -> float:
    """The share of the first preparation that the second takes; prints the seconds of each."""
    with tempfile.TemporaryDirectory(prefix="runctl-bench-") as folder:
        home, store = Path(folder, "home"), FolderStore(str(Path(folder, "store")))
        Path(folder, "store").mkdir()
        home.mkdir()
        os.environ["UV_CACHE_DIR"] = os.environ["PIP_CACHE_DIR"] = str(Path(folder, "cache"))
        needs = {"kind": "requirements", "requirements": requirements, "digest": "bench"}
        log = str(Path(folder, "log"))

        def prepared() -> tuple[float, Path]:
            begun = time.monotonic()
            chosen = prepare(
                needs,
                str(home),
                log,
                restore=lambda place: restore(store, _KEY, str(home), place, print),
            )
            if chosen.python is None:
                raise SystemExit("this Python has all of it already: there is nothing to measure")
            return time.monotonic() - begun, Path(chosen.python).parent.parent

        first, made = prepared()
        begun, cpu = time.monotonic(), time.process_time()
        _keeper(store, home, made, print).keep()
        print(
            f"{installer}: kept in {time.monotonic() - begun:.1f} s, {time.process_time() - cpu:.1f} s of CPU"
        )
        shutil.rmtree(home)
        home.mkdir()
        second, _ = prepared()
        print(f"{installer}: first {first:.1f} s, second {second:.1f} s, {second / first:.2f} (goal {GOAL})")
        return second / first


def _keeper(store: FolderStore, home: Path, made: Path, tell: Callable[[str], None]) -> Keeper:
    return Keeper(store, _KEY, str(home), str(made), lambda: True, lambda: False, tell)


def main() -> None:
    wanted = sys.argv[1:] or ["torch==2.13.0"]
    if shutil.which("uv"):
        measure(wanted, "uv")
        folders = os.environ["PATH"].split(os.pathsep)
        os.environ["PATH"] = os.pathsep.join(one for one in folders if not os.access(f"{one}/uv", os.X_OK))
    measure(wanted, "pip")


if __name__ == "__main__":
    main()
