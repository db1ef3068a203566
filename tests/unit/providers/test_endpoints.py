"""Where requests go and how they are signed when nobody names an endpoint, as all other tests do.

A presigned URL pointed at S3's global host and was signed as Signature Version 2, which no new bucket serves.
"""

from __future__ import annotations

import http.client
import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from runctl import partitions
from runctl.agent import fetch
from runctl.agent.credentials import Keys
from runctl.agent.failures import StoreAway
from runctl.agent.s3 import Bucket
from runctl.clock import SystemClock
from runctl.clouds import Cloud, aws_cloud
from runctl.errors import ConfigError
from runctl.providers.aws import account
from runctl.providers.aws.session import Session
from runctl.resources.reaching import access_of, job_access
from runctl.storage import whereabouts
from runctl.storage.access import S3Access
from runctl.storage.requests import Requests
from runctl.storage.staging import SigningStore

HOSTS = {
    "us-east-1": "s3.us-east-1.amazonaws.com",
    "us-west-2": "s3.us-west-2.amazonaws.com",
    "eu-central-1": "s3.eu-central-1.amazonaws.com",
    "me-south-1": "s3.me-south-1.amazonaws.com",
    "ap-southeast-3": "s3.ap-southeast-3.amazonaws.com",
    "us-gov-west-1": "s3.us-gov-west-1.amazonaws.com",
    "cn-north-1": "s3.cn-north-1.amazonaws.com.cn",
    "us-iso-east-1": "s3.us-iso-east-1.c2s.ic.gov",
    "eusc-de-east-1": "s3.eusc-de-east-1.amazonaws.eu",
}
"""Regions of old and new partitions, such as are there for all and such as one opts into."""
NAMES = {"mine": "mine.{}", "my.own": "{}"}
"""S3's certificate covers one name below its host: a bucket with dots stands in the path."""


@pytest.fixture(autouse=True)
def nobody_named_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def session(region: str, **more: Any) -> Session:
    return Session(msgspec.structs.replace(aws_cloud(region=region), **more))


def is_signed_for(url: str, region: str, bucket: str, *, host: str = "") -> bool:
    found = urlsplit(url)
    asked = parse_qs(found.query)
    path = "/key" if "." not in bucket else f"/{bucket}/key"
    return (
        found.scheme == "https"
        and found.netloc == NAMES[bucket].format(host or HOSTS[region])
        and found.path == path
        and asked.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"]
        and asked["X-Amz-Credential"][0].split("/")[2:] == [region, "s3", "aws4_request"]
    )


def sent_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, str]]]:
    """What would go over the wire, and to which host: host, path and headers. Nobody answers."""
    sent: list[tuple[str, str, dict[str, str]]] = []

    def connect(wire: http.client.HTTPSConnection) -> None:
        wire.sock = SimpleNamespace(settimeout=lambda _: None, close=lambda: None)  # pyright: ignore

    def request(
        wire: http.client.HTTPSConnection, _: str, url: str, body: Any = None, headers: Any = (), **__: Any
    ) -> None:
        sent.append((wire.host, url, {name.title(): text for name, text in dict(headers).items()}))

    def getresponse(_: http.client.HTTPSConnection) -> Any:
        raise OSError("nobody is there")

    monkeypatch.setattr(http.client.HTTPSConnection, "connect", connect)
    monkeypatch.setattr(http.client.HTTPSConnection, "request", request)
    monkeypatch.setattr(http.client.HTTPSConnection, "getresponse", getresponse)
    return sent


def is_sent_to(sent: tuple[str, str, dict[str, str]], region: str, bucket: str) -> bool:
    host, path, headers = sent
    return (
        host == headers["Host"] == NAMES[bucket].format(HOSTS[region])
        and path == ("/key" if "." not in bucket else f"/{bucket}/key")
        and headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
        and f"/{region}/s3/aws4_request" in headers["Authorization"]
    )


