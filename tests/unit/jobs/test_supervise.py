"""What a supervisor does when a source fails, and what it leaves of a machine that is of no use any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from runctl.errors import ValidationError
from runctl.events import Event, Heartbeat, Notice
from runctl.jobs import control
from runctl.jobs import spec as specs
from runctl.jobs.attempt import LeftOut
from runctl.jobs.report import report
from runctl.model import JobState
from runctl.render.job import show_report

GONE = {"shutting-down", "terminated"}
SILENT = 120.0
HEARD = -86_400.0
"""A heartbeat that is no silence for as long as a test takes: here a minute passes in 1.5 seconds."""


def stop(attempt: Any) -> None:
    """Somebody stops the machine from outside."""
    attempt.live.client("ec2").stop_instances(InstanceIds=[attempt.machine])
    attempt.live.until(lambda: attempt.live.state(attempt.machine) == "stopped")


def test_a_machine_that_was_stopped_and_is_silent_is_lost_and_ended(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=SILENT)
    stop(attempt)
    job = attempt.supervise()
    assert any("machine is lost" in cause and "User initiated" in cause for cause in attempt.causes())
    assert job.state is JobState.FAILED  # no attempts left
    assert attempt.live.state(attempt.machine) in GONE
    assert attempt.ledger.jobs.attempts(attempt.job)[0].cause == "lost"
    assert bill_ends(attempt)


def test_a_stop_that_the_agent_heard_of_leaves_no_machine_either(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("ended", cause="shutdown")
    stop(attempt)
    attempt.supervise()
    assert "recovering" in [event.state for event in attempt.ledger.jobs.events(attempt.job)]
    assert attempt.live.state(attempt.machine) in GONE
    assert bill_ends(attempt)


def test_a_relaunch_is_guarded_like_every_launch(attempted: Callable[..., Any]) -> None:
    attempt = attempted(max_attempts=2)
    settings = msgspec.structs.replace(attempt.place.settings, refuse_instances=0)
    attempt.place = msgspec.structs.replace(attempt.place, settings=settings)
    spec = specs.decode(attempt.ledger.jobs.get(attempt.job).spec)
    sent = msgspec.structs.replace(spec, code=specs.Code(key="runctl/bundles/x.tar.gz", sha256="0" * 64))
    attempt.ledger.jobs.replace_spec(attempt.job, specs.encode(sent))
    attempt.agent("ended", cause="shutdown")
    stop(attempt)
    with pytest.raises(ValidationError, match="instances run already: the limit is 0"):
        attempt.supervise()
    assert attempt.ledger.jobs.get(attempt.job).state is JobState.FAILED


def bill_ends(attempt: Any) -> bool:
    """Every machine and disk of the job is closed in the ledger."""
    rows = attempt.ledger.resources.list(job=attempt.job)
    return bool(rows) and all(isinstance(row.ended, datetime) for row in rows)


def test_a_machine_that_shall_be_kept_is_kept_stopped(attempted: Callable[..., Any]) -> None:
    attempt = attempted(keep=True)
    attempt.agent("running", silent=SILENT)
    stop(attempt)
    attempt.supervise()
    assert attempt.live.state(attempt.machine) == "stopped"
    assert any("is kept" in text for text in attempt.warnings())
    assert not bill_ends(attempt)


def test_a_machine_that_is_not_the_jobs_any_more_is_left_and_told(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.live.client("ec2").delete_tags(
        Resources=[attempt.machine], Tags=[{"Key": "runctl:managed"}, {"Key": "runctl:job"}]
    )
    attempt.agent("running", silent=SILENT)
    stop(attempt)
    assert attempt.supervise().state is JobState.FAILED
    assert attempt.live.state(attempt.machine) == "stopped"
    assert any("is left as it is" in text and "next: " in text for text in attempt.warnings())


def test_an_agent_that_ends_between_the_two_looks_is_not_lost(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempted()
    attempt.agent("running", silent=SILENT)
    provider = attempt.place.provider
    describe = provider.describe

    def end_meanwhile(machine: str) -> Any:
        attempt.agent("ended", cause="finished")
        attempt.live.client("ec2").terminate_instances(InstanceIds=[machine])
        return describe(machine)

    monkeypatch.setattr(provider, "describe", end_meanwhile)
    assert attempt.supervise().state is JobState.SUCCEEDED
    assert not any("lost" in cause for cause in attempt.causes())


def test_what_could_not_be_kept_is_told_when_the_attempt_has_ended(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    left_out = (LeftOut(path="outputs/plots", reason="a link to a folder"),)
    attempt.agent("ended", cause="finished", left_out=left_out, left_out_count=3)
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    assert attempt.supervise().state is JobState.SUCCEEDED
    assert attempt.warnings()[-2:] == [
        "outputs/plots was left out: a link to a folder",
        "2 more files were left out",
    ]


def test_an_instance_of_the_users_is_never_ended(attempted: Callable[..., Any]) -> None:
    attempt = attempted(on="the user's own", max_attempts=1)
    attempt.agent("running", silent=SILENT)
    stop(attempt)
    assert attempt.supervise().state is JobState.FAILED
    assert any("machine is lost" in cause for cause in attempt.causes())
    assert attempt.live.state(attempt.machine) == "stopped"


def test_a_stopped_machine_that_is_heard_of_is_but_a_doubt(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=HEARD)
    attempt.live.control.add_fault(
        "ec2", "wrong-state", operation="DescribeInstances", state="stopped", instance=attempt.machine
    )

    def heard(event: Event) -> None:
        if isinstance(event, Notice) and "the machine is stopped" in event.text:
            attempt.live.control.clear_faults()
            attempt.agent("ended", cause="finished")
            attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])

    assert attempt.supervise(heard).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("code", "advice"), [("ExpiredToken", "aws sso login"), ("InvalidInstanceID.Malformed", "")]
)
def test_an_error_of_whatever_kind_is_a_doubt_that_is_told_once(
    attempted: Callable[..., Any], code: str, advice: str
) -> None:
    attempt = attempted()
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    attempt.agent("ended", cause="finished")
    attempt.live.control.add_fault(
        "ec2", "error", operation="DescribeInstances", code=code, status=400, count=3
    )
    assert attempt.supervise().state is JobState.SUCCEEDED
    told = [text for text in attempt.warnings() if "the cloud does not answer" in text]
    assert len(told) == 1
    assert advice in told[0]


def test_a_bucket_that_is_gone_is_a_doubt_that_is_told_once(attempted: Callable[..., Any]) -> None:
    """Its silence is not the agent's: what the cloud says of the machine is one source, and no loss."""
    attempt = attempted()
    attempt.agent("running", silent=SILENT)
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    s3 = attempt.live.client("s3")
    s3.delete_object(Bucket=attempt.bucket, Key=f"{attempt.place.prefix}/attempt-1/state.json")
    s3.delete_bucket(Bucket=attempt.bucket)
    looks: list[str] = []

    def heard(event: Event) -> None:
        if isinstance(event, Notice):
            looks.append(event.text)
            if "the machine is gone" in event.text:
                s3.create_bucket(Bucket=attempt.bucket)
                attempt.agent("ended", cause="finished")

    assert attempt.supervise(heard).state is JobState.SUCCEEDED
    store = [text for text in looks if "the store does not answer" in text]
    assert len(store) == 1
    assert "There is no bucket" in store[0]
    assert "next: " in store[0]


