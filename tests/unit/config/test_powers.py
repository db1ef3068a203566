"""A file that came with a repository: what it decides without the user's yes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl import config
from runctl.config.powers import UNCLASSED, Power, is_safe, reaches
from runctl.errors import ConfigError
from runctl.trust import Trust

AT = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = st.sampled_from(
    ["a", "attackers-bucket", "prod-admin", "p5.48xlarge", "../x", "/etc", "s3://b/k", "ckpt"]
)
COUNTS = st.integers(1, 100_000)
LISTS = st.lists(WORDS, max_size=3)
AMOUNTS = st.decimals("0.01", 1_000_000, places=2)


def strategy(key: str) -> st.SearchStrategy[Any]:
    """Values of a setting's own type, found by trying: a setting that is new is tried too."""
    if key == "cloud":
        return st.sampled_from(["aws", "sandbox"])
    for candidate, example in (
        (WORDS, "a"),
        (AMOUNTS, 0.25),
        (COUNTS, 1),
        (st.booleans(), True),
        (LISTS, ["a"]),
    ):
        folder = Path(tempfile.mkdtemp())
        write(folder / "c.toml", {key: example})
        try:
            config.load(folder, {}, folder / "c.toml")
        except ConfigError:
            continue
        return candidate
    raise AssertionError(f"no values for {key}")


def write(path: Path, flat: Mapping[str, Any]) -> None:
    document: dict[str, Any] = {}
    for key, value in flat.items():
        table, _, leaf = key.rpartition(".")
        inner = document.setdefault(table, {}) if table else document
        inner[leaf] = float(value) if isinstance(value, Decimal) else value
    path.write_text(tomlkit.dumps(document))


FILES = st.dictionaries(st.sampled_from(sorted(config.defaults())), st.none()).flatmap(
    lambda keys: st.fixed_dictionaries({key: STRATEGIES[key] for key in keys})
)
STRATEGIES = {key: strategy(key) for key in config.defaults()}


def test_every_setting_says_what_it_can_do() -> None:
    """A new setting without a word on it counts as one that weakens, and fails here."""
    found = reaches(config.Values)
    assert found.keys() == config.defaults().keys()
    assert [key for key, reach in found.items() if reach == UNCLASSED] == []
    assert [key for key, reach in found.items() if reach.power is Power.HARMLESS] == ["project"]
    assert all(reach.means for reach in found.values() if reach.power is not Power.HARMLESS)


def test_a_setting_that_says_nothing_is_not_safe_from_anybody() -> None:
    class Later(msgspec.Struct, frozen=True):
        forgotten: str = "a"

    (reach,) = reaches(Later).values()
    assert reach == UNCLASSED
    assert not is_safe(reach, "b", "a")


