"""What a transfer between two sides has to move: decided from two listings, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256

import msgspec

from runctl.agent.tree import name_fault
from runctl.quoting import quoted
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, no_key
from runctl.storage.secret_files import names

MIB = 1024 * 1024
PIECE = 16 * MIB
"""Bytes that travel at once: small files together, big ones in pieces. S3 wants 5 MiB of a part at least."""

MOST_PIECES = 8000
"""Of one file: S3 takes 10,000 parts."""

MOST_TOGETHER = 2000
MOST_AT_ONCE = 100_000
"""Files whose URLs are made and whose names are told at once."""

SAME_TIME = 2000
"""Nanoseconds: what is lost where a time travels as a float."""


class LegOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a transfer with an instance goes; `bandwidth` in bytes per second, None for no limit."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    parallel: int = 8
    checksum: bool = False
    delete: bool = False
    bandwidth: int | None = None
    compress: bool = False
    dry_run: bool = False
    secrets: tuple[str, ...] | None = ()
    """Patterns of files that travel although they look like credentials; None lets all."""


class SideFile(msgspec.Struct, frozen=True, gc=False):
    """A file on one side; size in bytes, `modified` in nanoseconds since 1970."""

    key: str
    size: int
    modified: int
    executable: bool = False
    sha256: str = ""
    etag: str = ""


class Partial(msgspec.Struct, frozen=True):
    """A file that came in part, earlier: of which state, and the offset and length of each piece."""

    path: str
    key: str
    size: int
    modified: int
    done: tuple[tuple[int, int], ...]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on one side: `kind` is folder, file (a single one, by its name), none or other."""

    kind: str
    files: tuple[SideFile, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    partials: tuple[Partial, ...] = ()
    packers: tuple[str, ...] = ()


class Pair(msgspec.Struct, frozen=True):
    """A file to be moved, its key on the other side, and the pieces that are there already."""

    source: SideFile
    target: str
    done: tuple[tuple[int, int], ...] = ()


class LegPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be moved, deleted and thrown away; `equal` counts files that are there already."""

    pairs: tuple[Pair, ...]
    equal: int
    delete: tuple[str, ...]
    stale: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def size(self) -> int:
        """Bytes that are to be moved."""
        return sum(pair.source.size - sum(length for _, length in pair.done) for pair in self.pairs)

    @property
    def is_done(self) -> bool:
        return not self.pairs and not self.delete


class Parcel(msgspec.Struct, frozen=True):
    """What travels as one object: slices (number of the pair, offset, length), named by what they are."""

    name: str
    slices: tuple[tuple[int, int, int], ...]


def decide(
    source: Side,
    destination: Side,
    options: LegOptions,
    *,
    rename: str | None = None,
    from_here: bool = False,
    to_s3: bool = False,
) -> LegPlan:
    """Compare two sides. `rename` is what a single file is called on the other side; `from_here` means that
    the files are this user's own, whose credentials must not travel."""
    filters = Filters(options.include, options.exclude)
    known = {file.key: file for file in destination.files}
    left_out = list(source.left_out)
    pairs: list[Pair] = []
    wanted: set[str] = set()
    equal = 0
    for file in source.files:
        if not filters.wants(file.key):
            continue
        target = rename or file.key
        wanted.add(target)
        why = _why_not(target, options, from_here=from_here, to_s3=to_s3)
        if why:
            left_out.append(LeftOut(file.key, why))
        elif target in known and is_equal(file, known[target], checksum=options.checksum, to_s3=to_s3):
            equal += 1
        else:
            pairs.append(Pair(file, target, _done(file, target, destination.partials)))
    # What the source left out may still be wanted there: nothing of its name is deleted.
    kept = wanted | {item.name for item in source.left_out}
    gone = [key for key in known if key not in kept and filters.wants(key)]
    pairs.sort(key=lambda pair: (-min(pair.source.size, PIECE), pair.source.key))
    return LegPlan(
        pairs=tuple(pairs),
        equal=equal,
        delete=tuple(sorted(gone)) if options.delete and rename is None else (),
        stale=tuple(_stale(pairs, wanted, destination.partials)),
        left_out=tuple(left_out),
    )


def turns(plan: LegPlan) -> Iterator[LegPlan]:
    """The plan in parts of `MOST_AT_ONCE` files; what is deleted goes last, and what is stale first."""
    starts = range(0, len(plan.pairs), MOST_AT_ONCE) or (0,)
    for start in starts:
        yield msgspec.structs.replace(
            plan,
            pairs=plan.pairs[start : start + MOST_AT_ONCE],
            delete=plan.delete if start == starts[-1] else (),
            stale=plan.stale if start == 0 else (),
        )


def is_equal(file: SideFile, there: SideFile, *, checksum: bool, to_s3: bool) -> bool:
    """By size and time, or by SHA-256 where both sides have it. An object's time is that of its upload."""
    if file.size != there.size:
        return False
    if checksum and file.sha256 and there.sha256:
        return file.sha256 == there.sha256
    if to_s3:
        return there.modified >= file.modified
    return abs(there.modified - file.modified) <= SAME_TIME


def piece_of(size: int) -> int:
    """The length of the pieces in which a file of this size travels, in bytes: the same at every try."""
    return max(PIECE, -(-size // (MOST_PIECES * MIB)) * MIB)


def slices(pair: Pair) -> list[tuple[int, int]]:
    """Offset and length of what is missing of a file."""
    size, length = pair.source.size, piece_of(pair.source.size)
    starts = range(0, size, length) if size else (0,)
    every = [(start, min(length, size - start)) for start in starts]
    return [piece for piece in every if piece not in pair.done]


def parcels(pairs: Sequence[Pair], *, packed: bool, salt: str = "") -> list[Parcel]:
    """What is missing as parcels; with `packed`, small files share one. `salt` goes into their names."""
    found: list[Parcel] = []
    together: list[tuple[int, int, int]] = []
    weight = 0

    def seal() -> None:
        nonlocal weight
        if together:
            found.append(Parcel(_name(pairs, together, salt), tuple(together)))
            together.clear()
            weight = 0

    for number, pair in enumerate(pairs):
        for offset, length in slices(pair):
            if packed and length < PIECE and length == pair.source.size:
                if weight + length > PIECE or len(together) == MOST_TOGETHER:
                    seal()
                together.append((number, offset, length))
                weight += length
            else:
                single = [(number, offset, length)]
                found.append(Parcel(_name(pairs, single, salt), tuple(single)))
    seal()
    return found


def most_shared(ways: Iterable[Sequence[str]]) -> str:
    """The first way to pack that every side knows, empty where there is none."""
    first, *others = [list(known) for known in ways]
    return next((way for way in first if all(way in known for known in others)), "")


def is_whole(parcel: Parcel, pairs: Sequence[Pair]) -> bool:
    """Whether the parcel's first slice is all of its file."""
    number, _, length = parcel.slices[0]
    return length == pairs[number].source.size


def _why_not(target: str, options: LegOptions, *, from_here: bool, to_s3: bool) -> str | None:
    why = name_fault(target) or (no_key(target) if to_s3 else None)
    if why:
        return why
    if not from_here or options.secrets is None:
        return None
    kind = names.by_name(target)
    name = target.rpartition("/")[2]
    if kind is None or any(
        fnmatchcase(target, pattern) or fnmatchcase(name, pattern) for pattern in options.secrets
    ):
        return None
    word = quoted(name)
    return f"it looks like credentials by its name ({kind}); to send it on purpose: --allow-secret {word}"


def _done(file: SideFile, target: str, partials: Sequence[Partial]) -> tuple[tuple[int, int], ...]:
    for partial in partials:
        if (partial.key, partial.size, partial.modified) == (target, file.size, file.modified):
            return partial.done
    return ()


def _stale(pairs: Sequence[Pair], wanted: set[str], partials: Sequence[Partial]) -> Iterator[str]:
    """Partial files of states that their sources no longer have, or that nobody writes any more."""
    going_on = {(pair.target, pair.source.size, pair.source.modified) for pair in pairs}
    for partial in partials:
        if not partial.key or (
            partial.key in wanted and (partial.key, partial.size, partial.modified) not in going_on
        ):
            yield partial.path


def _name(pairs: Sequence[Pair], items: Sequence[tuple[int, int, int]], salt: str) -> str:
    """Equal for equal content in equal order: what is staged already need not be staged again."""
    told = [
        (pairs[number].source.key, pairs[number].source.size, pairs[number].source.modified, *piece)
        for number, *piece in items
    ]
    return sha256(msgspec.json.encode([salt, told])).hexdigest()[:40]
