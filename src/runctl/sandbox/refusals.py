"""How AWS says that a request is not signed by somebody whom it knows: each service in its own way."""

from __future__ import annotations

from typing import Literal, NamedTuple

QUERY_SERVICES = frozenset(
    {"iam", "sts", "sns", "autoscaling", "cloudformation", "elasticloadbalancing", "rds"}
)
Family = Literal["s3", "ec2", "query", "json"]


class Answer(NamedTuple):
    status: int
    code: str
    message: str


_MISMATCH = (
    "The request signature we calculated does not match the signature you provided."
    " The keys of this sandbox: runctl sandbox env"
)
_UNKNOWN = (
    "The access key is not one of this sandbox, which serves its owner alone. Its keys: runctl sandbox env"
)
_UNSIGNED = "There were headers present in the request which were not signed"
_MALFORMED = "The signature of the request cannot be read, or is of a kind that the sandbox does not take"
_SKEWED = "The request's time differs too much from the host's"
_EXPIRED = "The security token included in the request is expired"
_TOKEN = "The security token included in the request is invalid"  # noqa: S105 (a message)
_NONE = "The request is not signed. The sandbox serves its owner alone; its keys: runctl sandbox env"

ANSWERS: dict[str, dict[Family, Answer]] = {
    "none": {
        "s3": Answer(403, "AccessDenied", _NONE),
        "ec2": Answer(403, "AuthFailure", _NONE),
        "query": Answer(403, "MissingAuthenticationToken", _NONE),
        "json": Answer(403, "MissingAuthenticationTokenException", _NONE),
    },
    "unknown": {
        "s3": Answer(403, "InvalidAccessKeyId", _UNKNOWN),
        "ec2": Answer(403, "AuthFailure", _UNKNOWN),
        "query": Answer(403, "InvalidClientTokenId", _UNKNOWN),
        "json": Answer(403, "UnrecognizedClientException", _UNKNOWN),
    },
    "mismatch": {
        "s3": Answer(403, "SignatureDoesNotMatch", _MISMATCH),
        "ec2": Answer(403, "AuthFailure", _MISMATCH),
        "query": Answer(403, "SignatureDoesNotMatch", _MISMATCH),
        "json": Answer(403, "InvalidSignatureException", _MISMATCH),
    },
    "malformed": {
        "s3": Answer(403, "AccessDenied", _MALFORMED),
        "ec2": Answer(403, "AuthFailure", _MALFORMED),
        "query": Answer(403, "IncompleteSignature", _MALFORMED),
        "json": Answer(403, "IncompleteSignatureException", _MALFORMED),
    },
    "unsigned-header": {
        "s3": Answer(403, "AccessDenied", _UNSIGNED),
        "ec2": Answer(403, "AuthFailure", _UNSIGNED),
        "query": Answer(403, "SignatureDoesNotMatch", _UNSIGNED),
        "json": Answer(403, "InvalidSignatureException", _UNSIGNED),
    },
    "skewed": {
        "s3": Answer(403, "RequestTimeTooSkewed", _SKEWED),
        "ec2": Answer(403, "RequestExpired", _SKEWED),
        "query": Answer(403, "SignatureDoesNotMatch", _SKEWED),
        "json": Answer(403, "InvalidSignatureException", _SKEWED),
    },
    "url-expired": {
        "s3": Answer(403, "AccessDenied", "Request has expired"),
        "ec2": Answer(403, "RequestExpired", "Request has expired"),
        "query": Answer(403, "SignatureDoesNotMatch", "Request has expired"),
        "json": Answer(403, "InvalidSignatureException", "Request has expired"),
    },
    "expired": {
        "s3": Answer(400, "ExpiredToken", _EXPIRED),
        "ec2": Answer(403, "RequestExpired", _EXPIRED),
        "query": Answer(403, "ExpiredToken", _EXPIRED),
        "json": Answer(403, "ExpiredTokenException", _EXPIRED),
    },
    "wrong-token": {
        "s3": Answer(403, "InvalidToken", _TOKEN),
        "ec2": Answer(403, "AuthFailure", _TOKEN),
        "query": Answer(403, "InvalidClientTokenId", _TOKEN),
        "json": Answer(403, "UnrecognizedClientException", _TOKEN),
    },
    "no-hash": {
        "s3": Answer(400, "MissingSecurityHeader", "x-amz-content-sha256 must be a hash or a word of S3"),
        "ec2": Answer(403, "AuthFailure", _MALFORMED),
        "query": Answer(403, "IncompleteSignature", _MALFORMED),
        "json": Answer(403, "IncompleteSignatureException", _MALFORMED),
    },
    "wrong-body": {
        "s3": Answer(
            400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match."
        ),
        "ec2": Answer(403, "AuthFailure", _MISMATCH),
        "query": Answer(403, "SignatureDoesNotMatch", _MISMATCH),
        "json": Answer(403, "InvalidSignatureException", _MISMATCH),
    },
    "too-big": {
        "s3": Answer(400, "EntityTooLarge", "The body is too large"),
        "ec2": Answer(400, "RequestEntityTooLarge", "The body is too large"),
        "query": Answer(400, "RequestEntityTooLarge", "The body is too large"),
        "json": Answer(400, "RequestEntityTooLargeException", "The body is too large"),
    },
}
"""By the reason of `signatures.Refused`. 403 where AWS's reference names no other status."""


def family(service: str) -> Family:
    """In which protocol a service says no."""
    if service in {"s3", "ec2"}:
        return "s3" if service == "s3" else "ec2"
    return "query" if service in QUERY_SERVICES else "json"


def answer(reason: str, service: str) -> Answer:
    """What `service` says for this reason."""
    return ANSWERS[reason][family(service)]
