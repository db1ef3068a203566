"""Whatever a script does, its agent beats, renews its lease, and hears what asks for the end."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.agent import mirror as mirror_module
from runctl.agent import output as output_module
from runctl.agent.attempt import FIRST_EVENTS, LAST_EVENTS, Attempt
from runctl.agent.ending import Ending
from runctl.agent.failures import StoreAway
from runctl.agent.files import keep_last
from runctl.agent.machine import DeadMan
from runctl.agent.mirror import Mirror
from runctl.agent.output import Output
from runctl.agent.patience import Patience

PREFIX = "runctl/jobs/job"
STORE = {"kind": "s3", "bucket": "bucket", "prefix": PREFIX, "region": "us-east-1"}
DISPOSABLE = {"disposable": True, "watch_notice": False}
MB = 10**6

FLOODS = """
    import os, pathlib, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"heard\\n"), os._exit(0)))
    for block in range(BLOCKS):
        os.write(1, b"{'loss': 0.1234, 'learning_rate': 1e-05, 'epoch': 0.12} abc\\n" * 17_000)
        os.write(1, b"step %d\\n" % block)
    pathlib.Path("written").touch()
    time.sleep(600)
"""


def floods(megabytes: int) -> str:
    return FLOODS.replace("BLOCKS", str(megabytes))


def log_of(bucket) -> bytes:
    """The log put together from its pieces, which must join."""
    prefix, log = f"{PREFIX}/attempt-1/log/", b""
    for key in sorted(key for key in bucket.objects if key.startswith(prefix)):
        assert int(key.removeprefix(prefix)) == len(log)
        log += bucket.objects[key]
    return log


def test_the_beat_goes_on_and_a_stop_is_heard_while_the_log_is_held_up(machine, bucket, altered, wait_until):
    """60 MB in a moment, of which the network takes nothing."""
    altered("run", ("\nLOG_SECONDS = 120.0", "\nLOG_SECONDS = 12000.0"))
    machine.speed(20)
    held = threading.Event()
    held.set()

    def delay(method, key):
        while held.is_set() and method == "PUT" and "/log/" in key:
            time.sleep(0.02)

    bucket.delay = delay
    attempt = machine.attempt(floods(60), store=STORE).start()
    wait_until((machine.root / "written").exists)
    key = f"{PREFIX}/attempt-1/state.json"
    wait_until(lambda: bucket.json(key)["log_bytes"] > 60 * MB)
    assert bucket.json(key)["step"] == 59  # the newest one, though not every byte was looked at
    heard = {bucket.json(key)["heartbeat"]}
    wait_until(lambda: heard.add(bucket.json(key)["heartbeat"]) or len(heard) >= 3)
    attempt.stop()
    attempt.prints("heard\n")
    assert bucket.json(key)["log_mirrored"] == 0
    held.clear()
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == ("stop", 0)
    assert log_of(bucket) == (attempt.folder / "output.log").read_bytes()


@pytest.mark.parametrize("why", ["stop", "deadline", "notice"])
def test_what_asks_for_the_end_is_heard_while_the_agent_reads_for_ever(
    machine, metadata, altered, wait_until, why
):
    """The log's disk takes an hour for a read: the work stands still, the rest does not."""
    altered(
        "output", ('return b"" if file is None else os.pread', "time.sleep(3600)\n        return os.pread")
    )
    altered("output", ("import os\n", "import os\nimport time\n"))
    altered("watch", ("STILL_SECONDS = 180.0", "STILL_SECONDS = 4.0"))
    machine.speed(20)
    change = {"machine": {**DISPOSABLE, "watch_notice": why == "notice"}, "lease_seconds": 60}
    if why == "deadline":
        change["deadline"] = machine.now() + 60
    script = f"open({str(machine.root / 'up')!r}, 'w'); import time; print('up', flush=True); time.sleep(60)"
    attempt = machine.attempt(script, **change).start()
    wait_until((machine.root / "up").exists)
    if why == "stop":
        attempt.stop()
    if why == "notice":
        metadata.notice(machine.now() + 300)
    looked, heard, renewed = attempt.state.get("looked"), set(), len(machine.shutdowns())
    wait_until(
        lambda: heard.add(attempt.state["heartbeat"]) or len(heard) > 3 or attempt.process.poll() is not None
    )
    assert len(heard) > 3
    wait_until(lambda: len(machine.shutdowns()) > renewed)
    state = attempt.end()
    assert state["phase"] == "ended"
    assert state["cause"] == why
    assert "its work stood still" in state["message"]
    assert state["looked"] - looked < 20 * 4  # it told the truth: the work did not turn
    assert (attempt.folder / "exit").read_text() == str(128 + signal.SIGTERM)
    assert machine.shutdowns()[-1] == ("-P +5" if why == "notice" else "-P now")
    assert (
        "in pread" in (machine.root / "agent.out").read_text()
        or "in read" in (machine.root / "agent.out").read_text()
    )


