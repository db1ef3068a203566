from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runctl.errors import Conflict, TransferError, ValidationError
from runctl.storage.objects import PARTIAL_PREFIX, partial_file
from runctl.storage.store import FolderStore


def test_readers_see_one_write_or_the_other_never_a_mix(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("state", b"a" * 100_000)
    torn: list[bytes] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if len(set(store.read("state"))) != 1:
                torn.append(b"x")

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(60):
        store.write("state", bytes([97 + number % 2]) * 100_000)
    over.set()
    watcher.join()
    assert torn == []


def test_one_of_many_creators_wins(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    won: list[int] = []

    def create(number: int) -> None:
        try:
            store.write("lock", str(number).encode(), if_absent=True)
        except Conflict:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.read("lock")] == [str(number).encode() for number in won]


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(ValidationError):
        FolderStore(tmp_path / "root").write("link/x", b"")


def test_a_half_written_file_is_not_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("whole", b"1")
    (tmp_path / ".runctl-partial-0123").write_bytes(b"half")
    assert [item.key for item in store.list()] == ["whole"]


def test_no_partial_file_stays_after_a_failure(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(TransferError):
        store.write("taken", b"x")
    with pytest.raises(TransferError):
        store.upload(tmp_path / "absent", "y")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_a_killed_writer_left_is_gone_with_the_next_write(tmp_path: Path) -> None:
    """And what a living one writes, here or on another host that shares the folder, stays."""
    store = FolderStore(tmp_path)
    with partial_file(tmp_path / "a") as mine:
        left = mine.with_name(mine.name.replace(str(os.getpid()), str(2**22 + 1)))
        elsewhere = left.with_name(f"{PARTIAL_PREFIX}{2**22 + 1}.0badcafe.12")
        left.touch()
        elsewhere.touch()
        store.write("b", b"b")
        assert mine.exists()
        assert elsewhere.exists()
        assert not left.exists()
