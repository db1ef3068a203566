"""Typed errors: what happened, why, and the command that helps; `cli` alone renders them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ExitCode(IntEnum):
    """What the command line returns, by class of error."""

    SUCCESS = 0
    INPUT = 1  # the user's input, or a refusal by protection
    CLOUD = 2  # the cloud or the network
    CONFIG = 3  # configuration or credentials
    JOB_FAILED = 4  # the training script failed
    OVER_BUDGET = 5  # budget or deadline ended it
    INTERRUPTED = 130


class TrainctlError(Exception):
    """Root of every error that runctl raises on purpose.

    `what` happened, `why` (may be empty) and `next`, the step or command that helps (may be empty).
    """

    exit_code = ExitCode.INPUT

    def __init__(self, what: str, *, why: str = "", next: str = "") -> None:  # noqa: A002
        super().__init__(what)
        self.what = what
        self.why = why
        self.next = next

    @property
    def kind(self) -> str:
        """The class name, which scripts can match on in JSON output."""
        return type(self).__name__

    def details(self) -> dict[str, object]:
        """Further fields for JSON output."""
        return {}


class ValidationError(TrainctlError):
    """The user's input is wrong."""


class NotFound(TrainctlError):
    """A named job, resource or file does not exist."""


class Conflict(TrainctlError):
    """Somebody else changed or holds what this operation needs."""


class Protected(TrainctlError):
    """Protection forbids the operation; `reasons` are the names of the rules that spoke.

    `verdict` is the policy's whole answer where it was asked (`safety.protection.Verdict`).
    """

    def __init__(
        self,
        what: str,
        *,
        reasons: tuple[str, ...] = (),
        verdict: object = None,
        why: str = "",
        next: str = "",  # noqa: A002
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.reasons = reasons
        self.verdict = verdict

    def details(self) -> dict[str, object]:
        return {"reasons": list(self.reasons)}


class ConfigError(TrainctlError):
    """Configuration or credentials are missing or wrong."""

    exit_code = ExitCode.CONFIG


class CredentialsError(ConfigError):
    """There are no credentials, they have ended, or they cannot be had: a login may mend it meanwhile."""

    @property
    def kind(self) -> str:
        return ConfigError.__name__


class NotTrusted(ConfigError):
    """A project's file decides what needs the user's yes; `settings` are those, each with what it means."""

    def __init__(
        self,
        what: str,
        *,
        settings: list[dict[str, object]] | None = None,
        why: str = "",
        next: str = "",  # noqa: A002
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.settings = settings or []

    def details(self) -> dict[str, object]:
        return {"settings": self.settings}


class LedgerDamaged(ConfigError):
    """The ledger's file is not what runctl wrote; `why` says where that was seen."""

    def __init__(self, why: str, *, path: Path | None = None) -> None:
        super().__init__(
            "The ledger is damaged" if path is None else f"The ledger {path} is damaged",
            why=why,
            next="runctl ledger restore brings back the newest copy and all that can be read;"
            " then runctl resources adopt finds the rest in the cloud",
        )


class BudgetExceeded(TrainctlError):
    """A budget or deadline ended the operation."""

    exit_code = ExitCode.OVER_BUDGET


class CloudError(TrainctlError):
    """A cloud call failed for good.

    `service` and `operation` name the call, `code` is the cloud's own error code. `lost_answer`: no answer
    came, so that it is unknown whether the call was carried out.
    """

    exit_code = ExitCode.CLOUD

    def __init__(
        self,
        what: str,
        *,
        service: str,
        operation: str,
        code: str,
        request_id: str = "",
        retryable: bool = False,
        lost_answer: bool = False,
        why: str = "",
        next: str = "",  # noqa: A002
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.lost_answer = lost_answer
        self.service = service
        self.operation = operation
        self.code = code
        self.request_id = request_id
        self.retryable = retryable

    def details(self) -> dict[str, object]:
        return {
            "service": self.service,
            "operation": self.operation,
            "code": self.code,
            "request_id": self.request_id,
            "retryable": self.retryable,
        }


class CapacityError(CloudError):
    """The cloud has no machine of this kind, here, now."""


class QuotaError(CapacityError):
    """The account may have no more of a kind: waiting does not help, asking for more does.

    `quota` is its code in Service Quotas, empty where it is not known. `meets` says of another instance type
    and market whether they would be refused for the same quota.
    """

    def __init__(
        self,
        what: str,
        *,
        service: str,
        operation: str,
        code: str,
        request_id: str = "",
        why: str = "",
        next: str = "",  # noqa: A002
        quota: str = "",
        meets: Callable[[str, str], bool] = lambda _type, _market: False,
    ) -> None:
        super().__init__(
            what, service=service, operation=operation, code=code, request_id=request_id, why=why, next=next
        )
        self.quota = quota
        self.meets = meets

    def details(self) -> dict[str, object]:
        return {**super().details(), "quota": self.quota}


class TransferError(TrainctlError):
    """Bytes did not arrive, or arrived wrong."""

    exit_code = ExitCode.CLOUD


class JobFailed(TrainctlError):
    """The training script failed; `script_exit_code` is its own, None where it could not be learnt."""

    exit_code = ExitCode.JOB_FAILED

    def __init__(
        self,
        what: str,
        *,
        script_exit_code: int | None = None,
        why: str = "",
        next: str = "",  # noqa: A002
    ) -> None:
        super().__init__(what, why=why, next=next)
        self.script_exit_code = script_exit_code

    def details(self) -> dict[str, object]:
        return {"script_exit_code": self.script_exit_code}


class Interrupted(TrainctlError):
    """The user stopped the command; what it supervises goes on or was rolled back, as `what` says."""

    exit_code = ExitCode.INTERRUPTED