def test_a_work_that_dies_without_a_word_ends_the_attempt_with_its_cause(machine, altered, still_living):
    altered(
        "run",
        ("        self._script = script\n", "        self._script = script\n        raise SystemExit(3)\n"),
    )
    state = machine.attempt("import time; time.sleep(600)", machine=DISPOSABLE, lease_seconds=900).run()
    assert (state["phase"], state["cause"]) == ("ended", "failed")
    assert "SystemExit(3)" in state["message"]
    assert machine.shutdowns()[-1] == "-P now"
    assert still_living(str(machine.root)) == []


def test_a_store_that_hangs_for_ever_does_not_hold_up_the_end(machine, bucket, altered, wait_until):
    altered("patience", ("max(60.0,", "max(2.0,"), ("LAST_WORDS_SECONDS = 20.0", "LAST_WORDS_SECONDS = 1.0"))
    machine.speed(1000)
    attempt = machine.attempt(
        "import time; print('up', flush=True); time.sleep(60)",
        store=STORE,
        lease_seconds=9000,
        machine=DISPOSABLE,
    ).start()
    attempt.prints("up")
    bucket.hanging.set()
    attempt.stop()
    state = attempt.end(50)  # one request alone waits for 30 s, four times
    assert (state["phase"], state["cause"]) == ("ended", "stop")
    assert (attempt.folder / "exit").exists()
    assert machine.shutdowns()[-1] == "-P now"
    assert "given up" in (attempt.folder / "events.jsonl").read_text()


def test_a_stop_holds_while_results_are_sent(machine, bucket, altered, wait_until):
    """The script ended by itself; its results take for ever."""
    altered("patience", ("max(60.0,", "max(0.1,"), ("ENDING_SECONDS = 1800.0", "ENDING_SECONDS = 10.0"))
    altered("patience", ("LAST_WORDS_SECONDS = 20.0", "LAST_WORDS_SECONDS = 1.0"))
    machine.speed(10)
    sending = threading.Event()

    def delay(method, key):
        if "/outputs/" in key:
            sending.set()
            time.sleep(30)

    bucket.delay = delay
    script = "import os; open(os.environ['RUNCTL_OUTPUT_DIR'] + '/result', 'w').write('x')"
    attempt = machine.attempt(script, store=STORE).start()
    wait_until(sending.is_set)
    attempt.stop()
    state = attempt.end(25)
    assert (state["cause"], state["exit_code"]) == ("finished", 0)
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["phase"] == "ended"


def test_the_system_clock_may_be_set_back(machine):
    """A fresh machine's clock is wrong until it is set: neither beat nor lease waits for the old time."""
    machine.speed(120)
    attempt = machine.attempt(
        "import time; print('up', flush=True); time.sleep(600)", lease_seconds=900, machine=DISPOSABLE
    ).start()
    attempt.prints("up")
    anchor = {"real": time.time(), "cloud": machine.now() - 86400.0, "speed": 120}
    (machine.root / "clock.tmp").write_text(json.dumps(anchor))
    (machine.root / "clock.tmp").rename(machine.root / "clock.json")
    before, until = len(machine.shutdowns()), time.monotonic() + 60
    while len(machine.shutdowns()) < before + 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(machine.shutdowns()) >= before + 3
    assert abs(attempt.state["heartbeat"] - machine.now()) < 120 * 10
    attempt.stop()
    attempt.end()


