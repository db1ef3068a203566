"""Which Python a job will have, what its list comes to, and what the plan says of both."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from runctl.agent import pip_settings
from runctl.agent.carried_uv import fetch_uv
from runctl.agent.failures import StoreRefused
from runctl.agent.store import FolderStore
from runctl.errors import NotFound, ValidationError
from runctl.jobs import imports, locking, pythons, uv
from runctl.jobs.script import inspect
from runctl.jobs.spec import JobSpec, PythonSpec

LOCK = (
    "numpy==2.4.6 \\\n    --hash=sha256:"
    + "a" * 64
    + "\nsix==1.17.0 \\\n    --hash=sha256:"
    + "b" * 64
    + "\n"
)
_NO_SOLUTION = "  × No solution found when resolving dependencies:\n  ╰─▶ "


def a_wheel(cache: Path, program: str = "#!/bin/sh\nexit 0\n") -> Path:
    """A wheel of uv with the program that a test wants."""
    path = cache / "x86_64/uv-9.9-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("uv-9.9.data/scripts/uv", program)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, and a uv that does what a test writes into `uv.sh`."""
    root = tmp_path / "project"
    root.mkdir()
    (root / ".git").mkdir()
    a_wheel(tmp_path / "cache")
    monkeypatch.setattr(uv, "here", lambda _cache=None: str(tmp_path / "uv.sh"))
    says(tmp_path, LOCK)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(pip_settings, "_FILES", ())
    return root


def says(folder: Path, text: str, *, error: str = "") -> None:
    (folder / "out").write_text(text)
    (folder / "err").write_text(error)
    lines = [
        f'echo "$@" >>{folder}/asked',
        f"cat {folder}/out",
        f"cat {folder}/err >&2",
        f"exit {bool(error):d}",
    ]
    (folder / "uv.sh").write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / "uv.sh").chmod(0o755)


def decided(root: Path, text: str, *, on: str = "aws", architectures=("x86_64",)) -> pythons.Decision:
    (root / "train.py").write_text(text)
    script = inspect("train.py", (), cwd=root)
    needs = script.python
    spec = JobSpec(
        name="train",
        on=on,
        root=str(script.root),
        workdir=".",
        command=script.command,
        python=PythonSpec(
            kind=needs.kind,
            requirements=needs.requirements,
            requires_python=needs.requires_python,
            digest=needs.digest,
        ),
    )
    cache = root.parent / "cache"
    return pythons.decide(spec, architectures, own_version=lambda _root: "3.11", cache=cache)


def test_a_script_without_a_list_is_told_so_and_warned_of_what_it_imports(project):
    (project / "model.py").write_text("import torch.nn\nimport os\n")
    decision = decided(project, "import sys, model\ntry:\n    import apex\nexcept ImportError:\n    pass\n")
    assert decision.told == "the machine's python3: no list of requirements"
    assert decision.warnings == ("torch is imported by model.py and not listed: only an image may have it",)
    assert decision.python.imports == ("torch",)


def test_a_list_is_resolved_before_a_machine_is_bought(project):
    (project / "requirements.txt").write_text("numpy\n")
    decision = decided(project, "import numpy, six, sklearn\n")
    assert decision.told == (
        "3.11, as here; 2 packages from requirements.txt, made by uv unless the image has them"
    )
    assert decision.warnings == ("sklearn is imported by train.py and not listed: only an image may have it",)
    asked = (project.parent / "asked").read_text()
    assert "--python-version 3.11 --no-build --python-platform x86_64-manylinux_2_28" in asked
    told = pythons.for_machine(decision.python, "x86_64")
    assert told["lock"] == LOCK
    assert told["uv"] == {
        "key": decision.python.carried[0].key,
        "sha256": hashlib.sha256(a_wheel(project.parent / "cache").read_bytes()).hexdigest(),
    }
    other = pythons.for_machine(decision.python, "arm64")
    assert other["lock"] == ""
    assert other["digest"] != told["digest"]


def test_a_conflict_is_an_error_before_any_money_is_spent(project):
    (project / "requirements.txt").write_text("numpy<2\nnumpy>2\n")
    said = _NO_SOLUTION + "Because you require numpy<2 and\n      numpy>2, no.\n"
    says(project.parent, "", error=said)
    with pytest.raises(ValidationError, match=r"cannot be met with Python 3\.11") as failed:
        decided(project, "")
    assert failed.value.why == "Because you require numpy<2 and numpy>2, no."


