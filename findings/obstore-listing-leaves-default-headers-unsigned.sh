#!/usr/bin/env bash
# obstore 0.12.1 (Python 3.11, Linux): a default header is signed in reads, writes and deletes, but not in listings.
#
# `client_options={"default_headers": {...}}` is the way to send a header such as `x-amz-expected-bucket-owner` with
# every request. It is sent with every request; in GET, PUT and DELETE of an object it stands in the signature's
# SignedHeaders, in ListObjectsV2 it does not. S3 refuses a request with an `x-amz-` header that is not signed
# ("There were headers present in the request which were not signed", AccessDenied), so the same client reads and
# writes, and cannot list. SeaweedFS 4.48 answers with 403, too.
#
# Seen:   PUT signed / GET signed / LIST sent, not signed
# The script exits with 1 when that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check obstore==0.12.1
cat > look.py <<'PY'
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
from obstore.store import S3Store

HEADER, seen = "x-amz-expected-bucket-owner", {}
LISTING = (b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount>'
           b"<IsTruncated>false</IsTruncated></ListBucketResult>")

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        listing = "list-type=2" in self.path
        signed = self.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
        sent = self.headers.get(HEADER) is not None
        told = "signed" if HEADER in signed else "sent, not signed" if sent else "not sent"
        seen["LIST" if listing else self.command] = told
        body = LISTING if listing else b"data" if self.command == "GET" else b""
        self.send_response(200)
        self.send_header("ETag", '"8d777f385d3dfec8815d20f7496026dc"')
        self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_PUT = answer

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket", endpoint=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1",
    access_key_id="AKIDEXAMPLE", secret_access_key="example", virtual_hosted_style_request=False,
    client_options={"allow_http": True, "default_headers": {HEADER: "123456789012"}},
)
obstore.put(store, "key", b"data", use_multipart=False)
obstore.get(store, "key").bytes()
list(obstore.list(store))
for name in ("PUT", "GET", "LIST"):
    print(name, seen[name])
sys.exit(0 if seen == {"PUT": "signed", "GET": "signed", "LIST": "sent, not signed"} else 1)
PY
env/bin/python look.py
