from __future__ import annotations

from pathlib import Path

import pytest

from runctl.errors import ValidationError
from runctl.jobs.script import PythonNeeds, inspect

HEADER = """\
#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = [
#   "numpy>=2",  # arrays
#
#   "scikit-learn",
# ]
# ///
print("hello")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src" / "deep").mkdir(parents=True)
    (root / ".runctl.toml").touch()
    (root / "train.py").write_text("print(1)\n")
    (root / "src" / "deep" / "train.py").write_text("print(1)\n")
    return root


def test_a_python_file_runs_with_python(project: Path) -> None:
    script = inspect("train.py", ["--epochs", "5"], cwd=project)
    assert script.kind == "python"
    assert script.command == ("python3", "train.py", "--epochs", "5")
    assert (script.root, script.workdir_in_root) == (project, ".")
    assert script.python == PythonNeeds("none", (), None, "")


@pytest.mark.parametrize(
    ("cwd", "target", "command", "workdir"),
    [
        (".", "src/deep/train.py", "src/deep/train.py", "."),
        ("src", "deep/train.py", "deep/train.py", "src"),
        ("src", "../train.py", "../train.py", "src"),
        ("..", "project/src/deep/train.py", "src/deep/train.py", "."),
        ("/", "{project}/train.py", "train.py", "."),
    ],
)
def test_runs_where_the_user_stands_if_that_is_in_the_project(
    project: Path, cwd: str, target: str, command: str, workdir: str
) -> None:
    script = inspect(target.format(project=project), [], cwd=project / cwd)
    assert script.command == ("python3", command)
    assert (script.root, script.workdir_in_root) == (project, workdir)


def test_an_executable_runs_as_it_is(project: Path) -> None:
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    script = inspect("run.sh", ["x"], cwd=project)
    assert (script.kind, script.command) == ("executable", ("./run.sh", "x"))
    assert inspect(str(project / "run.sh"), [], cwd=project / "src").command == ("../run.sh",)


def test_a_command_runs_as_typed(project: Path) -> None:
    script = inspect(None, ["echo", "a b"], cwd=project / "src")
    assert (script.kind, script.command) == ("command", ("echo", "a b"))
    assert (script.root, script.workdir_in_root) == (project, "src")
    assert script.python.kind == "none"


def test_a_command_with_a_python_file_gets_what_that_needs(project: Path) -> None:
    (project / "train.py").write_text(HEADER)
    assert inspect(None, ["torchrun", "train.py"], cwd=project).python.requirements == (
        "numpy>=2",
        "scikit-learn",
    )


def test_a_script_that_is_a_link_stays_where_it_is_named(project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").touch()
    (project / "link.py").symlink_to(tmp_path / "elsewhere.py")
    script = inspect("link.py", [], cwd=project)
    assert (script.root, script.command) == (project, ("python3", "link.py"))


def test_the_pep_723_header_comes_first(project: Path) -> None:
    (project / "train.py").write_text(HEADER)
    (project / "requirements.txt").write_text("torch\n")
    needs = inspect("train.py", [], cwd=project).python
    assert (needs.kind, needs.requirements, needs.requires_python) == (
        "pep723",
        ("numpy>=2", "scikit-learn"),
        ">=3.9",
    )


def test_an_empty_header_asks_for_nothing(project: Path) -> None:
    (project / "train.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    (project / "requirements.txt").write_text("torch\n")
    assert inspect("train.py", [], cwd=project).python == PythonNeeds()


def test_windows_line_ends_are_read(project: Path) -> None:
    (project / "train.py").write_bytes(HEADER.replace("\n", "\r\n").encode())
    assert inspect("train.py", [], cwd=project).python.requirements == ("numpy>=2", "scikit-learn")


def test_another_block_is_no_header(project: Path) -> None:
    (project / "train.py").write_text(HEADER.replace("/// script", "/// other"))
    assert inspect("train.py", [], cwd=project).python == PythonNeeds()


def test_the_nearest_list_of_requirements_counts(project: Path) -> None:
    (project / "requirements.txt").write_text("far\n")
    (project / "pyproject.toml").write_text('[project]\nname = "p"\ndependencies = ["farther"]\n')
    (project / "src" / "requirements.txt").write_text("near  # a comment\n\n# nothing\n")
    needs = inspect("src/deep/train.py", [], cwd=project).python
    assert (needs.kind, needs.requirements) == ("requirements", ("near",))
    assert inspect("train.py", [], cwd=project).python.requirements == ("far",)


def test_requirements_above_the_project_do_not_count(project: Path) -> None:
    (project.parent / "requirements.txt").write_text("stranger\n")
    assert inspect("train.py", [], cwd=project).python == PythonNeeds()


def test_requirements_files_are_read_as_pip_reads_them(project: Path) -> None:
    (project / "more.txt").write_text("six==1.17 --hash=sha256:abc\n")
    (project / "requirements.txt").write_text(
        "-r more.txt\n--extra-index-url https://example.org/simple\nnumpy \\\n  >=2 \\\n  --hash=sha256:0\n"
        'pkg @ https://example.org/p.whl#sha256=1\ntomli; python_version < "3.11"\n'
    )
    assert inspect("train.py", [], cwd=project).python.requirements == (
        "six==1.17",
        "--extra-index-url=https://example.org/simple",
        "numpy >=2",
        "pkg @ https://example.org/p.whl#sha256=1",
        'tomli; python_version < "3.11"',
    )


@pytest.mark.parametrize(
    "line", ["-e .", "./wheels/x.whl", "-r absent.txt", "-r requirements.txt", "-c limits.txt"]
)
def test_requirements_that_cannot_travel_are_told_with_their_line(project: Path, line: str) -> None:
    (project / "requirements.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(ValidationError) as caught:
        inspect("train.py", [], cwd=project)
    assert f"{project / 'requirements.txt'}, line 2" in caught.value.why


def test_the_projects_own_dependencies_count(project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[project]\nname = "p"\nrequires-python = ">=3.11"\ndependencies = ["a", "b>1"]\n'
    )
    needs = inspect("train.py", [], cwd=project).python
    assert (needs.kind, needs.requirements, needs.requires_python) == ("pyproject", ("a", "b>1"), ">=3.11")


def test_the_digest_names_what_is_needed(project: Path) -> None:
    digests: set[str] = set()
    for text in ("a\n", "b\n", "a\nb\n", "# twice\na\n"):
        (project / "requirements.txt").write_text(text)
        digests.add(inspect("train.py", [], cwd=project).python.digest)
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("# first\n# /// script\n# dependencies = [\n#   numpy\n# ]\n# ///\n", 4, "Invalid value"),
        ("# /// script\n# dependencies = [\n# ///\n", 2, "Invalid value"),
        ('# /// script\n# dependencies = "numpy"\n# ///\n', 2, "list of strings"),
        ("# /// script\n# requires-python = 3\n# ///\n", 2, "must be a string"),
        ("# /// script\n# a = 1\n# ///\nx\n# /// script\n# a = 1\n# ///\n", 5, "second"),
    ],
)
def test_a_broken_header_is_told_with_file_and_line(project: Path, text: str, line: int, why: str) -> None:
    (project / "train.py").write_text(text)
    with pytest.raises(ValidationError) as caught:
        inspect("train.py", [], cwd=project)
    assert f"{project / 'train.py'}, line {line}: " in caught.value.why
    assert why in caught.value.why


def test_a_broken_pyproject_is_told_with_file_and_line(project: Path) -> None:
    (project / "pyproject.toml").write_text("[project]\nname = \n")
    with pytest.raises(ValidationError) as caught:
        inspect("train.py", [], cwd=project)
    assert f"{project / 'pyproject.toml'}, line 2: " in caught.value.why


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("trian.py", "train.py"),
        ("src/deep/tran.py", "src/deep/train.py"),
        ("zzz", None),
        ("no/such/x.py", None),
    ],
)
def test_a_missing_script_is_told_with_the_nearest(project: Path, target: str, near: str | None) -> None:
    with pytest.raises(ValidationError, match="No such script") as caught:
        inspect(target, [], cwd=project)
    assert (f"did you mean {near}?" == caught.value.next) if near else ("mean" not in caught.value.next)


def test_what_cannot_run_is_refused(project: Path) -> None:
    (project / "data.csv").touch()
    with pytest.raises(ValidationError, match="not executable") as caught:
        inspect("data.csv", [], cwd=project)
    assert "chmod +x" in caught.value.next
    with pytest.raises(ValidationError, match="is a folder"):
        inspect("src", [], cwd=project)
    for words in ([], [""], ["  "]):
        with pytest.raises(ValidationError, match="nothing to run"):
            inspect(None, words, cwd=project)


@pytest.mark.parametrize(
    "listed",
    [{"requirements.txt": "-r ../private.txt\n"}, {"requirements.txt": "-r {outside}\n"}, {}],
    ids=["up", "whole path", "link"],
)
def test_what_a_project_asks_for_is_never_read_outside_of_it(tmp_path: Path, listed: dict[str, str]) -> None:
    """Its lines go to the machine, and to whichever index the project names."""
    root = tmp_path / "clone"
    root.mkdir()
    outside = tmp_path / "private.txt"
    outside.write_text("my-secret-token\n")
    (root / "pyproject.toml").touch()
    (root / "train.py").touch()
    for name, text in listed.items():
        (root / name).write_text(text.format(outside=outside))
    if not listed:
        (root / "requirements.txt").symlink_to(outside)
    with pytest.raises(ValidationError, match="Cannot read what requirements") as caught:
        inspect("train.py", (), cwd=root)
    assert f"{outside} is not in the project" in caught.value.why
