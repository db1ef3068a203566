"""`runctl resources cleanup|stop-all|graph` as a user meets them, over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


class Team:
    """A user of the shared sandbox with a home of its own, and what they made there."""

    def __init__(self, live: Any, run: Run, home: Path) -> None:
        (home / "sandbox").mkdir(parents=True)
        shutil.copy(live.home / "sandbox/cloud.json", home / "sandbox/cloud.json")
        self.live = live
        self.user = live.name("user")
        self.ec2 = live.client("ec2")
        self._run = run
        self.made: list[str] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run(
            "resources",
            *arguments,
            "--on",
            "sandbox",
            RUNCTL_USER=self.user,
            RUNCTL_PROTECTION_YOUNG_MINUTES="1",
        )

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tags(self, **more: str) -> list[dict[str, str]]:
        own = {"runctl:managed": "true", "runctl:user": self.user, **more}
        return [{"Key": key, "Value": value} for key, value in own.items() if value]

    def volume(self, **tags: str) -> str:
        given = self.tags(**{name.replace("_", ":", 1): value for name, value in tags.items()})
        made = self.live.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": given}])
        self.made.append(made)
        return made

    def machine(self, **tags: str) -> str:
        specification = [{"ResourceType": kind, "Tags": self.tags(**tags)} for kind in ("instance", "volume")]
        made = self.live.launch(TagSpecifications=specification)
        self.made.append(made)
        return made

    def grow_up(self) -> None:
        clock = self.live.cloud().clock
        born = clock.now()
        self.live.until(lambda: clock.now() - born > timedelta(seconds=61))

    def there(self, volume_id: str) -> bool:
        return self.live.disk(volume_id).get("State") == "available"

    def clear(self) -> None:
        for made in self.made:
            if made.startswith("i-"):
                self.ec2.terminate_instances(InstanceIds=[made])
            elif self.there(made):
                self.ec2.delete_volume(VolumeId=made)


@pytest.fixture
def team(sandbox_cloud: Any, run: Run, tmp_path: Path) -> Iterator[Team]:
    made = Team(sandbox_cloud, run, tmp_path / "home")
    yield made
    made.clear()


def test_a_plan_is_shown_saved_reviewed_and_applied(team: Team, tmp_path: Path) -> None:
    loose, other = team.volume(), team.volume()
    kept = team.volume(runctl_persistent="true")
    theirs = team.volume(runctl_user="somebody-else")
    team.grow_up()

    shown = team.json("cleanup", "--older-than", "0", "--dry-run", "--explain")
    assert {item["id"] for item in shown["plan"]["items"]} == {loose, other}
    held = {skipped["id"]: skipped["rule"] for skipped in shown["plan"]["skipped"]}
    assert (held[kept], held[theirs]) == ("persistent volume", "another user's")
    assert shown["skipped"]["persistent volume"] >= 1
    assert {verdict["resource"] for verdict in shown["verdicts"]} == {loose, other}

    file = tmp_path / "plan.json"
    saved = team.run("cleanup", "--older-than", "0", "--save", str(file))
    assert saved.returncode == 0, saved.stderr
    assert f"runctl aws ebs delete {loose}" in saved.stdout
    later = team.volume()
    unasked = team.run("cleanup", "--apply", str(file))
    assert unasked.returncode == 1
    assert "--yes" in unasked.stderr
    assert all(team.there(one) for one in (loose, other, kept, theirs))

    first, second = (item["id"] for item in json.loads(file.read_text())["items"])
    limited = team.run("cleanup", "--apply", str(file), "--yes", "--max-count", "1", "--output", "json")
    assert limited.returncode == 1
    results = json.loads(limited.stdout)["results"]
    assert [(result["id"], result["outcome"]) for result in results] == [
        (first, "done"),
        (second, "over the limit"),
    ]
    assert "--max-count" in json.loads(limited.stderr)["error"]["why"]

    team.ec2.create_tags(Resources=[second], Tags=[{"Key": "runctl:protected", "Value": "true"}])
    refused = team.run("cleanup", "--apply", str(file), "--yes")
    assert refused.returncode == 1
    assert "its tags have changed" in refused.stderr
    assert all(team.there(one) for one in (second, kept, theirs, later))
    assert not team.there(first)


def test_nothing_is_cleaned_up_by_half_a_view(team: Team) -> None:
    """A volume that could not be listed would make every snapshot of it look left over."""
    volume = team.volume()
    fault = {"operation": "DescribeVolumes", "code": "InvalidParameterValue", "status": 400}
    team.live.control.add_fault("ec2", "error", **fault)
    try:
        done = team.run("cleanup", "--older-than", "0", "--yes")
    finally:
        team.live.control.clear_faults()
    assert done.returncode == 1
    assert "half a view" in done.stderr
    assert team.there(volume)


@pytest.mark.parametrize("amount", ["nan", "-1", "inf", "much"])
def test_a_limit_is_an_amount_of_money(team: Team, amount: str) -> None:
    done = team.run("cleanup", "--dry-run", "--max-usd-per-hour", amount)
    assert (done.returncode, "no amount of USD" in done.stderr) == (1, True)


@pytest.mark.parametrize("content", [None, "not a plan", '{"version": 1}'])
def test_a_file_that_is_no_plan_is_refused(team: Team, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content)
    done = team.run("cleanup", "--apply", str(file), "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "internal error" not in done.stderr


def test_stop_all_stops_own_machines_and_counts_the_protected(team: Team) -> None:
    mine, protected = team.machine(), team.machine(**{"runctl:protected": "true"})
    theirs = team.machine(**{"runctl:user": "somebody-else"})
    team.live.until(lambda: team.live.is_online(mine))
    team.live.until(lambda: {team.live.state(one) for one in (protected, theirs)} == {"running"})
    shown = team.json("stop-all", "--dry-run")
    assert [(item["id"], item["action"]) for item in shown["plan"]["items"]] == [(mine, "stop")]
    held = {skipped["id"]: skipped["rule"] for skipped in shown["plan"]["skipped"]}
    assert (held[protected], held[theirs]) == ("protected tag", "another user's")
    assert team.live.state(mine) == "running"
    report = team.json("stop-all", "--yes")
    assert [(result["id"], result["outcome"]) for result in report["results"]] == [(mine, "done")]
    team.live.until(lambda: team.live.state(mine) == "stopped")
    assert [team.live.state(one) for one in (protected, theirs)] == ["running", "running"]

    graph = team.json("graph", mine)
    (deletion,) = [graph["deletions"][node["id"]] for node in graph["nodes"] if node["id"] == mine]
    (root,) = team.live.instance(mine)["BlockDeviceMappings"]
    assert deletion["takes"] == [root["Ebs"]["VolumeId"]]


def test_the_graph_is_a_tree_a_picture_and_a_page_that_obey_no_name(team: Team, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"quoted\""
    volume = team.volume(Name=evil, runctl_persistent="true")
    tree = team.run("graph", volume)
    assert tree.returncode == 0, tree.stderr
    assert "persistent volume" in tree.stdout
    picture = team.run("graph", "--format", "svg", volume)
    assert picture.returncode == 0, picture.stderr
    assert volume in picture.stdout
    page = tmp_path / "graph.html"
    done = team.run("graph", "--format", "html", "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert volume in text
    assert "<script>alert" not in text
    nowhere = team.run("graph", "--format", "html", "--out", str(tmp_path / "no/such/graph.html"))
    assert (nowhere.returncode, "cannot be written" in nowhere.stderr) == (1, True)
