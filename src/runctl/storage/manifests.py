"""The manifest of a snapshot as it lies in a bucket: bounded by field, then read as machines do."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec

from runctl.agent import snapshot
from runctl.storage import claims
from runctl.storage.claims import MiB, claim

LARGEST = 64 * MiB
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=snapshot.LONGEST_PATH)]
_Base64 = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]*={0,2}\Z")]
_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Tree = Literal["checkpoints", "outputs", "work"]


class ManifestEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file, a link or an empty folder; what the fields mean stands in `agent.snapshot.Entry`."""

    tree: _Tree
    path: _Path
    raw: _Base64 = ""
    folder: bool = False
    link: _Path = ""
    link_raw: _Base64 = ""
    size: claims.Bytes = 0
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0
    mtime: _Nanoseconds = 0
    sha256: claims.Sha256 = ""
    part: claims.Bytes = 0
    parts: _Base64 = ""
    at: claims.RelativePath = ""


class ManifestCheckpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest complete checkpoint of a snapshot."""

    tree: _Tree
    path: _Path
    raw: _Base64 = ""


@claim("manifest of a snapshot", largest=LARGEST)
class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot consists of, written last."""

    format: Literal[2]
    name: claims.CommitName
    checkpoint: ManifestCheckpoint | None
    step: claims.Count | None
    attempt: claims.Number
    created: claims.Name
    final: bool
    entries: tuple[ManifestEntry, ...]


def point(manifest: snapshot.Manifest) -> str | None:
    """What tells a snapshot's checkpoint from every other: names and digests of its files; None without one.

    A copy of it in another snapshot has the same.
    """
    if manifest.checkpoint is None:
        return None
    tree, path = manifest.checkpoint
    own = [one for one in manifest.entries if one.tree == tree and f"{one.path}/".startswith(f"{path}/")]
    return repr([(one.tree, one.path, one.sha256, one.link) for one in sorted(own)])


def read(data: bytes, where: str, name: str) -> tuple[snapshot.Manifest, dict[str, Any]]:
    """What a manifest says, and all its fields as they came, for its seal. `name` is the snapshot's.

    Raises Unbelievable, which names the object by `where`.
    """
    claims.decode(data, Manifest, where)
    try:
        told = json.loads(data)
        manifest = snapshot.parsed(told)
        if manifest.name != name:
            raise ValueError("it is that of another snapshot")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise claims.unbelievable(Manifest, where, error) from error
    return manifest, told
