"""What a manifest of a snapshot says comes back as it was, and what leaves its tree is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent import snapshot
from runctl.agent.snapshot import Entry, Manifest

PARTS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3)
NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


def _entry(tree: str, path: bytes, size: int, parts: list[bytes], *, sent: bool) -> Entry:
    text = path.decode("utf-8", "surrogateescape")
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    at = snapshot.key_of("000001-a.pt", tree, text) if sent else "000000-b.pt/work/x"
    part = -(-size // len(parts)) if size >= len(parts) ** 2 else 0
    if not part:
        return Entry(tree, text, "file", size, 0o640, 7, digest, 0, b"", at)
    return Entry(tree, text, "file", size, 0o755, 8, digest, part, b"".join(parts), at)


@given(
    st.lists(st.tuples(st.sampled_from(snapshot.TREES), NAMES, st.integers(9, 10**12), PARTS, st.booleans()))
)
def test_a_manifest_says_what_was_put_into_it_whatever_the_names_are(rows: list) -> None:
    entries = {
        (entry.tree, entry.path): entry
        for tree, path, size, parts, sent in rows
        for entry in [_entry(tree, path, size, parts, sent=sent)]
    }
    manifest = Manifest("000001-a.pt", ("work", "caf\udce9"), 3, 2, "then", True, list(entries.values()))
    assert snapshot.parsed(json.loads(json.dumps(snapshot.to_dict(manifest)))) == manifest


@given(NAMES)
def test_a_key_is_text_that_can_be_shown(path: bytes) -> None:
    snapshot.key_of("000001-a.pt", "work", path.decode("utf-8", "surrogateescape")).encode()


GOOD = {
    "format": 2,
    "name": "000001-a.pt",
    "checkpoint": None,
    "step": None,
    "attempt": 1,
    "created": "",
    "final": False,
    "entries": [
        {"tree": "work", "path": "a", "size": 1, "mode": 420, "mtime": 1, "sha256": "0" * 64},
    ],
}


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../a"},
        {"path": "/a"},
        {"path": "a//b"},
        {"path": "a", "raw": "Li4vYQ=="},
        {"path": "a" * 300},
        {"tree": "code"},
        {"link": "../../a"},
        {"link": "/etc/passwd"},
        {"at": "../a/b/c"},
        {"at": "000001-a.pt/../../x"},
        {"at": "latest.json"},
        {"sha256": "x"},
        {"part": 1, "parts": "AAAA"},
        {"size": -1},
        {"size": True},
    ],
)
def test_what_leaves_its_tree_or_is_no_value_is_refused(change: dict) -> None:
    snapshot.parsed(GOOD)
    with pytest.raises((ValueError, KeyError, TypeError)):
        snapshot.parsed({**GOOD, "entries": [{**GOOD["entries"][0], **change}]})


def test_a_file_below_a_link_is_refused() -> None:
    entries = [{"tree": "work", "path": "a", "link": "b"}, {**GOOD["entries"][0], "path": "a/b"}]
    with pytest.raises(ValueError, match="below"):
        snapshot.parsed({**GOOD, "entries": entries})
