"""Settings: who wins, where each came from, and how a wrong one is named."""

from __future__ import annotations

import stat
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl import config
from runctl.errors import ConfigError
from runctl.trust import Trust

same_folder = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
MONEY = st.decimals(min_value=0, max_value=10_000, places=2)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "project": TEXT,
    "train.on": TEXT,
    "train.spot": st.booleans(),
    "train.max_attempts": st.integers(1, 1000),
    "train.budget": MONEY,
    "train.max_hours": st.floats(0.01, 1000),
    "aws.region": TEXT,
    "aws.root_volume_gib": st.integers(1, 16_384),
    "thresholds.usd_per_day": MONEY,
}
SETTINGS = st.dictionaries(st.sampled_from(sorted(VALUES)), st.just(None)).flatmap(
    lambda keys: st.fixed_dictionaries({key: VALUES[key] for key in keys})
)


def load(folder: Path, **environment: str) -> config.Settings:
    """With a yes for the project's file as it is now."""
    trust = Trust(folder / ".trust")
    if path := config.project_file(folder):
        trust.give(path, path.read_bytes(), yes=True, at=datetime(2026, 1, 1, tzinfo=UTC))
    return config.load(folder, {"RUNCTL_CONFIG": str(folder / "user.toml"), **environment}, trust=trust)


def project(folder: Path, text: str) -> Path:
    path = folder / config.PROJECT_FILE
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, **environment: str) -> ConfigError:
    project(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(folder, **environment)
    assert caught.value.exit_code == 3
    return caught.value


def test_without_any_source_every_setting_is_its_default(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.values == config.Values()
    assert {found.origin(key) for key in config.defaults()} == {"default"}
    assert found.values.thresholds.usd_per_hour == Decimal(50)
    assert found.values.aws.instance_profile == "runctl-instance"


def test_each_source_wins_over_the_one_below_it(tmp_path: Path) -> None:
    (tmp_path / "user.toml").write_text(
        '[aws]\nregion = "user"\nbucket = "user"\nsubnets = ["user"]\nimage = "user"\n'
    )
    project(tmp_path, '[aws]\nregion = "project"\nbucket = "project"\nsubnets = ["project"]\n')
    found = load(tmp_path, RUNCTL_AWS_REGION="env", RUNCTL_AWS_BUCKET="env").under_flags(
        {"aws.region": "flag", "aws.profile": None}
    )
    aws = found.values.aws
    assert (aws.region, aws.bucket, aws.subnets, aws.image) == ("flag", "env", ("project",), "user")
    assert found.origin("aws.region") == "flag --region"
    assert found.origin("aws.bucket") == "env RUNCTL_AWS_BUCKET"
    assert found.origin("aws.subnets") == f"{tmp_path / config.PROJECT_FILE}:4"
    assert found.origin("aws.image") == f"{tmp_path / 'user.toml'}:5"
    assert found.origin("aws.profile") == "default"


def test_the_nearest_project_file_up_to_the_top_of_the_repository_is_read(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    project(tmp_path, 'user = "far"\n')
    assert load(deep).values.user == "far"
    project(tmp_path / "a", 'user = "near"\n')
    assert load(deep).values.user == "near"


def test_a_named_file_replaces_both_others_but_not_the_environment(tmp_path: Path) -> None:
    (tmp_path / "user.toml").write_text('user = "user"\n')
    project(tmp_path, 'project = "project"\n')
    named = tmp_path / "ci.toml"
    named.write_text("[train]\nspot = true\n")
    environment = {"RUNCTL_CONFIG": str(tmp_path / "user.toml"), "RUNCTL_TRAIN_MAX_ATTEMPTS": "3"}
    found = config.load(tmp_path, environment, named)
    assert (found.values.user, found.values.project) == (None, None)
    assert found.values.train.spot
    assert found.values.train.max_attempts == 3


def test_a_named_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file .*nope\.toml"):
        config.load(tmp_path, {}, tmp_path / "nope.toml")


@pytest.mark.parametrize(
    ("text", "key", "line", "near"),
    [
        ('[train]\n\ninstnce_type = "g5.xlarge"\n', "train.instnce_type", 3, "train.instance_type"),
        ('# one\naws.regoin = "x"\n', "aws.regoin", 2, "aws.region"),
        ('aws = { regoin = "x" }\n', "aws.regoin", 1, "aws.region"),
        ('[trian]\non = "local"\n', "trian.on", 2, "train.on"),
        ("[thresholds]\nusd_per_hour = 1\n\n[traim]\n", "traim", 4, ""),
        ("[train.extra]\nx = 1\n", "train.extra.x", 2, ""),
        ('projct = "x"\n', "projct", 1, "project"),
        ('"aws" . \'regoin\' = "x"\n', "aws.regoin", 1, "aws.region"),
    ],
)
def test_an_unknown_setting_is_named_with_its_line_and_the_nearest(
    tmp_path: Path, text: str, key: str, line: int, near: str
) -> None:
    error = refusal(tmp_path, text)
    assert error.what == f"Unknown setting {key!r}"
    assert error.why == f"{tmp_path / config.PROJECT_FILE}:{line}"
    if near:
        assert error.next == f"did you mean {near!r}?"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train.spot = 1", "expected bool, got int"),
        ('train.spot = "yes"', "expected bool, got str"),
        ("train.max_attempts = 0", "expected int >= 1"),
        ("train.max_attempts = 1.5", "expected int, got float"),
        ("train.max_hours = -1", "expected float > 0.0"),
        ("train.max_hours = nan", "expected float > 0.0"),
        ("train.max_hours = inf", "expected a finite number"),
        ("train.budget = -0.01", "expected an amount of USD"),
        ("train.budget = inf", "expected an amount of USD"),
        ("train.budget = nan", "expected an amount of USD"),
        ('thresholds.usd_total = "much"', "expected an amount of USD"),
        ("thresholds.usd_total = true", "got bool"),
        ("aws.lease_minutes = 0", "expected int >= 1"),
        ("aws.region = ['a']", "expected str, got array"),
        ("user = 2026-01-01", "expected str, got date"),
    ],
)
def test_an_ill_typed_setting_is_named_with_its_line_and_what_was_expected(
    tmp_path: Path, line: str, expected: str
) -> None:
    error = refusal(tmp_path, f"# first\n\n{line}\n")
    assert line.split(" = ", maxsplit=1)[0] in error.what
    assert f"{config.PROJECT_FILE}:3: " in error.why
    assert expected in error.why


@pytest.mark.parametrize(
    ("text", "line"),
    [('[train]\non = "local\n', 2), ("[train]\n\n\nspot = \n", 4), ("[train", 1), ("a = 1\na = 2", 2)],
)
def test_bad_toml_is_named_with_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    error = refusal(tmp_path, text)
    assert error.what == f"{tmp_path / config.PROJECT_FILE}:{line} is no valid TOML"
    assert error.why


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / config.PROJECT_FILE).write_bytes(b"user = '\xff'\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.why == "it is not UTF-8"


def test_a_variable_that_nearly_names_a_setting_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "", RUNCTL_AWS_REGOIN="x")
    assert error.next == "did you mean 'RUNCTL_AWS_REGION'?"


