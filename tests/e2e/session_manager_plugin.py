"""What AWS's session-manager-plugin is to ssh: a ProxyCommand, with its arguments, but straight to the port.

The sandbox's machines are on loopback. What stays unproven is the plugin's own channel through SSM.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading


def main(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print("1.2.707.0")
        return
    variable, region, operation, _profile, asked, endpoint = arguments
    response, request = json.loads(os.environ[variable]), json.loads(asked)
    assert operation == "StartSession", operation
    assert region
    assert endpoint.startswith("http"), endpoint
    assert response["TokenValue"] not in " ".join(arguments)
    assert response["StreamUrl"].endswith(response["SessionId"])
    assert request["DocumentName"] == "AWS-StartSSHSession"
    (port,) = request["Parameters"]["portNumber"]
    with socket.create_connection(("127.0.0.1", int(port))) as there:
        threading.Thread(target=up, args=(there,), daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # ssh has left: what is told is its own last word
            while data := there.recv(65536):
                os.write(1, data)


def up(there: socket.socket) -> None:
    while data := os.read(0, 65536):
        there.sendall(data)
    there.shutdown(socket.SHUT_WR)


main(sys.argv[1:])
