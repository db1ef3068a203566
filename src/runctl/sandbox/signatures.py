"""Who signed a request: AWS Signature Version 4, in headers and in URLs, and S3's older signed URLs.

After "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference and "Create a signed AWS API
request" of the IAM user guide. What is signed is computed from the bytes that came, never from what a
framework made of them.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus

from runctl.sandbox.keyring import Key

SKEW_SECONDS = 15 * 60
"""By how much a request's time may differ from the host's."""
LONGEST_URL_SECONDS = 7 * 24 * 3600
UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED_CHUNKS = ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
ALGORITHM = "AWS4-HMAC-SHA256"
CONTENT_HASH = "x-amz-content-sha256"

_SCOPE = r"([^/\s,]+)/(\d{8})/([A-Za-z0-9-]+)/([A-Za-z0-9-]+)/aws4_request"
_HEADER = re.compile(
    rf"{ALGORITHM} Credential={_SCOPE}, ?SignedHeaders=([a-z0-9!#$%&'*+.^_`|~;-]+),"
    r" ?Signature=([0-9a-f]{64})"
)
_CREDENTIAL = re.compile(_SCOPE)
_CLAIM = re.compile(r"/\d{8}/[A-Za-z0-9-]+/([A-Za-z0-9-]+)/aws4_request")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_EMPTY = hashlib.sha256(b"").hexdigest()
_OLD_URL = frozenset({"AWSAccessKeyId", "Signature", "Expires", "x-amz-security-token"})


class Refused(Exception):
    """A request whose signer is unknown. `reason` is a word of `refusals.ANSWERS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came: the request line's target, and every header in its order."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        """Names and values, as they are written."""
        pairs = (part.partition("=") for part in self.target.partition("?")[2].split("&") if part)
        return [(name, value) for name, _, value in pairs]

    def values(self) -> dict[str, str]:
        """Headers by their lower-case names, several of one name joined by commas."""
        found: dict[str, list[str]] = {}
        for name, value in self.headers:
            found.setdefault(name.strip().lower(), []).append(" ".join(value.split()))
        return {name: ",".join(values) for name, values in found.items()}


@dataclass(frozen=True, slots=True)
class Signed:
    """A request whose signature is right: who made it, for which service, and what is left to check.

    `payload` is the SHA-256 that the body must have, or one of S3's words for a body that was not hashed;
    `seed` and `key` are where the signatures of a body in signed chunks begin.
    """

    by: Key
    service: str
    region: str
    payload: str
    seed: str = ""
    when: str = ""
    key: bytes = field(default=b"", repr=False)

    @property
    def covers_body(self) -> bool:
        return self.payload in SIGNED_CHUNKS or bool(_HEX_HASH.fullmatch(self.payload))


def claimed_service(request: Received) -> str:
    """The service that a request says that it is for, whoever sends it; S3 where it says none."""
    values = [value for name, value in request.headers if name.lower() == "authorization"]
    values += [unquote_plus(value) for name, value in request.query if name == "X-Amz-Credential"]
    found = next((match for value in values if (match := _CLAIM.search(value))), None)
    return found[1] if found else "s3"


def verify(
    request: Received, find: Callable[[str], Key | None], body: Callable[[], bytes], now: float
) -> Signed:
    """Who signed `request`. `body` is asked only where the signature covers it and no header does.

    `now` is the host's time in seconds since the epoch. Raises Refused.
    """
    values = request.values()
    names = [unquote_plus(name) for name, _ in request.query]
    kinds = [
        "authorization" in values,
        "X-Amz-Signature" in names or "X-Amz-Algorithm" in names,
        "Signature" in names and "AWSAccessKeyId" in names,
    ]
    if sum(kinds) != 1:
        raise Refused("malformed" if any(kinds) else "none")
    if kinds[0]:
        return _by_header(request, values, find, body, now)
    if len(set(names)) < len(names):
        raise Refused("malformed")
    return (_by_url if kinds[1] else _by_old_url)(request, values, find, body, now)


def _by_header(
    request: Received,
    values: Mapping[str, str],
    find: Callable[[str], Key | None],
    body: Callable[[], bytes],
    now: float,
) -> Signed:
    claim = _HEADER.fullmatch(values["authorization"])
    if claim is None:
        raise Refused("malformed")
    access, day, region, service, signed, signature = claim.groups()
    key = _known(find(access))
    if not {"x-amz-date", "date"} & values.keys():
        raise Refused("malformed")
    when = values.get("x-amz-date", "")
    if not when and "date" not in signed.split(";"):
        raise Refused("malformed")
    moment = _moment(when) if when else _http_date(values["date"])
    when = when or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
    payload = _payload(service, values, body)
    secret = signing_key(key.secret, day, region, service)
    text = _canonical(request, values, signed, request.query, payload)
    _compare(signature, secret, when, f"{day}/{region}/{service}/aws4_request", text)
    if not when.startswith(day) or abs(now - moment) > SKEW_SECONDS:
        raise Refused("skewed")
    _check_token(key, values.get("x-amz-security-token"), now)
    return Signed(key, service, region, payload, signature, when, secret)


def _by_url(
    request: Received,
    values: Mapping[str, str],
    find: Callable[[str], Key | None],
    body: Callable[[], bytes],
    now: float,
) -> Signed:
    given = {unquote_plus(name): unquote_plus(value) for name, value in request.query}
    claim = _CREDENTIAL.fullmatch(given.get("X-Amz-Credential", ""))
    seconds = given.get("X-Amz-Expires", "")
    if claim is None or given.get("X-Amz-Algorithm") != ALGORITHM or not re.fullmatch(r"\d{1,7}", seconds):
        raise Refused("malformed")
    access, day, region, service = claim.groups()
    key = _known(find(access))
    when = given.get("X-Amz-Date", "")
    moment = _moment(when)
    if service == "s3":
        payload = values.get(CONTENT_HASH, given.get("X-Amz-Content-Sha256", UNSIGNED))
    else:
        payload = hashlib.sha256(body()).hexdigest()
    query = [(name, value) for name, value in request.query if name != "X-Amz-Signature"]
    secret = signing_key(key.secret, day, region, service)
    text = _canonical(request, values, given.get("X-Amz-SignedHeaders", ""), query, payload)
    _compare(given.get("X-Amz-Signature", ""), secret, when, f"{day}/{region}/{service}/aws4_request", text)
    if not when.startswith(day) or moment > now + SKEW_SECONDS or int(seconds) > LONGEST_URL_SECONDS:
        raise Refused("skewed")
    if now > moment + int(seconds):
        raise Refused("url-expired")
    _check_token(key, given.get("X-Amz-Security-Token"), now)
    return Signed(key, service, region, payload)


def _by_old_url(
    request: Received,
    values: Mapping[str, str],
    find: Callable[[str], Key | None],
    _: Callable[[], bytes],
    now: float,
) -> Signed:
    """S3's Signature Version 2, which boto3 signs URLs with in the older regions."""
    from botocore.auth import HmacV1Auth

    given = {unquote_plus(name): unquote_plus(value) for name, value in request.query}
    if not given.keys() <= _OLD_URL | set(HmacV1Auth.QSAOfInterest) or not given["Expires"].isdecimal():
        raise Refused("malformed")  # what it does not sign says nothing
    key = _known(find(given["AWSAccessKeyId"]))
    token = given.get("x-amz-security-token")
    amz = {name: value for name, value in values.items() if name.startswith("x-amz-")}
    amz |= {"x-amz-security-token": token} if token else {}
    parts = sorted((unquote_plus(name), value) for name, value in request.query)
    signed = [
        f"{name}={unquote_plus(value)}" if value else name for name, value in parts if name not in _OLD_URL
    ]
    lines = [
        request.method,
        values.get("content-md5", ""),
        values.get("content-type", ""),
        given["Expires"],
        *(f"{name}:{value}" for name, value in sorted(amz.items())),
        request.path + ("?" + "&".join(signed) if signed else ""),
    ]
    digest = hmac.digest(key.secret.encode(), "\n".join(lines).encode(), "sha1")
    expected = base64.b64encode(digest).decode()
    if not hmac.compare_digest(expected.encode(), given["Signature"].encode()):
        raise Refused("mismatch")
    if now > int(given["Expires"]):
        raise Refused("url-expired")
    _check_token(key, token, now)
    return Signed(key, "s3", "us-east-1", UNSIGNED)


def _known(key: Key | None) -> Key:
    if key is None:
        raise Refused("unknown")
    return key


def _check_token(key: Key, token: str | None, now: float) -> None:
    if not hmac.compare_digest((token or "").encode(), (key.token or "").encode()):
        raise Refused("wrong-token")
    if key.expires is not None and now >= key.expires:
        raise Refused("expired")


def _payload(service: str, values: Mapping[str, str], body: Callable[[], bytes]) -> str:
    """What stands for the body in the signature: what its header says, which is checked afterwards."""
    stated = values.get(CONTENT_HASH)
    if stated is None:
        if service == "s3":
            raise Refused("no-hash")
        return hashlib.sha256(body()).hexdigest()
    unhashed = {UNSIGNED, UNSIGNED_CHUNKS, *SIGNED_CHUNKS} if service == "s3" else set[str]()
    if stated not in unhashed and not _HEX_HASH.fullmatch(stated):
        raise Refused("no-hash")
    return stated


def _canonical(
    request: Received,
    values: Mapping[str, str],
    signed: str,
    query: Sequence[tuple[str, str]],
    payload: str,
) -> str:
    """The canonical request. Raises Refused where a header that must be signed is not."""
    names = signed.split(";")
    unsigned = {name for name in values if name.startswith("x-amz-")} - set(names)
    if "host" not in names or unsigned or not set(names) <= values.keys() or names != sorted(set(names)):
        raise Refused("unsigned-header")
    # A plus in a query is read as a space; every other letter that need not be escaped stands for itself.
    parts = sorted((_escaped(name), _escaped(value)) for name, value in query)
    return "\n".join(
        [
            request.method,
            quote(request.path, safe="/%~"),
            "&".join(f"{name}={value}" for name, value in parts),
            *(f"{name}:{values[name]}" for name in names),
            "",
            signed,
            payload,
        ]
    )


def _escaped(text: str) -> str:
    return quote(text.replace("+", "%20"), safe="%~")


def _compare(signature: str, secret: bytes, when: str, scope: str, text: str) -> None:
    digest = hashlib.sha256(text.encode("latin-1")).hexdigest()
    expected = hmac.digest(secret, f"{ALGORITHM}\n{when}\n{scope}\n{digest}".encode(), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise Refused("mismatch")


def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key of one day, region and service."""
    key = b"AWS4" + secret.encode()
    for word in (day, region, service, "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def _moment(text: str) -> float:
    try:
        return float(calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ")))
    except ValueError:
        raise Refused("malformed") from None


def _http_date(text: str) -> float:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        raise Refused("malformed") from None


def check_body(signed: Signed, body: bytes) -> None:
    """Whether `body` is what was signed, as far as it was. Raises Refused."""
    if _HEX_HASH.fullmatch(signed.payload):
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), signed.payload):
            raise Refused("wrong-body")
    elif signed.payload in SIGNED_CHUNKS:
        _check_chunks(signed, body)


def _check_chunks(signed: Signed, body: bytes) -> None:
    """Each chunk's signature covers its bytes and the signature before it, and the last is empty."""
    scope = f"{signed.when[:8]}/{signed.region}/{signed.service}/aws4_request"
    previous, at, size = signed.seed, 0, -1
    while size != 0:
        end = body.find(b"\r\n", at)
        head = re.fullmatch(rb"([0-9a-fA-F]{1,8});chunk-signature=([0-9a-f]{64})", body[at : max(end, at)])
        if head is None:
            raise Refused("wrong-body")
        size, start = int(head[1], 16), end + 2
        data = body[start : start + size]
        if len(data) < size:
            raise Refused("wrong-body")
        text = (
            ALGORITHM + "-PAYLOAD",
            signed.when,
            scope,
            previous,
            _EMPTY,
            hashlib.sha256(data).hexdigest(),
        )
        previous = hmac.digest(signed.key, "\n".join(text).encode(), "sha256").hex()
        if not hmac.compare_digest(previous.encode(), head[2]):
            raise Refused("wrong-body")
        at = start + size + (2 if size else 0)
    _check_trailer(signed, scope, previous, body[at:])


def _check_trailer(signed: Signed, scope: str, previous: str, rest: bytes) -> None:
    if not signed.payload.endswith("-TRAILER"):
        if rest not in {b"", b"\r\n"}:
            raise Refused("wrong-body")
        return
    lines = [line.rstrip(b"\n") for line in rest.split(b"\r\n") if line]
    given = [line.partition(b":")[2] for line in lines if line.startswith(b"x-amz-trailer-signature:")]
    trailer = b"".join(line + b"\n" for line in lines if not line.startswith(b"x-amz-trailer-signature:"))
    digest = hashlib.sha256(trailer).hexdigest()
    text = "\n".join((ALGORITHM + "-TRAILER", signed.when, scope, previous, digest))
    expected = hmac.digest(signed.key, text.encode(), "sha256").hex()
    if len(given) != 1 or not hmac.compare_digest(expected.encode(), given[0]):
        raise Refused("wrong-body")
