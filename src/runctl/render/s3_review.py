"""What lies under a prefix, and what of it could go, with the commands that delete."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.render import output
from runctl.render.figures import count, duration, size, usd
from runctl.storage.listing import printable
from runctl.storage.review import AGES, Group

if TYPE_CHECKING:
    from runctl.safety.checkpoints import CheckpointCleanup
    from runctl.storage.bulk import OpenUpload

_SHOWN = 10


class CouldGo(msgspec.Struct, frozen=True, kw_only=True):
    """Old checkpoints with the command that deletes them, and open uploads, or why those are `unknown`.

    `price` is in USD of 10^9 bytes a month.
    """

    old: CheckpointCleanup | None
    command: str
    uploads: list[OpenUpload]
    unknown: str
    price: Decimal | None

    @property
    def old_size(self) -> int:
        return self.old.size if self.old else 0

    def cost(self, size: int) -> Decimal | None:
        return None if self.price is None else self.price * size / 10**9


def could_go_body(found: CouldGo) -> dict[str, Any]:
    """As JSON."""
    names = [item.checkpoint.name for item in found.old.allowed] if found.old else []
    return {
        "checkpoints": names,
        "size": found.old_size,
        "usd_per_month": found.cost(found.old_size),
        "command": found.command if names else None,
        "open_uploads": [
            {
                "key": one.key,
                "upload": one.upload,
                "began": one.began,
                "size": one.size,
                "command": _abort(one),
            }
            for one in found.uploads
        ],
        "open_uploads_unknown": found.unknown or None,
    }


def show_could_go(found: CouldGo, now: datetime) -> None:
    if found.old is not None and found.old.allowed:
        text = f"{count(len(found.old.allowed), 'old checkpoint')} could go: {size(found.old_size)}"
        output.write_line(f"{text}, {usd(found.cost(found.old_size))} a month")
        output.write_line(f"  {found.command}")
    if found.uploads:
        total = sum(one.size for one in found.uploads)
        text = f"{count(len(found.uploads), 'upload')} in parts left open: {size(total)}"
        output.write_line(f"{text}, {usd(found.cost(total))} a month; give up those that nobody goes on with")
    for one in found.uploads[:_SHOWN]:
        age = duration(now - one.began)
        output.write_line(f"  {printable(one.key)}, {size(one.size)}, begun {age} ago")
        output.write_line(f"    {_abort(one)}")
    if len(found.uploads) > _SHOWN:
        output.write_line(f"  and {len(found.uploads) - _SHOWN} more: --output json lists them all")
    if found.unknown:
        output.talk(f"uploads in parts that were left open are not known: {found.unknown}")


def _abort(one: OpenUpload) -> str:
    words = ["aws", "s3api", "abort-multipart-upload", "--bucket", one.bucket]
    return shlex.join([*words, "--key", one.key, "--upload-id", one.upload])


def show_review(groups: Sequence[Group]) -> None:
    if not groups:
        output.talk("There is nothing.")
        return
    ages = [name for name, _ in AGES] + ["older"]
    used = [age for age in ages if any(age in group.by_age for group in groups)]
    rows = [
        [
            group.kind,
            f"{group.files:,}",
            size(group.size),
            *(size(group.by_age[age]) if age in group.by_age else "" for age in used),
            usd(group.usd_per_month),
        ]
        for group in groups
    ]
    right = ["objects", "size", *used, "USD/month"]
    elsewhere = {name for group in groups for name in group.by_class} - {"STANDARD"}
    output.write_table(["kind", *right], rows, right=right)
    for name in sorted(elsewhere):
        total = sum(group.by_class.get(name, 0) for group in groups)
        output.talk(f"{size(total)} of it in class {name}, whose price is not known here")
