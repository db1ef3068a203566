"""One session with one cloud: clients made on first use, one retry policy, errors in our own types."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from runctl.clouds import Cloud, sandbox_ended
from runctl.errors import CapacityError, CloudError, ConfigError, NotFound, TrainctlError
from runctl.events import Emit, ignore
from runctl.retry import RetryPolicy

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CAPACITY_CODES = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
        "VcpuLimitExceeded",
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
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""What botocore's standard mode retries."""

NOT_IMPLEMENTED = 501
"""Of other servers than AWS: asking again does not teach them."""
CREDENTIAL_CODES = frozenset(
    {
        "AuthFailure",
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


class Session:
    """Calls one cloud. Thread-safe: clients are, and making them is guarded."""

    def __init__(self, cloud: Cloud, *, emit: Emit = ignore, policy: RetryPolicy | None = None) -> None:
        self.cloud = cloud
        self.emit = emit
        self._policy = policy or RetryPolicy()
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._boto: Any = None
        self._account: str | None = None

    @property
    def region(self) -> str:
        """The region of every call. Raises ConfigError where none is set."""
        with self._lock:
            return self._region()

    def client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make_client(service)
            return self._clients[service]

    def call(
        self,
        service: str,
        operation: str,
        *,
        repeatable: bool = True,
        exists: Callable[[], bool] | None = None,
        **parameters: Any,
    ) -> Any:
        """Make one call under the retry policy.

        `repeatable=False` marks calls that carry no client token and must not run twice: they are
        repeated only when the cloud refused them, never when the answer was lost. EC2 may not know the id of
        something new for a while: NotFound is retried while `exists` says that it is there.
        Raises CapacityError, NotFound, ConfigError (credentials) or CloudError.
        """
        method = getattr(self.client(service), operation)
        name = f"{service}.{operation}"

        def once() -> Any:
            try:
                return method(**parameters)
            except Exception as error:
                translated = _translate(error, service, operation, repeatable=repeatable)
                if exists is not None and isinstance(translated, NotFound) and exists():
                    translated = _not_seen_yet(translated, service, operation)
                if isinstance(translated, CloudError) and self.cloud.ended:
                    translated = sandbox_ended(self.cloud, service, operation)
                if isinstance(translated, ConfigError):
                    self._forget_credentials()
                raise translated from error

        return self._policy.call(name, once, retryable=_is_retryable, emit=self.emit)

    def _forget_credentials(self) -> None:
        """The next call reads them anew: a user who logs in again need not start the command again."""
        with self._lock:
            clients, self._clients, self._boto = self._clients, {}, None
            self._account = None  # who logs in again may be somebody else
        for client in clients.values():
            client.close()

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        """Every item under `key` of every page. Raises as `call`."""
        while True:
            page = self.call(service, operation, **parameters)
            yield from page.get(key, [])
            if not page.get("NextToken"):
                return
            parameters["NextToken"] = page["NextToken"]

    def account(self) -> str:
        """The account's number, asked for once. Raises ConfigError where there are no credentials."""
        if self._account is None:
            self._account = str(self.call("sts", "get_caller_identity")["Account"])
        return self._account

    def credentials(self) -> tuple[str, str, str | None]:
        """Access key, secret key and session token for S3, fresh. Raises ConfigError where there are none."""
        if self.cloud.s3_keys is not None:
            return (*self.cloud.s3_keys, None)
        with self._lock:
            found = self._session().get_credentials()
        if found is None:
            raise _no_credentials("no key, profile, SSO session or role was found")
        frozen = found.get_frozen_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token

    def presign(self, bucket: str, key: str, *, seconds: int) -> str:
        """A URL that reads one object without credentials for `seconds`."""
        return str(
            self.client("s3").generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )
        )

    def _region(self) -> str:
        # botocore reads AWS_DEFAULT_REGION alone; the other SDKs and Lambda read AWS_REGION.
        region = self.cloud.region or os.environ.get("AWS_REGION") or self._session().region_name
        if not region:
            raise ConfigError(
                "No AWS region is set",
                why="neither --region, aws.region, AWS_REGION nor the profile names one",
                next="runctl config set aws.region us-east-1",
            )
        return str(region)

    def _session(self) -> Any:
        if self._boto is None:
            import boto3
            from botocore.exceptions import ProfileNotFound

            try:
                self._boto = boto3.Session(
                    aws_access_key_id=self.cloud.access_key,
                    aws_secret_access_key=self.cloud.secret_key,
                    region_name=self.cloud.region,
                    profile_name=self.cloud.profile,
                )
            except ProfileNotFound as error:
                raise ConfigError(
                    f"There is no AWS profile {self.cloud.profile!r}",
                    why=str(error),
                    next="aws configure list-profiles",
                ) from error
        return self._boto

    def _make_client(self, service: str) -> Any:
        from botocore.config import Config

        endpoint = self.cloud.s3_endpoint if service == "s3" else self.cloud.endpoint
        access_key, secret_key = (self.cloud.s3_keys if service == "s3" else None) or (None, None)
        return self._session().client(
            service,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            # The Price List answers for every region, and lives in this one.
            region_name="us-east-1" if service == "pricing" else self._region(),
            endpoint_url=endpoint,
            config=Config(
                # One place decides about repeats: our policy. botocore makes each call once.
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                user_agent_extra="runctl",
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )


def _is_retryable(error: Exception) -> bool:
    return isinstance(error, CloudError) and error.retryable


def _not_seen_yet(error: NotFound, service: str, operation: str) -> CloudError:
    return CloudError(
        error.what, service=service, operation=operation, code="NotSeenYet", retryable=True, why=error.why
    )


def _no_credentials(why: str) -> ConfigError:
    return ConfigError(
        "No usable AWS credentials",
        why=why,
        next="aws configure (or aws sso login), or try it without an account: --on sandbox",
    )


def _translate(error: Exception, service: str, operation: str, *, repeatable: bool) -> TrainctlError:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(
        error,
        exceptions.NoCredentialsError
        | exceptions.PartialCredentialsError
        | exceptions.TokenRetrievalError
        | exceptions.SSOTokenLoadError
        | exceptions.UnauthorizedSSOTokenError,
    ):
        return _no_credentials(str(error))
    if isinstance(error, exceptions.ClientError):
        return _translate_answer(error, service, operation)
    # An answer that came and cannot be read proves as little as none.
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | ResponseParserError):
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
    if isinstance(error, exceptions.ParamValidationError | exceptions.BotoCoreError):
        return CloudError(
            f"{service}.{operation} could not be made",
            service=service,
            operation=operation,
            code=type(error).__name__,
            lost_answer=not isinstance(error, exceptions.ParamValidationError),
            why=str(error),
        )
    raise error


def _translate_answer(error: ClientError, service: str, operation: str) -> TrainctlError:
    answer: Any = error.response
    code = str(answer.get("Error", {}).get("Code", "Unknown"))
    message = str(answer.get("Error", {}).get("Message", ""))
    metadata = answer.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code in CREDENTIAL_CODES:
        return _no_credentials(f"{service}.{operation}: {code}: {message}")
    if code.endswith((".NotFound", ".Malformed")) or code in {
        "404",
        "NoSuchBucket",
        "NoSuchEntity",
        "NoSuchKey",
        "ParameterNotFound",
    }:
        return NotFound(message or code, why=f"{service}.{operation}: {code}")
    kind = CapacityError if code in CAPACITY_CODES else CloudError
    return kind(
        message or code,
        service=service,
        operation=operation,
        code=code,
        request_id=str(metadata.get("RequestId", "")),
        retryable=kind is CloudError
        and (code in THROTTLE_CODES or (status >= 500 and status != NOT_IMPLEMENTED)),
        why=f"{service}.{operation} answered {code}",
    )
