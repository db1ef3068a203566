from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from runctl.errors import Conflict, NotTrusted, ValidationError
from runctl.storage import bundle
from runctl.storage.secret_files.names import by_name
from runctl.trust import Trust

# In two parts, so that this file can travel in a bundle itself.
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n"
AWS_KEYS = (
    "aws_access_key_id=AKIA" + "Q3EGZ5W7K2LMN4PQ\nsecret=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzz1KEYab\n"
)


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    root.mkdir(exist_ok=True)
    return root


def paths(root: Path) -> list[str]:
    """What travels after a yes for every .runctlignore as it is."""
    return [file.path for file in bundle.plan(root, trust=answered(root, yes=True)).files]


def answered(root: Path, *, yes: bool) -> Trust:
    trust = Trust(root.parent / f".trust-{root.name}")
    for file in root.rglob(".runctlignore"):
        trust.give(file, file.read_bytes(), yes=yes, at=datetime(2026, 1, 1, tzinfo=UTC))
    return trust


def test_what_is_never_code_stays_out(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "train.py": "",
            "pkg/model.py": "",
            "pkg/__pycache__/model.pyc": "",
            "pkg/old.pyc": "",
            ".git/config": "",
            "sub/.git": "gitdir: elsewhere",
            ".runctl/jobs/j/state.json": "",
            ".venv/bin/python": "",
            "sub/venv/x": "",
            "web/node_modules/y": "",
            ".runctlignore": "!.venv\n!venv/x\n!.git/config\n",
        },
    )
    assert paths(root) == [".runctlignore", "pkg/model.py", "train.py"]


def test_runctlignore_has_the_last_word(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            ".gitignore": "data/\n*.log\n",
            ".runctlignore": "notes/\n!data/small.csv\n!keep.log\n",
            "data/big.csv": "",
            "data/small.csv": "",
            "notes/a.md": "",
            "keep.log": "",
            "other.log": "",
            "a.py": "",
        },
    )
    assert paths(root) == [".gitignore", ".runctlignore", "a.py", "data/small.csv", "keep.log"]


def test_a_folder_that_is_named_comes_back_whole(tmp_path: Path) -> None:
    files = {".gitignore": "data\n*.log\n", ".runctlignore": "!data/\n", "data/a/b.csv": "", "data/c.log": ""}
    assert paths(tree(tmp_path, dict(files))) == [".gitignore", ".runctlignore", "data/a/b.csv"]


def test_rules_of_the_repository_above_count(tmp_path: Path) -> None:
    tree(tmp_path, {".git/HEAD": "", ".gitignore": "*.ckpt\n/work/job/out/\n", "work/.gitignore": "*.tmp\n"})
    root = tree(
        tmp_path / "work" / "job", {"a.ckpt": "", "b.tmp": "", "out/x": "", "deep/out/x": "", "t.py": ""}
    )
    assert paths(root) == ["deep/out/x", "t.py"]


def test_links_inside_stay_links(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", {"pkg/a.py": "x", "deep/er/x": ""})
    (root / "near").symlink_to("pkg/a.py")
    (root / "folder").symlink_to("pkg")
    (root / "deep" / "absolute").symlink_to(root / "pkg" / "a.py")
    (root / "around").symlink_to("../p/pkg")
    links = {file.path: file.link for file in bundle.plan(root).files if file.link is not None}
    assert links == {"near": "pkg/a.py", "folder": "pkg", "deep/absolute": "../pkg/a.py", "around": "pkg"}


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "deep/../../outside"])
def test_a_link_that_leaves_the_project_is_refused(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path / "p", {"deep/x": ""})
    (root / "link").symlink_to(target)
    with pytest.raises(ValidationError, match="link leads out of the project") as caught:
        bundle.plan(root)
    assert "--data" in caught.value.next
    (root / ".runctlignore").write_text("link\n")
    assert paths(root) == [".runctlignore", "deep/x"]


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ValidationError, match="leads nowhere"):
        bundle.plan(tmp_path)


