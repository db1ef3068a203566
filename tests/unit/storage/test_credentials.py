"""Files that look like credentials by their names."""

from __future__ import annotations

import pytest

from runctl.storage.credentials import suspicious_name


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "a/.env.local",
        "prod.env",
        "tls/server.key",
        "/home/me/.npmrc",
        ".netrc",
        ".pypirc",
        "config/rclone.conf",
        "/home/me/.config/gcloud/application_default_credentials.json",
        "/home/me/.docker/config.json",
        ".kube/config",
        "/home/me/.aws/credentials",
        "ID_RSA",
        "x.PEM",
        "my-service-account-1.json",
    ],
)
def test_these_stay_here(path: str) -> None:
    assert suspicious_name(path)


@pytest.mark.parametrize(
    "path",
    [
        "credentials",
        "config.json",
        "kube/config",
        "id_rsa.pub",
        ".env.example",
        "keys.txt",
        "monkey",
        "a.envx",
    ],
)
def test_these_may_travel(path: str) -> None:
    assert suspicious_name(path) is None
