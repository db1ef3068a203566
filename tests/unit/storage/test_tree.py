from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runctl.errors import NotFound, TransferError, ValidationError
from runctl.events import Event, Notice, Progress
from runctl.storage import tree
from runctl.storage.store import (
    FolderStore,
    S3Access,
    Store,
    Transferred,
    download_prefix,
    open_store,
    upload_folder,
)


@pytest.fixture(params=["folder", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, access: S3Access, new_bucket: Callable[[], str]
) -> Store:
    return (
        FolderStore(tmp_path / "store")
        if request.param == "folder"
        else open_store(new_bucket(), "p", access)
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_how_far_it_is_is_told_to_the_last_byte(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_TELL_SECONDS", -1.0)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1, 5):
        (source / f"f{number}").write_bytes(b"x" * number)
    told: list[Event] = []
    upload_folder(source, store, "", task="up", emit=told.append)
    download_prefix(store, "", tmp_path / "target", task="down", emit=told.append)
    seen = [(event.task, event.done) for event in told if isinstance(event, Progress) and event.total == 10]
    assert len(seen) == 8
    assert seen[3] == ("up", 10)
    assert seen[7] == ("down", 10)


def test_a_folder_goes_up_and_comes_down_the_same(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(40):
        path = source / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * number)
    (source / "link").symlink_to("d0/f3")
    assert upload_folder(source, store, "outputs/") == Transferred(41, sum(range(40)) + 3)
    assert download_prefix(store, "outputs", tmp_path / "target") == Transferred(41, sum(range(40)) + 3)
    assert _contents(tmp_path / "target") == _contents(source)


def test_an_empty_prefix_makes_an_empty_folder(store: Store, tmp_path: Path) -> None:
    assert download_prefix(store, "none", tmp_path / "target") == Transferred(0, 0)
    assert (tmp_path / "target").is_dir()


def test_a_link_that_leaves_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("../secret")
    with pytest.raises(ValidationError, match="leads out of"):
        upload_folder(tmp_path / "source", store, "o")
    assert store.list() == []


def test_no_folder_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        upload_folder(tmp_path / "absent", store, "o")


def test_a_download_does_not_follow_a_link_out_of_the_target(store: Store, tmp_path: Path) -> None:
    store.write("o/a", b"1")
    store.write("o/link/stolen", b"2")
    (tmp_path / "elsewhere").mkdir()
    (target := tmp_path / "target").mkdir()
    (target / "link").symlink_to(tmp_path / "elsewhere")
    told: list[Event] = []
    assert download_prefix(store, "o", target, emit=told.append).files == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (target / "a").read_bytes() == b"1"
    [notice] = [one.text for one in told if isinstance(one, Notice)]
    assert "o/link/stolen" in notice
    assert "leads to" in notice


def test_a_console_folder_mark_is_no_file(
    boto: Any, access: S3Access, new_bucket: Callable[[], str], tmp_path: Path
) -> None:
    bucket = new_bucket()
    boto.put_object(Bucket=bucket, Key="set/", Body=b"")
    boto.put_object(Bucket=bucket, Key="set/sub/", Body=b"")
    boto.put_object(Bucket=bucket, Key="set/sub/x", Body=b"1")
    assert download_prefix(open_store(bucket, "", access), "set", tmp_path / "t") == Transferred(1, 1)
    assert _contents(tmp_path / "t") == {"sub/x": b"1"}


def test_the_first_failure_is_raised(store: Store, tmp_path: Path) -> None:
    for number in range(30):
        store.write(f"o/f{number}", b"1")
    (target := tmp_path / "target").mkdir()
    (target / "f7").mkdir()  # a folder where a file must go
    with pytest.raises(TransferError):
        download_prefix(store, "o", target)


def test_a_key_that_can_be_no_file_is_named_and_the_rest_arrives(
    boto: Any, access: S3Access, new_bucket: Callable[[], str], tmp_path: Path
) -> None:
    bucket = new_bucket()
    odd = [
        "a//b",
        "/a",
        "a/../b",
        "a/./b",
        "../up",
        "tail/",
        "n" * 1000,
        "esc\x1b[2J",
        "c1\x9b",
        "t\u202e",
    ]
    for key in [*odd, "good", "a/good", "both", "both/inner"]:
        boto.put_object(Bucket=bucket, Key=f"job/outputs/{key}", Body=b"1")
    told: list[Event] = []
    done = download_prefix(open_store(bucket, "job", access), "outputs", tmp_path / "t", emit=told.append)
    assert done == Transferred(3, 3)
    assert _contents(tmp_path / "t") == {"good": b"1", "a/good": b"1", "both/inner": b"1"}
    notices = [event.text for event in told if isinstance(event, Notice)]
    assert len(notices) == len(odd) + 1
    for key in [*odd, "both"]:
        assert sum(text.startswith(f"{f'outputs/{key}'!r} was left") for text in notices) == 1, key
