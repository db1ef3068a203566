"""What docs/frameworks.md says of each framework: its script, how to start it, what interruptions cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/frameworks.md"
REQUIREMENTS = {name: ROOT / f"requirements/frameworks-{name}.txt" for name in ("torch", "others")}
"""By the name of the environment below .frameworks that is made from it."""
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_SCRIPT = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^runctl train .* -- (.+)$", re.MULTILINE)


class Framework(NamedTuple):
    """`every` and `most_lost`, by an interruption, count steps. `saves`: on SIGTERM. `same`: resumed, it
    ends with the numbers of an uninterrupted run. `command` is empty if `script` is run as it is.
    """

    name: str
    package: str
    version: str
    every: int
    saves: bool
    most_lost: int
    same: bool
    environment: str
    script: str
    command: tuple[str, ...]


def frameworks() -> list[Framework]:
    """In the order of the page's table, which has a section for each of its rows."""
    text = PAGE.read_text()
    places = [*_SECTION.finditer(text)]
    ends = [*(place.start() for place in places[1:]), len(text)]
    sections = {place.group(1): text[place.end() : end] for place, end in zip(places, ends, strict=True)}
    found: list[Framework] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| [") or len(cells) != 5:
            continue
        name = cells[0][1:].partition("]")[0]
        package, version = cells[1].split()
        every = int(cells[2].split()[0])
        script = _SCRIPT.search(sections[name])
        command = _COMMAND.search(sections[name])
        assert script is not None, f"no script for {name}"
        found.append(
            Framework(
                name=name,
                package=package,
                version=version,
                every=every,
                saves=cells[3].startswith("yes"),
                most_lost={"yes": 0, "yes, one step before its last": 1, "no": every}[cells[3]],
                same=cells[4] == "yes",
                environment=environment_of(package, version),
                script=script.group(1),
                command=tuple(command.group(1).split()) if command else (),
            )
        )
    return found


def environment_of(package: str, version: str) -> str:
    """Where the requirements pin this package to this version."""
    named = [
        name for name, file in REQUIREMENTS.items() if f"{package}=={version}" in file.read_text().split()
    ]
    assert len(named) == 1, f"{package} {version} is pinned by {named}"
    return named[0]
