"""Random kills over every command that makes something: nothing leaks, no job is stuck, one command goes on.

`make test-kills KILLS=120 SEED=1` tells as many as it is asked for and ends with a table.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import kills
import pytest
from kills import Home, Strike

SEED = int(os.environ.get("SEED", "1"))
KILLS = int(os.environ.get("KILLS", "12"))
SHARDS = 2


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    bare = request.node.get_closest_marker("slow") is None
    made = Home(tmp_path, random.Random(f"{SEED} {request.node.name}"), bare)
    made.up()
    yield made
    made.close()


def _require_clean(strikes: list[Strike]) -> None:
    bad = [one.line() for one in strikes if one.leaked]
    assert not bad, "\n".join([*bad, *kills.table(strikes)])


def test_a_kill_in_the_middle_leaves_one_command_that_goes_on(home: Home) -> None:
    """Two of them: of a command, and of the sandbox under one; `make test-kills` tells the others."""
    made = [
        kills.strike(home, kills.ebs_create, 1, victim="command", at=kills.Moment(2, 0.0)),
        kills.strike(home, kills.ebs_create, 2, victim="sandbox", at=kills.Moment(1, 0.0)),
    ]
    _require_clean(made)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_kills(home: Home, shard: int, record_property: Callable[[str, object], None]) -> None:
    made: list[Strike] = []
    try:
        for one in kills.strikes(home, KILLS // SHARDS + (shard < KILLS % SHARDS)):
            made.append(one)
            print(one.line(), file=sys.stderr, flush=True)  # of a worker of xdist, only this is heard
    finally:
        record_property(kills.PROPERTY, [asdict(one) for one in made])
    _require_clean(made)
