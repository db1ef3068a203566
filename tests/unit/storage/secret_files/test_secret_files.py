"""What must not travel is found by its name and by what stands in it; what code is made of travels."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from made_up import CONTENTS, HARMLESS, HARMLESS_NAMES, NAMES, base_64, key_block, mixed, notebook

from runctl.storage.secret_files import contents
from runctl.storage.secret_files.contents import by_content
from runctl.storage.secret_files.names import by_name, by_place
from runctl.storage.secret_files.refusals import HoldsSecrets, refusals, require_none, require_none_in_data


class File(msgspec.Struct, frozen=True):
    path: str
    where: Path


def written(root: Path, path: str, data: bytes) -> File:
    where = root / path
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(data)
    return File(path, where)


@pytest.mark.parametrize("path", NAMES)
def test_a_name_tells(path: str) -> None:
    assert by_name(path)


@pytest.mark.parametrize("path", HARMLESS_NAMES)
def test_a_name_tells_nothing(path: str) -> None:
    assert by_name(path) is None


@pytest.mark.parametrize("name", CONTENTS)
def test_a_secret_is_found_under_a_harmless_name(name: str) -> None:
    assert by_content(CONTENTS[name]().encode(), name)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_code_is_made_of_is_no_secret(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, HARMLESS[name].encode())
    assert list(refusals([file])) == []


def token() -> str:
    return "gh" + f"p_{mixed(36)}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1"])
def test_a_token_is_found_in_every_encoding(encoding: str) -> None:
    assert by_content(f"a = 1\r\nT = {token()}\r\n".encode(encoding), "a.txt")[0].line == 2


def test_a_token_is_found_far_into_a_file_and_not_looked_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert contents.READ_UP_TO >= 1_000_000
    monkeypatch.setattr(contents, "READ_UP_TO", 90_000)
    far = b"x\n" * 30_000
    assert by_content(far + token().encode(), "a.py")
    assert by_content(far * 2 + token().encode(), "a.py") == ()


def test_a_token_is_found_in_what_is_no_text() -> None:
    assert by_content(b"\x80\x04\0\0" + b"\0\xff" * 50 + token().encode() + b"\0\xff" * 50, "a.pkl")


def test_a_key_is_found_in_a_notebook_s_output() -> None:
    assert by_content(notebook("cat()", "here:\n" + key_block("RSA ")).encode(), "a.ipynb")
    assert by_content(notebook("x", f'{{"password": "{mixed(14)}"}}').encode(), "a.ipynb")


def test_reading_a_long_line_takes_no_quadratic_time() -> None:
    for piece in (
        b"a",
        b"token ",
        b"password=",
        b"-----BEGIN ",
        b"://a:",
        b"kind: Config ",
        b"aws secret ",
        b"eyJ",
    ):
        by_content(piece * (100_000 // len(piece)), "a.txt")


def test_every_reason_is_told_and_no_secret(tmp_path: Path) -> None:
    secret, other = token(), base_64(40)
    data = f"a = 1\nT = '{secret}'\naws_secret_access_key = {other}\n".encode()
    files = [
        written(tmp_path, "src/a.py", data),
        written(tmp_path, ".env", b"A=1"),
        written(tmp_path, "it's odd [1]*.pem", b"x"),
        written(tmp_path, "fine.py", b"x = 1"),
    ]
    with pytest.raises(HoldsSecrets) as caught:
        require_none(refusals(files), ignore_file=".runctlignore")
    text = f"{caught.value.what} {caught.value.why} {caught.value.next}"
    assert "\n" not in caught.value.what  # a failure is told on one line: see cli/failures.py
    assert secret not in text
    assert other not in text
    for expected in (
        "line 2: a GitHub token",
        "line 3: an AWS secret key",
        "environment variables",
        "3 file(s)",
    ):
        assert expected in text
    for way_out in ("/src/a.py", "/.env", "[1"):
        assert way_out in caught.value.next
    told = json.loads(json.dumps(caught.value.details()))["refused"]
    assert [one["path"] for one in told] == ["src/a.py", ".env", "it's odd [1]*.pem"]
    assert [found["line"] for found in told[0]["found"]] == [2, 3]


def test_a_certificate_without_its_key_travels(tmp_path: Path) -> None:
    body = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    assert not list(refusals([written(tmp_path, "chain.pem", body)]))
    assert list(refusals([written(tmp_path, "both.pem", body + key_block("").encode())]))


def test_a_folder_s_own_name_counts_only_where_a_tool_chose_it(tmp_path: Path) -> None:
    assert not list(refusals([written(tmp_path / "secrets", "config.json", b"{}")]))
    assert list(refusals([written(tmp_path / ".aws", "config", b"")]))
    assert by_place("/home/me/.oci/config")
    assert by_place("/home/me/secrets/config.json") is None


def test_data_is_judged_by_its_names_and_all_of_them_are_told(tmp_path: Path) -> None:
    for path in ("images/1.png", "deep/.env", "deep/id_rsa", "labels.csv"):
        written(tmp_path, path, token().encode())
    with pytest.raises(HoldsSecrets) as caught:
        require_none_in_data(tmp_path)
    assert [one.path for one in caught.value.refused] == ["deep/.env", "deep/id_rsa"]
    assert "--allow-secret" in caught.value.next
    (tmp_path / "deep/.env").unlink()
    (tmp_path / "deep/id_rsa").unlink()
    require_none_in_data(tmp_path)


def _fails(data: bytes, name: str) -> None:
    pytest.fail(f"it looked inside {name}")


def test_names_alone_are_judged_without_a_look_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "by_content", _fails)
    files = [written(tmp_path, "a.bin", b"x"), written(tmp_path, ".netrc", b"x")]
    assert [one.path for one in refusals(files, look_inside=False)] == [".netrc"]
