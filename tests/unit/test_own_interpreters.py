"""Programs of ours take no modules of the folder that they are started in: it may be a cloned repository."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runctl

SOURCE = Path(runctl.__file__).parent
RUNCTL = str(Path(sys.executable).parent / "runctl")
TAKEN = (
    "json.py",
    "argparse.py",
    "fcntl.py",
    "moto.py",
    "msgspec.py",
    "runctl/__init__.py",
    "venv.py",
    "re.py",
)


def starts() -> list[tuple[str, ast.List]]:
    """Every command in the source that starts Python by a module's name."""
    return [
        (f"{path.relative_to(SOURCE)}:{node.lineno}", node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List) and "'-m'" in (words := ast.unparse(node)) and "nsenter" not in words
    ]


def test_every_module_that_we_start_is_looked_for_outside_the_working_directory() -> None:
    found = starts()
    assert {place.partition(":")[0] for place, _ in found} >= {
        "agent/environment.py",
        "providers/local.py",
        "sandbox/launcher.py",
    }
    for place, command in found:
        words = ast.unparse(command)
        assert any(word in words for word in ("'-P'", "'-I'", "*safe")), f"{place}: {words}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder whose modules tell when they are imported."""
    folder = tmp_path / "repository"
    for name in TAKEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(tmp_path / 'taken')!r}, 'a').write(__file__ + '\\n')\n")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "train.py").write_text(
        '# /// script\n# dependencies = ["msgspec"]\n# ///\nprint("ran")\n'
    )
    return folder


def in_it(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNCTL_", "AWS_"))}
    clean |= {"RUNCTL_HOME": str(repository.parent / "home"), "HOME": str(repository.parent)}
    return subprocess.run(
        [RUNCTL, *arguments],
        cwd=repository,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_local_run_takes_no_module_of_the_repository(repository: Path) -> None:
    done = in_it(repository, "train", "scripts/train.py")
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout
    assert not (repository.parent / "taken").exists(), (repository.parent / "taken").read_text()


@pytest.mark.slow
def test_the_sandbox_takes_no_module_of_the_repository(repository: Path) -> None:
    try:
        up = in_it(repository, "sandbox", "up")
        assert up.returncode == 0, up.stderr
    finally:
        in_it(repository, "sandbox", "down")
    assert not (repository.parent / "taken").exists(), (repository.parent / "taken").read_text()
