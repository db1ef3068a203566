"""Sixteen processes at once on one ledger and one cloud."""

from __future__ import annotations

import os
import random
import sqlite3
import traceback
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
    operation = world.operation()
    own_cloud.until(lambda: not deleting(operation.session, world.word))
    inventory.refresh(operation.ledger, [operation.session], inventory.read([operation.session], emit=ignore))
    there = {found.id for found in ebs.listing(operation.session) if found.name.startswith(world.word)}
    known = [
        found for found in operation.ledger.resources.list(kind="volume") if found.name.startswith(world.word)
    ]
    assert len(known) == PROCESSES * ROUNDS
    assert {found.id for found in known if found.ended is None} == there
    assert len(there) == PROCESSES * (ROUNDS // 2)
    assert not operation.ledger.journal.unfinished()
    operation.ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def deleting(session: Session, word: str) -> list[str]:
    return [
        found.id
        for found in ebs.listing(session)
        if found.name.startswith(word) and found.state == "deleting"
    ]
