"""The one walk through a tree: what lies there by its kind, and why something cannot travel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.agent.walk import Found, walk


def kinds(root: Path) -> dict[str, str]:
    return {found.path: found.kind for found in walk(str(root))}


def one(root: Path, path: str) -> Found:
    (found,) = [found for found in walk(str(root)) if found.path == path]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def test_files_and_empty_folders_are_found_in_the_order_of_their_paths(root: Path) -> None:
    for path in ("b/2", "b/10", "a.txt", "a/x", "a0"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(b"abc")
        (root / path).chmod(0o640)
    (root / "empty").mkdir()
    found = walk(str(root))
    assert [one.path for one in found] == ["a.txt", "a/x", "a0", "b/10", "b/2", "empty"]
    assert [one.kind for one in found] == ["file"] * 5 + ["folder"]
    about = (root / "b/2").stat()
    assert one(root, "b/2") == Found(
        "b/2", "file", 3, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev, 0o640
    )


def test_there_is_nothing_where_there_is_no_folder(root: Path) -> None:
    assert walk(str(root / "none")) == []


@pytest.mark.parametrize(
    ("at", "text", "target"),
    [
        ("last", "epoch=5.ckpt", "epoch=5.ckpt"),
        ("deep/last", "../epoch=5.ckpt", "../epoch=5.ckpt"),
        ("last", "never/was", "never/was"),
        ("last", ".", "."),
        ("deep/last", "ROOT/epoch=5.ckpt", "../epoch=5.ckpt"),
        ("deep/last", "ROOT/never/was", "../never/was"),
        ("last", "../tree/epoch=5.ckpt", "epoch=5.ckpt"),
        ("last", "ALIAS/deep", "deep"),
        ("folder", "deep", "deep"),
    ],
)
def test_a_link_that_stays_inside_is_a_link_with_a_relative_target(
    root: Path, at: str, text: str, target: str
) -> None:
    (root / "deep").mkdir()
    (root / "deep/file").write_bytes(b"")
    (root / "epoch=5.ckpt").write_bytes(b"5")
    (root.parent / "alias").symlink_to(root)
    (root / at).symlink_to(text.replace("ROOT", str(root)).replace("ALIAS", str(root.parent / "alias")))
    found = one(root, at)
    assert (found.kind, found.target, found.fault) == ("link", target, "")
    again = root.parent / "again" / at
    again.parent.mkdir(parents=True)
    (root.parent / "again/deep").mkdir(exist_ok=True)
    (root.parent / "again/epoch=5.ckpt").write_bytes(b"5")
    again.symlink_to(found.target)
    assert again.exists() == (root / at).exists()


def test_a_root_that_is_reached_by_a_link_keeps_its_links(root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "last").symlink_to(root.parent / "alias/a")
    (root.parent / "alias").symlink_to(root)
    assert one(root.parent / "alias", "last").target == "a"


def test_a_link_to_a_file_outside_is_that_file(root: Path) -> None:
    outside = root.parent / "outside"
    outside.write_bytes(b"12345")
    (root / "weights").symlink_to(outside)
    found = one(root, "weights")
    assert (found.kind, found.size, found.inode) == ("file", 5, outside.stat().st_ino)
    assert found.target == str(outside)


def test_what_cannot_travel_is_named_and_never_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "to_pipe").symlink_to(root.parent / "pipe")
    os.mkfifo(root.parent / "pipe")
    (root / "to_folder").symlink_to("/usr")
    (root / "to_nothing").symlink_to("/no/such/place")
    (root / "round").symlink_to("round")
    (root / "to_device").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        found = {one.path: one for one in walk(str(root))}
    assert {one.kind for one in found.values()} == {"other"}
    assert {path: one.fault for path, one in found.items()} == {
        "pipe": "a named pipe",
        "round": "a link that leads nowhere",
        "socket": "a socket",
        "to_device": "a link to a device",
        "to_folder": "a link to a folder outside",
        "to_nothing": "a link that leads nowhere",
        "to_pipe": "a link to a named pipe",
    }


def test_any_name_that_the_system_allows_is_found(root: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b"tab\t", "ü".encode(), b" ", b"\\", b"-rf", b"*"]
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
    assert sorted(os.fsencode(found.path) for found in walk(str(root))) == sorted(names)


AS_NOBODY = """
import json, os, sys
from runctl.agent.walk import walk
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps([[found.path, found.kind, found.fault] for found in walk(sys.argv[1])]))
"""


def test_what_may_not_be_read_is_named_and_the_rest_is_found() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good").write_bytes(b"x")
        (folder / "closed").write_bytes(b"x")
        (folder / "closed").chmod(0)
        (folder / "locked").mkdir(0o700)
        (folder / "locked").chmod(0 if os.getuid() else 0o700)
        command = [sys.executable, "-c", AS_NOBODY]
        done = subprocess.run([*command, name], capture_output=True, text=True, check=True, timeout=60)
        alone = subprocess.run(
            [*command, str(folder / "locked")], capture_output=True, text=True, check=True, timeout=60
        )
        (folder / "locked").chmod(0o700)
    assert json.loads(done.stdout) == [
        ["closed", "other", "it cannot be read"],
        ["good", "file", ""],
        ["locked", "other", "it cannot be read: Permission denied"],
    ]
    assert json.loads(alone.stdout) == [[".", "other", "it cannot be read: Permission denied"]]


def test_what_is_skipped_is_not_looked_into(root: Path) -> None:
    (root / "__pycache__").mkdir()
    (root / "__pycache__/a.pyc").write_bytes(b"")
    (root / "src/__pycache__").mkdir(parents=True)
    (root / "model.pt").write_bytes(b"")
    asked: list[str] = []

    def skip(path: str, entry: os.DirEntry[str]) -> bool:
        asked.append(path)
        return entry.name == "__pycache__"

    assert [(found.path, found.kind) for found in walk(str(root), skip)] == [
        ("model.pt", "file"),
        ("src", "folder"),
    ]
    assert "__pycache__/a.pyc" not in asked


def test_what_vanishes_meanwhile_is_left_out(root: Path) -> None:
    for path in ("a", "b/inner", "c/inner", "d"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(b"")

    def skip(path: str, _entry: os.DirEntry[str]) -> bool:
        if path == "a":
            (root / "b/inner").unlink()
            (root / "b").rmdir()
            (root / "c/inner").unlink()
            (root / "c").rmdir()
            (root / "c").write_bytes(b"now a file")
            (root / "d").unlink()
        return False

    found = {one.path for one in walk(str(root), skip)}
    assert found == {"a"}


names = st.sampled_from(["a", "b", "a.b", "-", "0", "é", "\udcff"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), st.sampled_from(["file", "folder"]))))
def test_a_tree_is_found_whole_and_sorted(parts: list[tuple[list[str], str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        expected: dict[str, str] = {}
        for path, kind in parts:
            whole = Path(name, *path)
            try:
                (whole if kind == "folder" else whole.parent).mkdir(parents=True, exist_ok=True)
                if kind == "file":
                    whole.write_bytes(b"")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        for whole, folders, files in os.walk(name):
            below = os.path.relpath(whole, name)
            expected |= {os.path.normpath(f"{below}/{file}"): "file" for file in files}
            if not folders and not files and below != ".":
                expected[below] = "folder"
        assert [(one.path, one.kind) for one in walk(name)] == sorted(expected.items())
