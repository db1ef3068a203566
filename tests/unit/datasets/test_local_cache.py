"""The cache is bounded, never torn, and takes nothing from under its readers, whoever dies where."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from hashlib import md5
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.datasets.cache import Damaged, LocalCache, read_at
from runctl.datasets.items import Item
from runctl.errors import ValidationError


def body(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def item(number: int, size: int) -> Item:
    return Item("bucket", f"set/{number}", md5(body(number, size)).hexdigest(), size)


def put(cache: LocalCache, number: int, size: int) -> bool:
    file = cache.add(item(number, size), lambda file: os.write(file, body(number, size)))
    if file is None:
        return False
    os.close(file)
    return True


def used(root: Path) -> int:
    """Bytes of all files of the cache but its own notes, each inode once."""
    found = [
        path.lstat() for name in ("objects", "writers") for path in (root / name).rglob("*") if path.is_file()
    ]
    return sum({status.st_ino: status.st_size for status in found}.values())


def grown_old(cache: LocalCache, number: int, size: int, seconds: float) -> None:
    path = cache.root / "objects" / item(number, size).name
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "read", "prune", "damage", "hold"]), st.integers(0, 9)), max_size=40
    ),
    bound=st.integers(1, 600),
)
def test_it_never_holds_more_than_its_bound_nor_serves_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], bound: int
) -> None:
    cache = LocalCache(tmp_path_factory.mktemp("cache"), bound)
    held: list[tuple[int, int]] = []
    for what, number in steps:
        size = number * 37
        if what == "add":
            assert put(cache, number, size) == (size <= bound)
        elif what == "read":
            assert cache.read(item(number, size), verify=True) in {None, body(number, size)}
        elif what == "prune":
            assert cache.prune(number * 20).left <= number * 20
        elif what == "damage" and size:
            path = cache.root / "objects" / item(number, size).name
            if path.exists():
                path.chmod(0o600)
                path.write_bytes(bytes(size))
                assert cache.read(item(number, size), verify=True) is None
        elif what == "hold" and (file := cache.find(item(number, size), verify=True)) is not None:
            held.append((number, file))
        assert used(cache.root) <= bound
    for number, file in held:
        assert len(read_at(file, 0, number * 37)) == number * 37
        os.close(file)


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000, touch_after=0)
    for number in range(10):
        assert put(cache, number, 100)
        grown_old(cache, number, 100, 1000 - number)
    assert cache.read(item(0, 100)) == body(0, 100)
    assert put(cache, 10, 200)
    kept = [number for number in range(10) if cache.holds(item(number, 100))]
    assert kept[0] == 0
    assert kept[1:] == list(range(10 - len(kept) + 1, 10))
    assert len(kept) <= 8


def test_what_came_short_or_damaged_gets_no_name(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)
    with pytest.raises(Damaged):
        cache.add(item(1, 100), lambda file: os.write(file, body(1, 99)))
    with pytest.raises(Damaged):
        cache.add(item(1, 100), lambda file: os.write(file, body(2, 100)), proven=lambda _path: False)
    with pytest.raises(KeyError):
        cache.add(item(1, 100), lambda _file: {}["no"])
    assert not cache.holds(item(1, 100))
    assert used(tmp_path) == 0
    assert put(cache, 3, 1000)


def test_an_etag_that_proves_nothing_is_settled_by_the_store(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)
    encrypted = Item("bucket", "key", "0" * 32, 100)
    asked: list[Path] = []

    def proven(path: Path) -> bool:
        asked.append(path)
        return True

    file = cache.add(encrypted, lambda file: os.write(file, body(1, 100)), proven=proven)
    assert file is not None
    os.close(file)
    assert len(asked) == 1
    assert cache.read(encrypted) == body(1, 100)


def test_an_object_in_parts_is_compared_part_by_part(tmp_path: Path) -> None:
    mib = 1 << 20
    data = body(1, 9 * mib)
    etag = md5(md5(data[: 5 * mib]).digest() + md5(data[5 * mib :]).digest()).hexdigest() + "-2"
    cache = LocalCache(tmp_path, 20 * mib)
    in_parts = Item("bucket", "key", etag, len(data))
    file = cache.add(in_parts, lambda file: os.write(file, data), proven=lambda _path: False)
    assert file is not None
    os.close(file)
    assert cache.read(in_parts, verify=True) == data


def test_a_torn_file_is_not_served(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)
    assert put(cache, 1, 100)
    path = tmp_path / "objects" / item(1, 100).name
    path.chmod(0o600)
    os.truncate(path, 50)
    assert cache.read(item(1, 100)) is None
    assert not path.exists()
    assert put(cache, 1, 100)
    assert cache.read(item(1, 100)) == body(1, 100)


def test_after_a_power_cut_files_are_proven_before_they_are_served(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)
    assert put(cache, 1, 100)
    assert put(cache, 2, 100)
    path = tmp_path / "objects" / item(1, 100).name
    path.chmod(0o600)
    path.write_bytes(bytes(100))  # as a file system may leave what was renamed and not yet written
    grown_old(cache, 1, 100, 50)
    (tmp_path / "boot").write_text("another-boot 0")
    again = LocalCache(tmp_path, 1000)
    assert again.read(item(1, 100)) is None
    assert again.read(item(2, 100)) == body(2, 100)


def test_a_reader_keeps_what_is_evicted(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 100)
    assert put(cache, 1, 100)
    file = cache.find(item(1, 100))
    assert file is not None
    assert put(cache, 2, 100)
    assert not cache.holds(item(1, 100))
    assert read_at(file, 0, 100) == body(1, 100)
    os.close(file)


def test_a_folder_stays_while_it_is_in_use_and_goes_afterwards(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 300)
    names = [(f"a/{number}", item(number, 100)) for number in range(3)]

    def fetch(wanted: Item) -> None:
        assert put(cache, int(wanted.key.rpartition("/")[2]), 100)

    lease = cache.folder("one", names, fetch)
    assert {path.name: path.read_bytes() for path in (lease.path / "a").iterdir()} == {
        str(number): body(number, 100) for number in range(3)
    }
    assert not put(cache, 7, 100)
    with pytest.raises(ValidationError):
        LocalCache(tmp_path, 300).folder("two", [("b", item(8, 100))], lambda wanted: None)
    assert cache.prune(0).left == 300
    lease.close()
    assert put(cache, 7, 100)
    assert not lease.path.exists()
    again = cache.folder("one", names, fetch)
    assert (again.path / "a/0").read_bytes() == body(0, 100)
    again.close()
    assert used(tmp_path) <= 300


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 1000)
    for number in range(5):
        assert put(cache, number, 100)
    freed = cache.prune(200, dry_run=True)
    assert (freed.files, freed.bytes, freed.left) == (3, 300, 200)
    assert cache.holdings()[0].files == 5
    freed = cache.prune(200)
    assert (freed.files, freed.bytes, freed.left) == (3, 300, 200)
    assert cache.holdings()[0].bytes == 200


WRITER = """
import os, random, sys
from hashlib import md5
from pathlib import Path
from runctl.datasets.cache import LocalCache
from runctl.datasets.items import Item
seed, root, bound = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
choice = random.Random(seed)
cache = LocalCache(root, bound)
rounds = int(sys.argv[4])
print("up", flush=True)
while rounds:
    rounds -= 1
    number = choice.randrange(40)
    data = random.Random(number).randbytes(number * 997)
    item = Item("bucket", f"set/{number}", md5(data).hexdigest(), len(data))
    found = cache.read(item)
    if found is None:
        def fill(file):
            half = len(data) // 2
            return os.pwrite(file, data[:half], 0) + os.pwrite(file, data[half:], half)
        with cache.alone(item):
            file = cache.add(item, fill)
        if file is not None:
            assert os.pread(file, len(data) + 1, 0) == data
            os.close(file)
    else:
        assert found == data, number
