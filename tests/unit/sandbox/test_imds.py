"""The metadata service, asked over its real port."""

from __future__ import annotations

import dataclasses
import http.client
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.sandbox.imds import iso, look_up
from runctl.sandbox.machine import Machine

if TYPE_CHECKING:
    from conftest import Sandbox


def ask(
    machine: Machine,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    timeout: float = 5,
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(machine.metadata_endpoint).netloc, timeout=timeout)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def token(machine: Machine, ttl: object = 60, **headers: str) -> tuple[int, str]:
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(ttl), **headers}
    return ask(machine, "/latest/api/token", method="PUT", headers=headers)


def get(machine: Machine, path: str) -> tuple[int, str]:
    return ask(machine, path, headers={"X-aws-ec2-metadata-token": token(machine)[1]})


def test_the_second_version_wants_a_token(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted("i-0aa")
    assert ask(machine, "/latest/meta-data/instance-id")[0] == 401
    assert ask(machine, "/latest/meta-data/instance-id", headers={"X-aws-ec2-metadata-token": "no"})[0] == 401
    assert get(machine, "/latest/meta-data/instance-id") == (200, "i-0aa")


def test_the_first_version_answers_only_where_it_is_optional(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted("i-0aa", http_tokens="optional")
    assert ask(machine, "/latest/meta-data/instance-id") == (200, "i-0aa")
    assert ask(machine, "/latest/meta-data/instance-id", headers={"X-aws-ec2-metadata-token": "no"})[0] == 401


@pytest.mark.parametrize("ttl", ["0", "21601", "", "x", "-1", "1.5"])
def test_a_token_lives_from_one_second_to_six_hours(plain_sandbox: Sandbox, ttl: str) -> None:
    assert token(plain_sandbox.booted(), ttl)[0] == 400


def test_a_forwarded_request_gets_no_token_nor_does_a_versioned_path(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted()
    assert token(machine, **{"X-Forwarded-For": "10.0.0.1"})[0] == 403
    assert ask(machine, "/2021-07-15/api/token", method="PUT")[0] == 403


def test_tokens_die_in_cloud_time(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted()
    headers = {"X-aws-ec2-metadata-token": token(machine, 21600)[1]}
    assert ask(machine, "/latest/meta-data/", headers=headers)[0] == 200
    plain_sandbox.clock.set_speed(1e8)
    assert ask(machine, "/latest/meta-data/", headers=headers)[0] == 401


def test_a_token_is_of_one_machine(plain_sandbox: Sandbox) -> None:
    one, other = plain_sandbox.booted("i-0aa"), plain_sandbox.booted("i-0bb")
    assert ask(other, "/latest/meta-data/", headers={"X-aws-ec2-metadata-token": token(one)[1]})[0] == 401


def test_a_disabled_endpoint_refuses_everything(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted(http_endpoint="disabled")
    assert token(machine)[0] == 403
    assert ask(machine, "/latest/meta-data/")[0] == 403


def test_items_and_listings(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted("i-0aa", user_data=b"#!/bin/sh\ntrue\n")
    items = {
        "meta-data/instance-type": "g5.xlarge",
        "meta-data/ami-id": "ami-0123456789abcdef0",
        "meta-data/instance-life-cycle": "spot",
        "meta-data/local-ipv4": "10.1.2.3",
        "meta-data/placement/availability-zone": "us-east-1b",
        "meta-data/placement/region": "us-east-1",
        "meta-data/tags/instance/runctl:job": "digits",
        "meta-data/iam/security-credentials/": "trainer",
        "user-data": "#!/bin/sh\ntrue\n",
        "": "dynamic/\nmeta-data/\nuser-data",
    }
    for path, text in items.items():
        assert get(machine, f"/latest/{path}") == (200, text)
    assert "placement/" in get(machine, "/latest/meta-data/")[1].splitlines()
    assert get(machine, "/2021-07-15/meta-data/instance-id") == (200, "i-0aa")
    assert get(machine, "/latest/meta-data/nothing")[0] == 404
    document = json.loads(get(machine, "/latest/dynamic/instance-identity/document")[1])
    assert (document["accountId"], document["instanceId"]) == ("123456789012", "i-0aa")


def test_facts_are_those_of_the_moment(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted("i-0aa", tags_in_metadata=False, role=None)
    assert get(machine, "/latest/meta-data/tags/instance/Name")[0] == 404
    assert get(machine, "/latest/meta-data/iam/")[0] == 404
    changed = dataclasses.replace(plain_sandbox.facts["i-0aa"], tags_in_metadata=True)
    plain_sandbox.facts["i-0aa"] = changed
    assert get(machine, "/latest/meta-data/tags/instance/Name") == (200, "one")


def test_the_sdk_finds_the_role_inside_the_machine(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    code = (
        "import botocore.session as s; c = s.get_session().get_credentials(); print(c.method, c.access_key)"
    )
    assert sandbox.run(machine, f"python -c '{code}'") == (0, "iam-role ASIAX\n")


def test_notices_appear_when_posted_and_are_gone_after_a_boot(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted()
    paths = ("spot/instance-action", "spot/termination-time", "events/recommendations/rebalance")
    assert [get(machine, f"/latest/meta-data/{path}")[0] for path in paths] == [404, 404, 404]
    at = plain_sandbox.clock.now() + 120
    machine.post_rebalance(at)
    machine.post_notice("terminate", at)
    assert json.loads(get(machine, "/latest/meta-data/spot/instance-action")[1]) == {
        "action": "terminate",
        "time": iso(at),
    }
    assert get(machine, "/latest/meta-data/spot/termination-time") == (200, iso(at))
    rebalance = get(machine, "/latest/meta-data/events/recommendations/rebalance")[1]
    assert json.loads(rebalance) == {"noticeTime": iso(at)}
    machine.post_notice("stop", at)
    assert get(machine, "/latest/meta-data/spot/termination-time")[0] == 404
    machine.off(grace=0)
    machine.boot()
    assert machine.notice is None
    assert get(machine, "/latest/meta-data/spot/instance-action")[0] == 404


def test_a_service_that_is_away_answers_nothing_until_it_is_back(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted()
    machine.metadata_fault("away")
    with pytest.raises(TimeoutError):
        ask(machine, "/latest/meta-data/", timeout=0.3)
    machine.metadata_fault("none")
    assert get(machine, "/latest/meta-data/instance-type") == (200, "g5.xlarge")


def test_the_port_is_closed_while_the_machine_is_off(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted()
    machine.off(grace=0)
    with pytest.raises(OSError, match="refused"):
        ask(machine, "/latest/meta-data/")


def test_one_connection_serves_many_requests(plain_sandbox: Sandbox) -> None:
    machine = plain_sandbox.booted("i-0aa")
    headers = {"X-aws-ec2-metadata-token": token(machine)[1]}
    connection = http.client.HTTPConnection(urlsplit(machine.metadata_endpoint).netloc, timeout=5)
    for _ in range(20):
        connection.request("GET", "/latest/meta-data/instance-id", headers=headers)
        assert connection.getresponse().read() == b"i-0aa"
    connection.close()


names = st.text(alphabet="abc-", min_size=1, max_size=4)


@given(
    st.dictionaries(st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=5), max_size=8)
)
def test_every_item_is_reached_by_following_listings(items: dict[str, bytes]) -> None:
    # A name that is both an item and a folder cannot be listed: the service has none.
    items = {path: body for path, body in items.items() if not any(o.startswith(path + "/") for o in items)}
    reached: dict[str, bytes] = {}

    def follow(path: str) -> None:
        for entry in (look_up(items, path) or b"").decode().splitlines():
            if entry.endswith("/"):
                follow(path + entry)
            else:
                reached[path + entry] = look_up(items, path + entry) or b""

    follow("")
    assert reached == items