SECRETS = {
    ".env": "A=1",
    "conf/.env.local": "A=1",
    "PROD.ENV": "A=1",
    "server.pem": "x",
    "keys/id_rsa": "x",
    "id_ed25519_work": "x",
    ".aws/credentials": "x",
    ".netrc": "x",
    "credentials.json": "{}",
    "credentials-prod.json": "{}",
    "my-service-account.json": "{}",
    "notes.txt": PRIVATE_KEY,
    "settings.py": AWS_KEYS,
    "gh.sh": "export T=ghp_" + "a1B2" * 9,
    "hf.sh": "export T=hf_" + "a1B2" * 8 + "ab",
}


@pytest.mark.parametrize(("path", "content"), SECRETS.items())
def test_what_looks_like_credentials_is_refused_until_named(tmp_path: Path, path: str, content: str) -> None:
    root = tree(tmp_path, {"a.py": "", path: content})
    with pytest.raises(ValidationError) as caught:
        bundle.plan(root)
    assert path in caught.value.what
    assert ".runctlignore" in caught.value.next
    assert f"!/{path}" in caught.value.next
    (root / ".runctlignore").write_text(f"{path}\n")
    assert paths(root) == [".runctlignore", "a.py"]
    (root / ".runctlignore").write_text("!*\n!**/*.*\n")
    with pytest.raises(ValidationError, match="look like credentials"):
        paths(root)
    (root / ".runctlignore").write_text(f"!{path}\n")
    with pytest.raises(NotTrusted) as untrusted:
        bundle.plan(root, trust=Trust(None))
    assert path in untrusted.value.what
    assert f"runctl config trust {root / '.runctlignore'}" in untrusted.value.next
    with pytest.raises(ValidationError, match="look like credentials"):
        bundle.plan(root, trust=answered(root, yes=False))
    assert path in paths(root)
    (root / ".runctlignore").write_text(f"!{path}\n# changed since\n")
    with pytest.raises(NotTrusted):
        bundle.plan(root, trust=Trust(root.parent / f".trust-{root.name}"))


def test_what_git_leaves_out_is_let_go_by_a_yes_alone(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "p",
        {".gitignore": "notes/\n*.csv\n", ".runctlignore": "*.py\n!train.py\n!notes/\n", "train.py": ""},
    )
    travels = [".gitignore", ".runctlignore", "train.py"]
    assert [file.path for file in bundle.plan(root, trust=Trust(None)).files] == travels
    tree(root, {"notes/mine.txt": "", "notes/deep/too.txt": "", "a.csv": "", "other.py": ""})
    with pytest.raises(NotTrusted, match=r"notes/deep/too\.txt, notes/mine\.txt$"):
        bundle.plan(root, trust=Trust(None))
    assert [file.path for file in bundle.plan(root, trust=answered(root, yes=False)).files] == travels
    assert paths(root) == sorted([*travels, "notes/deep/too.txt", "notes/mine.txt"])


def test_a_runctlignore_that_others_may_change_lets_nothing_go(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", {".gitignore": "*.csv\n", ".runctlignore": "!a.csv\n", "a.csv": ""})
    assert "a.csv" in paths(root)
    (root / ".runctlignore").chmod(0o666)
    with pytest.raises(NotTrusted):
        paths(root)


def test_all_of_them_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        bundle.plan(tree(tmp_path, dict(SECRETS)))
    assert str(len(SECRETS)) in caught.value.what


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("id_rsa.pub", "ssh-rsa AAAA"),
        (".env.example", "TOKEN="),
        ("docs.md", "AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("sum.txt", "99af1b0bc0b0f2b7a3d15f57e4f2e5a3c1d2e3f4"),
        ("environment.py", "x"),
        ("ca.crt", "-----BEGIN CERTIFICATE-----"),
        ("weights.bin", "\0\0" + PRIVATE_KEY),
    ],
)
def test_what_is_harmless_travels(tmp_path: Path, path: str, content: str) -> None:
    assert paths(tree(tmp_path, {path: content})) == [path]


