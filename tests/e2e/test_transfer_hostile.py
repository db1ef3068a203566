"""Names and places that are out to hurt: each gets a line of its own, and the rest goes over."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


class Desk:
    """A bucket of the sandbox and a folder, with the command between them."""

    def __init__(self, sandbox: Any, folder: Path) -> None:
        self.s3 = sandbox.client("s3")
        self.bucket = f"hostile-{uuid.uuid4().hex[:12]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.folder = folder / "data"
        self.folder.mkdir()
        record = sandbox.record
        self.environment = {
            **os.environ,
            "RUNCTL_HOME": str(folder / "home"),
            "AWS_ENDPOINT_URL_S3": record.s3_endpoint,
            "AWS_ACCESS_KEY_ID": record.access_key,
            "AWS_SECRET_ACCESS_KEY": record.secret_key,
            "AWS_REGION": record.region,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            self.environment.pop(name, None)

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/set"

    def put(self, key: str, data: bytes = b"data") -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def run(self, *arguments: str, before: Sequence[str] = ()) -> Outcome:
        command = [*before, sys.executable, "-m", "runctl", "transfer", *arguments, "--output", "json"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Outcome(done)

    def keys(self) -> set[str]:
        return {item["Key"] for item in self.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])}


class Outcome:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.stderr = done.stderr
        self.report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}

    def lines(self, kind: str) -> dict[str, str]:
        return {item["name"]: item["why"] for item in self.report[kind]}


@pytest.fixture
def desk(sandbox_cloud: Any, tmp_path: Path) -> Desk:
    return Desk(sandbox_cloud, tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


HOSTILE_KEYS = {
    "set/../evil": "'..'",
    "set/./dot": "'.'",
    "set//etc/passwd": "empty part",
    "set/a//b": "empty part",
    "set/control\x01": "control",
    "set/c1\x9b2J": "control",
    "set/invoice\u202efdp.exe": "U+202E",
    "set/line\u2028forged": "U+2028",
    "set/un\u200bseen": "U+200B",
    "set/tail/": "empty part",
    "set/" + "n" * 1000: "255 bytes",
    "set/.runctl-partial-9": "on its way",
}


def test_keys_that_cannot_be_files_are_refused_by_name(desk: Desk, tmp_path: Path) -> None:
    for key in HOSTILE_KEYS:
        desk.put(key)
    desk.put("set/good/é ü%2F+?.bin", b"good")
    target = tmp_path / "out"
    outcome = desk.run(desk.place, str(target))
    assert outcome.code == 1
    assert files(target) == {"good/é ü%2F+?.bin": b"good"}
    why = outcome.lines("left_out")
    assert len(why) == len(HOSTILE_KEYS)
    for key, expected in HOSTILE_KEYS.items():
        name = key.removeprefix("set/").encode("unicode_escape").decode()
        assert expected in why[name], (name, why[name])
    assert not {p.name for p in tmp_path.iterdir()} - {"data", "home", "out"}, (
        "something lies beside the folder"
    )


def test_a_long_key_of_short_parts_goes_both_ways(desk: Desk, tmp_path: Path) -> None:
    name = "/".join(["n" * 198] * 4 + ["ü" * 100])
    assert len(f"set/{name}") + 100 == 1000  # bytes
    desk.put(f"set/{name}", b"deep")
    assert desk.run(desk.place, str(tmp_path / "out")).code == 0
    assert files(tmp_path / "out") == {name: b"deep"}
    assert desk.run(str(tmp_path / "out"), f"s3://{desk.bucket}/cpy").code == 0
    assert desk.keys() == {f"set/{name}", f"cpy/{name}"}


def test_an_absolute_key_is_not_taken_for_another(desk: Desk, tmp_path: Path) -> None:
    desk.put("/abs", b"the absolute one")
    desk.put("abs", b"the relative one")
    outcome = desk.run(f"s3://{desk.bucket}", str(tmp_path / "out"))
    assert outcome.code == 1
    assert files(tmp_path / "out") == {"abs": b"the relative one"}
    assert list(outcome.lines("left_out")) == ["/abs"]


def test_names_that_differ_in_case_empty_objects_and_folder_marks(desk: Desk, tmp_path: Path) -> None:
    for key, data in {
        "set/A": b"1",
        "set/a": b"2",
        "set/empty": b"",
        "set/folder/": b"",
        "set/folder/x": b"3",
    }.items():
        desk.put(key, data)
    outcome = desk.run(desk.place, str(tmp_path / "out"))
    assert outcome.code == 0
    assert files(tmp_path / "out") == {"A": b"1", "a": b"2", "empty": b"", "folder/x": b"3"}
    assert desk.run(desk.place, str(tmp_path / "out")).report["equal_files"] == 4


def test_a_key_that_is_a_file_and_a_folder(desk: Desk, tmp_path: Path) -> None:
    for key in ("set/both", "set/both/inner", "set/other"):
        desk.put(key)
    outcome = desk.run(desk.place, str(tmp_path / "out"))
    assert outcome.code == 2
    assert len(outcome.report["failed"]) == 1
    assert (tmp_path / "out/other").read_bytes() == b"data"
    assert not list((tmp_path / "out").rglob(".runctl-partial-*"))


def test_a_link_in_the_destination_leads_nobody_out(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "out"
    target.mkdir()
    (target / "link").symlink_to(outside)
    desk.put("set/link/file")
    desk.put("set/fine")
    (target / "inner").mkdir()
    (target / "inner/file").write_bytes(b"mine")
    (target / "inside").symlink_to("inner")
    (target / "single").symlink_to(outside / "none")
    desk.put("set/inside/file")
    desk.put("set/single")
    outcome = desk.run(desk.place, str(target))
    assert outcome.code == 1
    assert {"link/file", "inside/file", "single"} <= set(outcome.lines("left_out"))
    assert "nothing was touched" in outcome.lines("left_out")["link/file"]
    assert not list(outside.iterdir())
    assert (target / "single").is_symlink()
    assert (target / "inner/file").read_bytes() == b"mine"
    assert (target / "fine").read_bytes() == b"data"


def test_what_is_no_file_stays_here(desk: Desk, tmp_path: Path) -> None:
    folder = desk.folder
    (folder / "good").write_bytes(b"good")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "secret").write_bytes(b"not yours")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to(folder / "good")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"x")
        (folder / "new\nline").write_bytes(b"x")
        (folder / ("d" * 200) / ("e" * 200)).mkdir(parents=True)
        deep = folder.joinpath(*(["d" * 200, "e" * 200] + ["f" * 200] * 3))
        deep.mkdir(parents=True)
        (deep / ("g" * 200)).write_bytes(b"x")
        outcome = desk.run(str(folder), desk.place)
    assert outcome.code == 1
    assert desk.keys() == {"set/good", "set/inner"}
    why = outcome.lines("left_out")
    assert set(why) >= {"loop", "self", "nowhere", "out", "pipe", "socket", "new\\nline"}
    assert why["loop"] == "a link to a folder is not followed"
    assert "out of" in why["out"]
    assert any("1024" in text for text in why.values())
    assert any("UTF-8" in text for text in why.values())
    assert len(why) == 9


def test_what_looks_like_credentials_stays_here_unless_it_is_named(desk: Desk) -> None:
    secrets = [".env", "deploy.pem", ".aws/credentials", "sub/id_rsa", "kaggle.json"]
    for name in (*secrets, "fine.txt", ".env.example"):
        path = desk.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    outcome = desk.run(str(desk.folder), desk.place)
    assert outcome.code == 1
    assert desk.keys() == {"set/fine.txt", "set/.env.example"}
    why = outcome.lines("left_out")
    assert set(why) == set(secrets)
    assert all("--allow-secret" in text for text in why.values())
    again = desk.run(str(desk.folder), desk.place, "--allow-secret", ".env", "--allow-secret", "sub/id_rsa")
    assert set(again.lines("left_out")) == set(secrets) - {".env", "sub/id_rsa"}
    assert desk.keys() >= {"set/.env", "set/sub/id_rsa"}


def test_a_single_file_and_a_folder_of_credentials_stay_here(desk: Desk, tmp_path: Path) -> None:
    home = tmp_path / "me" / ".aws"
    home.mkdir(parents=True)
    (home / "credentials").write_bytes(b"x")
    (desk.folder / "deploy.pem").write_bytes(b"x")
    (desk.folder / "plain").symlink_to("deploy.pem")
    for source in (home / "credentials", desk.folder / "deploy.pem", desk.folder / "plain", home):
        outcome = desk.run(str(source), f"s3://{desk.bucket}/set/")
        assert outcome.code == 1
        assert all("--allow-secret" in why for why in outcome.lines("left_out").values())
        assert len(outcome.lines("left_out")) == 1
    assert not desk.keys()
    assert set(desk.run(str(desk.folder), desk.place).lines("left_out")) == {"deploy.pem", "plain"}
    named = desk.run(str(home / "credentials"), f"{desk.place}/keys", "--allow-secret", "credentials")
    assert named.code == 0
    assert desk.keys() == {"set/keys"}


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can give files away and then do without its right to read them",
)
def test_unreadable_files_and_a_destination_that_cannot_be_written(desk: Desk, tmp_path: Path) -> None:
    (desk.folder / "good").write_bytes(b"good")
    (desk.folder / "private").write_bytes(b"mine")
    (desk.folder / "closed").mkdir()
    (desk.folder / "closed" / "x").write_bytes(b"x")
    for path in (desk.folder / "private", desk.folder / "closed"):
        path.chmod(0o600)
        os.chown(path, NOBODY, NOBODY)
    humble = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]
    outcome = desk.run(str(desk.folder), desk.place, before=humble)
    assert outcome.code == 2, outcome.stderr
    assert desk.keys() == {"set/good"}
    assert "ermission denied" in outcome.lines("failed")["private"]
    assert "ermission denied" in outcome.lines("left_out")["closed/"]
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    for target in ("theirs", "theirs/new"):
        down = desk.run(desk.place, str(tmp_path / target), before=humble)
        assert down.code == 2
        assert "ermission denied" in down.stderr + str(down.report)
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace for a disk that is full or cannot be written",
)
@pytest.mark.parametrize("options", ["size=1m", "ro"])
def test_a_disk_that_is_full_or_read_only(desk: Desk, tmp_path: Path, options: str) -> None:
    desk.put("set/small", b"s")
    desk.put("set/large", bytes(3 << 20))
    desk.put("set/huge", bytes(20 << 20))
    disk = tmp_path / "disk"
    disk.mkdir()
    listing = tmp_path / "listing"
    mount = f"mount -t tmpfs -o {options} none {disk}"
    script = f'{mount} && "$@"; code=$?; find {disk} -type f > {listing}; exit $code'
    outcome = desk.run(desk.place, str(disk), before=["unshare", "-m", "sh", "-c", script, "sh"])
    assert outcome.code == 2
    failed = outcome.lines("failed")
    left = [Path(line).name for line in listing.read_text().splitlines()]
    if options == "ro":
        assert all("ead-only" in why for why in failed.values())
        assert set(failed) == {"small", "large", "huge"}
        assert left == []
    else:
        assert set(failed) == {"large", "huge"}
        assert "o space left" in failed["large"] or "full" in failed["large"]
        assert "full" in failed["huge"]
        assert left == ["small"]


def test_a_delete_asks_first_and_touches_nothing_that_was_excluded(desk: Desk, tmp_path: Path) -> None:
    (desk.folder / "a").write_bytes(b"1")
    for key in ("set/a", "set/old", "set/keep.log", "beside"):
        desk.put(key)
    refused = desk.run(str(desk.folder), desk.place, "--delete")
    assert refused.code == 1
    assert "add --yes" in refused.stderr
    stays = desk.keys()
    assert stays == {"set/a", "set/old", "set/keep.log", "beside"}
    done = desk.run(str(desk.folder), desk.place, "--delete", "--yes", "--exclude", "*.log")
    assert done.code == 0
    assert desk.keys() == {"set/a", "set/keep.log", "beside"}
    assert done.report["deleted_files"] == 1