def test_a_script_that_is_stopped_hears_the_end(machine):
    attempt = machine.attempt(
        """
        import os, signal, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(0)))
        print("up", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
        """
    ).start()
    attempt.prints("up")
    attempt.stop()
    assert attempt.end()["exit_code"] == 0
    assert "saved" in attempt.log


def test_the_kernel_ends_the_script_before_its_agent(machine, wait_until):
    attempt = machine.attempt("import time; print('up', flush=True); time.sleep(600)").start()
    wait_until(lambda: attempt.state.get("pid"))
    agent, script = (
        Path(f"/proc/{pid}/oom_score_adj") for pid in (attempt.process.pid, attempt.state["pid"])
    )
    wait_until(lambda: int(agent.read_text()) < int(script.read_text()))
    assert int(script.read_text()) >= int(Path("/proc/self/oom_score_adj").read_text())
    attempt.stop()
    attempt.end()


def test_a_lease_that_the_system_did_not_take_is_asked_for_again(monkeypatch, tmp_path):
    calls = tmp_path / "calls"
    program = tmp_path / "shutdown"
    program.write_text(f"#!/bin/sh\necho >> {calls}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    dead_man = DeadMan({"lease_seconds": 900, "machine": DISPOSABLE})
    dead_man.put_off()
    dead_man.put_off()
    assert calls.read_text().count("\n") == 2
    program.write_text(f"#!/bin/sh\necho >> {calls}\n")
    for _ in range(3):
        dead_man.put_off()
    assert calls.read_text().count("\n") == 3


# The log on this machine


def test_a_look_reads_no_more_than_its_bound_and_finds_the_newest_step(tmp_path, monkeypatch):
    path = tmp_path / "output.log"
    path.write_bytes(b"step 1\n" + b"x" * (60 * MB) + b"\nstep 77\n")
    sizes = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: sizes.append(size) or real(file, size, start))
    output = Output(str(path))
    output.look()
    assert output.steps.step == 77
    assert output.steps.first == 1
    assert sum(sizes) <= 2 * output_module.LOOK_BYTES
    with path.open("ab") as file:
        file.write(b"no step here\n" * (5 * MB) + b"step 78")
    sizes.clear()
    output.look(end=True)
    assert output.steps.step == 78
    assert sum(sizes) <= output_module.LOOK_BYTES


@settings(max_examples=60)
@given(
    parts=st.lists(
        st.one_of(st.binary(max_size=3000), st.integers(0, 10**6).map(lambda n: b"\nstep %d\n" % n)),
        max_size=8,
    ),
    looks=st.integers(1, 4),
)
def test_whatever_is_printed_the_last_step_is_one_that_was_named(parts, looks, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "output.log"
    output = Output(str(path))
    old, output_module.LOOK_BYTES = output_module.LOOK_BYTES, 512
    try:
        with path.open("ab", buffering=0) as file:
            for number, part in enumerate([*parts, b"\nstep 5\n"]):
                file.write(part)
                if number % looks == 0:
                    output.look()
        output.look(end=True)
    finally:
        output_module.LOOK_BYTES = old
    assert output.steps.step == 5


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "nothing"])
def test_a_log_that_is_no_file_holds_up_nobody(tmp_path, kind):
    path = tmp_path / "output.log"
    make = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "link": lambda path: path.symlink_to("gone"),
        "nothing": str,
    }
    make[kind](path)
    output = Output(str(path))
    output.look(end=True)
    assert (output.size(), output.read(0, 10)) == (0, b"")