def test_too_much_is_refused_with_the_five_biggest(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.py": "x"})
    for number in range(1, 8):
        with (root / f"big{number}.bin").open("wb") as file:
            file.truncate(number * 10_000_000)
    with pytest.raises(ValidationError) as caught:
        bundle.plan(root)
    assert [f"big{n}.bin" in caught.value.why for n in range(1, 8)] == [False, False] + [True] * 5
    assert "--data" in caught.value.next


def test_the_home_folder_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "HOME", str(tree(tmp_path / "home", {".git/HEAD": "", "a/b/train.py": "", "t.py": ""}))
    )
    home = tmp_path / "home"
    assert bundle.project_root(home / "a" / "b" / "train.py") == home / "a" / "b"
    assert bundle.project_root(home / "t.py") == home
    with pytest.raises(ValidationError, match="cannot be sent"):
        bundle.plan(home)
    with pytest.raises(ValidationError, match="cannot be sent"):
        bundle.plan(Path("/"))


def as_another(path: Path) -> None:
    os.chown(path, 65534, -1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_others_put_into_a_shared_folder_does_not_make_it_the_project(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    script = shared / "x" / "train.py"
    script.parent.mkdir(parents=True)
    script.touch()
    (shared / "pyproject.toml").touch()
    shared.chmod(0o1777)
    assert bundle.project_root(script) == shared
    as_another(shared / "pyproject.toml")
    assert bundle.project_root(script) == script.parent


@pytest.mark.parametrize("mark", [".runctl.toml", "pyproject.toml", ".git"])
def test_the_nearest_marked_folder_is_the_project(tmp_path: Path, mark: str) -> None:
    tree(tmp_path, {"pyproject.toml": "", "p/src/deep/train.py": ""})
    (tmp_path / "p" / mark).mkdir() if mark == ".git" else (tmp_path / "p" / mark).touch()
    assert bundle.project_root(tmp_path / "p/src/deep/train.py") == tmp_path / "p"


def test_a_script_in_a_virtual_environment_is_no_part_of_the_project_around_it(tmp_path: Path) -> None:
    tree(tmp_path, {"pyproject.toml": "", ".venv/lib/examples/train.py": ""})
    assert bundle.project_root(tmp_path / ".venv/lib/examples/train.py") == tmp_path / ".venv/lib/examples"


def test_an_unreadable_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no folder"):
        bundle.plan(tmp_path / "absent")


def test_the_archive_holds_what_was_planned(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", {"a.py": "print(1)", "run.sh": "#!/bin/sh\n", "d/ü\n.txt": b"\xff"})
    (root / "run.sh").chmod(0o700)
    (root / "link").symlink_to("d")
    plan = bundle.plan(root)
    bundle.write(plan, tmp_path / "out" / "b.tar.gz")
    with tarfile.open(tmp_path / "out" / "b.tar.gz") as archive:
        archive.extractall(tmp_path / "new", filter="data")
    assert bundle.plan(tmp_path / "new") == bundle.BundlePlan(
        tmp_path / "new", plan.files, plan.total_bytes, plan.digest
    )
    assert os.access(tmp_path / "new" / "run.sh", os.X_OK)
    assert plan.total_bytes == 8 + 10 + 1


def test_a_file_that_changes_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", {"a.py": "1"})
    plan = bundle.plan(root)
    (root / "a.py").write_text("2")
    with pytest.raises(Conflict):
        bundle.write(plan, tmp_path / "b.tar.gz")
    assert not (tmp_path / "b.tar.gz").exists()


names = st.sampled_from(
    ["a", "b", "ab", "a.py", "b.log", "data", "x y", "[a]", "#a", "!b", "Ü", "a\\b", " ", ".c"]
)
tree_paths = st.lists(names, min_size=1, max_size=4).map("/".join)
trees = st.dictionaries(tree_paths, st.binary(max_size=20), min_size=1, max_size=12).map(
    lambda files: {
        path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)
    }
)


@settings(max_examples=60)
@given(files=trees, programs=st.sets(st.integers(0, 11)))
def test_the_same_code_is_the_same_archive(files: dict[str, bytes], programs: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made: list[bytes] = []
        digests: list[str] = []
        for number, order in enumerate((sorted(files), sorted(files, reverse=True))):
            root = tree(Path(folder, f"p{number}"), {path: files[path] for path in order})
            for index, path in enumerate(sorted(files)):
                (root / path).chmod(0o755 if index in programs else 0o640)
                os.utime(root / path, (number, number))
            plan = bundle.plan(root)
            bundle.write(plan, Path(folder, f"b{number}.tar.gz"))
            made.append(Path(folder, f"b{number}.tar.gz").read_bytes())
            digests.append(plan.digest)
        assert made[0] == made[1]
        assert made[0][4:8] == bytes(4), "gzip keeps no time"
        assert digests[0] == digests[1]


@settings(max_examples=60)
@given(files=trees, change=st.sampled_from(["content", "name", "mode", "link", "removed"]))
def test_other_code_has_another_digest(files: dict[str, bytes], change: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder, "p"), dict(files))
        before = bundle.plan(root).digest
        victim = root / min(files)
        if change == "content":
            victim.write_bytes(victim.read_bytes() + b"x")
        elif change == "name":
            victim.rename(victim.with_name("renamed"))
        elif change == "mode":
            victim.chmod(0o755)
        elif change == "link":
            victim.unlink()
            victim.symlink_to("target")
        else:
            victim.unlink()
        assert bundle.plan(root).digest != before


pieces = st.sampled_from(
    ["a", "b", "ab", "a.py", "data", "*", "**", "?", "*.py", "a*", "[ab]", "[!a]", "\\#a", ".c", "x y"]
)
patterns = st.builds(
    lambda parts, start, end, blank: start + "/".join(parts) + end + blank,
    st.lists(pieces, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "!", "!/", "#"]),
    st.sampled_from(["", "", "/"]),
    st.sampled_from(["", "", " ", "\\ ", "\r"]),
)
ignore_files = st.lists(patterns, max_size=5).map("\n".join)


def _left_in_by_git(root: Path) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    others = {os.fsdecode(path) for path in listed.stdout.split(b"\0") if path}
    # Its words for single files agree with what it lists.
    ignored = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "-z", "--no-index", "--stdin"],
        input=b"\0".join(os.fsencode(path) for path in sorted(others)),
        cwd=root,
        capture_output=True,
        check=False,  # 1 says that none of them is ignored
    )
    assert ignored.stdout == b""
    return others


