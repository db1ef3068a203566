"""The metadata service of each machine (IMDS v1 and v2), all of them served by one thread.

What is answered, and with which status, follows the EC2 user guide's "Instance metadata" chapters: tokens
live 1 to 21,600 seconds (of cloud time), a PUT with X-Forwarded-For is refused, 401 means a missing or dead
token, 403 that the service is off or a token was asked at a versioned path, 404 that the item is absent.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from runctl import loopback_guard
from runctl.sandbox.switchboard import switchboard

MAX_TTL = 21_600
CREDENTIAL_SECONDS = 6 * 3600
BODY_MOST = 64 * 1024
VERSION = re.compile(r"/(?:latest|1\.0|20\d\d-\d\d-\d\d)(?=/|$)")
TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 a header's name
TTL_HEADER = TOKEN_HEADER + "-ttl-seconds"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
}


@dataclass(frozen=True, slots=True)
class Role:
    """The instance role, with the credentials that the machine is handed."""

    name: str
    profile_arn: str
    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    expires: float | None = None
    """When they end, by the host's clock, which is that of whoever signs with them; None for never."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the control plane knows of a machine."""

    instance_id: str
    instance_type: str
    image_id: str
    zone: str
    region: str
    account: str
    lifecycle: str  # "spot" | "on-demand"
    private_ip: str
    architecture: str
    user_data: bytes
    role: Role | None
    tags: Mapping[str, str]
    http_tokens: str  # "required" | "optional"
    http_endpoint: str  # "enabled" | "disabled"
    tags_in_metadata: bool


@dataclass(frozen=True, slots=True)
class SpotNotice:
    """The announced end of a spot machine: `action` terminate, stop or hibernate, `at` cloud seconds."""

    action: str
    at: float


@dataclass(frozen=True, slots=True)
class Signals:
    """What the cloud has announced to a machine, and the disks plugged in (device name by volume id)."""

    notice: SpotNotice | None = None
    rebalance_at: float | None = None
    disks: Mapping[str, str] = field(default_factory=dict[str, str])
    booted_at: float = 0.0


def iso(seconds: float) -> str:
    """Cloud seconds as the service writes them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tree(facts: MachineFacts, signals: Signals, now: float) -> dict[str, bytes]:
    """Every item that exists at cloud time `now`: path below the version, and content."""
    hostname = private_name(facts)
    items = {
        "ami-id": facts.image_id,
        "hostname": hostname,
        "instance-action": "none",
        "instance-id": facts.instance_id,
        "instance-life-cycle": facts.lifecycle,
        "instance-type": facts.instance_type,
        "local-hostname": hostname,
        "local-ipv4": facts.private_ip,
        "placement/availability-zone": facts.zone,
        "placement/region": facts.region,
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
        "events/maintenance/history": "[]",
        "events/maintenance/scheduled": "[]",
        "block-device-mapping/ami": "xvda",
        "block-device-mapping/root": "/dev/xvda",
    }
    for number, device in enumerate(signals.disks.values(), 1):
        items[f"block-device-mapping/ebs{number}"] = device.removeprefix("/dev/")
    if facts.tags_in_metadata:
        items |= {f"tags/instance/{key}": value for key, value in facts.tags.items()}
    if facts.role is not None:
        items |= _role_items(facts.role, now)
    items |= _signal_items(signals)
    found = {f"meta-data/{path}": text.encode() for path, text in items.items()}
    found["dynamic/instance-identity/document"] = _identity(facts, signals).encode()
    if facts.user_data:
        found["user-data"] = facts.user_data
    return found


def private_name(facts: MachineFacts) -> str:
    """The private DNS name that EC2 gives a machine."""
    domain = "ec2.internal" if facts.region == "us-east-1" else f"{facts.region}.compute.internal"
    return f"ip-{facts.private_ip.replace('.', '-')}.{domain}"


def _role_items(role: Role, now: float) -> dict[str, str]:
    credentials = {
        "Code": "Success",
        "LastUpdated": iso(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": role.access_key,
        "SecretAccessKey": role.secret_key,
        "Token": role.token,
        "Expiration": iso(now + CREDENTIAL_SECONDS if role.expires is None else role.expires),
    }
    info = {"Code": "Success", "LastUpdated": iso(now), "InstanceProfileArn": role.profile_arn}
    return {
        "iam/info": json.dumps({**info, "InstanceProfileId": "AIPA" + "0" * 17}, indent=2),
        f"iam/security-credentials/{role.name}": json.dumps(credentials, indent=2),
    }


def _signal_items(signals: Signals) -> dict[str, str]:
    items: dict[str, str] = {}
    if signals.notice is not None:
        at = iso(signals.notice.at)
        items["spot/instance-action"] = json.dumps({"action": signals.notice.action, "time": at})
        if signals.notice.action == "terminate":
            items["spot/termination-time"] = at
    if signals.rebalance_at is not None:
        items["events/recommendations/rebalance"] = json.dumps({"noticeTime": iso(signals.rebalance_at)})
    return items


def _identity(facts: MachineFacts, signals: Signals) -> str:
    document = {
        "accountId": facts.account,
        "architecture": facts.architecture,
        "availabilityZone": facts.zone,
        "imageId": facts.image_id,
        "instanceId": facts.instance_id,
        "instanceType": facts.instance_type,
        "pendingTime": iso(signals.booted_at),
        "privateIp": facts.private_ip,
        "region": facts.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def look_up(items: Mapping[str, bytes], path: str) -> bytes | None:
    """The item at `path`, else the listing of the folder of that name, else None."""
    path = path.strip("/")
    if path in items:
        return items[path]
    prefix = path + "/" if path else ""
    below = [name.removeprefix(prefix) for name in items if name.startswith(prefix)]
    listing = sorted({head + slash for head, slash, _ in (name.partition("/") for name in below)})
    return "\n".join(listing).encode() if listing else None


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` by lower-case names; `refused` is why it must not be answered, by `loopback_guard`."""

    method: str
    path: str
    headers: Mapping[str, str]
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Metadata:
    """What one machine's service answers; tokens live in cloud time."""

    def __init__(
        self, facts: Callable[[], MachineFacts], signals: Callable[[], Signals], now: Callable[[], float]
    ) -> None:
        self._facts = facts
        self._signals = signals
        self._now = now
        self._tokens: dict[str, float] = {}

    def answer(self, request: Request) -> Answer:
        """The answer to one request. May wait for the control plane's facts."""
        facts = self._facts()
        if facts.http_endpoint == "disabled":
            return Answer(403)
        if request.method == "PUT":
            return self._grant(request)
        if request.method not in ("GET", "HEAD"):
            return Answer(405)
        now = self._now()
        if not self._admits(request, facts, now):
            return Answer(401)
        path = request.path.partition("?")[0]
        version = VERSION.match(path)
        if version is None:
            return Answer(200, b"latest") if path == "/" else Answer(404)
        found = look_up(tree(facts, self._signals(), now), path[version.end() :])
        return Answer(404) if found is None else Answer(200, found)

    def _admits(self, request: Request, facts: MachineFacts, now: float) -> bool:
        token = request.headers.get(TOKEN_HEADER)
        if token is None:
            return facts.http_tokens != "required"
        return self._tokens.get(token, 0.0) > now

    def _grant(self, request: Request) -> Answer:
        if "x-forwarded-for" in request.headers:
            return Answer(403)
        if request.path != "/latest/api/token":
            return Answer(403 if request.path.endswith("/api/token") else 405)
        ttl = request.headers.get(TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= MAX_TTL):
            return Answer(400)
        now = self._now()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = secrets.token_urlsafe(40)
        self._tokens[token] = now + int(ttl)
        return Answer(200, token.encode(), {TTL_HEADER: ttl})