def test_a_log_that_is_taken_away_or_cut_is_still_read(tmp_path):
    path = tmp_path / "output.log"
    with path.open("ab", buffering=0) as script:
        script.write(b"step 1\n")
        output = Output(str(path))
        output.look()
        path.unlink()
        script.write(b"step 2\n")
        output.look()
        assert output.steps.step == 2
        os.truncate(script.fileno(), 0)
        script.write(b"step 3\n")
        output.look()
        script.write(b"step 4\n")
        output.look()
    assert output.steps.step == 4


@pytest.fixture
def small_bounds(monkeypatch):
    """A log of 1 MiB is too long, of which the first 64 KiB and the newest 256 stay."""
    for name, value in (("MOST_KEPT", 1024), ("NEWEST_KEPT", 256), ("FIRST_KEPT", 64)):
        monkeypatch.setattr(output_module, name, value * 1024)
    monkeypatch.setattr(output_module, "SHORT_OF_DISK", 0)
    monkeypatch.setattr(
        os, "fstatvfs", lambda _: os.statvfs_result((4096, 4096, 10**9, 10**9, 10**9, *[0] * 5))
    )


def lines(first: int, count: int) -> bytes:
    return b"".join(b"line %09d\n" % number for number in range(first, first + count))


def test_a_log_without_end_does_not_fill_the_disk(tmp_path, small_bounds):
    path, written = tmp_path / "output.log", 0
    output = Output(str(path))
    with path.open("ab", buffering=0) as script:
        for _ in range(8):
            script.write(lines(written, 40_000))
            written += 40_000
            output.look()
            output.keep_within_bounds()
    assert path.stat().st_size == written * 15
    assert path.stat().st_blocks * 512 < 1.5 * 1024 * 1024
    data = path.read_bytes()
    assert data.startswith(lines(0, 1000))
    assert data.endswith(lines(written - 10_000, 10_000))
    first, end = output.hole
    assert data[first:].startswith(b"\n[runctl: %d bytes of output are left out here]\n" % (end - first))


def test_a_disk_that_is_nearly_full_keeps_less_of_the_log(tmp_path, monkeypatch):
    path = tmp_path / "output.log"
    path.write_bytes(b"x" * (3 * MB))
    monkeypatch.setattr(output_module, "MOST_KEPT_IF_SHORT", MB)
    monkeypatch.setattr(output_module, "NEWEST_KEPT_IF_SHORT", MB // 4)
    output = Output(str(path))
    about = [4096, 4096, 10**9, 10**9, 10**9, 0, 0, 0, 0, 0]
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(about))
    assert not output.keep_within_bounds()
    about[4] = 1000
    assert output.keep_within_bounds()
    assert path.stat().st_blocks * 512 < 1.5 * MB


def test_a_file_that_grows_is_cut_to_its_end(tmp_path):
    path = tmp_path / "agent.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a" * 1000 + b"tail")
        keep_last(str(path), 2000, 10)
        assert path.stat().st_size == 1004
        keep_last(str(path), 1000, 10)
        writer.write(b"!")
    assert path.read_bytes() == b"aaaaaatail!"


# The log in the store


class Store:
    """Takes pieces; each takes as many seconds as `takes` says, on a clock that a test moves."""

    mirrors = True
    moved = 0.0

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults = 0

    def put(self, key: str, data: bytes, tries: int = 4) -> None:
        if self.faults:
            self.faults -= 1
            raise StoreAway("away")
        self.objects[key] = data

    def list(self, prefix: str) -> list[tuple[str, int]]:
        return [(key, len(data)) for key, data in self.objects.items() if key.startswith(prefix)]

    def log(self) -> bytes:
        log = b""
        for key, data in sorted(self.objects.items()):
            if "/log/" in key:
                assert int(key.rpartition("/")[2]) == len(log)
                log += data
        return log


@pytest.fixture
def mirrored(machine):
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    store, output = Store(), Output(attempt.log)
    return attempt, store, Mirror(attempt, store, output), output


