"""A key of one transfer on a machine: let in through SSM, with the machine's own host keys in return."""

from __future__ import annotations

import shlex
from datetime import timedelta

import msgspec

from runctl.errors import CloudError, ConfigError
from runctl.providers.aws import shell
from runctl.providers.aws.session import Session

HOURS = 12
"""After which the key opens nothing more, whatever became of whoever left it."""

_TIMEOUT = timedelta(minutes=5)
_RIGHTS = 'restrict,port-forwarding,permitopen="127.0.0.1:1",permitlisten="127.0.0.1:*",command="exit 1"'
_FIND = r"""
umask 077
for user in ec2-user ubuntu admin debian fedora rocky centos root; do
  home=$(getent passwd "$user" | cut -d: -f6)
  [ -n "$home" ] && break
done
sshd=$(command -v sshd || echo /usr/sbin/sshd)
settings=$("$sshd" -T -C "user=$user,host=localhost,addr=127.0.0.1" 2>/dev/null) ||
  { echo "runctl: error sshd -T does not answer"; exit 1; }
told() { printf '%s\n' "$settings" | sed -n "s/^$1 //p"; }
file=$(told authorizedkeysfile | head -n 1 | cut -d' ' -f1 | sed "s|%h|$home|g; s|%u|$user|g")
case $file in /*) ;; *) file=$home/$file ;; esac
"""
_ADMIT = r"""
folder=$(dirname "$file")
[ -d "$folder" ] || { mkdir -p "$folder" && chown "$user:" "$folder"; }
[ -f "$file" ] || { : >"$file" && chown "$user:" "$file"; }
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
ends=$(date -d '+@HOURS@ hours' +%Y%m%d%H%M)
sed -i @FORGET@ "$file"
printf '%s,expiry-time="%s" %s\n' @RIGHTS@ "$ends" @KEY@ >>"$file" ||
  { echo "runctl: error cannot write $file"; exit 1; }
told hostkey | while read -r key; do
  [ -f "$key.pub" ] && echo "runctl: host $(cut -d' ' -f1,2 "$key.pub")"
done
echo "runctl: login $user $(told port | head -n 1)"
"""
_WITHDRAW = r"""
[ ! -f "$file" ] || sed -i @FORGET@ "$file"
echo "runctl: gone"
"""


class Login(msgspec.Struct, frozen=True):
    """As whom and on which port to log in, and the host keys that must answer there."""

    user: str
    port: int
    host_keys: tuple[str, ...]


def admit(session: Session, instance: str, public_key: str, mark: str) -> Login:
    """Let a key open port forwarding, and nothing else, for some hours. Idempotent.

    `mark` names the key's line in the file of authorized keys. Raises ConfigError without an SSH server
    there, CloudError.
    """
    script = (_FIND + _ADMIT).replace("@HOURS@", str(HOURS)).replace("@RIGHTS@", shlex.quote(_RIGHTS))
    script = script.replace("@KEY@", shlex.quote(f"{public_key.strip()} {mark}"))
    said = _run(session, instance, script.replace("@FORGET@", _line_of(mark)), "admit a key")
    hosts = tuple(line.removeprefix("host ") for line in said if line.startswith("host "))
    login = next((line.split(" ") for line in said if line.startswith("login ")), None)
    if login is None or not hosts:
        why = next((line.removeprefix("error ") for line in said if line.startswith("error ")), "")
        raise ConfigError(
            f"{instance} lets nobody in by SSH",
            why=why or "it shows no host key",
            next="install OpenSSH 7.8 or later there, or name a bucket: runctl config set aws.bucket NAME",
        )
    return Login(login[1], int(login[2]), hosts)


def withdraw(session: Session, instance: str, mark: str) -> None:
    """Remove the key again; one that is not there is no error. Raises CloudError."""
    script = (_FIND + _WITHDRAW).replace("@FORGET@", _line_of(mark))
    said = _run(session, instance, script, "withdraw a key")
    if "gone" not in said:
        raise CloudError(
            f"The key {mark} could not be taken from {instance}",
            service="ssm",
            operation="send_command",
            code="NotWithdrawn",
            why=" ".join(said),
        )


def _line_of(mark: str) -> str:
    return shlex.quote(f"/ {mark}$/d")


def _run(session: Session, instance: str, script: str, what: str) -> list[str]:
    result = shell.run(session, instance, script, comment=f"runctl transfer: {what}", timeout=_TIMEOUT)
    lines = result.output.splitlines()
    return [line.removeprefix("runctl: ") for line in lines if line.startswith("runctl: ")]
