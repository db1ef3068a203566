"""Each mistake of a user: a clear message, the right exit code, and never a stack trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from runctl.cli import main

Run = Callable[..., CompletedProcess[str]]


def check(done: CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def test_a_script_that_is_not_there_is_named_with_the_nearest(run: Run, project: Path) -> None:
    check(run("train", "trian.py"), 1, "trian.py", "next:", "train.py")


def test_an_unknown_setting_is_named_with_its_line_and_the_nearest(run: Run, project: Path) -> None:
    (project / ".runctl.toml").write_text('[train]\n\ninstnce_type = "g5.xlarge"\n')
    check(run("train", "train.py"), 3, "train.instnce_type", ".runctl.toml:3", "train.instance_type")


def test_bad_toml_is_named_with_file_and_line(run: Run, project: Path) -> None:
    (project / ".runctl.toml").write_text('[train]\non = "local\n')
    check(run("train", "train.py"), 3, ".runctl.toml:2", "TOML")


def test_a_setting_of_the_wrong_type_is_named(run: Run, project: Path) -> None:
    (project / ".runctl.toml").write_text('[aws]\nlease_minutes = "long"\n')
    check(run("config", "validate"), 3, "aws.lease_minutes", ".runctl.toml:2")


def test_no_sandbox_is_up(run: Run, project: Path) -> None:
    done = run("train", "train.py", "--on", "sandbox", "--instance-type", "g5.xlarge")
    check(done, 3, "not up", "runctl sandbox up")


def test_no_credentials(run: Run, project: Path) -> None:
    done = run("train", "train.py", "--on", "aws", "--region", "us-east-1", "--instance-type", "g5.xlarge")
    check(done, 3, "credentials", "--on sandbox")


@pytest.mark.parametrize("option", ["--no-verify", "--endpoint-url=http://127.0.0.1:9"])
def test_what_is_not_for_instances_is_refused(run: Run, option: str) -> None:
    done = run("transfer", ".", "i-0123456789abcdef0:/data", option, "--on", "sandbox")
    check(done, 1, option.partition("=")[0], "not for instances")


@pytest.fixture
def sandbox_up(tmp_path: Path, sandbox_cloud: Any) -> Any:
    """The shared cloud, as this test's home sees it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "sandbox").symlink_to(sandbox_cloud.home / "sandbox", target_is_directory=True)
    return sandbox_cloud


def machines(sandbox: Any) -> set[str]:
    """All that ever were."""
    return {row["instance"] for row in sandbox.control.history()}


ON_SANDBOX = ("train", "train.py", "--on", "sandbox", "--instance-type")


def test_an_unknown_instance_type_is_named_with_the_nearest(run: Run, project: Path, sandbox_up: Any) -> None:
    before = machines(sandbox_up)
    check(run(*ON_SANDBOX, "g5.xlrage"), 1, "Unknown instance type 'g5.xlrage'", "did you mean g5.xlarge")
    assert machines(sandbox_up) == before


def test_machines_without_a_role_for_ssm(run: Run, project: Path, sandbox_up: Any) -> None:
    """Without one nobody could reach the machine, nor it the bucket: nothing is launched."""
    before = machines(sandbox_up)
    iam = sandbox_up.client("iam")
    empty = sandbox_up.name("no-role")
    iam.create_instance_profile(InstanceProfileName=empty)
    for profile, why in (("nobody", "no instance profile"), (empty, "holds no role")):
        done = run(*ON_SANDBOX, "g5.xlarge", RUNCTL_AWS_INSTANCE_PROFILE=profile)
        check(done, 3, "no role for SSM", profile, why, "docs/aws-setup.md")
    assert machines(sandbox_up) == before
    assert run("jobs", "list", "--quiet").stdout == ""


def test_a_loop_of_jobs_is_refused_like_one_of_instances(run: Run, project: Path, sandbox_up: Any) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "runctl:managed", "Value": "true"}]}]
    machine = sandbox_up.launch(TagSpecifications=tags)
    try:
        done = run(*ON_SANDBOX, "g5.xlarge", RUNCTL_PROTECTION_REFUSE_INSTANCES="1")
        check(done, 1, "instances run already: the limit is 1", "protection.refuse_instances")
        assert run("jobs", "list", "--quiet").stdout == ""
    finally:
        sandbox_up.client("ec2").terminate_instances(InstanceIds=[machine])