def test_without_time_only_the_newest_part_is_sent_and_told(mirrored, monkeypatch):
    attempt, store, mirror, _ = mirrored
    monkeypatch.setattr(mirror_module, "LARGEST_PIECE", 1000)
    monkeypatch.setattr(mirror_module, "LAST_WORDS", 5000)
    log = lines(0, 10_000)
    Path(attempt.log).write_bytes(log)
    mirror.send_rest(until=time.monotonic())
    assert store.log() == b"\n[runctl: 145000 bytes of output are left out here]\n" + log[-5000:]
    assert attempt.state["log_mirrored"] == len(store.log())
    assert attempt.state["log_mirrored"] + attempt.state["log_left_out"] == len(log)


def test_with_time_everything_is_sent_though_the_store_stumbles(mirrored, monkeypatch):
    attempt, store, mirror, _ = mirrored
    monkeypatch.setattr(mirror_module, "LARGEST_PIECE", 1000)
    log = lines(0, 1000)
    Path(attempt.log).write_bytes(log)
    store.faults = 1
    with pytest.raises(StoreAway):
        mirror.send_rest(until=time.monotonic() + 600)
    mirror.send_rest(until=time.monotonic() + 600)
    assert store.log() == log


def test_what_the_disk_got_back_is_a_line_in_the_store(mirrored, small_bounds):
    attempt, store, mirror, output = mirrored
    log = lines(0, 200_000)
    Path(attempt.log).write_bytes(log)
    assert output.keep_within_bounds()
    mirror.send_rest(until=time.monotonic() + 600)
    first, end = output.hole
    said = b"\n[runctl: %d bytes of output are left out here]\n" % (end - first)
    assert store.log() == log[:first] + said + log[end:]


def test_a_script_that_prints_for_days_is_followed_by_samples(mirrored, monkeypatch):
    attempt, store, mirror, _ = mirrored
    monkeypatch.setattr(mirror_module, "MOST_SENT", 100_000)
    monkeypatch.setattr(mirror_module, "LARGEST_PIECE", 10_000)
    monkeypatch.setattr(mirror_module, "SAMPLE", 1000)
    monkeypatch.setattr(mirror_module, "LAST_WORDS", 5000)
    with Path(attempt.log).open("ab", buffering=0) as script:
        for look in range(10):
            script.write(lines(look * 10_000, 10_000))
            mirror._follow_log()
            assert store.log().endswith(lines(look * 10_000 + 9_990, 10))
    mirror.end_log()
    mirror.send_rest(until=time.monotonic() + 600)
    assert len(store.log()) < 120_000
    assert store.log().count(b"bytes of output are left out here") == 10


def test_an_agent_that_begins_again_goes_on_behind_what_it_left_out(mirrored, monkeypatch):
    attempt, store, mirror, _ = mirrored
    monkeypatch.setattr(mirror_module, "LAST_WORDS", 150)
    log = lines(0, 1000)
    Path(attempt.log).write_bytes(log)
    mirror.send_rest(until=time.monotonic())
    attempt.write()
    with Path(attempt.log).open("ab") as script:
        script.write(b"more\n")
    second = Attempt(attempt.folder)
    Mirror(second, store, Output(second.log)).send_rest(until=time.monotonic() + 600)
    assert store.log().endswith(log[-150:] + b"more\n")


# State and events


def test_a_state_that_waits_for_the_disk_holds_up_no_other_and_is_not_placed_over_a_newer(
    machine, monkeypatch
):
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    syncing, go = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: (syncing.set(), go.wait(60)))
    slow = threading.Thread(target=lambda: attempt.update(phase="running"))
    slow.start()
    assert syncing.wait(60)
    attempt.state["step"] = 9
    attempt.write()  # as each beat does: it waits for nobody
    assert json.loads(attempt.snapshot())["step"] == 9
    go.set()
    slow.join()
    assert json.loads(Path(attempt.path("state.json")).read_text())["step"] == 9
    assert list(Path(attempt.folder).glob("*.tmp")) == []