def test_a_close_that_fails_is_told_once_and_done_again(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=SILENT)
    stop(attempt)
    attempt.live.control.add_fault(
        "ec2", "error", operation="TerminateInstances", code="UnauthorizedOperation", status=403, count=3
    )
    assert attempt.supervise().state is JobState.FAILED
    assert attempt.live.state(attempt.machine) in GONE
    assert len([text for text in attempt.warnings() if "it is tried again" in text]) == 1


def test_whoever_follows_goes_on_when_the_store_is_away(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=HEARD)
    ledger, job, clock = attempt.ledger, attempt.job, attempt.place.clock
    other = "elsewhere:1:0.00"
    assert ledger.jobs.supervise(job, other, now=datetime.now(UTC), seconds=600)
    attempt.live.control.add_fault("s3", "error", status=403, count=4)

    def heard(event: Event) -> None:
        if isinstance(event, Notice) and "the log cannot be read" in event.text:
            ledger.jobs.transition(
                job,
                JobState.FAILED,
                allowed_from={JobState.RUNNING},
                at=clock.now() + timedelta(seconds=1),
                attempt=1,
                cause="by the other",
            )

    assert attempt.supervise(heard).state is JobState.FAILED


def test_a_job_that_kept_nothing_says_so(
    attempted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = attempted()
    attempt.agent("ended", cause="finished", exit_code=0)
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    now = attempt.place.clock.now()
    found = report(attempt.ledger, attempt.supervise(), now)
    assert found.kept_files == 0
    show_report(found)
    assert "kept        nothing: the script wrote no file" in capsys.readouterr().out


def test_silence_is_told_once_while_it_lasts_and_stays_in_the_report(
    attempted: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = attempted()
    looks, told = 0, []

    def heard(event: Event) -> None:
        nonlocal looks
        if isinstance(event, Notice) and "no checkpoint has been kept" in event.text:
            told.append(event)
        if isinstance(event, Heartbeat):
            looks += 1
            if looks == 3:
                attempt.agent("ended", cause="finished", exit_code=0, silence=silence)
                attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])

    silence = {
        "since": attempt.place.clock.now().timestamp() - 1900,
        "seen": "weights.bin is open for writing",
    }
    attempt.agent("running", silent=HEARD, silence=silence, step=30)
    assert attempt.supervise(heard).state is JobState.SUCCEEDED
    assert looks >= 3
    assert [one.warning for one in told] == [True]
    assert "while steps go on: weights.bin is open for writing; --checkpoint-pattern GLOB" in told[0].text
    show_report(report(attempt.ledger, attempt.ledger.jobs.get(attempt.job), attempt.place.clock.now()))
    shown = capsys.readouterr().out
    assert "not kept    attempt 1: no checkpoint has been kept for" in shown
    assert "            --checkpoint-pattern GLOB says what counts as one\n" in shown


