"""The instance metadata service, version 2: identity, role credentials, the notice of an interruption."""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Dict, Optional, Tuple

ADDRESS = "http://169.254.169.254"
TOKEN_SECONDS = 3600
TIMEOUT = 2.0


class MetadataAway(Exception):
    """The metadata service does not answer."""


class Metadata:
    """One connection a request: the service is asked rarely, and may vanish and return."""

    def __init__(self) -> None:
        self._address = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ADDRESS
        self._token: Optional[str] = None
        self._lock = threading.Lock()

    def get(self, path: str) -> Optional[str]:
        """The item's text, None where there is none (404). Raises MetadataAway."""
        with self._lock:
            for _ in range(2):
                if self._token is None:
                    self._token = self._fetch_token()
                status, body = self._request(
                    "GET", "/latest/meta-data/" + path, {"X-aws-ec2-metadata-token": self._token}
                )
                if status == 401:  # the token has run out
                    self._token = None
                    continue
                return body if status == 200 else None
        return None

    def get_json(self, path: str) -> Optional[Dict[str, Any]]:
        text = self.get(path)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def _fetch_token(self) -> str:
        status, body = self._request(
            "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        )
        if status != 200:
            raise MetadataAway("no token: HTTP %d" % status)
        return body

    def _request(self, method: str, path: str, headers: Dict[str, str]) -> Tuple[int, str]:
        from http.client import HTTPConnection, HTTPException
        from urllib.parse import urlsplit

        parts = urlsplit(self._address)
        connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, ValueError, HTTPException) as error:
            raise MetadataAway(str(error)) from error
        finally:
            connection.close()
