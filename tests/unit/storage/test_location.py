from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runctl.errors import ValidationError
from runctl.storage.location import InstancePath, LocalPath, S3Location, parse


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("data", LocalPath(Path("data"))),
        ("./data/", LocalPath(Path("data"))),
        ("/abs/olute", LocalPath(Path("/abs/olute"))),
        ("with:colon", LocalPath(Path("with:colon"))),
        ("i-am-a-file", LocalPath(Path("i-am-a-file"))),
        ("~/data", LocalPath(Path.home() / "data")),
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("s3://my.bucket-1/a key/ü", S3Location("my.bucket-1", "a key/ü")),
        ("S3://bucket/k", S3Location("bucket", "k")),
        ("i-0123456789abcdef0:/data", InstancePath("i-0123456789abcdef0", "/data")),
        ("i-01234567:/d:e", InstancePath("i-01234567", "/d:e")),
    ],
)
def test_reads_each_kind_of_place(text: str, location: object) -> None:
    assert parse(text) == location


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "NUL"),
        ("http://example.org/x", "http://"),
        ("gs://bucket/x", "gs://"),
        ("s3://", "bucket"),
        ("s3:///key", "bucket"),
        ("s3:/bucket/key", "two slashes"),
        ("s3://ab/key", "3 to 63"),
        ("s3://Upper/key", "bucket"),
        ("s3://under_score/key", "bucket"),
        ("s3://a..b/key", "bucket"),
        ("s3://a.-b/key", "bucket"),
        ("s3://-ab/key", "bucket"),
        ("s3://192.168.0.1/key", "IP address"),
        ("s3://xn--bucket/key", "reserved"),
        ("s3://bucket-s3alias/key", "reserved"),
        ("s3://" + "b" * 64, "3 to 63"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket//key", "empty part"),
        ("i-0123456789abcdef0:data", "absolute"),
        ("i-0123456789abcdef0:", "absolute"),
        ("i-0123:/data", "instance id"),
    ],
)
def test_says_why_a_text_is_no_location(text: str, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(text)
    assert why in caught.value.why
    assert caught.value.next


texts = st.one_of(
    st.text(),
    st.builds("s3://{}/{}".format, st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.text()),
    st.builds("i-{}:{}".format, st.from_regex(r"[0-9a-f]{6,18}", fullmatch=True), st.text()),
    st.builds("{}/{}".format, st.sampled_from(["~", ".", "..", "/", "~root"]), st.text()),
)


@settings(max_examples=200)
@given(texts)
@example("./i-0123456789abcdef0:/x")
@example("./s3://bucket")
@example("~nobody-of-that-name/x")
def test_a_location_reads_back_as_itself_and_nothing_else_is_raised(text: str) -> None:
    try:
        location = parse(text)
    except ValidationError:
        return
    assert parse(str(location)) == location
