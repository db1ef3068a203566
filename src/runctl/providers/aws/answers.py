"""What an error of the SDK or an answer of AWS means, in our types, with the step that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runctl.errors import CapacityError, CloudError, ConfigError, CredentialsError, NotFound, TrainctlError
from runctl.providers.aws import quotas

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

UNSUPPORTED = "Unsupported"
"""A type that a zone does not have, whatever its list of offerings says: no waiting helps."""

CAPACITY_CODES = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "InsufficientVolumeCapacity",
        "MaxFleetCountExceeded",
        "ReservationCapacityExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        UNSUPPORTED,
    }
)
"""Launch errors that another zone, type or market may not meet (Karpenter keeps a like list)."""

THROTTLE_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "SnapshotCreationPerVolumeRateExceeded",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""What botocore's standard mode retries, and snapshots of one volume that follow each other too fast."""

_ANY_LOGIN = "aws configure (or aws sso login)"
NOT_IMPLEMENTED = 501
"""Of other servers than AWS: asking again does not teach them."""
CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


def _login_for(error: Exception) -> str:
    name = type(error).__name__
    if "SSO" in name or name == "TokenRetrievalError":
        return "aws sso login"
    return "aws login" if name.startswith("Login") else _ANY_LOGIN


def is_retryable(error: Exception) -> bool:
    return isinstance(error, CloudError) and error.retryable


def not_seen_yet(error: NotFound, service: str, operation: str) -> CloudError:
    return CloudError(
        error.what, service=service, operation=operation, code="NotSeenYet", retryable=True, why=error.why
    )


def no_credentials(why: str, *, next_step: str = _ANY_LOGIN) -> CredentialsError:
    return CredentialsError(
        "No usable AWS credentials",
        why=why,
        next=f"{next_step}, or try it without an account: --on sandbox",
    )


def translate(error: Exception, service: str, operation: str, *, repeatable: bool) -> TrainctlError:
    """An error of a call, or of making its client, in our types. Raises what is no error of the SDK's."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, TrainctlError):
        return error
    if isinstance(error, exceptions.ClientError):
        return _translate_answer(error, service, operation)
    wire = exceptions.HTTPClientError | exceptions.ConnectionError | exceptions.IncompleteReadError
    torn = exceptions.ChecksumError | exceptions.FlexibleChecksumError | ResponseParserError
    # An answer that came and cannot be read proves as little as none.
    if isinstance(error, wire | torn):
        never_sent = isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError)
        return CloudError(
            f"{service}.{operation} got no answer",
            service=service,
            operation=operation,
            code=type(error).__name__,
            retryable=repeatable or never_sent,
            lost_answer=not never_sent,
            why=str(error),
        )
    if isinstance(error, exceptions.ParamValidationError):
        return CloudError(
            f"{service}.{operation} could not be made",
            service=service,
            operation=operation,
            code=type(error).__name__,
            why=str(error),
        )
    return unusable(error)


def unusable(error: Exception) -> ConfigError:
    """What the SDK says of credentials and settings before it sends anything: it has very many words.

    Profiles, their files and programs, SSO, logins, roles, MFA, metadata. Raises what is none of these.
    """
    from botocore import exceptions

    text = str(error) or type(error).__name__
    region = exceptions.InvalidRegionError | exceptions.NoRegionError | exceptions.EndpointProviderError
    settings = exceptions.ConfigParseError | exceptions.ConfigNotFound | exceptions.ProfileNotFound
    if isinstance(error, region):
        return ConfigError("AWS cannot be asked there", why=text, next="another --region, or aws.region")
    if isinstance(error, settings):
        return ConfigError("AWS's settings here cannot be used", why=text, next="aws configure list-profiles")
    if isinstance(error, exceptions.BotoCoreError):
        return no_credentials(text, next_step=_login_for(error))
    # A profile's program prints no JSON, a token's file is missing, nobody is there to type a code for MFA.
    if isinstance(error, OSError | ValueError | EOFError):
        return no_credentials(f"a profile's settings could not be followed: {type(error).__name__}: {text}")
    raise error


def _translate_answer(error: ClientError, service: str, operation: str) -> TrainctlError:
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", "Unknown"))
    message = str(answer.get("Error", {}).get("Message", ""))
    metadata = answer.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code in CREDENTIAL_CODES or (code == "AuthFailure" and _of_keys(message)):
        return no_credentials(f"{service}.{operation}: {code}: {message}")
    if code.endswith((".NotFound", ".Malformed")) or code in {
        "404",
        "NoSuchBucket",
        "NoSuchEntity",
        "NoSuchKey",
        "ParameterNotFound",
    }:
        return NotFound(message or code, why=f"{service}.{operation}: {code}")
    kind = CapacityError if code in CAPACITY_CODES | quotas.CODES else CloudError
    found = kind(
        message or code,
        service=service,
        operation=operation,
        code=code,
        request_id=str(metadata.get("RequestId", "")),
        retryable=kind is CloudError
        and (code in THROTTLE_CODES or (status >= 500 and status != NOT_IMPLEMENTED)),
        why=f"{service}.{operation} answered {code}",
        next=_NEXT.get(code, ""),
    )
    return quotas.of_any(found) if code in quotas.CODES else found


def _of_keys(message: str) -> bool:
    """EC2 says AuthFailure also of images, snapshots and groups that are somebody else's."""
    return "validate the provided access credentials" in message or "not authorized" not in message.lower()


_POLICY = "docs/aws-setup.md lists the rights that runctl needs"
_NEXT = {
    "AccessDenied": _POLICY,
    "AccessDeniedException": _POLICY,
    "UnauthorizedOperation": _POLICY,
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "once an account, by whoever may: aws iam create-service-linked-role"
        " --aws-service-name spot.amazonaws.com"
    ),
    "OptInRequired": "aws account enable-region, or another --region",
    "PendingVerification": "AWS verifies the account for this region: try again in some hours",
    "DefaultVpcDoesNotExist": "aws ec2 create-default-vpc, or: runctl config set aws.subnets subnet-...",
    "VPCIdNotSpecified": "aws ec2 create-default-vpc, or: runctl config set aws.subnets subnet-...",
}
"""What helps, by the code of an answer."""