"""


def writer(seed: int, root: Path, bound: int, rounds: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(seed), str(root), str(bound), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("kills", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_processes_that_are_killed_leave_a_whole_and_bounded_cache(tmp_path: Path, kills: int) -> None:
    bound = 200_000
    root = tmp_path / "cache"
    choice = random.Random(4)
    alive = [writer(seed, root, bound, -1) for seed in range(3)]
    try:
        for count in range(kills):
            time.sleep(choice.random() * 0.05)  # where the blow falls is chance
            victim = alive.pop(choice.randrange(len(alive)))
            assert victim.poll() is None, victim.communicate()
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            assert measured(root) <= bound
            alive.append(writer(100 + count, root, bound, -1))
    finally:
        for process in alive:
            process.kill()
            assert process.communicate()[1] == ""
    last = writer(99, root, bound, 300)
    assert last.communicate(timeout=60)[1] == ""
    cache = LocalCache(root, bound)
    cache.prune(bound // 2)
    assert used(root) <= bound // 2
    assert not [path for path in (root / "writers").iterdir() if path.is_dir()]
    for number in range(40):
        found = cache.read(item(number, number * 997))
        assert found in {None, body(number, number * 997)}
    assert cache.holdings()


def measured(root: Path) -> int:
    """The bytes under the cache's own lock, so that nothing moves meanwhile between two looks."""
    cache = LocalCache(root, 1)
    with cache._locked():
        total: dict[int, int] = {}
        # What is being written first: when it gets its name meanwhile, it is the same inode.
        for name in ("writers", "objects"):
            for folder, _, names in os.walk(root / name):
                for file in names:
                    with contextlib.suppress(FileNotFoundError):
                        status = os.lstat(f"{folder}/{file}")
                        total[status.st_ino] = status.st_size
        return sum(total.values())
