"""The machine's Python: which is used, and what is said where none will do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from runctl.agent import environment, interpreters
from runctl.agent.environment import EnvironmentFailed, prepare
from runctl.agent.interpreters import meets, probe

_NO_PIP = """#!{python}
# A Python as plain Amazon Linux 2023 has it: no packages, and nothing that could get them.
import os, sys
bare = {bare!r}
given = sys.argv[1:]
if given[:1] == ["-I"]:
    given = given[1:]
if given[:1] == ["-c"]:
    given[1] = bare + given[1]
if given[:2] == ["-m", "venv"]:
    sys.exit("ensurepip is not available" if "--without-pip" not in given else 0)
os.execv({python!r}, [{python!r}, "-I", "-S", *given])
"""
_BARE = """
import importlib.util as _util
_find = _util.find_spec
_util.find_spec = lambda name, *more: None if name in {missing!r} else _find(name, *more)
"""
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """PATH holds nothing but what a test puts there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(interpreters, "OF_IMAGES", (str(tmp_path / "opt/pytorch/bin/python"),))
    return tmp_path


def a_python(path: Path, *, missing: tuple[str, ...] = (), version: str = "") -> None:
    """A Python without packages, without the modules `missing`, that claims a version."""
    bare = _BARE.format(missing=missing)
    if version:
        numbers = tuple(map(int, version.split(".")))
        bare += f"\nimport sys; sys.version_info = {numbers!r} + ('final', 0)\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(sys.executable)
    path.write_text(_NO_PIP.format(python=real, bare=bare))
    path.chmod(0o755)


def wants(*requirements: str, python: str | None = None, **more: object) -> dict[str, object]:
    return {
        "kind": "requirements",
        "requirements": list(requirements),
        "requires_python": python,
        "digest": "d",
        **more,
    }


def prepared(machine: Path, needs: dict[str, object]) -> environment.Chosen:
    return prepare(needs, str(machine), str(machine / "log"))


def test_a_python_without_pip_is_not_told_as_one_that_is_too_old(machine):
    """Amazon Linux 2023 was told `needs Python >=3.9, and there is no uv to get it`, with 3.9 in place."""
    a_python(machine / "bin/python3", missing=("pip", "ensurepip"), version="3.9.18")
    with pytest.raises(EnvironmentFailed) as failed:
        prepared(machine, wants("numpy", python=">=3.9"))
    assert "3.9.18) has neither pip nor ensurepip, and there is no uv: numpy" in str(failed.value)
    assert "needs Python" not in str(failed.value)


def test_a_python_without_pip_suffices_if_only_its_version_is_asked_for(machine):
    a_python(machine / "bin/python3", missing=("pip", "ensurepip", "venv"), version="3.9.18")
    assert prepared(machine, wants(python=">=3.9,<4")).python is None


def test_a_machine_without_python3_is_told_as_that(machine):
    with pytest.raises(EnvironmentFailed, match="there is no python3 on PATH, and no uv"):
        prepared(machine, wants("numpy", python=">=3.9"))


def test_a_python_that_cannot_run_is_told_in_its_own_words(machine):
    (machine / "bin/python3").write_text("#!/bin/sh\necho 'libpython is gone' >&2\nexit 127\n")
    (machine / "bin/python3").chmod(0o755)
    with pytest.raises(EnvironmentFailed, match="cannot be run: libpython is gone"):
        prepared(machine, wants("numpy"))


def test_a_python_that_is_too_old_is_told_with_its_version(machine):
    a_python(machine / "bin/python3", version="3.9.18")
    with pytest.raises(EnvironmentFailed, match=r"needs Python >=3\.10; here is .*\(Python 3\.9\.18\)"):
        prepared(machine, wants("numpy", python=">=3.10"))


def test_an_unreadable_version_is_told_as_that(machine):
    a_python(machine / "bin/python3")
    with pytest.raises(EnvironmentFailed, match="'newest' is no version of Python"):
        prepared(machine, wants("numpy", python="newest"))


