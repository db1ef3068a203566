"""The first program on a machine: fetches one object by the rights of the machine's role, and stands alone.

Its text goes with the boot arguments, so that these need no signed URL, which whoever reads them could use.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from typing import Dict, Optional, Tuple

_ADDRESS = "http://169.254.169.254"
_ROLES = "/latest/meta-data/iam/security-credentials/"
_EMPTY = hashlib.sha256(b"").hexdigest()


def fetch(bucket: str, region: str, s3: str, owner: str, key: str, target: str) -> None:
    """Write the object to a file; `s3` is the host of S3 in the region.

    Raises OSError, ValueError, IndexError, KeyError: it may be asked again.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    host, path = "%s.%s" % (bucket, s3), "/" + urllib.parse.quote(key, safe="/-_.~")
    if endpoint or "." in bucket:
        endpoint = (endpoint or "https://" + s3).rstrip("/")
        host, path = urllib.parse.urlsplit(endpoint).netloc, "/%s%s" % (bucket, path)
    headers = _signed(host, path, region, owner)
    url = "%s%s" % (endpoint or "https://" + host, path)
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        data = answer.read()
    with open(target, "wb") as file:
        file.write(data)


def _signed(host: str, path: str, region: str, owner: str) -> Dict[str, str]:
    access, secret, token = _keys()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    headers["x-amz-expected-bucket-owner"] = owner
    if token:
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    told = "".join("%s:%s\n" % pair for pair in sorted(headers.items()))
    canonical = "GET\n%s\n\n%s\n%s\n%s" % (path, told, names, _EMPTY)
    scope = "%s/%s/s3/aws4_request" % (stamp[:8], region)
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signing = ("AWS4" + secret).encode()
    for part in (*scope.split("/"), text):
        signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
        access,
        scope,
        names,
        signing.hex(),
    )
    return headers


def _keys() -> Tuple[str, str, Optional[str]]:
    """As the agent finds them: in the environment, else those of the machine's role."""
    environ = os.environ
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        token = environ.get("AWS_SESSION_TOKEN")
        return environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], token
    session = _ask("/latest/api/token", "PUT", {"x-aws-ec2-metadata-token-ttl-seconds": "300"})
    seen = {"x-aws-ec2-metadata-token": session}
    keys = json.loads(_ask(_ROLES + _ask(_ROLES, "GET", seen).split()[0], "GET", seen))
    return keys["AccessKeyId"], keys["SecretAccessKey"], keys.get("Token")


def _ask(path: str, method: str, headers: Dict[str, str]) -> str:
    address = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _ADDRESS).rstrip("/")
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with straight.open(
        urllib.request.Request(address + path, headers=headers, method=method), timeout=5
    ) as answer:
        text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    try:
        fetch(*sys.argv[1:])
    except Exception as error:
        sys.exit("runctl: %s: %s" % (type(error).__name__, error))
