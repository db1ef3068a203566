"""Secrets that are handed over: in a command, in a call, in XML, in a tool's own few lines."""

# ruff: noqa: E501 (a table)

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from runctl.storage.secret_files.tokens import is_filler


class Way(msgspec.Struct, frozen=True):
    """A way to hand over a secret: a word without which it is not looked for (in small letters), how it looks."""

    sign: bytes
    kind: str
    expression: bytes


_PASSWORD = rb"(?![$<{%(*])(?=[^\s\"'|;&]*[0-9])([^\s\"'|;&<>]{6,200})"
"""One that a person or a generator made up: with a digit, and no variable."""

WAYS = (
    Way(b"sshpass", "a password in a command", rb"\bsshpass\s+-p\s*[\"']?" + _PASSWORD),
    Way(b"mysql", "a password in a command", rb"\bmysql(?:dump|admin|import)?\b[^\n|]{0,100}?\s-p[\"']?(?!ort)" + _PASSWORD),
    Way(b"sudo", "a password in a command", rb"\becho\s+(?:-n\s+)?[\"']?" + _PASSWORD + rb"[\"']?\s*\|\s*sudo\b"),
    Way(b"--password-stdin", "a password in a command", rb"\becho\s+(?:-n\s+)?[\"']?" + _PASSWORD + rb"[\"']?\s*\|[^\n]{0,80}--password-stdin"),
    Way(b"kinit", "a password in a command", rb"\becho\s+(?:-n\s+)?[\"']?" + _PASSWORD + rb"[\"']?\s*\|\s*kinit\b"),
    Way(b"login", "a password in a command", rb"\b(?:docker|podman|az|oc|helm registry|skopeo|oras)\s+login\b[^\n]{0,120}?\s(?:-p|--password)[ =]*[\"']?" + _PASSWORD),
    Way(b"redis-cli", "a password in a command", rb"\bredis-cli\b[^\n|]{0,100}?\s-a\s*[\"']?" + _PASSWORD),
    Way(b"requirepass", "a password", rb"\brequirepass[\s=:]+[\"']?" + _PASSWORD),
    Way(b"masterauth", "a password", rb"\bmasterauth[\s=:]+[\"']?" + _PASSWORD),
    Way(b"pass:", "a password in a command", rb"\s-pass(?:in|out)?\s+[\"']?pass:" + _PASSWORD),
    Way(b"smbclient", "a password in a command", rb"\bsmbclient\b[^\n]{0,100}?\s-U\s*[\"']?[^\s%\"']+%" + _PASSWORD),
    Way(b"lftp", "a password in a command", rb"\blftp\b[^\n]{0,100}?\s-u\s*[\"']?[^\s,\"']+," + _PASSWORD),
    Way(b"default", "a password for a host", rb"(?m)^[ \t]*default\s+login\s+\S+\s+(?:password|passwd)\s+(\S{6,})"),
    Way(b"machine", "a password for a host", rb"(?m)^[ \t]*machine[ \t]+\S+\s+(?:account\s+\S+\s+)?(?:password|passwd)\s+(\S{6,})\s+(?:login|user)\s"),
    Way(b"://", "a token in a URL", rb"://(?=[^\s/@:]*[0-9])(?=[^\s/@:]*[A-Za-z])([A-Za-z0-9_-]{24,100})(?::x-oauth-basic|:)?@(?![a-z0-9.-]*sentry)[A-Za-z0-9]"),
    Way(b"sha", "a hashed password", rb"[\"'](?:sha1|sha256|sha512):[0-9a-f]{8,32}:[0-9a-f]{40,128}[\"']"),
    Way(b"</pass", "a password", rb"<(?:password|passphrase|passwd)>\s*" + _PASSWORD + rb"\s*</"),
    Way(b"</secret", "a key or token", rb"<secret(?:key|accesskey)?>\s*" + _PASSWORD + rb"\s*</"),
    Way(b"</token", "a key or token", rb"<token>\s*(?=[^<]*[0-9])([A-Za-z0-9_./+=-]{16,})\s*</"),
    Way(b"</api", "a key or token", rb"<api[_-]?(?:key|token)>\s*(?=[^<]*[0-9])([A-Za-z0-9_./+=-]{12,})\s*</"),
    Way(b"variable", "a key or token", rb"\bvariable\s+\"[^\"\n]{0,60}(?:password|passwd|secret|token|api_key|private_key)[^\"\n]{0,30}\"\s*\{[^}]{0,300}?\bdefault\s*=\s*\"" + _PASSWORD),
    Way(b"url", "a key or token", rb"\burl[\"']?\s*[:=]\s*[\"']?https?://[^\s\"']+[\"']?\s*,?\s*[\"']?key[\"']?\s*[:=]\s*[\"']?((?:[0-9]+:)?[0-9a-f-]{32,})"),
    Way(b"client(", "a key or token", rb"(?i:client)\(\s*[\"'](?=[^\"']*[0-9])(?=[^\"']*[a-z])(?=[^\"']*[A-Z])([A-Za-z0-9_]{32,})[\"']"),
    Way(b"api(", "a key or token", rb"(?i:api)\(\s*[\"'](?=[^\"']*[0-9])(?=[^\"']*[a-z])(?=[^\"']*[A-Z])([A-Za-z0-9_]{32,})[\"']"),
    Way(b"login(", "a password", rb"(?i:login)\(\s*[\"'][^\"'\s]+@[^\"'\s]+[\"']\s*,\s*[\"']" + _PASSWORD + rb"[\"']"),
    Way(b"login(", "a password", rb"(?i:login)\(\s*[\"'][^\"'\s]+@[^\"'\s]+[\"']\s*,\s*[\"']((?:[a-z]{4} ){3}[a-z]{4})[\"']"),
)  # fmt: skip

_COMPILED = tuple((way.sign, way.kind, re.compile(way.expression)) for way in WAYS)
_SAYS_SO = re.compile(rb"(?i:passw|secret|token|your|changeme|placeholder|example)")
"""What stands in documents and tests for a secret."""


def find(data: bytes, lower: bytes) -> Iterator[tuple[int, str]]:
    """Where in a text, given in small letters too, a secret is handed over, and what it is."""
    for sign, kind, expression in _COMPILED:
        for match in expression.finditer(data) if sign in lower else ():
            secret = next((group for group in match.groups() if group), b"")
            if not is_filler(match[0]) and not _SAYS_SO.search(secret):
                yield match.start(), kind