def test_an_environment_is_made_of_another_python_that_is_there(machine):
    """`python3` is 3.9, but the machine has a newer one by its number."""
    a_python(machine / "bin/python3", version="3.9.18")
    (machine / f"bin/python{HERE}").symlink_to(os.path.realpath(sys.executable))
    chosen = prepared(machine, {**wants(python=">=3.10"), "requirements": []})
    made = subprocess.run([str(chosen.python), "--version"], capture_output=True, text=True, check=True)
    assert made.stdout.split()[1].startswith(HERE)


def test_the_images_own_python_is_used_if_it_suffices(machine):
    a_python(machine / "bin/python3", missing=("pip", "ensurepip"))
    own = machine / "opt/pytorch/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    own.chmod(0o755)
    assert prepared(machine, wants("numpy>=1", version="3.9")).python == str(own)
    assert prepared(machine, wants("numpy>=1")).told.endswith("it has all that the script needs")
    no_list = {"kind": "none", "imports": ["numpy"], "digest": ""}
    assert prepared(machine, no_list).python == str(own)
    assert prepared(machine, {**no_list, "imports": ["json"]}).python is None


def test_a_python_of_another_version_than_the_users_is_not_taken_silently(machine):
    """It has all packages, but the user's code was written for another Python."""
    own = machine / "bin/python3"
    own.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    own.chmod(0o755)
    (machine / "bin/uv").write_text(
        f'#!/bin/sh\necho "$@" >>{machine}/asked\n[ "$1" = pip ] && exit 0\nfor last; do :; done\n'
        f'[ "$4" = {own} ] && exec /bin/mkdir "$last"\necho "no download found for 3.9" >&2; exit 2\n'
    )
    (machine / "bin/uv").chmod(0o755)
    assert prepared(machine, wants("numpy>=1", version=HERE)).python is None
    chosen = prepared(machine, wants("numpy>=1", version="3.9", digest="e"))
    assert "Python 3.9 could not be had: no download found for 3.9" in chosen.told
    asked = (machine / "asked").read_text().splitlines()
    assert asked[0].startswith("venv --quiet --python 3.9 ")
    assert asked[1].startswith(f"venv --quiet --python {own}")
    assert asked[2].startswith("pip install")
    assert asked[2].endswith(" numpy>=1")


def test_a_password_in_an_index_is_not_repeated(machine):
    (machine / "bin/uv").write_text("#!/bin/sh\necho 'no route to https://me:hunter2@host/x' >&2\nexit 1\n")
    (machine / "bin/uv").chmod(0o755)
    with pytest.raises(EnvironmentFailed) as failed:
        prepared(machine, wants("numpy"))
    assert "https://host/x" in str(failed.value)
    assert "hunter2" not in str(failed.value)


_VERSION = st.lists(st.integers(0, 13), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
_CLAUSE = st.one_of(
    st.tuples(st.sampled_from([">=", "<=", "<", ">", "==", "!="]), _VERSION).map("".join),
    st.tuples(st.sampled_from(["==", "!="]), _VERSION).map(lambda pair: f"{pair[0]}{pair[1]}.*"),
    _VERSION.filter(lambda text: "." in text).map(lambda text: f"~={text}"),
)


@given(
    version=st.tuples(st.just(3), st.integers(0, 20), st.integers(0, 20)).map(
        lambda parts: ".".join(map(str, parts))
    ),
    clauses=st.lists(_CLAUSE, max_size=3),
)
def test_a_version_is_judged_as_packaging_judges_it(version, clauses):
    specifier = " , ".join(clauses)
    assert meets(version, specifier) == SpecifierSet(",".join(clauses)).contains(version)


def test_a_probe_says_what_is_missing():
    assert probe(sys.executable, ["numpy<1"]).lacks.startswith("numpy is ")
    assert probe(sys.executable, ["no-such-thing-7"]).lacks == "no-such-thing-7 is not installed"
    assert probe(sys.executable, imports=["no_such_thing"]).lacks == "no_such_thing is not installed"
    assert probe(sys.executable, ["./local"]).lacks == "only an installer understands './local'"
    assert probe(sys.executable, ["numpy"]).packages