@pytest.mark.parametrize(
    "said",
    [
        "error: Failed to fetch: `https://me:hunter2@host/simple/`\n  Caused by: dns error\n",
        _NO_SOLUTION + "Because p has no usable wheels and building source distributions is disabled\n",
    ],
)
def test_what_cannot_be_resolved_here_is_left_to_the_machine(project, said):
    (project / "requirements.txt").write_text("numpy\n")
    says(project.parent, "", error=said)
    decision = decided(project, "")
    assert decision.python.locks == ()
    assert "the requirements are resolved on the machine" in decision.warnings[0]
    assert "hunter2" not in decision.warnings[0]


def test_packages_of_this_computer_are_not_promised_to_a_machine(project, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/opt/wheels")
    (project / "requirements.txt").write_text("numpy\n")
    decision = decided(project, "")
    assert decision.python.locks == ()
    assert "folder of this computer" in decision.warnings[0]
    assert decided(project, "", on="sandbox").python.locks


@pytest.mark.parametrize(
    "line", ["--index-url=https://me:hunter2@host/simple", "pkg @ https://me:hunter2@host/p.whl"]
)
def test_an_address_with_a_password_does_not_get_into_a_spec(project, line):
    (project / "requirements.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(ValidationError, match="password") as failed:
        decided(project, "")
    assert "hunter2" not in f"{failed.value} {failed.value.why}"


def test_settings_of_pip_hold_for_uv_and_never_stand_in_its_arguments(project, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:hunter2@host/simple")
    (project / "requirements.txt").write_text("numpy\n")
    assert decided(project, "").python.locks
    assert "hunter2" not in (tmp_path / "asked").read_text()
    assert pip_settings.for_uv(os.environ)["UV_DEFAULT_INDEX"] == "https://me:hunter2@host/simple"
    assert pip_settings.for_uv({"UV_INDEX": "x", "PIP_INDEX_URL": "y"}) == {}


@pytest.mark.parametrize(
    ("requires", "version"),
    [(None, "3.11"), (">=3.9", "3.11"), (">=3.12", "3.12"), ("<3.10", "3.9"), ("==3.8.*", "3.8"), ("<3", "")],
)
def test_the_users_own_version_is_wanted_unless_the_script_says_otherwise(requires, version):
    assert pythons.wanted_version("3.11", requires) == version


def test_the_version_here_is_that_of_python3_in_the_project(tmp_path, monkeypatch):
    program = tmp_path / "python3"
    program.write_text("#!/bin/sh\necho 3.12\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pythons.version_here(tmp_path) == "3.12"


def test_without_pip_and_network_the_plan_says_that_uv_is_not_carried(project, monkeypatch):
    monkeypatch.setattr(uv, "_pip", lambda: None)
    (project / "requirements.txt").write_text("numpy\n")
    decision = decided(project, "", architectures=("arm64",))
    assert decision.python.carried == ()
    assert "uv is not carried to the machine (there is no pip here)" in decision.warnings[0]
    with pytest.raises(NotFound):
        uv.wheel_for("riscv64", project.parent / "cache")


def test_a_machine_believes_only_the_uv_that_its_spec_names(tmp_path):
    wheel = a_wheel(tmp_path / "cache")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    store = FolderStore(str(wheel.parent))
    program = fetch_uv({"key": wheel.name, "sha256": digest}, store, str(tmp_path / "home"))
    assert program is not None
    assert os.access(program, os.X_OK)
    with pytest.raises(StoreRefused, match="checksum differs"):
        fetch_uv({"key": wheel.name, "sha256": "0" * 64}, store, str(tmp_path / "home"))
    assert fetch_uv({"key": "gone", "sha256": "1" * 64}, store, str(tmp_path / "home")) is None
    assert fetch_uv(None, store, str(tmp_path)) is None
    broken = a_wheel(tmp_path / "other", "#!/bin/sh\nexit 1\n")
    digest = hashlib.sha256(broken.read_bytes()).hexdigest()
    store = FolderStore(str(broken.parent))
    assert fetch_uv({"key": broken.name, "sha256": digest}, store, str(tmp_path / "home")) is None


def test_imports_are_read_and_never_run(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/deep.py").write_text("import yaml\n")
    (tmp_path / "train.py").write_text(
        "raise SystemExit\nimport pkg.deep\nfrom . import x\nimport cv2 as c\n"
    )
    found = imports.third_party(tmp_path / "train.py", tmp_path)
    assert found == {"cv2": "train.py", "yaml": "deep.py"}
    assert imports.package_of("cv2") == "opencv-python"
    assert imports.listed("Scikit_Learn[all]>=1 ; x") == "scikit-learn"
    assert imports.listed("--index-url=x") == ""
    (tmp_path / "train.py").write_text("import (\n")
    assert imports.third_party(tmp_path / "train.py", tmp_path) == {}


def test_one_sentence_has_no_signs_and_no_password():
    assert locking.one_sentence("error: a\n  │ b https://u:p@h/x\n") == "a b https://h/x"
