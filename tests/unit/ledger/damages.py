"""Ways in which a ledger's file is damaged, each drawn from a seed; and what a ledger holds, row by row."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from runctl.ledger import InstanceFacts, Ledger, Owner, ResourceRecord, VerdictRecord
from runctl.ledger.staged import StagedRecord
from runctl.model import Market, Price, PricePoint

PAGE = 4096
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
Damage = Callable[[Path, random.Random], None]


def fill(home: Path, *, times: int = 12) -> None:
    """Everything that a ledger may hold beside jobs: resources, states, prices, operations, verdicts."""
    import msgspec

    with Ledger.open(home) as ledger, ledger.resources.together():
        for number in range(times):
            at = NOON + timedelta(hours=number)
            facts = InstanceFacts(instance_type="g5.xlarge", market=Market.SPOT, region="us-east-1")
            ledger.resources.save(
                ResourceRecord(
                    id=f"i-{number:017x}",
                    kind="instance",
                    cloud="aws",
                    region="us-east-1",
                    zone="us-east-1a",
                    name=f"digits/{number}",
                    project="digits",
                    user="ada",
                    job=None,
                    attempt=None,
                    facts=msgspec.json.encode(facts),
                    created=at,
                )
            )
            pool = "aws/us-east-1a/g5.xlarge/spot"
            price = Price(usd_per_hour=Decimal("0.41"), source="spot", as_of=at)
            for minutes, state in enumerate(("pending", "running", "stopping")):
                ledger.resources.observe(
                    f"i-{number:017x}",
                    state,
                    at=at + timedelta(minutes=minutes),
                    billable=state == "running",
                    price=price,
                    pool=pool,
                )
            if number % 3:
                ledger.resources.close(f"i-{number:017x}", at=at + timedelta(hours=1), ended_by="user")
            ledger.prices.add(pool, [PricePoint(at=at, usd_per_hour=Decimal("0.41"), source="spot")])
            owner = Owner(pid=1, started=1.5, host="laptop")
            tx = ledger.journal.begin("launch", subject=f"digits/{number}", payload=b"{}", owner=owner, at=at)
            step = ledger.journal.intend(tx, "run-instances", token=f"{tx}-1", request=b"{}")
            ledger.journal.done(tx, step, f"i-{number:017x}".encode())
            if number % 4:
                ledger.journal.end(tx, "done")
            ledger.verdicts.add(
                VerdictRecord(
                    at=at,
                    action="terminate",
                    resource=f"i-{number:017x}",
                    allowed=True,
                    forced=False,
                    findings=b"[]",
                    user="ada",
                )
            )
            ledger.staged.add(
                StagedRecord(
                    resource=f"vol-{number}",
                    cloud="aws",
                    region="us-east-1",
                    location="s3://data/set",
                    version="v1",
                    files=3,
                    bytes=1 << 30,
                    at=at,
                )
            )


def contents(ledger: Path) -> dict[str, Counter[tuple[object, ...]]]:
    """The rows of each table, but for sums and for leases that run out within a minute."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if (source := ledger.with_name(ledger.name + suffix)).exists():
                (Path(folder) / source.name).write_bytes(source.read_bytes())
        with closing(sqlite3.connect(Path(folder) / ledger.name)) as connection:
            return {
                name: Counter(connection.execute(f"SELECT * FROM {name}")) for name in _tables(connection)
            }


