"""The shipped file, the Pythons that must run it, and what it needs of a machine."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import runctl.agent
from runctl.agent import archive
from runctl.agent.bundle import _extract
from runctl.agent.environment import prepare
from runctl.agent.failures import StoreRefused

MODULES = sorted(Path(runctl.agent.__file__).parent.glob("*.py"))
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]


def interpreter(version: str) -> str | None:
    found = shutil.which("python" + version)
    for path in sorted((Path.home() / ".pyenv/versions").glob(version + ".*/bin/python3")):
        found = str(path)
    if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    return None


def test_the_same_sources_give_the_same_bytes():
    assert archive.build() == archive.build()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_every_module_is_python_38_and_standard_library(module):
    tree = ast.parse(module.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names, name


@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_runs_an_attempt_on_every_python(machine, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    attempt = machine.attempt(
        "import os, pathlib; pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR'], 'step-3.txt').write_text('x')"
    )
    subprocess.run(
        [python, machine.agent, "run", attempt.folder / "spec.json"], env=machine.environment, check=True
    )
    assert attempt.state["cause"] == "finished"
    assert attempt.state["committed"]["step"] == 3


def test_the_start_of_a_local_script_imports_nothing_slow(machine):
    attempt = machine.attempt("print(1)")
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runctl.agent", "run", attempt.folder / "spec.json"],
        env={**machine.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    imported = {line.rpartition("|")[2].strip() for line in shown.splitlines()}
    assert not imported & {
        "ssl",
        "http.client",
        "urllib.request",
        "xml.etree.ElementTree",
        "asyncio",
        "msgspec",
    }


def add(tar: tarfile.TarFile, name: str, link: str = "", kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    tar.addfile(info, io.BytesIO(b""))


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/evil", "", tarfile.REGTYPE)],
        [("../evil", "", tarfile.REGTYPE)],
        [("a/../../evil", "", tarfile.REGTYPE)],
        [("link", "/etc", tarfile.SYMTYPE)],
        [("link", "../..", tarfile.SYMTYPE)],
        [("hard", "../x", tarfile.LNKTYPE)],
        [("a", ".", tarfile.SYMTYPE), ("a/b", "..", tarfile.SYMTYPE), ("b/evil", "", tarfile.REGTYPE)],
        [("pipe", "", tarfile.FIFOTYPE)],
    ],
)
def test_a_bundle_that_would_leave_its_folder_is_refused(tmp_path, members):
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for member in members:
            add(tar, *member)
    with tarfile.open(tmp_path / "b.tar") as tar, pytest.raises(StoreRefused):
        _extract(tar, str(tmp_path / "code"))
    assert not (tmp_path / "evil").exists()


def test_a_bundle_with_links_inside_is_unpacked(tmp_path):
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        add(tar, "src/a.py")
        add(tar, "src/b.py", "a.py", tarfile.SYMTYPE)
    with tarfile.open(tmp_path / "b.tar") as tar:
        _extract(tar, str(tmp_path / "code"))
    assert (tmp_path / "code/src/b.py").resolve() == tmp_path / "code/src/a.py"


def wants(*requirements: str, python: str | None = None) -> dict[str, object]:
    return {
        "kind": "requirements",
        "requirements": list(requirements),
        "requires_python": python,
        "digest": "d",
    }


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    own = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{own}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(
    "wanted",
    [
        wants(),
        wants("numpy>=2"),
        wants("hypothesis", python=">=3.9"),
        wants("moto[s3]"),
        wants("x; python_version<'3'"),
    ],
)
def test_a_python_that_has_everything_is_used_as_it_is(home, wanted):
    assert prepare(wanted, str(home), str(home / "log")).python is None


def test_a_good_answer_is_remembered_until_packages_change(home, monkeypatch):
    from runctl.agent import environment

    prepare(wants("numpy>=2"), str(home), str(home / "log"))
    asked: list[object] = []
    original = environment.probe
    monkeypatch.setattr(environment, "probe", lambda *given: (asked.append(given), original(*given))[1])
    prepare(wants("numpy>=2"), str(home), str(home / "log"))
    assert asked == []
    remembered = home / "environments/d.ok"
    changed = json.loads(remembered.read_text())
    changed["packages"] = dict.fromkeys(changed["packages"], 1)
    remembered.write_text(json.dumps(changed))
    prepare(wants("numpy>=2"), str(home), str(home / "log"))
    assert len(asked) == 1


@pytest.mark.parametrize("wanted", [wants("numpy<1"), wants("no-such-package"), wants("numpy", python="<3")])
def test_what_is_not_there_is_installed_with_uv_and_reused(home, monkeypatch, wanted):
    """A stand-in for uv makes a virtual environment's shape; what counts is what it is asked for."""
    programs = home / "bin"
    programs.mkdir()
    uv = programs / "uv"
    uv.write_text(
        f'#!/bin/sh\necho "$@" >> {home}/asked\n'
        'if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python3"; fi\n'
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    made = prepare(wanted, str(home), str(home / "log")).python
    assert made == str(home / "environments/d/bin/python3")
    asked = (home / "asked").read_text().splitlines()
    assert asked[0].startswith("venv")
    assert asked[1].split()[:2] == ["pip", "install"]
    assert prepare(wanted, str(home), str(home / "log")).python == made
    assert len((home / "asked").read_text().splitlines()) == 2


def test_an_installation_that_fails_says_why(machine):
    uv = machine.root / "bin/uv"
    uv.write_text("#!/bin/sh\necho 'no matching version of frobnicate' >&2; exit 1\n")
    uv.chmod(0o755)
    state = machine.attempt("print(1)", python=wants("frobnicate")).run()
    assert (state["cause"], state["step_name"]) == ("prepare-failed", "environment")
    assert "no matching version of frobnicate" in state["message"]