@settings(max_examples=100)
@given(
    files=trees, rules=st.dictionaries(st.sampled_from(["", "a/", "data/", "a/b/"]), ignore_files, max_size=3)
)
@example({"data/.c": b"", "data/x": b""}, {"": "data/**\n!data/.c"})
@example({"a/b/c.py": b"", "a/b/d": b""}, {"": "*\n!*/\n!*.py"})
@example({"a/a": b"", "b/a": b""}, {"": "/a/", "b/": "!a"})
def test_git_would_leave_out_the_same(files: dict[str, bytes], rules: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "p")
        whole: dict[str, str | bytes] = dict(files)
        for base, text in rules.items():
            parts = base.rstrip("/").split("/")
            assume(not any("/".join(parts[: n + 1]) in files for n in range(len(parts)) if base))
            whole[f"{base}.gitignore"] = text
        tree(root, whole)
        subprocess.run(
            ["git", "init", "-q", str(root)], check=True, env={**os.environ, "GIT_TEMPLATE_DIR": ""}
        )
        assert set(paths(root)) == _left_in_by_git(root)


@settings(max_examples=40)
@given(
    files=trees,
    inside=ignore_files,
    personal=ignore_files,
    shared=ignore_files,
    added=st.sets(st.integers(0, 9)),
)
@example({"private/a": b"", "b": b""}, "private/", "", "", set())
@example({"a.scratch": b"", "b": b""}, "", "*.scratch", "", set())
@example({"out/model.json": b"", "out/x": b""}, "", "", "out", {0})
@example({"a": b"", "b": b""}, "!a", "*", "", set())
def test_what_git_tracks_travels_and_what_it_excludes_anywhere_stays(
    files: dict[str, bytes], inside: str, personal: str, shared: str, added: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "p")
        tree(root, {**files, ".gitignore": shared})

        def git(*arguments: str) -> bytes:
            return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout

        git("init", "-q")
        Path(root, ".git/info").mkdir(exist_ok=True)
        Path(root, ".git/info/exclude").write_text(inside)
        Path(folder, "personal").write_text(personal)
        git("config", "core.excludesFile", str(Path(folder, "personal")))
        for path in [path for number, path in enumerate(sorted(files)) if number in added]:
            git("add", "-f", "--", path)
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        assert set(paths(root)) == {os.fsdecode(path) for path in listed.split(b"\0") if path}


