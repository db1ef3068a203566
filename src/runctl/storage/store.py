"""Objects by key, in a bucket or in a folder: one small interface, kept by both."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from runctl.errors import CloudError, ConfigError, Conflict, NotFound, TransferError, ValidationError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config
    from obstore.store import S3Store as ObstoreS3

_RETRY_SECONDS = 20


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it; size in bytes, `etag` is opaque."""

    key: str
    size: int
    etag: str
    modified: datetime


class Store(Protocol):
    """Keys are relative, with `/` between parts. A written object is seen whole or not at all."""

    def read(self, key: str) -> bytes:
        """Raises NotFound."""
        ...

    def read_if_exists(self, key: str) -> bytes | None: ...

    def read_from(self, key: str, offset: int) -> bytes:
        """The bytes from `offset` on, empty at or past the end. Raises NotFound."""
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Raises Conflict where `if_absent` and the key exists."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Send a file of any size. Raises TransferError."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Fetch to a temporary name, check the size, rename. Raises NotFound, TransferError."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object under a prefix that ends with `/` (or is empty), in order of key."""
        ...

    def delete(self, key: str) -> None:
        """Idempotent."""
        ...

    def exists(self, key: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class S3Access:
    """How to reach S3: `credentials` answers access key, secret key and session token, fresh each time."""

    region: str
    credentials: Callable[[], tuple[str, str, str | None]]
    endpoint: str | None = None


class FolderStore:
    """Objects as files under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise _not_found(key, str(self.root)) from None

    def read_if_exists(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except NotFound:
            return None

    def read_from(self, key: str, offset: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(offset)
                return file.read()
        except (FileNotFoundError, IsADirectoryError):
            raise _not_found(key, str(self.root)) from None

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_beside(target) as temporary:
            temporary.write_bytes(data)
            if not if_absent:
                temporary.replace(target)
                return
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise Conflict(f"{key} exists already") from None

    def upload(self, path: Path, key: str) -> None:
        self._copy(path, self._path(key))

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        if not source.is_file():
            raise _not_found(key, str(self.root))
        self._copy(source, path)

    def list(self, prefix: str) -> list[ObjectInfo]:
        folder = self._path(prefix) if prefix else self.root
        found: list[ObjectInfo] = []
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".tmp"):
                info = path.stat()
                found.append(
                    ObjectInfo(
                        key=path.relative_to(self.root).as_posix(),
                        size=info.st_size,
                        etag=f"{info.st_mtime_ns:x}-{info.st_size:x}",
                        modified=datetime.fromtimestamp(info.st_mtime, UTC),
                    )
                )
        return sorted(found, key=lambda item: item.key)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def _path(self, key: str) -> Path:
        return self.root / safe_relative(key)

    def _copy(self, source: Path, target: Path) -> None:
        import shutil

        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_beside(target) as temporary:
            try:
                shutil.copyfile(source, temporary)
            except OSError as error:
                raise TransferError(f"Cannot copy {source} to {target}", why=str(error)) from error
            temporary.replace(target)


class S3Store:
    """Objects under a prefix of a bucket, through obstore."""

    def __init__(self, bucket: str, prefix: str, access: S3Access) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._access = access
        self._store: ObstoreS3 | None = None

    def read(self, key: str) -> bytes:
        import obstore

        with self._errors("GetObject", key):
            return bytes(obstore.get(self._s3(), self._key(key)).bytes())

    def read_if_exists(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except NotFound:
            return None

    def read_from(self, key: str, offset: int) -> bytes:
        import obstore

        with self._errors("GetObject", key):
            size = obstore.head(self._s3(), self._key(key))["size"]
            if offset >= size:
                return b""
            return bytes(obstore.get_range(self._s3(), self._key(key), start=offset, end=size))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        import obstore

        with self._errors("PutObject", key):
            obstore.put(
                self._s3(),
                self._key(key),
                data,
                mode="create" if if_absent else "overwrite",
                use_multipart=False,
            )

    def upload(self, path: Path, key: str) -> None:
        import obstore

        with self._errors("PutObject", key):
            obstore.put(self._s3(), self._key(key), path)
            sent = obstore.head(self._s3(), self._key(key))["size"]
        if sent != path.stat().st_size:
            raise TransferError(f"{path} arrived torn at {key}", why=f"{sent} of {path.stat().st_size} bytes")

    def download(self, key: str, path: Path) -> None:
        import obstore

        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("GetObject", key), _temporary_beside(path) as temporary:
            answer = obstore.get(self._s3(), self._key(key))
            with temporary.open("wb") as file:
                for chunk in answer.stream():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if temporary.stat().st_size != answer.meta["size"]:
                raise TransferError(f"{key} arrived torn", why=f"{temporary.stat().st_size} bytes came")
            temporary.replace(path)

    def list(self, prefix: str) -> list[ObjectInfo]:
        import obstore

        found: list[ObjectInfo] = []
        whole = self._key(prefix) if prefix else self.prefix + "/"
        with self._errors("ListObjectsV2", prefix):
            for batch in obstore.list(self._s3(), whole, chunk_size=1000):
                found.extend(
                    ObjectInfo(
                        key=meta["path"].removeprefix(self.prefix + "/"),
                        size=meta["size"],
                        etag=meta["e_tag"] or "",
                        modified=meta["last_modified"],
                    )
                    for meta in batch
                )
        return sorted(found, key=lambda item: item.key)

    def delete(self, key: str) -> None:
        import obstore

        with self._errors("DeleteObject", key):
            obstore.delete(self._s3(), self._key(key))

    def exists(self, key: str) -> bool:
        import obstore

        try:
            with self._errors("HeadObject", key):
                obstore.head(self._s3(), self._key(key))
        except NotFound:
            return False
        return True

    def _key(self, key: str) -> str:
        whole = f"{self.prefix}/{safe_relative(key)}" if self.prefix else str(safe_relative(key))
        return whole + "/" if key.endswith("/") else whole

    def _s3(self) -> ObstoreS3:
        if self._store is None:
            from obstore.store import S3Store as ObstoreS3

            config: S3Config = {"region": self._access.region}
            client: ClientConfig = {
                "timeout": timedelta(seconds=60),
                "connect_timeout": timedelta(seconds=10),
            }
            if self._access.endpoint:
                config["endpoint"] = self._access.endpoint
                config["virtual_hosted_style_request"] = False
                client["allow_http"] = True
            self._store = ObstoreS3(
                self.bucket,
                config=config,
                client_options=client,
                retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
                credential_provider=self._credentials,
            )
        return self._store

    def _credentials(self) -> Any:
        access_key, secret_key, token = self._access.credentials()
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }

    @contextmanager
    def _errors(self, operation: str, key: str) -> Generator[None]:
        from obstore import exceptions

        place = f"s3://{self.bucket}/{self.prefix}"
        try:
            yield
        except FileNotFoundError:
            raise _not_found(key, place) from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise Conflict(f"{key} exists already", why=f"in {place}") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise ConfigError(f"S3 refused {operation} of {key}", why=_first_line(error)) from error
        except exceptions.BaseError as error:
            raise CloudError(
                f"S3 did not do {operation} of {key}",
                service="s3",
                operation=operation,
                code=type(error).__name__,
                retryable=True,
                why=_first_line(error),
            ) from error


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_relative(key: str) -> PurePosixPath:
    """A key as a path that cannot leave its folder. Raises ValidationError else."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or "\0" in key:
        raise ValidationError(f"{key!r} would leave its folder", why="keys are relative and have no '..'")
    return path


@contextmanager
def _temporary_beside(target: Path) -> Generator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _not_found(key: str, place: str) -> NotFound:
    return NotFound(f"There is no {key}", why=f"looked in {place}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
