"""Before moto: signatures, our controls, faults, ids that are not visible yet, services that moto lacks."""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication

from runctl.errors import TrainctlError
from runctl.sandbox import refusals, s3_truths, services, signatures
from runctl.sandbox.control import TOKEN_HEADER
from runctl.sandbox.faults import CALL_KINDS, THROTTLES, Fault
from runctl.sandbox.signatures import Received, Refused, Signed
from runctl.sandbox.state import SandboxCloud
from runctl.sandbox.wire import RECEIVED, LostResponse

Environ = dict[str, Any]
Start = Callable[..., Any]
Controls = Callable[[str, dict[str, Any]], dict[str, Any]]

_IDS = re.compile(r"\b(?:i|vol|snap)-[0-9a-f]{17}\b")
_INSTANCES = re.compile(r"(?:^|&)InstanceId(?:\.\d+)?=([^&]*)")
_INSTANCE = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_NOT_FOUND = {
    "i": ("InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "vol": ("InvalidVolume.NotFound", "The volume '{}' does not exist."),
    "snap": ("InvalidSnapshot.NotFound", "The snapshot '{}' does not exist."),
}
SERVICES = frozenset(
    {"ec2", "ssm", "s3", "iam", "sts", "kms", "logs", "monitoring", "events", "sqs", "sns", "tagging"}
)
"""What is handed on to moto. It has more, which would say yes and do nothing that a machine can see."""
CALL_MOST_BYTES = 8 << 20
"""A call of another service than S3, whose body may have to be read before its signer is known."""
SIGNED = "runctl.signed"
"""Where the verified signature lies in the environment of WSGI."""
_S3_OPERATIONS = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}

log = logging.getLogger(__name__)


class Backends(DomainDispatcherApplication):
    """moto's services, each chosen by what was signed: moto would guess from paths, names and bodies."""

    def infer_service_region_host(self, environ: Environ, path: str) -> str:  # noqa: ARG002 (moto's form)
        signed: Signed = environ[SIGNED]
        return f"{signed.service}.{signed.region}.amazonaws.com"

    def get_application(self, environ: Environ) -> Any:
        return super().get_application({**environ, "PATH_INFO": "/"})