class MetadataServer:
    """One machine's metadata service on a loopback port of its own."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._answering = asyncio.Event()
        self._answering.set()
        self.endpoint = ""

    def start(self) -> None:
        """Listen; `endpoint` is known from then on. The same port as before, when it is still free."""
        switchboard().run(self._start())

    def stop(self) -> None:
        """Close the port and every connection; does not wait for answers under way."""
        switchboard().run(self._stop())

    def hang(self, hanging: bool) -> None:
        """While `hanging`, connections are accepted and nothing is answered."""
        switchboard().loop.call_soon_threadsafe(self._answering.clear if hanging else self._answering.set)

    async def _start(self) -> None:
        old = int(self.endpoint.rpartition(":")[2]) if self.endpoint else 0
        try:
            self._server = await asyncio.start_server(self._attend, "127.0.0.1", old, backlog=128)
        except OSError:
            self._server = await asyncio.start_server(self._attend, "127.0.0.1", 0, backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        socket_of(writer).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if not loopback_guard.admits(socket_of(writer)):
                loopback_guard.turn_away(socket_of(writer))
                return
            own_names = loopback_guard.names(socket_of(writer).getsockname()[1])
            while (request := await _read(reader, own_names)) is not None:
                if request.refused is not None:
                    loopback_guard.turn_away(socket_of(writer), loopback_guard.forbidden(request.refused))
                    break
                await self._answering.wait()
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(switchboard().workers, self._metadata.answer, request)
                writer.write(_render(request, answer))
                await writer.drain()
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # a client that goes away or talks nonsense is not answered
        finally:
            self._connections.discard(writer)
            writer.close()


def socket_of(writer: asyncio.StreamWriter) -> socket.socket:
    """The socket below a stream."""
    return writer.get_extra_info("socket")


async def _patiently(work: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(loopback_guard.IDLE_SECONDS):
        return await work


async def _read(reader: asyncio.StreamReader, own_names: Collection[str]) -> Request | None:
    """One request, whose body is not read where it is refused; None at the end of the connection."""
    try:
        head = await _patiently(reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = [
        (name.strip().lower(), value.strip())
        for name, _, value in (one.partition(":") for one in lines if one)
    ]
    headers = dict(pairs)
    refused = loopback_guard.refusal(path, pairs, own_names)
    length = 0 if refused is not None else int(headers.get("content-length", "0"))
    if length > BODY_MOST or "transfer-encoding" in headers:
        refused = refused or "the metadata service takes no body"
    elif length:
        await _patiently(reader.readexactly(length))
    return Request(method, path, headers, refused)


def _render(request: Request, answer: Answer) -> bytes:
    headers = {"Content-Type": "text/plain", "Content-Length": str(len(answer.body)), "Server": "EC2ws"}
    lines = [f"{name}: {value}" for name, value in {**headers, **answer.headers}.items()]
    head = "\r\n".join([f"HTTP/1.1 {answer.status} {REASONS[answer.status]}", *lines, "", ""])
    return head.encode() + (b"" if request.method == "HEAD" else answer.body)
