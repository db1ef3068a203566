"""A project's code as one archive that is the same, byte by byte, as long as the code is."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from runctl import git, owners
from runctl.clouds import home
from runctl.errors import Conflict, NotTrusted, ValidationError
from runctl.quoting import quoted
from runctl.storage.ignore import GIT_FILE, OWN_FILE, RuleFile, last_word, rule_file
from runctl.storage.objects import partial_file, rename_durably
from runctl.trust import Trust, of_user

if TYPE_CHECKING:
    from runctl.storage.secret_files.refusals import Refusal

LARGEST = 200_000_000
"""Bytes of code that a bundle may hold: what is more is data, and goes by --data."""

_FORMAT = b"runctl bundle 1"
_NEVER = frozenset({".git", ".runctl", "__pycache__", ".venv", "venv", "node_modules"})


class BundleFile(msgspec.Struct, frozen=True):
    """A file of a bundle. Size in bytes; a symlink has a `link` and neither size nor checksum."""

    path: str
    size: int
    executable: bool
    sha256: str
    link: str | None = None


class BundlePlan(msgspec.Struct, frozen=True):
    """What a bundle will hold, in order of path; `digest` names the content before an archive is made."""

    root: Path
    files: tuple[BundleFile, ...]
    total_bytes: int
    digest: str


class _Found(msgspec.Struct, frozen=True):
    path: str
    where: Path
    named: bool  # by a `!name` of .runctlignore
    left_out: bool = False  # by git
    wanted_by: Path | None = None  # the .runctlignore without a yes that would let it travel


class _Way(msgspec.Struct, frozen=True):
    """What is known on the way down to a folder; `left_out` by git, unless `wanted_by` without a yes.

    `tracked` are the paths that git tracks, and of the folders above them, which end with a `/`.
    """

    base: str
    git: tuple[RuleFile, ...]
    own: tuple[RuleFile, ...]
    trust: Trust
    tracked: frozenset[str] = frozenset()
    left_out: bool = False
    wanted_by: Path | None = None


def plan(root: Path, *, trust: Trust | None = None) -> BundlePlan:
    """Decide what of the folder `root` travels.

    Nested .gitignore files count with `info/exclude` and `core.excludesFile`, but what git tracks travels, as
    in a clone; .runctlignore counts after them. What the latter lets travel, though, needs the user's yes for
    the file in `trust` (the user's own where it is None): it came with the project.

    Raises NotTrusted where that is missing, HoldsSecrets for files that look like credentials,
    ValidationError for links out of the folder, more than `LARGEST` bytes, or a home folder.
    """
    root = root.resolve()
    _refuse_whole_home(root)
    walked = sorted(_walk(root, trust or of_user(home())), key=lambda item: os.fsencode(item.path))
    _refuse_untrusted([item for item in walked if item.wanted_by and _needs_word(item)])
    found = [item for item in walked if not item.left_out]
    _refuse_secrets(found)
    sizes = {item.path: item.where.lstat().st_size for item in found if not item.where.is_symlink()}
    _refuse_too_big(sizes)
    files = tuple(_describe(item, root) for item in found)
    return BundlePlan(root, files, sum(file.size for file in files), _digest(files))


def write(plan: BundlePlan, target: Path) -> None:
    """Write the archive (tar, gzip). Raises Conflict where a file is no longer what was planned."""
    with partial_file(target) as partial:
        with (
            partial.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for file in plan.files:
                _add(archive, plan.root, file)
        rename_durably(partial, target)


def project_root(script: Path) -> Path:
    """The folder that travels with a script: the nearest parent that is a project, else the script's own.

    A home folder and `/` are no project; where anybody may put files, those of others make none.
    """
    folder = script.parent.resolve()
    for parent in (folder, *folder.parents):
        if parent in _no_projects():
            break
        if any(owners.speaks(parent / mark) for mark in (".runctl.toml", "pyproject.toml", ".git")):
            return parent
        if parent.name in _NEVER:
            break  # a project leaves such a folder out, and the script with it
    return folder


def _no_projects() -> set[Path]:
    return {Path.home().resolve(), Path("/")}


def _refuse_whole_home(root: Path) -> None:
    if not root.is_dir():
        raise ValidationError(f"There is no folder {root}")
    if root in _no_projects():
        raise ValidationError(
            f"{root} cannot be sent as code",
            why="everything in it would travel",
            next="put the script in a folder of its own",
        )


def _needs_word(item: _Found) -> bool:
    """Whether a file would stay, were it not for a line of .runctlignore."""
    return item.left_out or (item.named and bool(_suspects([msgspec.structs.replace(item, named=False)])))


def _refuse_untrusted(wanted: list[_Found]) -> None:
    if not wanted:
        return
    files = sorted({str(item.wanted_by) for item in wanted})
    shown = ", ".join(item.path for item in wanted[:5])
    more = f" and {len(wanted) - 5} more" if len(wanted) > 5 else ""
    raise NotTrusted(
        f"{', '.join(files)} would send what does not travel otherwise: {shown}{more}",
        why="git leaves it out, or it looks like credentials; a file of the project cannot decide that alone",
        next=f"if you want that: runctl config trust {' '.join(map(quoted, files))} (untrust leaves it out)",
    )


def _walk(root: Path, trust: Trust) -> Iterator[_Found]:
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if top is None:
        return _walk_folder(root, _Way("", (), (), trust))
    files = git.tracked(root)
    folders = {f"{above}/" for path in files for above in PurePosixPath(path).parents}
    return _walk_folder(root, _Way("", _git_rules_above(root, top), (), trust, files | folders))


def _git_rules_above(root: Path, top: Path) -> tuple[RuleFile, ...]:
    """What git heeds of a repository before the .gitignore of `root`, the weakest first."""
    inner = _way_down(top, root)
    rules = [found for file in git.exclude_files(top) for found in rule_file(file, "", above=inner)]
    between = [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]
    for folder in between:
        rules.extend(rule_file(folder / GIT_FILE, "", above=_way_down(folder, root)))
    return tuple(rules)


def _way_down(folder: Path, root: Path) -> str:
    return "" if folder == root else root.relative_to(folder).as_posix() + "/"


def _walk_folder(root: Path, way: _Way) -> Iterator[_Found]:
    folder = root / way.base
    rules = (*way.git, *rule_file(folder / GIT_FILE, way.base))
    own = (*way.own, *rule_file(folder / OWN_FILE, way.base, trust=way.trust))
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(way.base, error) from error
    for entry in entries:
        path, is_folder = way.base + entry.name, entry.is_dir(follow_symlinks=False)
        if entry.name in _NEVER or (entry.name.endswith(".pyc") and not is_folder):
            continue
        rule = last_word(own, path, is_folder=is_folder)
        if rule is not None and rule.leaves_out:
            continue
        is_tracked = path in way.tracked
        left_out = way.left_out and not is_tracked
        by_git = not is_tracked and _git_leaves_out(rules, path, is_folder=is_folder)
        if rule is None:
            out, wanted_by = left_out or by_git, None if by_git else way.wanted_by
        else:
            # Without a yes, what would let it go is heard, and not obeyed.
            out = rule.by is not None and (left_out or by_git)
            wanted_by = None if rule.denied else rule.by
        if is_folder:
            # What git leaves out may hold a file that git tracks, or that .runctlignore wants back.
            if not out or path + "/" in way.tracked or _lets_any_travel(own):
                inner = _Way(
                    path + "/", rules, own, way.trust, way.tracked, left_out=out, wanted_by=wanted_by
                )
                yield from _walk_folder(root, inner)
        elif (not out or wanted_by is not None) and (entry.is_symlink() or entry.is_file()):
            named = rule is not None and not rule.denied and rule.names(path)
            yield _Found(path, Path(entry.path), named=named, left_out=out, wanted_by=wanted_by)


def _lets_any_travel(files: tuple[RuleFile, ...]) -> bool:
    return any(not rule.leaves_out for file in files for rule in file.rules)


def _git_leaves_out(rules: tuple[RuleFile, ...], path: str, *, is_folder: bool) -> bool:
    rule = last_word(rules, path, is_folder=is_folder)
    return rule is not None and rule.leaves_out


def _suspects(found: list[_Found]) -> list[Refusal]:
    """The files that hold secrets and were not named."""
    from runctl.storage.secret_files.refusals import refusals

    try:
        return list(refusals(item for item in found if not item.named))
    except OSError as error:
        where = Path(os.fsdecode(error.filename or ""))
        path = next((item.path for item in found if item.where == where), str(where))
        raise _unreadable(path, error) from error


def _refuse_secrets(found: list[_Found]) -> None:
    from runctl.storage.secret_files.refusals import require_none

    require_none(_suspects(found), ignore_file=OWN_FILE)


def _refuse_too_big(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total <= LARGEST:
        return
    biggest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    raise ValidationError(
        f"The code is {total / 1e6:.0f} MB; a bundle holds {LARGEST / 1e6:.0f} MB",
        why="the biggest files: " + ", ".join(f"{path} ({sizes[path] / 1e6:.1f} MB)" for path in biggest),
        next=f"leave them out with a line in {OWN_FILE}, and send data by --data",
    )


def _describe(item: _Found, root: Path) -> BundleFile:
    if item.where.is_symlink():
        return BundleFile(item.path, 0, False, "", _link(item, root))
    data = _read(item)
    executable = bool(item.where.lstat().st_mode & stat.S_IXUSR)
    return BundleFile(item.path, len(data), executable, hashlib.sha256(data).hexdigest())


def _link(item: _Found, root: Path) -> str:
    """The target of a link, made relative where it was not. Raises ValidationError where it leaves `root`."""
    try:
        target = item.where.resolve()
    except (OSError, RuntimeError) as error:
        raise ValidationError(f"The link {item.path} leads nowhere", why=str(error)) from error
    if not target.is_relative_to(root):
        raise ValidationError(
            f"The link {item.path} leads out of the project",
            why=f"it points to {target}, which is not in {root}",
            next=f"leave it out with a line in {OWN_FILE}; for data, use --data",
        )
    text = str(item.where.readlink())
    folder = os.path.dirname(item.path)  # noqa: PTH120 (of a path in the archive, which has no machine)
    landing = os.path.normpath(os.path.join(folder, text))  # noqa: PTH118
    stays = not text.startswith("/") and landing.split("/")[0] != ".."
    return text if stays else os.path.relpath(target, root / folder)


def _digest(files: tuple[BundleFile, ...]) -> str:
    total = hashlib.sha256(_FORMAT)
    for file in files:
        kind = "link" if file.link is not None else "program" if file.executable else "file"
        for part in (os.fsencode(file.path), kind.encode(), os.fsencode(file.link or file.sha256)):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def _add(archive: tarfile.TarFile, root: Path, file: BundleFile) -> None:
    entry = tarfile.TarInfo(file.path)
    entry.mode = 0o755 if file.executable else 0o644
    if file.link is not None:
        entry.type, entry.linkname = tarfile.SYMTYPE, file.link
        archive.addfile(entry)
        return
    # A log that grew since is taken as it was read: its first bytes are still those.
    data = _read(_Found(file.path, root / file.path, named=False))[: file.size]
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise Conflict(f"{file.path} changed while the code was packed", next="run the command again")
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _read(item: _Found) -> bytes:
    try:
        return item.where.read_bytes()
    except OSError as error:
        raise _unreadable(item.path, error) from error


def _unreadable(path: str, error: OSError) -> ValidationError:
    return ValidationError(
        f"Cannot read {path or 'the project'}",
        why=error.strerror or str(error),
        next=f"mend its permissions or leave it out with a line in {OWN_FILE}",
    )
