"""An account whose commands run in this process: what starting Python costs is saved."""

from __future__ import annotations

import contextlib
import io
import os
from unittest import mock

from classics import Account, Said

from runctl.cli.main import run


class Inside(Account):
    """As `Account`, for tests that need no process of their own to kill."""

    def run(self, *arguments: str, form: str = "json", extra: tuple[str, ...] = (), **variables: str) -> Said:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with (
            mock.patch.dict(os.environ, {**self.environment, **variables}, clear=True),
            contextlib.chdir(self.home),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run([*arguments, "--output", form, *extra])
            out.flush()
            err.flush()
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # pyright: ignore
        return Said(code, *texts)

    @classmethod
    def of(cls, account: Account) -> Inside:
        return cls(account.home, account.environment, account.ec2, account.zones, account.word)
