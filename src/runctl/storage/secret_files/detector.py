"""Kingfisher's rules for hundreds of vendors more (docs/adr/0024), loaded where there is what to scan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

_ELSEWHERE = frozenset({"generic-credential-uri"})
"""What `contexts` looks for with more care for placeholders."""


def find(data: bytes) -> Iterator[tuple[int, str]]:
    """Where in a text a vendor's token stands, and whose it is."""
    for finding in _scanner().scan(data):
        if not finding.visible:
            continue
        told: dict[str, Any] = finding.to_dict()
        rule = str(told["rule_id"]).rpartition(".")[2]
        if rule not in _ELSEWHERE:
            yield int(told["location"]["start_offset"]), f"a secret ({rule.replace('-', ' ')})"


@cache
def _scanner() -> Any:
    from kingfisher_sdk import Scanner

    return Scanner(redact=True)
