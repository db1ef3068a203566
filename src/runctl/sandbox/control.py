"""The sandbox's own controls, over HTTP with the token of its record: for the command line and for tests."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from runctl.clouds import SandboxRecord
from runctl.errors import CloudError, NotFound, TrainctlError, ValidationError

TOKEN_HEADER = "X-Runctl-Control"  # noqa: S105 (a header's name)


class Control:
    """Talks to the sandbox that a record names. Each method raises CloudError when it does not answer."""

    def __init__(self, record: SandboxRecord) -> None:
        self._record = record

    def status(self) -> dict[str, Any]:
        return self._post("status")

    def interrupt(
        self,
        instance: str,
        *,
        notice: float | None = None,
        action: str = "terminate",
        rebalance_first: float | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Announce a spot interruption, `notice` cloud seconds ahead, and carry it out."""
        return self._post(
            "interrupt",
            instance=instance,
            notice=notice,
            action=action,
            rebalance_first=rebalance_first,
            dry_run=dry_run,
        )

    def reset(self, instance: str) -> dict[str, Any]:
        """Crash a machine and let it boot again: nothing of it is asked, and its timers are forgotten."""
        return self._post("reset", instance=instance)

    def set_speed(self, speed: float) -> dict[str, Any]:
        return self._post("clock", speed=speed)

    def add_fault(self, service: str, kind: str, **fields: Any) -> dict[str, Any]:
        return self._post("fault-add", service=service, kind=kind, **fields)

    def clear_faults(self, kind: str = "") -> None:
        """Of one kind, or all."""
        self._post("fault-clear", kind=kind)

    def bill(self) -> dict[str, Any]:
        return self._post("bill")

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._post("history")["changes"]
        return found

    def down(self) -> None:
        self._post("down")

    def _post(self, what: str, **body: Any) -> dict[str, Any]:
        parts = urlsplit(self._record.endpoint)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request(
                "POST",
                f"/_sandbox/{what}",
                body=json.dumps(body),
                headers={TOKEN_HEADER: self._record.control_token},
            )
            answer = connection.getresponse()
            data: dict[str, Any] = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CloudError(
                "The sandbox cloud does not answer",
                service="sandbox",
                operation=what,
                code=type(error).__name__,
                why=str(error),
                next="runctl sandbox down, then runctl sandbox up",
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise _refusal(data)
        return data


def _refusal(data: dict[str, Any]) -> TrainctlError:
    kind = NotFound if data.get("kind") == "NotFound" else ValidationError
    return kind(
        str(data.get("what", "refused")), why=str(data.get("why", "")), next=str(data.get("next", ""))
    )