@settings(max_examples=60)
@given(wanted=FILES, own=FILES)
def test_an_untrusted_file_decides_nothing_that_spends_sends_or_weakens(
    wanted: dict[str, Any], own: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, trust = Path(name, "repo"), Trust(Path(name, "trust"))
        folder.mkdir()
        environment = {"RUNCTL_CONFIG": f"{name}/user.toml"}
        write(Path(name, "user.toml"), own)
        without = config.load(folder, environment)
        write(folder / config.PROJECT_FILE, wanted)
        found = config.load(folder, environment, trust=trust)
        for key, reach in reaches(config.Values).items():
            value, before = found.value(key), without.value(key)
            assert value == before or _is_tighter(reach.power, reach.safe, value, before), key
        assert {wish.key for wish in found.wishes} == {
            key for key in wanted if not _is(found.value(key), wanted[key])
        }
        path = folder / config.PROJECT_FILE
        trust.give(path, path.read_bytes(), yes=True, at=AT)
        yes = config.load(folder, environment, trust=trust)
        assert not yes.wishes
        assert yes.from_project == wanted.keys()
        assert all(_is(yes.value(key), value) for key, value in wanted.items())
        path.write_bytes(path.read_bytes() + b"# changed\n")
        assert config.load(folder, environment, trust=trust).values == found.values


def _is(found: Any, written: Any) -> bool:
    if isinstance(written, list):
        return list(found) == written
    return float(found or 0) == float(written) if isinstance(written, Decimal) else found == written


def _is_tighter(power: Power, safe: str, value: Any, before: Any) -> bool:
    if power is Power.HARMLESS:
        return True
    if safe == "inside":
        return value == "ckpt" or value in {"a", "attackers-bucket", "prod-admin", "p5.48xlarge"}
    if safe == "lower":
        return before is None or value < before
    return safe == "higher" and value > before


@pytest.mark.parametrize(
    "path", ["/etc", "..", "a/../../b", "../a", ".", ".git/hooks", "a/.ssh", "s3://b/k", "i-1:/x", "~/x", ""]
)
def test_a_folder_elsewhere_or_hidden_is_not_safe(path: str) -> None:
    assert not is_safe(reaches(config.Values)["train.checkpoints"], path, None)
    assert is_safe(reaches(config.Values)["train.checkpoints"], "runs/ckpt", None)


def test_the_environment_and_flags_leave_nothing_to_wish(tmp_path: Path) -> None:
    (tmp_path / config.PROJECT_FILE).write_text('[aws]\nbucket = "theirs"\nregion = "us-east-2"\n')
    found = config.load(tmp_path, {"RUNCTL_CONFIG": "none", "RUNCTL_AWS_BUCKET": "mine"})
    assert found.values.aws.bucket == "mine"
    assert [wish.key for wish in found.wishes] == ["aws.region"]
    assert found.under_flags({"aws.region": "eu-west-1"}).wishes == ()


def test_a_file_that_everybody_may_write_counts_for_nothing_whatever_was_said(tmp_path: Path) -> None:
    path, trust = tmp_path / config.PROJECT_FILE, Trust(tmp_path / "trust")
    path.write_text('project = "x"\n[aws]\nbucket = "b"\n')
    trust.give(path, path.read_bytes(), yes=True, at=AT)
    environment = {"RUNCTL_CONFIG": str(tmp_path / "none")}
    assert config.load(tmp_path, environment, trust=trust).values.aws.bucket == "b"
    path.chmod(0o666)
    found = config.load(tmp_path, environment, trust=trust)
    assert found.values == config.Values()
    assert found.project is not None
    assert (found.project.stance, found.project.fault) == ("foreign", "everybody may write to it")
    trust.give(path, path.read_bytes(), yes=False, at=AT)
    refused = config.load(tmp_path, environment, trust=trust)
    assert refused.values == config.Values()
    assert refused.project is not None
    assert refused.project.stance == "refused"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else_counts_for_nothing_whatever_was_said(tmp_path: Path) -> None:
    path, trust = tmp_path / config.PROJECT_FILE, Trust(tmp_path / "trust")
    path.write_text('project = "x"\n')
    os.chown(path, 65534, -1)
    trust.give(path, path.read_bytes(), yes=True, at=AT)
    found = config.load(tmp_path, {"RUNCTL_CONFIG": str(tmp_path / "none")}, trust=trust)
    assert found.values == config.Values()
    assert found.project is not None
    assert found.project.fault.startswith("it belongs to ")


def test_the_search_ends_at_the_top_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / config.PROJECT_FILE).touch()
    deep = tmp_path / "repo" / "a" / "b"
    deep.mkdir(parents=True)
    assert config.project_file(deep) is None
    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    assert config.project_file(deep) is None
    (tmp_path / "repo" / config.PROJECT_FILE).touch()
    assert config.project_file(deep) == tmp_path / "repo" / config.PROJECT_FILE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_in_a_folder_that_all_may_write_only_the_users_own_files_are_found(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    (shared / "x" / "y").mkdir(parents=True)
    (shared / ".git").mkdir()
    (shared / config.PROJECT_FILE).touch()
    shared.chmod(0o1777)
    assert config.project_file(shared / "x" / "y") == shared / config.PROJECT_FILE
    os.chown(shared / config.PROJECT_FILE, 65534, -1)
    assert config.project_file(shared / "x" / "y") is None
    os.chown(shared / config.PROJECT_FILE, 0, -1)
    os.chown(shared / ".git", 65534, -1)
    assert config.project_file(shared / "x" / "y") is None


def test_a_users_file_that_all_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "user.toml"
    path.write_text('user = "ada"\n')
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="do not count") as caught:
        config.load(tmp_path, {"RUNCTL_CONFIG": str(path)})
    assert "chmod o-w" in caught.value.next
    with pytest.raises(ConfigError, match="do not count"):
        config.load(tmp_path, {}, path)


def test_answers_are_kept_for_the_user_alone_and_by_content(tmp_path: Path) -> None:
    path, trust = tmp_path / "p" / config.PROJECT_FILE, Trust(tmp_path / "home" / "trust")
    path.parent.mkdir()
    path.touch()
    assert trust.answer(path, b"") is None
    given = trust.give(path, b"one", yes=True, at=AT)
    assert (trust.answer(path, b"one"), trust.answer(path, b"two")) == (True, None)
    assert trust.answer(path.parent / "other", b"one") is None
    assert trust.answers() == [given]
    (kept,) = (tmp_path / "home" / "trust").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    trust.give(path, b"one", yes=False, at=AT)
    assert trust.answer(path, b"one") is False
    kept.write_bytes(kept.read_bytes()[:-3])
    assert trust.answer(path, b"one") is None
