"""A prefix of a bucket as a store, through obstore."""

from __future__ import annotations

import ipaddress
import re
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runctl.errors import (
    CloudError,
    ConfigError,
    Conflict,
    NotFound,
    TrainctlError,
    TransferError,
    ValidationError,
)
from runctl.quoting import quoted
from runctl.storage.access import Credentials, NoBucket, S3Access
from runctl.storage.entries import Entry
from runctl.storage.objects import (
    ObjectInfo,
    checked_key,
    checked_prefix,
    not_found,
    partial_file,
    rename_durably,
    too_large,
)
from runctl.storage.requests import Requests

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential
    from obstore.store import S3Store as Client

_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_REQUEST_ID = re.compile(r"<RequestId>([^<]+)</RequestId>")
_CREDENTIALS_KEPT = timedelta(minutes=10)
OWNER_HEADER = "x-amz-expected-bucket-owner"
_LIST_TRIES = 7
"""Of a page: they take about as long as obstore tries all other requests."""
_LOST_INTERRUPT = "credential provider: KeyboardInterrupt"
"""A Ctrl-C that comes while obstore asks us for credentials is but the text of an error to it."""


class S3Store:
    """Objects under a prefix of a bucket. Makes its client on first use."""

    def __init__(self, bucket: str, prefix: str, access: S3Access) -> None:
        self.bucket = bucket
        self.prefix = checked_prefix(prefix.strip("/"))
        self._access = access
        self._made: Client | None = None
        self._made_to_list: Requests | None = None
        self._credentials_error: Exception | None = None

    def read(self, key: str, *, largest: int | None = None) -> bytes:
        import obstore

        with self._errors("GetObject", key):
            answer = obstore.get(self._client(), self._path(key))
            if largest is not None and answer.meta["size"] > largest:
                raise too_large(key, answer.meta["size"], largest)
            return bytes(answer.bytes())

    def read_if_exists(self, key: str, *, largest: int | None = None) -> bytes | None:
        try:
            return self.read(key, largest=largest)
        except NoBucket:
            raise
        except NotFound:
            return None

    def read_from(self, key: str, offset: int, limit: int) -> bytes:
        import obstore

        wanted: GetOptions = {"range": (offset, offset + limit)}
        try:
            with self._errors("GetObject", key):
                return bytes(obstore.get(self._client(), self._path(key), options=wanted).bytes())
        except CloudError as error:
            if error.code == "InvalidRange":
                return b""
            raise

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        import obstore

        mode: PutMode = "overwrite"
        if if_absent:
            mode = "create"
        elif if_match is not None:
            mode = {"e_tag": if_match}
        with self._errors("PutObject", key):
            result = obstore.put(self._client(), self._path(key), data, mode=mode, use_multipart=False)
        return result["e_tag"] or ""

    def upload(self, path: Path, key: str) -> None:
        import obstore

        size = _size(path)
        with self._errors("PutObject", key):
            obstore.put(self._client(), self._path(key), path)
        if (arrived := self.info(key).size) != size:
            raise TransferError(f"{path} did not arrive whole at {key}", why=f"{arrived} of {size} bytes did")

    def download(self, key: str, path: Path) -> None:
        import obstore

        with self._errors("GetObject", key), partial_file(path) as partial:
            answer = obstore.get(self._client(), self._path(key))
            with partial.open("wb") as file:
                for chunk in answer.stream():
                    file.write(chunk)
            if (arrived := _size(partial)) != (size := answer.meta["size"]):
                raise TransferError(f"{key} did not arrive whole", why=f"{arrived} of {size} bytes came")
            rename_durably(partial, path)

    def list(self, prefix: str = "", *, after: str | None = None) -> list[ObjectInfo]:
        inner = checked_prefix(prefix)
        cut = f"{self.prefix}/" if self.prefix else ""
        listed = self._lister().listing(
            f"{cut}{inner}/" if inner else cut,
            cut=len(cut),
            after=None if after is None else cut + after,
            tries=_LIST_TRIES,
        )
        return sorted((_info_of(entry) for entry, _ in listed), key=lambda item: item.key)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The objects inside the folder `prefix`, page by page, in the order in which S3 lists them.

        Keys are relative to the store, and are S3's own to the letter: some are no paths. Empty objects that
        mark a folder are left out. The process may be forked afterwards.
        """
        return (entry for entry, _ in self.entries_with_class(prefix))

    def entries_with_class(self, prefix: str = "") -> Iterator[tuple[Entry, str]]:
        """As `entries`, each with its storage class."""
        inner = checked_prefix(prefix)
        requests = Requests(self.bucket, self._access)
        cut = f"{self.prefix}/" if self.prefix else ""
        try:
            yield from requests.listing(f"{cut}{inner}/" if inner else cut, cut=len(cut))
        finally:
            requests.close()

    def read_range(self, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """The `length` bytes from `start` on, of the very object that `etag` names.

        Raises NotFound, Conflict where the object is no longer that one, CloudError (code ShortRead) where
        fewer bytes came.
        """
        import obstore

        wanted: GetOptions = {"range": (start, start + length)}
        if etag:
            wanted["if_match"] = f'"{etag}"'
        with self._errors("GetObject", key):
            data = bytes(obstore.get(self._client(), self._path(key), options=wanted).bytes())
        if len(data) != length:
            raise CloudError(
                f"S3 cut {key} short",
                service="s3",
                operation="GetObject",
                code="ShortRead",
                retryable=True,
                why=f"{len(data)} of {length} bytes came",
            )
        return data

    def info(self, key: str) -> ObjectInfo:
        import obstore

        with self._errors("HeadObject", key):
            return self._info(obstore.head(self._client(), self._path(key)))

    def exists(self, key: str) -> bool:
        try:
            self.info(key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        import obstore

        with self._errors("DeleteObject", key):
            obstore.delete(self._client(), self._path(key))

    def _path(self, key: str) -> str:
        return self._whole(checked_key(key))

    def _whole(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _info(self, meta: Any) -> ObjectInfo:
        return ObjectInfo(
            key=meta["path"].removeprefix(self.prefix + "/") if self.prefix else meta["path"],
            size=meta["size"],
            etag=meta["e_tag"] or "",
            modified=meta["last_modified"],
        )

    def _client(self) -> Client:
        if self._made is None:
            self._made = self._make(self._access.at(self.bucket))
        return self._made

    def _lister(self) -> Requests:
        """obstore gives a listing up at the first key that is no path; whoever can write could plant one."""
        if self._made_to_list is None:
            self._made_to_list = Requests(self.bucket, self._access)
            weakref.finalize(self, self._made_to_list.close)
        return self._made_to_list

    def _make(self, access: S3Access) -> Client:
        from obstore.store import S3Store as Client

        return Client(
            self.bucket,
            config=_config(access, self.bucket),
            client_options=_client_options(access),
            retry_config=_retry(access.endpoint),
            credential_provider=self._credentials if access.credentials else None,
        )

    def _credentials(self) -> S3Credential:
        assert self._access.credentials  # noqa: S101
        try:
            answer = self._access.credentials()
            keys = answer if isinstance(answer, Credentials) else Credentials(*answer)
        except Exception as error:
            self._credentials_error = error  # obstore keeps only its text
            raise
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": keys.expires or datetime.now(UTC) + _CREDENTIALS_KEPT,
        }

    @contextmanager
    def _errors(self, operation: str, key: str) -> Generator[None]:
        from obstore import exceptions

        place = f"s3://{self.bucket}/{self.prefix}"
        try:
            yield
        except (exceptions.BaseError, FileNotFoundError) as error:
            text = str(error)
            if _LOST_INTERRUPT in text:
                raise KeyboardInterrupt from None
            code = match[1] if (match := _CODE.search(text)) else ""
            if code == "NoSuchBucket":
                raise NoBucket(
                    f"There is no bucket {self.bucket}",
                    why=f"S3 answered {operation} so",
                    next=f"aws s3 mb s3://{quoted(self.bucket)}, where it was deleted by mistake",
                ) from None
            if isinstance(error, FileNotFoundError):
                raise not_found(key, place) from None
            if isinstance(error, exceptions.AlreadyExistsError):
                raise Conflict(f"{key} exists already", why=f"in {place}") from None
            if isinstance(error, exceptions.PreconditionError):
                raise Conflict(f"{key} was changed by somebody else", why=f"in {place}") from None
            if isinstance(error, exceptions.InvalidPathError):
                raise ValidationError(
                    f"{place} holds a key that is no path", why=_first_line(text), next="rename that object"
                ) from error
            if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
                raise self._refused(operation, key, text) from error
            failed = _cloud_error(f"S3 failed at {operation} of {key}", operation, text, code)
            raise self._access.over(operation) or failed from error
        except OSError as error:
            raise TransferError(f"{operation} of {key} failed on this machine", why=str(error)) from error

    def _refused(self, operation: str, key: str, text: str) -> TrainctlError:
        if isinstance(self._credentials_error, TrainctlError):
            return self._credentials_error
        return ConfigError(
            f"S3 refused {operation} of {key} in {self.bucket}",
            why=str(self._credentials_error or _first_line(text)),
            next="check the credentials and their rights on this bucket",
        )


def _config(access: S3Access, bucket: str) -> S3Config:
    config: S3Config = {"checksum_algorithm": "SHA256"}
    if access.region or access.endpoint:
        config["region"] = access.region or "us-east-1"
    if access.credentials:
        config["skip_signature"] = False
    if access.endpoint:
        config["aws_endpoint_url_s3"] = (
            access.endpoint
        )  # this name beats AWS_ENDPOINT_URL_S3 of the environment
        config["virtual_hosted_style_request"] = False
    elif access.host:
        # A certificate of S3 covers one name below the host: a bucket with dots goes into the path.
        virtual = "." not in bucket
        config["aws_endpoint_url_s3"] = (
            f"https://{bucket}.{access.host}" if virtual else f"https://{access.host}"
        )
        config["virtual_hosted_style_request"] = virtual
    return config


def _client_options(access: S3Access) -> ClientConfig:
    endpoint = access.endpoint
    # The whole-request timeout would cut long transfers; a stalled one is found by its silence.
    options: ClientConfig = {
        "timeout": timedelta(hours=6),
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
    }
    if access.owner:
        options["default_headers"] = {OWNER_HEADER: access.owner()}  # signed in all calls but a listing
    if endpoint is None:
        return options
    options["allow_http"] = urlsplit(endpoint).scheme == "http"
    if _is_loopback(host := urlsplit(endpoint).hostname or ""):
        options["read_timeout"] = timedelta(seconds=5)
        # Naming a proxy and excluding this host from it is how obstore is told to use none here.
        options["proxy_url"] = endpoint
        options["proxy_excludes"] = host
    return options


def _retry(endpoint: str | None) -> RetryConfig:
    """On AWS a minute; at an endpoint of the user's, so that the last answer comes within 20 s."""
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2}
    seconds = 60 if endpoint is None else 12
    return {"max_retries": 20, "retry_timeout": timedelta(seconds=seconds), "backoff": backoff}  # pyright: ignore[reportReturnType]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _info_of(entry: Entry) -> ObjectInfo:
    seconds, nanoseconds = divmod(entry.modified, 1_000_000_000)
    modified = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
    return ObjectInfo(key=entry.key, size=entry.size, etag=f'"{entry.etag}"', modified=modified)


def entry_of(meta: Any, cut: int) -> Entry:
    """What obstore says of an object, without the first `cut` letters of its key."""
    modified = round(meta["last_modified"].timestamp() * 1e6) * 1000
    return Entry(meta["path"][cut:], meta["size"], modified, (meta["e_tag"] or "").strip('"'))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TransferError(f"Cannot read {path}", why=str(error)) from error


def _cloud_error(what: str, operation: str, text: str, code: str) -> CloudError:
    status = int(match[1]) if (match := _STATUS.search(text)) else None
    request = match[1] if (match := _REQUEST_ID.search(text)) else ""
    return CloudError(
        what,
        service="s3",
        operation=operation,
        code=code or (f"HTTP{status}" if status else "Unreachable"),
        request_id=request,
        retryable=status is None or status >= 500 or status == 429,
        why=_first_line(text),
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")[:500]