def test_a_log_that_grows_while_the_code_is_packed_is_taken_as_it_was_read(tmp_path: Path) -> None:
    tree(tmp_path / "p", {"train.py": "print(1)", "train.log": "step 1\n"})
    planned = bundle.plan(tmp_path / "p")
    with (tmp_path / "p/train.log").open("a") as log:
        log.write("step 2\n")
    bundle.write(planned, tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        packed = archive.extractfile("train.log")
        assert packed is not None
        assert packed.read() == b"step 1\n"


@settings(max_examples=30)
@given(
    files=trees,
    git_rules=st.dictionaries(st.sampled_from(["", "a/", "data/"]), ignore_files, max_size=2),
    own_rules=st.dictionaries(st.sampled_from(["", "a/", "data/"]), ignore_files, min_size=1, max_size=2),
)
@example({"data/x.py": b"", "data/b.log": b""}, {"": "*.log"}, {"": "!data/"})
@example({"data/x.py": b"", "data/b": b""}, {"": "data"}, {"": "!data/"})
def test_a_missing_yes_is_missed_where_it_would_send_more_and_only_there(
    files: dict[str, bytes], git_rules: dict[str, str], own_rules: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, str | bytes] = dict(files)
        for base, text in git_rules.items():
            whole[f"{base}.gitignore"] = text
        for base, text in own_rules.items():
            whole[f"{base}.runctlignore"] = text
        with suppress(FileExistsError, IsADirectoryError, NotADirectoryError):
            root = tree(Path(folder, "p"), whole)
            refused = [file.path for file in bundle.plan(root, trust=answered(root, yes=False)).files]
            allowed = paths(root)
            assert set(refused) <= set(allowed)
            if refused == allowed:
                assert [file.path for file in bundle.plan(root, trust=Trust(None)).files] == refused
            else:
                with pytest.raises(NotTrusted):
                    bundle.plan(root, trust=Trust(None))


secret_names = st.sampled_from(
    ["a", "b", ".aws", ".env", "id_rsa", "k.pem", "credentials", "x.txt", "creds.json"]
)
secret_paths = st.lists(secret_names, min_size=1, max_size=3).map("/".join)
secret_trees = st.dictionaries(
    secret_paths, st.sampled_from(["", "x", PRIVATE_KEY, AWS_KEYS]), min_size=1, max_size=6
).map(lambda files: {p: c for p, c in files.items() if not any(o.startswith(p + "/") for o in files)})


@settings(max_examples=100)
@given(
    files=secret_trees,
    own=st.lists(
        st.sampled_from(["*.pem", ".env", ".aws/", "!*", "!a/**", "a", "id_rsa", "!b/"]), max_size=4
    ),
)
def test_no_credentials_ever_lie_in_an_archive(files: dict[str, str], own: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder, "p"), {**files, ".runctlignore": "\n".join(own)})
        try:
            plan = bundle.plan(root, trust=answered(root, yes=True))
        except ValidationError:
            return
        bundle.write(plan, Path(folder, "b.tar.gz"))
        with tarfile.open(Path(folder, "b.tar.gz")) as archive:
            for member in archive:
                data = archive.extractfile(member)
                assert data is not None
                assert by_name(member.name) is None
                content = data.read()
                assert PRIVATE_KEY.encode() not in content
                assert AWS_KEYS.encode() not in content
