from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.errors import NotFound, ValidationError
from runctl.events import Event, Progress
from runctl.storage import tree
from runctl.storage.store import (
    FolderStore,
    S3Access,
    Store,
    Transferred,
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
    seen = [(event.task, event.done) for event in told if isinstance(event, Progress) and event.total == 10]
    assert len(seen) == 4
    assert seen[3] == ("up", 10)


def test_a_folder_goes_up_as_it_is(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(40):
        path = source / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * number)
    (source / "link").symlink_to("d0/f3")
    assert upload_folder(source, store, "outputs/") == Transferred(41, sum(range(40)) + 3)
    arrived = {item.key.removeprefix("outputs/"): store.read(item.key) for item in store.list("outputs")}
    assert arrived == _contents(source)


def test_a_link_that_leaves_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("../secret")
    with pytest.raises(ValidationError, match="leads out of"):
        upload_folder(tmp_path / "source", store, "o")
    assert store.list() == []


def test_links_of_a_dataset_are_followed_once_each_has_been_judged(store: Store, tmp_path: Path) -> None:
    blobs, source, judged = tmp_path / "blobs", tmp_path / "source", list[Path]()
    (blobs / "deep").mkdir(parents=True)
    (blobs / "a").write_bytes(b"1")
    (blobs / "deep" / "b").write_bytes(b"2")
    source.mkdir()
    (source / "x.txt").symlink_to("../blobs/a")
    (source / "folder").symlink_to("../blobs/deep")
    (source / "folder_again").symlink_to("folder")
    (source / "round").symlink_to(".")
    (source / "gone").symlink_to("../nowhere")
    upload_folder(source, store, "d", follows=judged.append)
    arrived = {item.key.removeprefix("d/"): store.read(item.key) for item in store.list("d")}
    assert arrived == {"x.txt": b"1", "folder/b": b"2", "folder_again/b": b"2"}
    assert judged == [source / "folder/b", source / "folder_again/b", source / "x.txt"]


def test_no_folder_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        upload_folder(tmp_path / "absent", store, "o")