class Front:
    """A WSGI application around moto's."""

    def __init__(
        self,
        cloud: SandboxCloud,
        moto: Callable[..., Iterable[bytes]],
        controls: Controls,
        token: str,
    ) -> None:
        self._cloud = cloud
        self._moto = moto
        self._controls = controls
        self._token = token
        self._conditional = threading.Lock()

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path.startswith("/_sandbox/"):
            return self._control(environ, start, path.removeprefix("/_sandbox/"))
        try:
            signed = environ[SIGNED] = self._signed(environ)
        except Refused as refused:
            service = signatures.claimed_service(environ[RECEIVED])
            return self._error(start, service, *refusals.answer(refused.reason, service))
        service = signed.service
        text, operation = self._read(environ, service, path)
        lost = False
        for fault in self._cloud.faults.meet(service, operation, CALL_KINDS, text):
            if fault.kind == "latency":
                self._cloud.faults.delay(fault)
            elif fault.kind in {"throttle", "error"}:
                return self._fail(start, service, fault)
            elif fault.kind == "lost-response":
                lost = True
        answer = self._answer(environ, start if not lost else _nobody, service, operation, text)
        if lost:
            b"".join(answer)
            raise LostResponse(operation)
        return answer

    def _signed(self, environ: Environ) -> Signed:
        """Who asks. Nothing of the request is believed, and little of it read, before. Raises Refused."""
        received: Received = environ[RECEIVED]
        signed = signatures.verify(received, self._cloud.keys.find, lambda: _short_body(environ), time.time())
        if signed.service != "s3":
            _short_body(environ)
        if signed.covers_body:
            signatures.check_body(signed, _body(environ))
        return signed

    def _read(self, environ: Environ, service: str, path: str) -> tuple[str, str]:
        """The request's text and operation; the body of S3's stays unread."""
        if service == "s3":
            query = environ.get("QUERY_STRING", "")
            operation = _S3_OPERATIONS.get(environ["REQUEST_METHOD"], "PostObject")
            return f"{path}?{query}", "ListObjectsV2" if "list-type=2" in query else operation
        body = _body(environ)
        text = body.decode(errors="replace")
        target = environ.get("HTTP_X_AMZ_TARGET", "").split(".")[-1]
        return text, target or parse_qs(text).get("Action", [""])[0]

    def _answer(
        self, environ: Environ, start: Start, service: str, operation: str, text: str
    ) -> Iterable[bytes]:
        if service in {"pricing", "servicequotas"}:
            return self._plain(start, service, operation, text)
        if (refusal := self._refusal(environ, service, text)) is not None:
            return self._error(start, service, 400, *refusal)
        if service == "s3" and (refusal := s3_truths.wrong_owner(environ)) is not None:
            return self._error(start, service, 403, *refusal)
        s3_truths.ranged.on = bool(
            service == "s3"
            and environ["REQUEST_METHOD"] == "GET"
            and re.fullmatch(r"bytes=\d+-\d*", environ.get("HTTP_RANGE", ""))
        )
        try:
            with self._guard(environ, service):
                return list(self._moto(environ, start))
        except NotImplementedError as error:
            message = f"{service}:{operation} is not simulated ({error})"
            return self._error(start, service, 400, "InvalidAction", message)
        except Exception as error:
            log.exception("%s:%s", service, operation)
            return self._error(start, service, 500, "InternalError", f"sandbox: {error}")
        finally:
            s3_truths.ranged.on = False

    def _guard(self, environ: Environ, service: str) -> contextlib.AbstractContextManager[Any]:
        """moto's EC2 records have no lock, and its S3 may look for a condition and write in two steps."""
        if service == "ec2":
            return self._cloud.lock
        if service == "s3" and ("HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ):
            return self._conditional
        return contextlib.nullcontext()

    def _refusal(self, environ: Environ, service: str, text: str) -> tuple[str, str] | None:
        """The code and message with which AWS, and not moto, would refuse this call."""
        if service not in SERVICES:
            return "InvalidAction", f"{service} is not simulated"
        if service == "s3" and environ["REQUEST_METHOD"] == "PUT" and s3_truths.carries_checksum(environ):
            return s3_truths.wrong_checksum(environ, _body(environ))
        if service != "ec2":
            return None
        for given in _INSTANCES.findall(text):
            if not _INSTANCE.fullmatch(given):
                return "InvalidInstanceID.Malformed", f'Invalid id: "{given}"'
        if "Filter." not in text:
            for resource_id in _IDS.findall(text):
                if not self._cloud.is_visible(resource_id):
                    code, message = _NOT_FOUND[resource_id.split("-")[0]]
                    return code, message.format(resource_id)
        return None

    def _plain(self, start: Start, service: str, operation: str, text: str) -> Iterable[bytes]:
        answer = services.pricing if service == "pricing" else services.quotas
        found = answer(operation, json.loads(text or "{}"))
        if found is None:
            return self._error(
                start, service, 400, "InvalidAction", f"{service}:{operation} is not simulated"
            )
        return _reply(start, 200, json.dumps(found), "application/x-amz-json-1.1")

    def _fail(self, start: Start, service: str, fault: Fault) -> Iterable[bytes]:
        code, status = "InternalError", 500
        if fault.kind == "throttle":
            code, status = THROTTLES.get(service, ("ThrottlingException", 400))
        return self._error(
            start, service, fault.status or status, fault.code or code, "A fault of the sandbox cloud."
        )

    def _error(self, start: Start, service: str, status: int, code: str, message: str) -> Iterable[bytes]:
        """An error in the protocol of the service."""
        text = escape(message)
        inner = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
        if service == "ec2":
            body = f"<Response><Errors>{inner}</Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
            return _reply(start, status, body, "text/xml")
        if service == "s3":
            return _reply(start, status, inner, "application/xml")
        if service in refusals.QUERY_SERVICES:
            return _reply(start, status, f"<ErrorResponse>{inner}</ErrorResponse>", "text/xml")
        body = json.dumps({"__type": code, "message": message})
        return _reply(start, status, body, "application/x-amz-json-1.1")

    def _control(self, environ: Environ, start: Start, what: str) -> Iterable[bytes]:
        header = "HTTP_" + TOKEN_HEADER.upper().replace("-", "_")
        if not hmac.compare_digest(environ.get(header, "").encode(), self._token.encode()):
            return _reply(start, 403, json.dumps({"what": "wrong token"}), "application/json")
        try:
            found = self._controls(what, json.loads(_short_body(environ) or b"{}"))
        except Refused:
            return _reply(start, 400, json.dumps({"what": "too much"}), "application/json")
        except TrainctlError as error:
            kind = type(error).__name__
            refusal = {"kind": kind, "what": error.what, "why": error.why, "next": error.next}
            return _reply(start, 400, json.dumps(refusal), "application/json")
        except (KeyError, TypeError, ValueError) as error:
            refusal = {"what": f"The sandbox does not understand {what}", "why": repr(error)}
            return _reply(start, 400, json.dumps(refusal), "application/json")
        return _reply(start, 200, json.dumps(found, default=str), "application/json")


def _body(environ: Environ) -> bytes:
    """The whole body, left in place for whoever reads it after us."""
    endless = environ.get("wsgi.input_terminated")
    body: bytes = environ["wsgi.input"].read(-1 if endless else int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _short_body(environ: Environ) -> bytes:
    """The body of a call, which is never long. Raises Refused."""
    if environ.get("wsgi.input_terminated") or int(environ.get("CONTENT_LENGTH") or 0) > CALL_MOST_BYTES:
        raise Refused("too-big")
    return _body(environ)


def _reply(start: Start, status: int, text: str, kind: str) -> list[bytes]:
    body = text.encode()
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    start(f"{status} Sandbox", headers)
    return [body]


def _nobody(*_: Any, **__: Any) -> Callable[[bytes], None]:
    return lambda _: None
