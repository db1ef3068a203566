"""A process that transfers files and kills itself before or after one of its calls.

Run as `python dying_legs.py SANDBOX_HOME LEDGER SOURCE TARGET OPERATION NUMBER before|after`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from operations import QUICK

from runctl.clock import FileClock
from runctl.clouds import Cloud, SandboxRecord
from runctl.config import Protection
from runctl.events import ignore
from runctl.ledger import Ledger
from runctl.providers.aws.session import Session
from runctl.resources import legs
from runctl.resources.operation import Operation
from runctl.safety.destroy import Door


class Dying(Session):
    """Counts its calls by name, and kills its process at one of them."""

    at = ("", 0, True)
    calls: ClassVar[Counter[str]] = Counter()

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        name, number, before = self.at
        self.calls[operation] += 1
        mine = operation == name and self.calls[operation] == number
        if mine and before:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = super().call(service, operation, **parameters)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def main(home: str, folder: str, source: str, target: str, name: str, number: str, when: str) -> None:
    record = msgspec.json.decode((Path(home) / "sandbox/cloud.json").read_bytes(), type=SandboxRecord)
    cloud = Cloud(
        name="sandbox",
        key=f"sandbox:{record.id}",
        clock=FileClock(Path(record.clock)),
        region=record.region,
        endpoint=record.endpoint,
        s3_endpoint=record.s3_endpoint,
        access_key=record.access_key,
        secret_key=record.secret_key,
    )
    Dying.at = (name, int(number), when == "before")
    session = Dying(cloud, policy=QUICK)
    with Ledger.open(Path(folder)) as ledger:
        door = Door(session, ledger, "legs", policy=Protection(), emit=ignore)
        operation = Operation(session=session, ledger=ledger, door=door, emit=ignore)
        legs.transfer(operation, source, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
