from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from runctl.storage.store import Credentials, S3Access

_names = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def keys() -> Credentials:
    return Credentials("AKID", "secret")


@pytest.fixture
def access(s3_endpoint: str) -> S3Access:
    return S3Access(endpoint=s3_endpoint, region="us-east-1", credentials=keys)


@pytest.fixture(scope="session")
def boto(s3_endpoint: str):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
    )


@pytest.fixture
def new_bucket(boto) -> Callable[[], str]:
    def make() -> str:
        name = f"bucket-{next(_names)}"
        boto.create_bucket(Bucket=name)
        return name

    return make
