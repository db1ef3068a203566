"""One session with one cloud: clients made on first use, one retry policy, errors in our own types."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from runctl import clock, clouds, partitions
from runctl.clouds import Cloud, sandbox_ended
from runctl.errors import CloudError, ConfigError, NotFound, TrainctlError
from runctl.events import Emit, Notice, ignore
from runctl.providers.aws import answers
from runctl.retry import RetryPolicy

CLOCK_NOTED = 30.0
"""Seconds of difference between two clocks that a user is told of."""


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
        self._other_s3: str | None = None
        self._told_behind = 0.0

    @property
    def region(self) -> str:
        """The region of every call. Raises ConfigError where none is set."""
        with self._lock, _said_in_our_words("region"):
            return self._region()

    def client(self, service: str) -> Any:
        """Raises ConfigError where the SDK's settings or credentials cannot be used."""
        with self._lock, _said_in_our_words(service):
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
        name = f"{service}.{operation}"

        def once() -> Any:
            asked = clock.real_time()
            try:
                # Making the client reads profiles, runs their programs and may ask for a role's keys.
                answer = getattr(self.client(service), operation)(**parameters)
            except Exception as error:
                translated = answers.translate(error, service, operation, repeatable=repeatable)
                if exists is not None and isinstance(translated, NotFound) and exists():
                    translated = answers.not_seen_yet(translated, service, operation)
                if isinstance(translated, CloudError) and self.cloud.ended:
                    translated = sandbox_ended(self.cloud, service, operation)
                if isinstance(translated, ConfigError):
                    self._forget_credentials()
                if translated is error:
                    raise
                raise translated from error
            self._compare_clocks(answer, asked)
            return answer

        return self._policy.call(name, once, retryable=answers.is_retryable, emit=self.emit)

    def _compare_clocks(self, answer: Any, asked: float) -> None:
        """Every answer tells the time: what a laptop's own clock says is not asked of machines."""
        told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        try:
            date = parsedate_to_datetime(told).timestamp()
        except (TypeError, ValueError):  # not every server tells it
            return
        behind = clock.heard(date, asked, clock.real_time())
        if abs(behind - self._told_behind) < CLOCK_NOTED:
            return
        self._told_behind = behind
        how = f"{abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'}"
        self.emit(Notice(text=f"this computer's clock is {how} the cloud's, which is gone by", warning=True))

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
        with _said_in_our_words("credentials"):
            with self._lock:
                found = self._session().get_credentials()
            if found is None:
                raise answers.no_credentials("no key, profile, SSO session or role was found")
            frozen = found.get_frozen_credentials()
            return frozen.access_key, frozen.secret_key, frozen.token

    @property
    def uses_fips(self) -> bool:
        """Whether the user's settings ask for AWS's FIPS endpoints."""
        return self.cloud.s3_endpoint is None and bool(self.client("s3").meta.config.use_fips_endpoint)

    @property
    def uses_dual_stack(self) -> bool:
        """Whether the user's settings ask for endpoints with IPv6."""
        return self.cloud.s3_endpoint is None and bool(self.client("s3").meta.config.use_dualstack_endpoint)

    @property
    def s3_endpoint(self) -> str | None:
        """The S3 server, where it is not AWS's: the sandbox's, or one that the SDK's own settings name."""
        if self.cloud.s3_endpoint is None:
            self.client("s3")  # the SDK reads what names another server
        return self.cloud.s3_endpoint or self._other_s3

    def s3_host(self, region: str = "") -> str:
        """The host of AWS's S3 in a region, of this session by default, as the user's settings want it."""
        return partitions.s3_host(region or self.region, fips=self.uses_fips, dual_stack=self.uses_dual_stack)

    def bucket_region(self, bucket: str, *, owner: str = "") -> str:
        """Where a bucket is, which S3 also tells those whom it refuses. Raises NotFound, CloudError.

        With an `owner`, a bucket of another account is a CloudError.
        """
        owned: dict[str, Any] = {"ExpectedBucketOwner": owner} if owner else {}
        try:
            answer = self.call("s3", "head_bucket", Bucket=bucket, **owned)
        except CloudError as error:
            answer = getattr(error.__cause__, "response", {})
            if owner or not _region_in(answer):
                raise
        return _region_in(answer) or self.region

    def presign(self, bucket: str, key: str, *, seconds: int) -> str:
        """A URL that reads one object without credentials for `seconds`."""
        with _said_in_our_words("presign"):
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
            import botocore.session

            under = botocore.session.Session()
            if self.cloud.profile:
                under.set_config_variable("profile", self.cloud.profile)
            if self.cloud.access_key is None:
                roles = under.get_component("credential_provider").get_provider("assume-role")
                roles._prompter = clouds.code_for_mfa  # noqa: SLF001 (the SDK has no other way to say who asks)
            self._boto = boto3.Session(
                aws_access_key_id=self.cloud.access_key,
                aws_secret_access_key=self.cloud.secret_key,
                region_name=self.cloud.region,
                botocore_session=under,
            )
        return self._boto

    def _make_client(self, service: str) -> Any:
        if service != "s3":
            return self._client_at(service, self.cloud.endpoint)
        if self.cloud.s3_endpoint is not None:
            return self._client_at("s3", self.cloud.s3_endpoint, s3={"addressing_style": "path"})
        # Without these, URLs for the global host are signed as Signature Version 2, which new buckets,
        # buckets of regions that one opts into and those with keys of KMS do not serve.
        style = {"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"}
        client = self._client_at("s3", None, s3=style)
        asked, url = client.meta.config, str(client.meta.endpoint_url)
        fips, dual_stack = bool(asked.use_fips_endpoint), bool(asked.use_dualstack_endpoint)
        if urlsplit(url).hostname == partitions.s3_host(self._region(), fips=fips, dual_stack=dual_stack):
            return client
        self._other_s3 = url
        return self._client_at("s3", None, s3={"addressing_style": "path"})

    def _client_at(self, service: str, endpoint: str | None, s3: dict[str, str] | None = None) -> Any:
        from botocore.config import Config

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
                **({"signature_version": "s3v4", "s3": s3} if s3 else {}),
            ),
        )


@contextmanager
def _said_in_our_words(what: str) -> Generator[None]:
    try:
        yield
    except TrainctlError:
        raise
    except Exception as error:
        raise answers.translate(error, "aws", what, repeatable=True) from error


def _region_in(answer: Any) -> str:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(answer.get("BucketRegion") or headers.get("x-amz-bucket-region") or "")