@pytest.mark.parametrize("budget", ["0", "-1"])
def test_a_budget_of_nothing(run: Run, project: Path, budget: str) -> None:
    check(run("train", "train.py", f"--budget={budget}"), 5, "budget")


def test_a_budget_that_is_no_amount(run: Run, project: Path) -> None:
    check(run("train", "train.py", "--budget", "much"), 1, "much")


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://", "http://example.org/x"])
def test_a_location_that_is_none(run: Run, project: Path, place: str) -> None:
    check(run("train", "train.py", "--data", place), 1, place)


def test_data_that_is_not_there(run: Run, project: Path) -> None:
    check(run("train", "train.py", "--data", "missing"), 1, "missing")


def test_a_place_that_is_none(run: Run, project: Path) -> None:
    check(run("train", "train.py", "--on", "mars"), 1, "mars", "sandbox")


@pytest.mark.parametrize(
    "flag", [["--spot"], ["--instance-type", "g5.xlarge"], ["--gpus", "1"], ["--no-fallback"], ["--keep"]]
)
@pytest.mark.parametrize("place", ["local", "i-0123456789abcdef0"])
def test_a_flag_that_the_place_has_no_use_for(
    project: Path,
    place: str,
    flag: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    assert main.run(["train", "train.py", "--on", place, *flag]) == 1
    assert capsys.readouterr().err.startswith(f"error: {flag[0]}: of no use on ")


def test_a_local_run_does_not_write_to_a_bucket(run: Run, project: Path) -> None:
    done = run("train", "train.py", "--output", "s3://bucket/results")
    check(done, 1, "s3://bucket/results", "runctl transfer")
    (project / ".runctl.toml").write_text('[train]\noutput = "s3://bucket/results"\n')
    assert run("config", "trust").returncode == 0
    assert run("train", "train.py", "--dry-run").returncode == 0


def test_settings_of_machines_do_not_disturb_a_local_run(run: Run, project: Path) -> None:
    (project / ".runctl.toml").write_text('[train]\nspot = true\ninstance_type = "g5.xlarge"\n')
    assert run("config", "trust").returncode == 0
    assert run("train", "train.py", "--dry-run").returncode == 0


def test_an_unknown_command_option_and_job(run: Run) -> None:
    check(run("jbos"), 1, "jobs")
    check(run("jobs", "show", "nothing"), 1, "nothing", "runctl jobs list")
    check(run("train", "--bogus"), 1, "--bogus", "runctl train --help")


def test_errors_are_one_json_object_where_asked(run: Run, project: Path) -> None:
    done = run("train", "trian.py", "--output", "json")
    assert done.returncode == 1
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["kind"] == "ValidationError"
    assert error["exit_code"] == 1
    assert "trian.py" in error["what"]
    assert error["next"]


def test_a_failing_script_is_exit_code_4(run: Run, project: Path) -> None:
    (project / "train.py").write_text("raise SystemExit(7)\n")
    done = run("train", "train.py")
    assert done.returncode == 4
    assert "failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_resume_from_a_corrupt_checkpoint_names_the_one_before(run: Run, project: Path) -> None:
    (project / "train.py").write_text(
        "import os, pathlib, time, zipfile\n"
        "folder = pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR'])\n"
        "for step in (1, 2):\n"
        "    with zipfile.ZipFile(folder / 'new.tmp', 'w') as archive:\n"
        "        archive.writestr('step', str(step))\n"
        "    (folder / 'new.tmp').rename(folder / f'step-{step}.npz')\n"
        "    committed = pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR']).parent / 'committed'\n"
        "    until = time.time() + 60\n"
        "    while time.time() < until and not list(committed.glob(f'*step-{step}.npz/manifest.json')):\n"
        "        time.sleep(0.05)\n"
        "raise SystemExit(1)\n"
    )
    assert run("train", "train.py").returncode == 4
    (job,) = (project / ".runctl" / "jobs").iterdir()
    first, second = sorted(path for path in (job / "committed").iterdir() if path.is_dir())
    (second / "checkpoints" / "step-2.npz").write_bytes(b"torn")
    check(run("jobs", "resume", "last", "--from", second.name), 1, "corrupt", first.name)
    check(run("jobs", "resume", "last", "--from", "000099"), 1, "000099")
