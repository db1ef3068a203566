"""Files that look like credentials, by their names and by what stands in them."""

from __future__ import annotations

import re
from fnmatch import translate

READ_UP_TO = 1_000_000
"""Bytes: keys and tokens live in small files; bigger ones are judged by their names alone."""

_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    ".envrc",
    ".netrc",
    "_netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".s3cfg",
    ".boto",
    ".vault-token",
    ".git-credentials",
    ".htpasswd",
    "rclone.conf",
    "*.key",
    "*.jks",
    "*.pem",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "credentials*.json",
    "application_default_credentials.json",
    "client_secret*.json",
    "*service-account*.json",
    "*service_account*.json",
    "kaggle.json",
)
_PATHS = (
    "/.aws/credentials",
    "/.aws/config",
    "/.docker/config.json",
    "/.kube/config",
    "/huggingface/token",
    "/gcloud/credentials.db",
    "/gcloud/access_tokens.db",
    "/.streamlit/secrets.toml",
)
_HARMLESS = ("*.pub", ".env.example", ".env.sample", ".env.template", ".env.dist")
_NAMED = re.compile("|".join(map(translate, _NAMES)))
_FINE = re.compile("|".join(map(translate, _HARMLESS)))

_CONTENTS = (
    ("a private key", re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")),
    ("a GitHub token", re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82})\b")),
    ("a Hugging Face token", re.compile(rb"\bhf_[A-Za-z0-9]{34}\b")),
)
# AWS ends the keys of its documentation with EXAMPLE.
_AWS_ID = re.compile(rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])")
_AWS_SECRET = re.compile(rb"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")


def suspicious_name(path: str) -> str | None:
    """Why the name of a file says that it holds credentials, None where it does not.

    Give the whole path where it is known: `credentials` says nothing, `.aws/credentials` all.
    """
    lower = path.lower()
    name = lower.rpartition("/")[2]
    if (_NAMED.match(name) or f"/{lower}".endswith(_PATHS)) and not _FINE.match(name):
        return "its name"
    return None


def suspicious_content(data: bytes) -> str | None:
    """What the bytes of a text file hold that must not travel, None where nothing was found."""
    if b"\0" in data[:8192]:
        return None
    for what, pattern in _CONTENTS:
        if pattern.search(data):
            return what
    if _AWS_ID.search(data) and _holds_aws_secret(data):
        return "an AWS access key with its secret"
    return None


def _holds_aws_secret(data: bytes) -> bool:
    """A secret key mixes letters of both cases and digits; a Git object's name does not."""
    return any(
        re.search(rb"[a-z]", found) and re.search(rb"[A-Z]", found) and re.search(rb"[0-9]", found)
        for found in _AWS_SECRET.findall(data)
    )