def settled(ledger: Path) -> None:
    """All of it in one file: nothing is left in the log."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)


def flip_bits(ledger: Path, chance: random.Random) -> None:
    """A bad disk, bad memory: anywhere in the file."""
    data = bytearray(ledger.read_bytes())
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    ledger.write_bytes(data)


def flip_header(ledger: Path, chance: random.Random) -> None:
    data = bytearray(ledger.read_bytes())
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(100)] ^= 1 << chance.randrange(8)
    ledger.write_bytes(data)


def truncate(ledger: Path, chance: random.Random) -> None:
    os.truncate(ledger, chance.randrange(ledger.stat().st_size))


def empty(ledger: Path, _: random.Random) -> None:
    """What a power failure leaves of a file that was being replaced."""
    os.truncate(ledger, 0)


def zero_pages(ledger: Path, chance: random.Random) -> None:
    data = bytearray(ledger.read_bytes())
    for _ in range(chance.randint(1, 4)):
        page = chance.randrange(len(data) // PAGE) * PAGE
        data[page : page + PAGE] = bytes(PAGE)
    ledger.write_bytes(data)


def swap_pages(ledger: Path, chance: random.Random) -> None:
    data = bytearray(ledger.read_bytes())
    one, other = (number * PAGE for number in chance.sample(range(len(data) // PAGE), 2))
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]
    ledger.write_bytes(data)


def garbage(ledger: Path, chance: random.Random) -> None:
    """Something else was written over the file, from a place on."""
    data = ledger.read_bytes()
    start = chance.randrange(len(data))
    ledger.write_bytes(data[:start] + chance.randbytes(len(data) - start))


def garbage_tail(ledger: Path, chance: random.Random) -> None:
    with ledger.open("ab") as stream:
        stream.write(chance.randbytes(chance.randint(1, 3 * PAGE)))


def log_of_another(ledger: Path, chance: random.Random) -> None:
    """A write-ahead log that belongs to another database."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other.sqlite3"
        with closing(sqlite3.connect(other, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE notes (text)")
            for _ in range(chance.randint(1, 40)):
                connection.execute("INSERT INTO notes VALUES (?)", (chance.randbytes(500),))
            log = other.with_name("other.sqlite3-wal").read_bytes()
    ledger.with_name(f"{ledger.name}-wal").write_bytes(log)


def flip_log(ledger: Path, chance: random.Random) -> None:
    """The log's own sums end it before the first frame that is damaged; then the file is the older one."""
    log_of_another(ledger, chance)
    flip_bits(ledger.with_name(f"{ledger.name}-wal"), chance)


def drop_table(ledger: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(f"DROP TABLE {chance.choice(_tables(connection))}")
        connection.commit()


def drop_column(ledger: Path, chance: random.Random) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        table, column = chance.choice(
            [("jobs", "name"), ("jobs", "store"), ("attempts", "cause"), ("steps", "error")]
        )
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def wrong_values(ledger: Path, chance: random.Random) -> None:
    """Values that the types of the columns allow, and that nothing of ours writes."""
    change = chance.choice(
        [
            "UPDATE jobs SET state = 'dancing'",
            "UPDATE jobs SET created = 9000000000000000000",
            "UPDATE jobs SET spec = x'00ff'",
            "UPDATE attempts SET cost = 'much'",
            "UPDATE attempts SET offer = x'7b'",
            "UPDATE resources SET facts = x''",
            "UPDATE resources SET created = -9000000000000000000",
            "UPDATE intervals SET usd_per_hour = 'NaN' WHERE \"end\" IS NULL",
            "UPDATE steps SET request = x'00'",
            "UPDATE transactions SET begun = 9000000000000000000",
        ]
    )
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute(change)
        connection.commit()


def wrong_types(ledger: Path, chance: random.Random) -> None:
    """The types of the columns are gone, and so are the values' own."""
    table, column = chance.choice(
        [("jobs", "created"), ("jobs", "name"), ("attempts", "number"), ("resources", "facts")]
    )
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = ?", (table,)
        )
        connection.execute("PRAGMA writable_schema = RESET")
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute(f"UPDATE {table} SET {column} = x'ff00ff'")


def no_text(ledger: Path, _: random.Random) -> None:
    """Text that is no UTF-8, which a STRICT table lets in."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE jobs SET name = CAST(x'ff41' AS TEXT)")
        connection.commit()


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    flip_bits,
    flip_bits,
    flip_header,
    truncate,
    empty,
    zero_pages,
    swap_pages,
    garbage,
    garbage_tail,
    log_of_another,
    flip_log,
    drop_table,
    drop_column,
    wrong_values,
    wrong_values,
    wrong_types,
    no_text,
)


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'supervisors'")
    return sorted(row[0] for row in rows)
