"""Secrets that have no form of their own, and tell by what stands around them: keys, URLs, files of tools."""

# ruff: noqa: E501 (a table)

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from math import log2

from runctl.storage.secret_files import handed_over
from runctl.storage.secret_files.tokens import is_filler

_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[ \t]*(?:[\r\n]|\Z)|\s+[A-Za-z0-9+/=]{16})"  # a program that looks for the line has it in quotes
)
_OTHER_KEYS = re.compile(
    rb"^PuTTY-User-Key-File-[0-9]:|^---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"
    rb"|^[ \t]*PrivateKey[ \t]*=[ \t]*[A-Za-z0-9+/]{43}=|-----BEGIN OpenVPN Static key V1-----",
    re.MULTILINE,
)
_AWS_SECRET = re.compile(
    rb"(?i:aws|secret).{0,30}?[=:\"'\s,]\s*[\"']?(?<![A-Za-z0-9/+=])([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)
_URL = re.compile(
    rb"\b[a-zA-Z][a-zA-Z0-9+.-]{1,30}://([^\s:/@'\"<>{}$%()\[\]|\\`,]{0,80}):([^\s/@'\"<>(){}\[\]|\\`]{3,200})@[A-Za-z0-9\[]"
)
_AZURE = re.compile(
    rb"(?i:(?:Account|SharedAccess|Shared)Key(?:Value)?)\s*=\s*[A-Za-z0-9+/]{40,}={0,2}"
    rb"|[?&]sig=[A-Za-z0-9%+/]{40,}"
    rb"|(?i:Ocp-Apim-Subscription-Key)[\"']?\s*[:=,]\s*[\"']?[0-9a-fA-F]{32}"
)
_HEADER = re.compile(
    rb"(?i:authorization|bearer)[\"']?\s*[:=,]?\s*f?[\"']?(?i:bearer|token|basic|apikey)\s+([A-Za-z0-9_.~+/=-]{20,})"
    rb"|\bcurl\b[^\n]{0,200}?\s(?:-u|--user)[ =]*[\"']?[A-Za-z0-9_.@-]+:([^\s\"'$<{]{6,})"
)
_NETRC = re.compile(
    rb"^[ \t]*machine[ \t]+\S+\s+(?:login|user)[ \t]+\S+\s+(?:password|passwd)[ \t]+(\S{6,})", re.MULTILINE
)
_DOCKER = re.compile(rb"\"auth\"\s*:\s*\"([A-Za-z0-9+/=]{8,})\"")
_REGISTRY = re.compile(
    rb":_(?:authToken|auth|password)\s*=\s*[\"']?(?!\$)([A-Za-z0-9_+/=.-]{8,})"
    rb"|(?i:npmAuthToken|npmAuthIdent)\s*:\s*[\"']?(?!\$)([A-Za-z0-9_:+/=.-]{8,})"
    rb"|(?i:ClearTextPassword)\"\s+value=\"([^\"]{4,})\"|conda\.[a-z.-]+/t/([A-Za-z0-9_-]{20,})"
)
_KUBERNETES = (
    (
        "a Kubernetes login",
        re.compile(rb"\bkind[\"']?\s{0,9}:\s{0,9}[\"']?Config\b"),
        re.compile(
            rb"\b(?:client-key-data|token|password|id-token|refresh-token)[\"']?\s{0,9}:\s{0,9}[\"']?[A-Za-z0-9+/=_.-]{8,}"
        ),
    ),
    (
        "a Kubernetes secret",
        re.compile(rb"\bkind[\"']?\s{0,9}:\s{0,9}[\"']?Secret\b"),
        re.compile(
            rb"\b(?:data|stringData)[\"']?[ \t]*:\s{0,99}\{?\s{0,99}[\"']?[A-Za-z0-9_.-]+[\"']?[ \t]*:[ \t]*[\"']?(?![\"'{<$\s])\S{4,}"
        ),
    ),
)
"""What a file of this kind is known by, and what must stand somewhere in it."""

_GOOGLE = re.compile(rb"\"refresh_token\"\s*:\s*\"([^\"]{20,})\"")
_COOKIES = re.compile(rb"\A(?:\xef\xbb\xbf)?# (?:Netscape )?HTTP Cookie File")
_STATE = (b'"terraform_version"', b'"lineage"', b'"serial"')
_HASHED = re.compile(rb"^[A-Za-z0-9_.-]+:\$(?:apr1|2[aby]|5|6|y)\$[^\s:]{20,}", re.MULTILINE)
_WANDB = re.compile(rb"(?i:wandb|weights)[^\n]{0,80}?[\"'=:\s]([0-9a-f]{40})(?![0-9a-f])")
_KAGGLE = re.compile(
    rb"\"username\"\s*:\s*\"[^\"]+\"\s*,\s*\"key\"\s*:\s*\"([0-9a-f]{32})\""
    rb"|(?i:kaggle)[^\n]{0,40}?[\"'=:\s]([0-9a-f]{32})(?![0-9a-f])"
)

# A name that says that a secret follows (in small letters), and a value in quotes or in the open.
_NAME = re.compile(
    rb"(?:passw(?:or)?d|passwd|passphrase|passcode|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?key|account[_-]?key"
    rb"|private[_-]?key|encryption[_-]?key|signing[_-]?key|master[_-]?key|service[_-]?key|subscription[_-]?key"
    rb"|license[_-]?key|storage[_-]?key|fernet[_-]?key|jwt[_-]?key|shared[_-]?key|app[_-]?key|consumer[_-]?key"
    rb"|security[_-]?key|admin[_-]?key|webhook[_-]?key|hmac[_-]?key|(?<![a-z])(?:pass|pw)(?![a-z])|(?<![a-z])pgpass"
    rb"|token|credentials?|connection[_-]?string)"
    rb"(?:[_-]?(?:id|key|value|hash|base64|prod|production|dev|live|[0-9]))?(?![a-z])"
)
_VALUE = re.compile(
    rb"[\"']?\]?\)?(?P<between>[ \t]*(?:=>|:=|==|:|=|,)[ \t]*|[ \t]+)[brf]?"
    rb"(?P<quote>[\"']{0,3})(?P<value>[^\s\"'`,;)}<>]{8,400})"
)
_BEFORE = re.compile(rb"[A-Za-z0-9_.-]*\Z")
_NO_SECRET_TOKENS = re.compile(
    rb"(?i:(?:^|[_.-])(?:pad|eos|bos|unk|sep|cls|mask|special|start|end|stop|prefix|suffix|image|video|audio|next|page"
    rb"|continuation|sync|cancel(?:lation)?|num|max|min|per|first|last|csrf_field|fim|user|assistant|system"
    rb"|tool|sot|eot|boi|eoi|blank|word|sub|new|extra|added|trigger|class|concept|placeholder|initializer"
    rb"|decoder|modifier|delimiter|target|source|lang|language|client|idempotency|page)[_-]?tokens?(?:[_-]?id)?$)"
)
_WORDS = re.compile(
    rb"(?i:password|passwd|secret|token|your|example|change|placeholder|redacted|default|insert|replace|todo|dummy"
    rb"|sample|(?<![a-z])test|fake|none|null|true|false|undefined|getenv|environ|input|prompt|config|settings|args|self\."
    rb"|optional|required|string|https?://|s3://|gs://|file:|arn:|projects/|sha256|sha512|md5|ref\+|op://|vault:"
    rb"|sts\.|env[:.(\[]|secretsmanager|lookup|keyring|base64|here$)"
)
_REFERENCE = re.compile(
    rb"[$%{<*&!@(\[]|\.\./|~?/|[A-Za-z_][A-Za-z0-9_]{0,19}(?:\.[A-Za-z_][A-Za-z0-9_]{0,19})+\(?$|[A-Za-z_]\w*[(\[]"
)
"""A variable, a path, an attribute or a call: what names a secret without being one."""

_VENDOR = re.compile(rb"\A(?:[a-z]{2,10}_){1,3}(?=[A-Za-z0-9.]{24,}\Z)")
"""What a vendor puts before its tokens, like `secret_lab_`."""

_TRIVIAL = frozenset(
    b"password passwd pass pw pwd secret postgres mysql root admin user username guest test testing example "
    b"changeme minio minioadmin rabbitmq redis mongo token xxx xxxx xxxxx dummy foo bar key default docker "
    b"localhost dev yourpassword mypassword".split()
)
"""What everybody takes for a database of their own machine."""


def find(data: bytes, *, is_code: bool) -> Iterator[tuple[int, str]]:
    """Where in a text a secret stands that its surroundings give away, and of what kind it is.

    In code a word without quotes is a variable or a type; in settings it is a value.
    """
    lower = data.lower()
    yield from _keys(data, lower)
    yield from _passwords_in_urls(data)
    yield from _as_tools_write_them(data, lower)
    yield from _kubernetes(data, lower)
    yield from handed_over.find(data, lower)
    yield from _named(data, lower, is_code=is_code)


def _keys(data: bytes, lower: bytes) -> Iterator[tuple[int, str]]:
    if any(sign in lower for sign in (b"private key", b"putty", b"privatekey", b"static key")):
        yield from ((match.start(), "a private key") for match in _PRIVATE_KEY.finditer(data))
        yield from ((match.start(), "a private key") for match in _OTHER_KEYS.finditer(data))
    if b"aws" in lower or b"secret" in lower or b"akia" in lower:
        for match in _AWS_SECRET.finditer(data):
            if _is_mixed(match[1]) and not is_filler(match[1]):
                yield match.start(1), "an AWS secret key"


def _as_tools_write_them(data: bytes, lower: bytes) -> Iterator[tuple[int, str]]:
    for sign, pattern, kind in _FILES:
        for match in pattern.finditer(data) if sign in lower else ():
            value = next((group for group in match.groups() if group), b"")
            if not is_filler(match[0]) and not value.startswith((b"$", b"{", b"<", b"%")):
                yield match.start(), kind
    for match in _DOCKER.finditer(data) if b'"auth"' in data else ():
        if _is_login(match[1]):
            yield match.start(), "a container registry's login"
    if all(sign in data for sign in _STATE):
        yield data.index(_STATE[0]), "Terraform state"


def _kubernetes(data: bytes, lower: bytes) -> Iterator[tuple[int, str]]:
    if b"kind" not in lower:
        return
    for kind, sign, secret in _KUBERNETES:
        if sign.search(data) and (match := secret.search(data)):
            yield match.start(), kind


_FILES: tuple[tuple[bytes, re.Pattern[bytes], str], ...] = (
    (b"accountkey", _AZURE, "an Azure key"),
    (b"sharedaccesskey", _AZURE, "an Azure key"),
    (b"sharedkey", _AZURE, "an Azure key"),
    (b"subscription-key", _AZURE, "an Azure key"),
    (b"sig=", _AZURE, "an Azure signature"),
    (b"authorization", _HEADER, "a login in a header"),
    (b"bearer", _HEADER, "a login in a header"),
    (b"curl", _HEADER, "a password in a command"),
    (b"machine", _NETRC, "a password for a host"),
    (b"_auth", _REGISTRY, "a package registry's login"),
    (b"npmauth", _REGISTRY, "a package registry's login"),
    (b"_password", _REGISTRY, "a package registry's login"),
    (b"cleartextpassword", _REGISTRY, "a package registry's login"),
    (b"/t/", _REGISTRY, "a package registry's login"),
    (b"refresh_token", _GOOGLE, "a Google login"),
    (b"cookie file", _COOKIES, "a browser's cookies"),
    (b":$", _HASHED, "hashed passwords"),
    (b"wandb", _WANDB, "a Weights & Biases key"),
    (b"kaggle", _KAGGLE, "a Kaggle key"),
    (b'"username"', _KAGGLE, "a Kaggle key"),
)


def _passwords_in_urls(data: bytes) -> Iterator[tuple[int, str]]:
    for match in _URL.finditer(data) if b"://" in data else ():
        user, password = match[1].lower(), match[2]
        plain = password.lower()
        if plain in _TRIVIAL or plain == user or is_filler(password) or password[:1] in b"$%*#":
            continue
        if not plain.strip(b"x*.") or (_WORDS.search(plain) and not re.search(rb"[0-9]", plain)):
            continue
        yield match.start(), "a password in a URL"


def _named(data: bytes, lower: bytes, *, is_code: bool) -> Iterator[tuple[int, str]]:
    """Names like `api_key` or `DB_PASSWORD` with a value that a person or a generator made up."""
    for match in _NAME.finditer(lower):
        told = _VALUE.match(data, match.end())
        if told is None:
            continue
        before = _BEFORE.search(data[max(0, match.start() - 60) : match.start()])
        name = (before[0] if before else b"") + data[match.start() : match.end()]
        if _NO_SECRET_TOKENS.search(name) or not _is_assigned(name, told, is_code=is_code):
            continue
        value, is_password = told["value"].rstrip(b".:\\"), b"pass" in match[0] or b"pwd" in match[0]
        if not told["between"].strip() and not told["quote"] and not is_password and len(value) < 24:
            continue  # two words side by side
        if _looks_made_up(
            value, shortest=8 if is_password else 12, mixed=not is_password, quoted=bool(told["quote"])
        ):
            yield match.start(), "a password" if is_password else "a key or token"


def _is_assigned(name: bytes, told: re.Match[bytes], *, is_code: bool) -> bool:
    """`name = value`, `"name": "value"`, `--name value`, `login(name, "value")`."""
    between = told["between"].strip()
    if told["quote"]:
        return True
    if is_code:  # what code says to a shell or writes into an environment
        return told["between"] == b"=" and name.isupper()
    if not between:  # an option, a Dockerfile's ENV, or a word of a command like `set api-key VALUE`
        return (
            name.startswith(b"--") or name.isupper() or (b"key" in name.lower() or b"token" in name.lower())
        )
    return between in {b"=", b":", b":=", b"=>"}


def _looks_made_up(value: bytes, *, shortest: int, mixed: bool, quoted: bool) -> bool:
    if len(value) < shortest or is_filler(value) or _names_one(value):
        return False
    digits = sum(48 <= byte < 58 for byte in value)
    letters = sum(65 <= byte < 91 or 97 <= byte < 123 for byte in value)
    if digits == 0 and not mixed and quoted and _case_changes(value) >= 4:
        return True
    if digits == 0 or letters == 0:
        return False
    if re.fullmatch(
        rb"[a-z]+[-_.]?v?[0-9.]{1,6}|[0-9.,e+-]+[a-zA-Z]{0,3}|[0-9]{4}-[0-9]{2}-[0-9]{2}.*", value
    ):
        return not mixed and len(value) >= shortest and digits >= 3 and b"." not in value
    if mixed and not _looks_random(value):
        return False
    return _entropy(value) >= (2.5 if not mixed else 3.0)


def _names_one(value: bytes) -> bool:
    """Whether a value names a secret, or says of itself that it is none."""
    return bool(_REFERENCE.match(value) or _WORDS.search(_VENDOR.sub(b"", value)))


def _looks_random(value: bytes) -> bool:
    """Letters and digits all through, as against words and numbers that stand side by side."""
    parts = [part for part in re.split(rb"[-_./:+]", value) if part]
    longest = max(parts, key=len, default=b"")
    if len(longest) < 10:
        return len(value) >= 32 and sum(48 <= byte < 58 for byte in value) >= 6 and len(parts) <= 6
    changes = len(re.findall(rb"(?<=[0-9])[A-Za-z]|(?<=[A-Za-z])[0-9]", longest))
    return changes >= 3 or (changes >= 1 and _is_mixed(longest))


def _case_changes(value: bytes) -> int:
    return len(re.findall(rb"(?<=[a-z])[A-Z]|(?<=[A-Z])[a-z]", value))


def _is_mixed(value: bytes) -> bool:
    """Letters of both cases and digits, as secrets have them that a generator made."""
    return all(re.search(part, value) for part in (rb"[a-z]", rb"[A-Z]", rb"[0-9]"))


def _is_login(encoded: bytes) -> bool:
    try:
        plain = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return b":" in plain[1:-1] and not is_filler(plain)


def _entropy(value: bytes) -> float:
    """Bits for each letter."""
    shares = [value.count(byte) / len(value) for byte in set(value)]
    return -sum(share * log2(share) for share in shares)
