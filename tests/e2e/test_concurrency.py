"""Sixteen processes at once on one ledger and one cloud."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from operations import USER, World

from runctl.events import ignore
from runctl.providers.aws import volumes as ebs
from runctl.providers.aws.session import Session
from runctl.resources import inventory, noting
from runctl.resources import volumes as disks
from runctl.resources.volumes import VolumeRequest
from runctl.safety.protection import Request

PROCESSES = 16
ROUNDS = 3


def work(world: World, number: int) -> None:
    """Create, list and delete, in an order of its own; every second volume is kept."""
    chance = random.Random(number)
    for turn in range(ROUNDS):
        operation = world.operation()
        request = VolumeRequest(
            size_gib=4, name=f"{world.word}-{number}-{turn}", zone="us-east-1a", user=USER
        )
        volume = operation.carry_out(disks.plan_create(operation, request))["volume"]["id"]
        noting.note(operation, volumes=[volume])
        if chance.random() < 0.7:
            seen = inventory.read([operation.session], emit=ignore)
            assert volume in {found.id for found in seen.volumes}
            inventory.refresh(operation.ledger, [operation.session], seen)
        if turn % 2 == 0:
            operation.door.delete_volume(volume, Request(force=True, user=USER))
            noting.note(operation, volumes=[volume])
        operation.ledger.close()


@pytest.mark.xdist_group("crash-matrix")
def test_sixteen_processes_leave_the_ledger_sound_and_agreeing(own_cloud: Any, tmp_path: Path) -> None:
    world = World(own_cloud, tmp_path)
    world.operation().ledger.close()
    children: list[int] = []
    for number in range(PROCESSES):
        child = os.fork()
        if child == 0:
            try:
                work(world, number)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * PROCESSES
    require_agreement(world, made=PROCESSES * ROUNDS, kept=PROCESSES * (ROUNDS // 2))


def require_agreement(world: World, *, made: int, kept: int) -> None:
    """The ledger knows every volume that was made, which of them are there, and is whole."""
    operation = world.operation()
    world.live.until(lambda: not deleting(operation.session, world.word))
    inventory.refresh(operation.ledger, [operation.session], inventory.read([operation.session], emit=ignore))
    there = {found.id for found in ebs.listing(operation.session) if found.name.startswith(world.word)}
    known = [
        found for found in operation.ledger.resources.list(kind="volume") if found.name.startswith(world.word)
    ]
    assert len(known) == made
    assert {found.id for found in known if found.ended is None} == there
    assert len(there) == kept
    assert not operation.ledger.journal.unfinished()
    operation.ledger.close()
    with sqlite3.connect(world.folder / "ledger.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def command(world: World, *arguments: str) -> str:
    """What a user's command wrote, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "runctl", *arguments, "--on", "sandbox"],
        env={**os.environ, "RUNCTL_HOME": str(world.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sixteen_commands_at_once_do_too(own_cloud: Any, tmp_path: Path) -> None:
    """Real commands in a home that does not exist yet: each may be the first to make the ledger."""
    world = World(own_cloud, tmp_path / "home")
    world.folder.mkdir()
    (world.folder / "sandbox").symlink_to(own_cloud.home / "sandbox", target_is_directory=True)

    def at_once(*arguments: tuple[str, ...]) -> list[str]:
        with ThreadPoolExecutor(PROCESSES) as pool:
            return list(pool.map(lambda one: command(world, *one), arguments))

    create = ("aws", "ebs", "create", "--size", "4", "--quiet", "--name")
    volumes = at_once(*((*create, f"{world.word}-{number}") for number in range(PROCESSES)))
    assert len(set(volumes)) == PROCESSES
    kept, gone = volumes[::2], volumes[1::2]
    delete, listed = ("aws", "ebs", "delete", "--force", "--yes"), ("resources", "list", "--output", "json")
    told = at_once(*((*delete, volume) for volume in gone), *([listed] * len(kept)))
    assert all(volume in text for text in told[len(gone) :] for volume in kept)
    require_agreement(world, made=PROCESSES, kept=len(kept))


def deleting(session: Session, word: str) -> list[str]:
    return [
        found.id
        for found in ebs.listing(session)
        if found.name.startswith(word) and found.state == "deleting"
    ]
