"""Errors as people and scripts read them: what, why, next; never a stack trace for a user's mistake."""

from __future__ import annotations

import errno
import os
import traceback
from datetime import UTC, datetime

from runctl.errors import ExitCode, TrainctlError
from runctl.render import output
from runctl.render.harmless import harmless_lines

# What the machine refuses, as against what we got wrong.
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.EIO,
    }
)


def render(error: BaseException, *, as_json: bool) -> int:
    """Write an error to stderr; answers the exit code."""
    if isinstance(error, TrainctlError):
        _write(
            error.kind, error.what, error.why, error.next, error.exit_code, error.details(), as_json=as_json
        )
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        _write("Interrupted", "interrupted", "", "", ExitCode.INTERRUPTED, {}, as_json=as_json)
        return int(ExitCode.INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        output.close_data()  # whoever read it has left; nothing is wrong
        return int(ExitCode.SUCCESS)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if type(error).__module__.startswith("click"):
        return _usage(error, as_json=as_json)
    return _internal(error, as_json=as_json)


def _usage(error: BaseException, *, as_json: bool) -> int:
    import click

    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "runctl"
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        if not as_json:
            output.talk_document(message + "\n")
            return int(ExitCode.INPUT)
        message = f"{command} needs a command."
    _write("UsageError", message, "", f"{command} --help", ExitCode.INPUT, {}, as_json=as_json)
    return int(ExitCode.INPUT)


def _refused(error: OSError, *, as_json: bool) -> int:
    """The machine's refusal: a full disk, a file that is not ours."""
    if os.environ.get("RUNCTL_DEBUG"):
        output.talk_trace(error)
    what = (
        str(error.strerror) if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"
    )
    _write("OSError", what, "", "RUNCTL_DEBUG=1 shows where", ExitCode.INPUT, {}, as_json=as_json)
    return int(ExitCode.INPUT)


def _internal(error: BaseException, *, as_json: bool) -> int:
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return _refused(error, as_json=as_json)
    from runctl import private_files
    from runctl.clouds import home

    text = "".join(traceback.format_exception(error))
    if os.environ.get("RUNCTL_DEBUG"):
        output.talk_trace(error)
    folder = home() / "crashes"
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
    try:
        private_files.make_folder(home())
        private_files.make_folder(folder)
        with open(path, "w", encoding="utf-8", opener=private_files.opener) as file:
            file.write(harmless_lines(text))
        next_step = f"the details are in {path}"
    except OSError:
        next_step = "set RUNCTL_DEBUG=1 to see the details"
    why = f"{type(error).__name__}: {error}"
    _write(
        "InternalError",
        "internal error: this is a fault of runctl",
        why,
        next_step,
        ExitCode.INPUT,
        {},
        as_json=as_json,
    )
    return int(ExitCode.INPUT)


def _write(
    kind: str,
    what: str,
    why: str,
    next_step: str,
    code: ExitCode,
    details: dict[str, object],
    *,
    as_json: bool,
) -> None:
    if as_json:
        body = {"kind": kind, "what": what, "why": why, "next": next_step, "exit_code": int(code), **details}
        output.talk_json({"error": body}, spaced=True)
        return
    output.talk(f"error: {what}")
    if why:
        output.talk(f"  why:  {why}")
    if next_step:
        output.talk(f"  next: {next_step}")
