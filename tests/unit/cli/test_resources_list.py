"""`runctl resources list|export|summary|insights` as a user meets them, over HTTP."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
FORMULA = '=HYPERLINK("http://x")'
MARKUP = "<script>alert(1)</script>"


class Shelf:
    """A project on the shared sandbox: what was made there, and the commands looking at it alone."""

    def __init__(self, live: Any, run: Run, home: Path) -> None:
        (home / "sandbox").mkdir(parents=True)
        shutil.copy(live.home / "sandbox/cloud.json", home / "sandbox/cloud.json")
        self.live, self.project, self._run = live, live.name("project"), run
        self.made: list[str] = []

    def volume(self, name: str = "", *, managed: bool = True, **changes: Any) -> str:
        tags = {"runctl:project": self.project, "runctl:managed": "true" if managed else "", "Name": name}
        tags |= changes.pop("tags", {})
        given = [{"Key": key, "Value": value} for key, value in tags.items() if value]
        made = self.live.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": given}], **changes)
        self.made.append(made)
        return made

    def run(self, command: str, *words: str, mine: bool = True) -> str:
        only = ["--project", self.project] if mine else []
        done = self._run("resources", command, "--on", "sandbox", *only, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, command: str, *words: str, mine: bool = True) -> Any:
        return json.loads(self.run(command, *words, "--output", "json", mine=mine))

    def clear(self) -> None:
        for made in self.made:
            self.live.client("ec2").delete_volume(VolumeId=made)


@pytest.fixture
def shelf(sandbox_cloud: Any, run: Run, tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(sandbox_cloud, run, tmp_path / "home")
    yield made
    made.clear()


def test_a_list_shows_what_there_is_with_a_lock_and_its_price(shelf: Shelf) -> None:
    plain, locked = shelf.volume("plain"), shelf.volume("kept", tags={"runctl:persistent": "true"}, Size=100)
    table = shelf.run("list").splitlines()
    [line] = [line for line in table if locked in line]
    assert line.startswith("\N{LOCK}")
    assert "100 GiB gp3" in line
    assert "$0.0110" in line  # 100 GiB at 0.08 a month of 730 hours
    [line] = [line for line in table if plain in line]
    assert "\N{LOCK}" not in line
    rows = {row["id"]: row for row in shelf.json("list")["resources"]}
    assert rows[locked]["protected"] == "persistent"
    assert Decimal(rows[locked]["usd_per_month"]) == pytest.approx(Decimal(8))


def test_filters_sorting_and_limits(shelf: Shelf) -> None:
    small, large = shelf.volume("b-small"), shelf.volume("a-large", Size=500)
    other = shelf.volume("c-foreign", managed=False)
    assert shelf.run("list", "--quiet", "--sort", "cost").split() == [large, small]
    assert shelf.run("list", "--quiet", "--sort", "age", "--limit", "1").split() == [small]
    assert shelf.run("list", "--quiet", "--kind", "instance").split() == []
    assert shelf.run("list", "--quiet", "--state", "in-use").split() == []
    assert set(shelf.run("list", "--quiet", "--unmanaged").split()) == {small, large, other}


def test_exports_are_safe_for_spreadsheets_and_browsers(shelf: Shelf) -> None:
    formula, markup = shelf.volume(FORMULA), shelf.volume(MARKUP)
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(shelf.run("export")))}
    assert rows[formula]["name"] == f"'{FORMULA}"
    assert set(rows) == {formula, markup}
    page = shelf.run("export", "--format", "html")
    assert MARKUP not in page
    assert "&lt;script&gt;" in page
    assert shelf.run("list", "--export", "csv").splitlines()[0] == shelf.run("export").splitlines()[0]
    assert {row["id"] for row in json.loads(shelf.run("export", "--format", "json"))["resources"]} == set(
        rows
    )


def test_a_summary_explains_each_figure(shelf: Shelf) -> None:
    made = shelf.volume("told", Size=1000)
    found = shelf.json("summary", "--explain", mine=False)
    [account] = [one for one in found["accounts"] if one["resource"]["id"] == made]
    [stretch] = account["stretches"]
    assert Decimal(stretch["usd_per_hour"]) == pytest.approx(Decimal(80) / 730)
    assert stretch["source"] == "AWS Price List"
    whole = Decimal(stretch["seconds"]) * Decimal(stretch["usd_per_hour"]) / 3600
    assert Decimal(account["sums"]["usd_total"]) == pytest.approx(whole)
    assert Decimal(found["by_project"][shelf.project]["usd_total"]) == pytest.approx(whole)
    assert made in shelf.run("summary", "--explain", "--offline", mine=False)


def test_insights_name_the_saving_and_the_command_that_works(shelf: Shelf, run: Run) -> None:
    made = shelf.volume("old", Size=500, VolumeType="gp2")
    found = shelf.json("insights", mine=False)
    [one] = [one for one in found["insights"] if one["resource"] == made]
    assert Decimal(one["usd_per_month"]) == pytest.approx(Decimal(5))
    done = run(*one["command"].split()[1:], "--on", "sandbox")
    assert done.returncode == 0, done.stderr
    assert shelf.live.disk(made)["VolumeType"] == "gp3"
    assert made not in shelf.run("insights", "--quiet", mine=False)
