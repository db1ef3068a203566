"""Each framework of docs/frameworks.md, as the page has it, interrupted twice in the sandbox."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from frameworks_table import PROPERTY
from interrupted import Failed, Job, Sandbox, steps_in, variables
from page import Framework, frameworks

ENVIRONMENTS = os.environ.get("FRAMEWORKS", "")
"""The folder with an environment for each file of requirements."""
SEED = os.environ.get("SEED", "1")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not ENVIRONMENTS, reason="the frameworks live in environments of their own: make test-frameworks"
    ),
]
ALL = frameworks()


@pytest.fixture(scope="module")
def sandbox_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sandbox]]:
    """A sandbox for each environment, whose machines have its Python."""
    up: dict[str, Sandbox] = {}

    def get(environment: str) -> Sandbox:
        if environment not in up:
            home = tmp_path_factory.mktemp(environment)
            up[environment] = Sandbox(Path(ENVIRONMENTS).resolve() / environment, home)
        return up[environment]

    yield get
    for sandbox in up.values():
        sandbox.down()


def straight(framework: Framework, folder: Path, sandbox: Sandbox) -> str:
    """What the script writes without runctl and without an interruption."""
    folder.mkdir()
    (folder / "train.py").write_text(framework.script)
    command = framework.command or ("python", "train.py")
    done = subprocess.run(
        [sandbox.environment / "bin" / command[0], *command[1:]],
        cwd=folder, env=variables(folder), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def final(output: str) -> str:
    """The numbers with which a script ends."""
    found = re.findall(r"^final (.+)$", output, re.MULTILINE)
    assert len(found) == 1, output
    return found[0]


@pytest.mark.parametrize("framework", [pytest.param(one, id=one.name.replace(" ", "-")) for one in ALL])
def test_it_survives_two_interruptions(
    framework: Framework,
    sandbox_of: Callable[[str], Sandbox],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    sandbox = sandbox_of(framework.environment)
    peaceful = straight(framework, tmp_path / "straight", sandbox)
    whole = steps_in(peaceful)
    draw = random.Random(f"{SEED} {framework.name}")
    moments = [
        draw.randint(whole[-1] * low // 100, whole[-1] * high // 100) for low, high in ((12, 35), (50, 70))
    ]

    project = tmp_path / "interrupted"
    project.mkdir()
    (project / "train.py").write_text(framework.script)
    job = Job(sandbox, project, framework.command)
    try:
        for number, moment in enumerate(moments, 1):
            job.interrupt(number, moment)
        job.wait()
    except Failed:
        job.end()
        raise
    report = job.report()
    outputs = [job.output(number) for number in range(1, len(report["attempts"]) + 1)]
    runs = [steps for steps in map(steps_in, outputs) if steps]
    # An attempt that was interrupted after its last step leaves the next one nothing to name.
    cut = [steps[-1] for steps in runs[:-1]]
    resumed = [steps[0] - 1 for steps in runs[1:]]
    lost = [at - to for at, to in zip(cut, resumed, strict=True)]
    equal = final(outputs[-1]) == final(peaceful)
    record_property(
        PROPERTY,
        (
            framework.name,
            framework.version,
            framework.every,
            "saves" if framework.saves else "-",
            ", ".join(map(str, cut)),
            ", ".join(map(str, resumed)),
            ", ".join(map(str, lost)),
            "yes" if equal else f"no: {final(outputs[-1])}, in peace {final(peaceful)}",
        ),
    )

    assert report["state"] == "succeeded"
    assert report["interruptions"] == 2
    assert len(runs) == 3, outputs
    assert runs[-1][-1] == whole[-1]
    assert all(0 <= steps <= framework.most_lost for steps in lost), lost
    assert report["steps_lost"] == sum(lost)
    assert not any(attempt["began_anew"] for attempt in report["attempts"])
    numbers, wanted = final(outputs[-1]), final(peaceful)
    if framework.same:
        assert numbers == wanted
    else:  # it was trained to its end, and not from new weights
        assert [float(one) for one in numbers.split()] == pytest.approx(
            [float(one) for one in wanted.split()], rel=0.2
        )
