"""Links that a repository brought: real clones, and every place that writes below a project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl import config
from runctl.errors import ConfigError, ValidationError
from runctl.links import refuse_brought

WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")


def git(*arguments: str | Path) -> None:
    subprocess.run(["git", *WHO, *arguments], check=True, capture_output=True)


def cloned(tmp_path: Path, links: dict[str, str]) -> Path:
    """A clone of somebody's repository with these links."""
    theirs = tmp_path / "theirs"
    git("init", "-q", theirs)
    (theirs / "train.py").touch()
    for name, target in links.items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).symlink_to(target)
    git("-C", theirs, "add", "-A")
    git("-C", theirs, "commit", "-qm", "all")
    git("clone", "-q", theirs, tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_a_link_that_git_tracks_is_refused_with_both_ways_out(tmp_path: Path, outside: Path) -> None:
    clone = cloned(tmp_path, {"results": str(outside)})
    with pytest.raises(ValidationError) as caught:
        refuse_brought(clone / "results" / "a" / "b.txt")
    assert str(clone / "results") in caught.value.what
    assert str(outside) in caught.value.why
    assert f"git rm --cached {clone / 'results'}" in caught.value.next
    git("-C", clone, "rm", "-q", "--cached", "results")
    refuse_brought(clone / "results" / "a")


def test_the_users_own_link_is_followed(tmp_path: Path, outside: Path) -> None:
    clone = cloned(tmp_path, {})
    (clone / "checkpoints").symlink_to(outside)
    refuse_brought(clone / "checkpoints" / "a")
    (outside / "deeper").symlink_to(clone / "new")
    refuse_brought(clone / "checkpoints" / "deeper" / "a")


def test_the_users_own_link_in_place_of_a_folder_of_the_repository_is_followed(
    tmp_path: Path, outside: Path
) -> None:
    clone = cloned(tmp_path, {"checkpoints/keep": "../train.py"})
    (clone / "checkpoints" / "keep").unlink()
    (clone / "checkpoints").rmdir()
    (clone / "checkpoints").symlink_to(outside)
    refuse_brought(clone / "checkpoints" / "a")


@pytest.mark.parametrize(
    ("links", "path"),
    [
        ({"a": "b", "b": "../outside"}, "a/x"),
        ({"a": ".git/hooks"}, "a/pre-commit"),
        ({"a": "sub", "sub/b": "../../outside"}, "a/b/x"),
        ({"file": "../outside/x"}, "file"),
        ({"dangling": "/nowhere/at/all"}, "dangling/x"),
        ({"deep/er/a": "../../../outside"}, "deep/er/../er/a/x"),
    ],
)
def test_it_does_not_matter_how_a_link_of_the_repository_is_reached(
    tmp_path: Path, outside: Path, links: dict[str, str], path: str
) -> None:
    clone = cloned(tmp_path, links)
    with pytest.raises(ValidationError, match="Nothing is written through"):
        refuse_brought(clone / path)
    own = tmp_path / "mine"
    own.symlink_to(clone)
    with pytest.raises(ValidationError, match="Nothing is written through"):
        refuse_brought(own / path)


def test_without_a_repository_a_link_may_not_leave_its_folder(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "unpacked"
    (root / "in").mkdir(parents=True)
    (root / "out").symlink_to(outside)
    (root / "stays").symlink_to("in")
    with pytest.raises(ValidationError, match="Nothing is written through") as caught:
        refuse_brought(root / "out" / "x", root=root)
    assert str(outside) in caught.value.next
    refuse_brought(root / "stays" / "x", root=root)
    refuse_brought(outside / "x", root=root)


def test_where_git_cannot_tell_a_link_may_not_leave_the_repository(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = cloned(tmp_path, {"out": str(outside), "stays": "sub"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValidationError):
        refuse_brought(clone / "out" / "x")
    refuse_brought(clone / "stays" / "x")


def test_reading_may_go_about_in_the_repository_and_not_out_of_it(tmp_path: Path, outside: Path) -> None:
    clone = cloned(tmp_path, {"data": "sets/v1", "sets/v1/x": "../../train.py", "home": str(outside)})
    refuse_brought(clone / "data", reading=True)
    with pytest.raises(ValidationError, match="Nothing is read through"):
        refuse_brought(clone / "home" / ".ssh", reading=True)
    with pytest.raises(ValidationError, match="Nothing is written through"):
        refuse_brought(clone / "data")


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ValidationError, match="leads nowhere"):
        refuse_brought(tmp_path / "a" / "x")


def test_the_repositorys_own_git_settings_start_no_program(tmp_path: Path, outside: Path) -> None:
    """An archive, other than a clone, brings a .git/config, which may name programs that git starts."""
    clone = cloned(tmp_path, {"results": str(outside)})
    proof = tmp_path / "started"
    program = tmp_path / "evil"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n")
    program.chmod(0o755)
    for key in ("core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "diff.external"):
        git("-C", clone, "config", key, str(program))
    subprocess.run(["git", "-C", clone, "status"], capture_output=True, check=False)
    assert proof.exists(), "git itself would have started it"
    proof.unlink()
    with pytest.raises(ValidationError):
        refuse_brought(clone / "results" / "x")
    assert not proof.exists()


def test_the_callers_git_variables_do_not_change_the_word(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = cloned(tmp_path, {"results": str(outside)})
    git("init", "-q", tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "none"))
    with pytest.raises(ValidationError) as caught:
        refuse_brought(clone / "results" / "x")
    assert "git rm --cached" in caught.value.next


NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=20)
@given(
    links=st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=2).map("/".join),
        st.sampled_from(["a", "b", "../a", "../../outside", "../outside", ".", "..", "c/a"]),
        max_size=4,
    ).map(lambda found: {p: t for p, t in found.items() if not any(o.startswith(p + "/") for o in found)}),
    path=st.lists(st.sampled_from(["a", "b", "c", ".."]), min_size=1, max_size=5).map("/".join),
)
def test_what_is_allowed_stays_where_it_says(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str], path: str
) -> None:
    """In a clone no path is allowed whose way the kernel would change by a link of the repository."""
    tmp_path = tmp_path_factory.mktemp("clone")
    (tmp_path / "outside").mkdir()
    clone = cloned(tmp_path, links)
    try:
        refuse_brought(clone / path)
    except ValidationError:
        return
    told = os.path.abspath(clone / path)  # noqa: PTH100 (of the text)
    assert os.path.realpath(told) == told


def test_a_setting_is_not_written_through_a_link_of_the_repository(tmp_path: Path, outside: Path) -> None:
    target = outside / "bashrc"
    target.touch()
    clone = cloned(tmp_path, {".runctl.toml": str(target)})
    with pytest.raises((ValidationError, ConfigError), match="Nothing is written through"):
        config.set_value(clone / ".runctl.toml", "train.spot", "true")
    assert target.read_text() == ""
    config.set_value(clone / ".runctl.toml", "train.spot", "true", users=True)
    assert target.read_text() == "[train]\nspot = true\n"