def test_events_without_end_are_bounded_in_memory_and_whole_on_disk(machine):
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    count = FIRST_EVENTS + LAST_EVENTS + 50
    for number in range(count):
        attempt.event("note", number=number)
    kept = [json.loads(line)["number"] for line in attempt.events().splitlines()]
    assert kept == [*range(FIRST_EVENTS), *range(FIRST_EVENTS + 50, count)]
    assert len(Path(attempt.path("events.jsonl")).read_text().splitlines()) == count


def test_an_event_that_found_no_room_is_written_later(machine):
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    path = Path(attempt.path("events.jsonl"))
    os.mkfifo(path)  # nobody reads it: whoever opens it waits for ever
    attempt.event("first")
    assert "could not be written" in json.loads(attempt.snapshot())["message"]
    path.unlink()
    attempt.write()
    assert "first" in path.read_text()
    assert json.loads(attempt.snapshot())["message"] is None


def test_a_note_is_told_once_however_often_it_comes(machine):
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    for text in ("a", "a", "b", "a"):
        attempt.note(text)
    assert [json.loads(line)["text"] for line in attempt.events().splitlines()] == ["a", "b", "a"]


# Patience


def test_what_hangs_is_left_behind_and_what_fails_is_tried_again(monkeypatch):
    from runctl.agent import patience

    monkeypatch.setattr(patience, "real_time", lambda _: 0.5)
    notes: list[str] = []
    turns: list[int] = []
    each = Patience(Store(), Ending({}), notes.append, lambda: turns.append(1))
    each.spend(lambda: time.sleep(600))
    assert notes == ["given up: there is no time left for it"]
    assert len(turns) > 2
    tried = []

    def fails_twice() -> None:
        tried.append(1)
        if len(tried) < 3:
            raise StoreAway("away")

    monkeypatch.setattr(patience, "real_time", lambda _: 60.0)
    each.spend(fails_twice)
    assert len(tried) == 3


def test_after_a_notice_there_is_time_until_the_machine_goes(monkeypatch):
    ending = Ending({"grace_seconds": 90})
    ending.begin("stop", "stopped as asked")
    assert 80 < ending.seconds_for_script(0) <= 90
    ending.notice(time.time() + 30)
    assert 10 < ending.seconds_for_script(15) <= 15
    ending.notice(time.time() + 300)  # a later end does not count
    assert ending.seconds_for_script(0) <= 30
    patience = Patience(Store(), ending, print, lambda: None)
    assert 10 < patience.left() <= 30
    ending.notice(time.time() - 1)
    assert patience.left() <= 0
    assert ending.cause == "stop"


# Slow: floods as they are


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["lines", "one line", "noise"])
def test_a_gigabyte_in_seconds(machine, bucket, wait_until, shape):
    block = {
        "lines": "b'step 3 ' + b'x' * 30 + b'\\n'",
        "one line": "b'x' * 64",
        "noise": "os.urandom(64)",
    }[shape]
    script = f"""
        import os, pathlib, signal, time
        signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"\\nheard\\n"), os._exit(0)))
        one = {block}
        block = one * ((1 << 20) // len(one) + 1)
        for _ in range(1000):
            os.write(1, block)
        pathlib.Path("written").touch()
        time.sleep(600)
        """
    attempt = machine.attempt(script).start()
    heard = [time.time()]
    worst = 0.0
    while not (machine.root / "written").exists():
        assert attempt.process.poll() is None
        heard.append(attempt.state.get("heartbeat") or heard[-1])
        worst = max(worst, time.time() - heard[-1])
        assert worst < 60  # what the supervisor calls silent
        time.sleep(0.2)
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{attempt.process.pid}/status").read_text()).group(1))
    attempt.stop()
    state = attempt.end(600)
    assert (state["cause"], state["exit_code"]) == ("stop", 0)
    assert state["log_bytes"] >= 10**9
    assert peak * 1024 < 40 * MB
