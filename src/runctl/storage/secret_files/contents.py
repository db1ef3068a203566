"""What stands in a file that must not travel, line by line. The secret itself is never told."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from runctl.storage.secret_files import contexts, detector, tokens

READ_UP_TO = 8_000_000
"""Bytes of a file that are looked at: what is longer is data."""

_PROBED = 8192
_CODE = frozenset(
    "py pyi pyx ipynb js mjs cjs jsx ts tsx c h cc cpp hpp cu cuh go rs java kt scala swift "  # noqa: SIM905
    "cs rb php lua jl r pl html css scss md rst tex sql".split()
)
"""Endings of what is written in sentences or statements, as against settings."""


class Found(msgspec.Struct, frozen=True, order=True):
    """A secret's kind, and the line that it begins on; 0 where a file has no lines."""

    line: int
    kind: str


def by_content(data: bytes, name: str) -> tuple[Found, ...]:
    """The secrets in the first bytes of a file of this name, one for each line."""
    text = _as_text(data[:READ_UP_TO])
    if text is None:
        data = data[:READ_UP_TO]
        return tuple(
            {kind: Found(0, kind) for _, kind in tokens.find(data, tokens.long_words(data))}.values()
        )
    # In notebooks and other JSON text comes with its quotes and lines escaped.
    plain = text.replace(b'\\"', b'"').replace(b"\\n", b" ") if b"\\" in text else text
    found: dict[int, str] = {}
    for offset, kind in _everything(plain, is_code=name.lower().rpartition(".")[2] in _CODE):
        found.setdefault(plain.count(b"\n", 0, offset) + 1, kind)
    return tuple(Found(line, kind) for line, kind in sorted(found.items()))


def is_public(data: bytes) -> bool:
    """Whether a file holds certificates or public keys and nothing else that PEM knows."""
    return (
        b"-----BEGIN CERTIFICATE" in data or b"PUBLIC KEY" in data or b"-----BEGIN X509 CRL" in data
    ) and b"PRIVATE KEY" not in data


def _everything(plain: bytes, *, is_code: bool) -> Iterator[tuple[int, str]]:
    yield from contexts.find(plain, is_code=is_code)
    if words := tokens.long_words(plain):  # else loading the rules of so many vendors is not worth its time
        yield from tokens.find(plain, words)
        yield from detector.find(plain)


def _as_text(data: bytes) -> bytes | None:
    """The text of a file as UTF-8; None where it is none."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace").encode()
    probe = data[:_PROBED]
    if b"\0" not in probe:
        return data
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(probe) > 3 and not probe[start::2].strip(b"\0") and probe[1 - start :: 2].count(0) == 0:
            return data.decode(encoding, "replace").encode()
    return None
