"""A port of a machine's loopback that leads to one of ours: SSH through a session of SSM, no inbound port."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from runctl.errors import ConfigError, TrainctlError, TransferError
from runctl.events import Emit, Notice
from runctl.providers.aws import ssh_access
from runctl.providers.aws.session import Session

PLUGIN = "session-manager-plugin"
_RESPONSE = "AWS_SSM_START_SESSION_RESPONSE"
"""By which the plugin takes the session's token: as an argument every process could read it."""
_PLUGIN_SINCE = (1, 2, 497)
_PROGRAMS = {
    "ssh": "install OpenSSH's client",
    "ssh-keygen": "install OpenSSH's client",
    PLUGIN: "install it: https://docs.aws.amazon.com/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html",
}
_ALLOCATED = re.compile(r"Allocated port (\d+) for remote forward")
_OPENS_WITHIN = 60.0
_AGAIN = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds between tries to open a tunnel that broke."""

# ssh must not outlive us, however we end: the pipe's end tells.
_LEASH = (
    'exec 3<&0; "$@" </dev/null & ssh=$!; { read -r _ <&3; kill "$ssh"; } 2>/dev/null & leash=$!; '
    'wait "$ssh"; kill "$leash"'
)


def require_programs() -> None:
    """Raises ConfigError for each program that is missing here, or too old."""
    for program, remedy in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise ConfigError(
                f"There is no {program} on this computer",
                why="without a bucket, files travel over SSH through a session of SSM",
                next=remedy,
            )
    done = subprocess.run([PLUGIN, "--version"], capture_output=True, text=True, check=False, timeout=30)
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", done.stdout.strip())
    if found and tuple(map(int, found.groups())) < _PLUGIN_SINCE:
        raise ConfigError(
            f"{PLUGIN} {done.stdout.strip()} is too old",
            why="it takes the session's secret as an argument, which every process of this computer can read",
            next=f"bring it up to date: {'.'.join(map(str, _PLUGIN_SINCE))} or later",
        )


class Tunnel:
    """Leads `port` of the machine's loopback to `local_port` of ours, and is opened again when it breaks.

    `mark` names the key that opens it: whoever ends the transfer withdraws it, see `ssh_access`.
    """

    def __init__(self, session: Session, instance: str, local_port: int, mark: str, emit: Emit) -> None:
        """Raises ConfigError, CloudError, TransferError."""
        self._session = session
        self._instance = instance
        self._local_port = local_port
        self._emit = emit
        self._closing = threading.Event()
        self._ssh: subprocess.Popen[bytes] | None = None
        self._ssm_session = ""
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="runctl-tunnel-"))
        try:
            public = _new_key(self._folder / "key", mark)
            self._login = ssh_access.admit(session, instance, public, mark)
            hosts = (f"{instance} {key}\n" for key in self._login.host_keys)
            (self._folder / "hosts").write_text("".join(hosts))
            self._open()
        except BaseException:
            self.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name=f"tunnel-{instance}", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End it, and forget the key."""
        self._closing.set()
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self) -> None:
        document, parameters = "AWS-StartSSHSession", {"portNumber": [str(self._login.port)]}
        answer = self._session.call(
            "ssm",
            "start_session",
            repeatable=False,
            Target=self._instance,
            DocumentName=document,
            Parameters=parameters,
        )
        self._ssm_session = answer["SessionId"]
        told = {name: answer[name] for name in ("SessionId", "TokenValue", "StreamUrl")}
        endpoint = self._session.client("ssm").meta.endpoint_url
        profile = self._session.cloud.profile or ""
        asked = {"Target": self._instance, "DocumentName": document, "Parameters": parameters}
        region = self._session.region
        words = [PLUGIN, _RESPONSE, region, "StartSession", profile, json.dumps(asked), endpoint]
        self._ssh = subprocess.Popen(
            ["sh", "-c", _LEASH, "sh", *self._command(shlex.join(words).replace("%", "%%"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C", "SHELL": "/bin/sh", _RESPONSE: json.dumps(told)},
            start_new_session=True,
        )
        said: list[str] = []
        is_open = threading.Event()
        threading.Thread(target=self._hear, args=(self._ssh, said, is_open), daemon=True).start()
        if not is_open.wait(_OPENS_WITHIN) or not self.port or self._ssh.poll() is not None:
            self._end()
            raise TransferError(
                f"No SSH through SSM to {self._instance}",
                why=" ".join(said[-3:]) or f"nothing came within {_OPENS_WITHIN:g} s",
                next="see docs/transfers-instances.md",
            )

    def _command(self, proxy: str) -> list[str]:
        settings = {
            "ProxyCommand": proxy,
            "HostKeyAlias": self._instance,
            "UserKnownHostsFile": str(self._folder / "hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "BatchMode": "yes",
            "ControlMaster": "no",
            "ControlPath": "none",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        forward = f"127.0.0.1:{self.port}:127.0.0.1:{self._local_port}"
        who = f"{self._login.user}@{self._instance}"
        key = str(self._folder / "key")
        return ["ssh", "-v", "-N", "-T", "-F", "/dev/null", "-i", key, *options, "-R", forward, who]

    def _hear(self, ssh: subprocess.Popen[bytes], said: list[str], is_open: threading.Event) -> None:
        """What ssh says: the port that it was given, or that a port of an earlier time is its own again."""
        assert ssh.stderr is not None  # noqa: S101 (asked for)
        with ssh.stderr as lines:
            self._listen(lines, said, is_open)

    def _listen(self, lines: IO[bytes], said: list[str], is_open: threading.Event) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if found := _ALLOCATED.search(text):
                self.port = int(found[1])
            if found or (self.port and "remote forward success for" in text):
                is_open.set()
            elif not text.startswith("debug1:"):
                said.append(text)
        is_open.set()

    def _keep(self) -> None:
        while not self._closing.is_set():
            assert self._ssh is not None  # noqa: S101 (it was opened)
            self._ssh.wait()
            if self._closing.is_set():
                return
            self._emit(Notice(text=f"the tunnel to {self._instance} broke: opening it again", warning=True))
            for wait in _AGAIN:
                self._end()
                if self._closing.wait(wait):
                    return
                with contextlib.suppress(TrainctlError):
                    self._open()
                    break
            else:
                self._emit(Notice(text=f"the tunnel to {self._instance} stays closed", warning=True))
                return

    def _end(self) -> None:
        ssh = self._ssh
        if ssh is not None and ssh.stdin is not None:
            with contextlib.suppress(OSError):
                ssh.stdin.close()
            try:
                ssh.wait(10)
            except subprocess.TimeoutExpired:
                ssh.kill()
                ssh.wait()
        if self._ssm_session:
            with contextlib.suppress(TrainctlError):
                self._session.call("ssm", "terminate_session", SessionId=self._ssm_session)
            self._ssm_session = ""


def _new_key(path: Path, mark: str) -> str:
    """Make a key pair and answer its public half."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", mark, "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise TransferError("ssh-keygen makes no key", why=done.stderr.strip()[-300:])
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])