def test_the_variables_of_a_running_job_are_no_settings(tmp_path: Path) -> None:
    found = load(tmp_path, RUNCTL_JOB_ID="digits-1", RUNCTL_ATTEMPT="2", RUNCTL_HOME="/x", RUNCTL_DEBUG="1")
    assert found.origins == {}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_a_variable_is_read_as_its_settings_type(tmp_path: Path, text: str, value: bool) -> None:
    assert load(tmp_path, RUNCTL_TRAIN_SPOT=text).values.train.spot is value


def test_an_ill_typed_variable_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, "", RUNCTL_AWS_LEASE_MINUTES="soon")
    assert "aws.lease_minutes" in error.what
    assert error.why.startswith("environment RUNCTL_AWS_LEASE_MINUTES: ")


@same_folder
@given(wanted=SETTINGS)
def test_what_was_set_is_read_back_with_the_line_it_stands_on(tmp_path: Path, wanted: dict[str, Any]) -> None:
    path = project(tmp_path, "# ours, by hand\n")
    for key, value in wanted.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        config.set_value(path, key, text)
    found = load(tmp_path)
    lines = path.read_text().splitlines()
    assert lines[0] == "# ours, by hand"
    for key in config.defaults():
        if key in wanted:
            assert found.value(key) == wanted[key]
            number = int(found.origin(key).rpartition(":")[2])
            assert lines[number - 1].startswith(key.rpartition(".")[2])
        else:
            assert found.origin(key) == "default"


@same_folder
@given(content=st.binary(max_size=60) | st.text("[]=.\"'train on aws\n#1{}", max_size=60).map(str.encode))
def test_no_file_brings_down_more_than_a_named_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / config.PROJECT_FILE).write_bytes(content)
    with suppress(ConfigError):
        load(tmp_path)


def test_setting_a_value_keeps_comments_order_and_permissions(tmp_path: Path) -> None:
    path = project(tmp_path, '# ours\n[aws] # cloud\nbucket = "b" # keep\n\n[train]\non = "local"\n')
    path.chmod(0o640)
    before = path.read_bytes()
    assert config.set_value(path, "aws.region", "eu-west-1", dry_run=True) == "eu-west-1"
    assert path.read_bytes() == before
    assert config.set_value(path, "aws.region", "eu-west-1") == "eu-west-1"
    assert config.set_value(path, "train.on", "sandbox") == "sandbox"
    text = path.read_text()
    assert text.startswith('# ours\n[aws] # cloud\nbucket = "b" # keep\n')
    assert text.count("[aws]") == text.count("[train]") == 1
    assert 'on = "local"' not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("before", "key", "value"),
    [
        ("[train]\n", "train.spto", "true"),
        ("[train]\n", "train.spot", "maybe"),
        ("[train]\n", "train.budget", "null"),
        ("[train\n", "train.spot", "true"),
        ("train = 5\n", "train.spot", "true"),
    ],
)
def test_what_cannot_be_set_leaves_the_file_as_it_was(
    tmp_path: Path, before: str, key: str, value: str
) -> None:
    path = project(tmp_path, before)
    with pytest.raises(ConfigError):
        config.set_value(path, key, value)
    assert path.read_text() == before


def test_a_file_and_its_folders_are_made_where_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "config" / "runctl" / "config.toml"
    config.set_value(path, "user", "ada")
    assert path.read_text() == 'user = "ada"\n'