def test_a_script_that_begins_anew_is_told_of_while_it_runs(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    before = attempt.ledger.jobs.attempts(attempt.job)[0]
    earlier = msgspec.structs.replace(
        before, state="ended", cause="notice", began_step=1, last_step=20, instance_id=None
    )
    attempt.ledger.jobs.save_attempt(earlier)
    attempt.ledger.jobs.save_attempt(msgspec.structs.replace(before, number=2))
    attempt.number = 2
    given = {"resumed_from": "000004-step_20.pt", "resumed_step": 20, "began_at_step": 1, "step": 3}

    def heard(event: Event) -> None:
        if isinstance(event, Notice) and "begins anew, at step 1" in event.text:
            attempt.agent("ended", cause="finished", exit_code=0, **given)
            attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])

    attempt.agent("running", silent=HEARD, **given)
    assert attempt.supervise(heard).state is JobState.SUCCEEDED
    found = report(attempt.ledger, attempt.ledger.jobs.get(attempt.job), attempt.place.clock.now())
    assert [one.began_anew for one in found.attempts] == [False, True]
    assert found.attempts[0].steps_lost == 20


PAST_ITS_LEASE = 21 * 60.0


def test_a_machine_that_is_silent_past_its_lease_is_ended_and_the_job_goes_on(
    attempted: Callable[..., Any],
) -> None:
    """It crashed and booted again: the cloud says that it runs, and nothing on it watches."""
    attempt = attempted()
    attempt.agent("running", silent=PAST_ITS_LEASE)
    job = attempt.supervise()
    assert job.state is JobState.FAILED  # no attempts left
    assert any("longer than its lease of 15 minutes" in cause for cause in attempt.causes())
    assert attempt.ledger.jobs.attempts(attempt.job)[0].cause == "lost"
    assert attempt.live.state(attempt.machine) in GONE
    assert bill_ends(attempt)


@pytest.mark.parametrize("why", ["kept", "protected", "the user's own"])
def test_a_silent_machine_that_may_not_be_ended_is_but_a_doubt(
    attempted: Callable[..., Any], why: str
) -> None:
    attempt = attempted(**{"kept": {"keep": True}, "the user's own": {"on": why}}.get(why, {}))
    if why == "protected":
        attempt.live.client("ec2").create_tags(
            Resources=[attempt.machine], Tags=[{"Key": "runctl:protected", "Value": "true"}]
        )
    attempt.agent("running", silent=PAST_ITS_LEASE)

    def hear(event: Event) -> None:
        if isinstance(event, Notice) and event.warning:
            attempt.live.control.set_speed(40)
            attempt.agent("ended", cause="finished")
            attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])

    assert attempt.supervise(hear).state is JobState.SUCCEEDED
    assert not any("lost" in cause for cause in attempt.causes())


def test_a_limit_that_the_agent_does_not_keep_is_kept_from_outside(attempted: Callable[..., Any]) -> None:
    attempt = attempted(max_hours=0.01)
    attempt.agent("running", silent=SILENT)
    job = attempt.supervise()
    assert job.state is JobState.OVER_BUDGET
    assert attempt.live.state(attempt.machine) in GONE
    assert any("its 0.01 hours are over, and its agent is silent" in text for text in attempt.warnings())
    assert bill_ends(attempt)


def test_an_agent_that_counts_with_an_older_price_is_asked_to_end(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempted(max_hours=0.01)
    attempt.agent("running", silent=HEARD)
    asked: list[str] = []

    def end(machine: str, *_: object) -> None:
        asked.append(machine)
        attempt.agent("ended", cause="stop")
        attempt.live.client("ec2").terminate_instances(InstanceIds=[machine])

    attempt.live.until(lambda: attempt.live.is_online(attempt.machine))
    monkeypatch.setattr(attempt.place.provider, "ask_to_stop", end)
    job = attempt.supervise()
    assert (job.state, asked) == (JobState.OVER_BUDGET, [attempt.machine])
    assert "its 0.01 hours are over" in attempt.causes()[-1]


def test_a_stop_that_nobody_hears_ends_the_machine_and_returns(attempted: Callable[..., Any]) -> None:
    attempt = attempted()
    attempt.agent("running", silent=180.0)
    control.stop(attempt.ledger, attempt.place, attempt.job)
    assert attempt.supervise().state is JobState.STOPPED
    assert attempt.live.state(attempt.machine) in GONE
    assert any("it shall stop, and its agent is silent" in text for text in attempt.warnings())


def test_a_machine_of_whose_agent_nothing_was_ever_heard_is_noted_as_silent(
    attempted: Callable[..., Any],
) -> None:
    attempt = attempted()
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    attempt.supervise()
    first = attempt.ledger.jobs.attempts(attempt.job)[0]
    assert (first.state, first.cause) == ("lost", "silent")