@pytest.mark.parametrize("region", HOSTS)
def test_whatever_asks_s3_asks_the_regional_host_of_the_partition(
    region: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = session(region)
    access = msgspec.structs.replace(job_access(own), owner=None)
    told, sent = own.s3_host(), sent_by(monkeypatch)
    keys = SimpleNamespace(get=lambda: Keys("a", "b", None, 0.0), forget=lambda: None)
    for bucket in NAMES:
        assert is_signed_for(own.presign(bucket, "key", seconds=60), region, bucket)
        store = SigningStore(bucket, "", access)
        assert is_signed_for(store.sign("GET", ["key"], lifetime=timedelta(minutes=1))[0], region, bucket)
        for client in (Requests(bucket, access).client, Bucket(bucket, region, keys, host=told)):
            with pytest.raises(StoreAway, match="nobody is there"):
                client.ask("GET", "key", tries=1)
            assert is_sent_to(sent.pop(), region, bucket)
        with pytest.raises(OSError, match="nobody is there"):
            fetch.fetch(bucket, region, told, "123456789012", "key", str(tmp_path / "agent"))
        assert is_sent_to(sent.pop(), region, bucket)


def test_every_client_of_ours_asks_its_own_region() -> None:
    for region in ("eu-central-1", "cn-north-1"):
        own = session(region)
        for service in ("ec2", "iam", "pricing", "s3", "ssm", "sts"):
            host = urlsplit(own.client(service).meta.endpoint_url).hostname or ""
            assert host.endswith(partitions.of_region(region).suffix) or service == "pricing"
            assert f".{region}." in host or service in {"iam", "pricing"}  # these are one for all regions


@pytest.mark.parametrize(
    ("name", "start"), [("AWS_USE_FIPS_ENDPOINT", "s3-fips"), ("AWS_USE_DUALSTACK_ENDPOINT", "s3.dualstack")]
)
def test_fips_and_dual_stack_of_the_users_settings_hold_for_every_client(
    name: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "true")
    own, host = session("us-west-2"), f"{start}.us-west-2.amazonaws.com"
    assert own.s3_host() == host
    assert own.s3_endpoint is None
    assert is_signed_for(own.presign("mine", "key", seconds=60), "us-west-2", "mine", host=host)
    store = SigningStore("mine", "", msgspec.structs.replace(job_access(own), owner=None))
    [url] = store.sign("GET", ["key"], lifetime=timedelta(minutes=1))
    assert is_signed_for(url, "us-west-2", "mine", host=host)


def test_our_names_of_hosts_are_the_sdks() -> None:
    import boto3
    from botocore.config import Config

    made = boto3.Session()
    for partition in ("aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-iso-b", "aws-eusc"):
        for region in partitions.regions(partition)[:1]:
            usual = partition in {"aws", "aws-us-gov"}  # the others have no such hosts
            for fips, dual in ((False, False), (True, False), (False, True))[: 3 if usual else 1]:
                config = Config(
                    use_fips_endpoint=fips,
                    use_dualstack_endpoint=dual,
                    s3={"us_east_1_regional_endpoint": "regional"},
                )
                url = made.client("s3", region_name=region, config=config).meta.endpoint_url
                assert url == f"https://{partitions.s3_host(region, fips=fips, dual_stack=dual)}"


def test_a_server_that_the_sdks_settings_name_is_not_taken_for_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    own = session("eu-central-1")
    assert own.s3_endpoint == access_of(own).endpoint == "http://127.0.0.1:9000"
    assert own.presign("mine", "key", seconds=60).startswith("http://127.0.0.1:9000/mine/key?")


def test_a_bucket_of_another_region_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "bucket_region", lambda *_: "ap-southeast-3")
    store = SigningStore("mine", "", access_of(session("us-east-1")))
    [url] = store.sign("GET", ["key"], lifetime=timedelta(minutes=1))
    assert is_signed_for(url, "ap-southeast-3", "mine")


def test_a_transfer_without_the_sdk_finds_the_region_of_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = sent_by(monkeypatch)
    monkeypatch.setattr(whereabouts, "region_of", whereabouts.region_of.__wrapped__)
    assert whereabouts.region_of("mine", "eu-central-1") == "eu-central-1"
    told = SimpleNamespace(getheader=lambda _: "sa-east-1")
    monkeypatch.setattr(http.client.HTTPSConnection, "getresponse", lambda _: told)
    assert whereabouts.region_of("mine", "eu-central-1") == "sa-east-1"
    assert [request[:2] for request in sent] == [("s3.eu-central-1.amazonaws.com", "/mine")] * 2
    access = S3Access(
        region="eu-central-1", locate=lambda _: "sa-east-1", credentials=lambda: ("a", "b", None)
    )
    [url] = SigningStore("mine", "", access).sign("GET", ["key"], lifetime=timedelta(minutes=1))
    assert is_signed_for(url, "sa-east-1", "mine", host="s3.sa-east-1.amazonaws.com")


def test_a_job_bucket_of_another_region_is_refused_before_a_machine_is_bought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def head(_: Session, service: str, operation: str, **parameters: Any) -> Any:
        return {"BucketRegion": "eu-west-1"}

    monkeypatch.setattr(Session, "call", head)
    monkeypatch.setattr(Session, "account", lambda _: "123456789012")
    with pytest.raises(ConfigError, match="eu-west-1") as refused:
        account.bucket_exists(session("us-east-1"), "mine")
    assert "--region eu-west-1" in refused.value.next


def test_s3_tells_the_region_also_to_whom_it_refuses_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    answer = {
        "Error": {"Code": "403"},
        "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}},
    }
    own = session("us-east-1")

    def refuse(**_: Any) -> Any:
        raise ClientError(answer, "HeadBucket")  # pyright: ignore

    monkeypatch.setattr(own.client("s3"), "head_bucket", refuse)
    assert own.bucket_region("mine") == "eu-west-3"


def test_a_sandbox_keeps_its_endpoint() -> None:
    cloud = Cloud("sandbox", "sandbox:x", SystemClock(), "us-east-1", s3_endpoint="http://127.0.0.1:1")
    access = access_of(Session(cloud))
    assert (access.endpoint, access.host, access.locate) == ("http://127.0.0.1:1", None, None)
