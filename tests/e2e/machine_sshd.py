"""An SSH server inside a machine of the sandbox, whose users are those of its one file of authorized keys.

Run as `python machine_sshd.py FOLDER`: host key, port and, for whoever plays `sshd -T`, settings go there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh


class Server(asyncssh.SSHServer):
    keys = Path()
    _connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if self.keys.exists():
            self._connection.set_authorized_keys(str(self.keys))
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """As `restrict,port-forwarding,permitlisten` would have it."""
        may = self._connection.get_key_option("restrict") and self._connection.get_key_option(
            "port-forwarding"
        )
        return bool(may) and listen_host == "127.0.0.1"


async def serve(folder: Path) -> None:
    folder.mkdir(parents=True)
    Server.keys = folder.parent / ".ssh/authorized_keys"
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "host_key"))
    key.write_public_key(str(folder / "host_key.pub"))
    server = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], server_factory=Server)
    settings = {
        "port": server.sockets[0].getsockname()[1],
        "hostkey": folder / "host_key",
        "authorizedkeysfile": f"{Server.keys} .ssh/authorized_keys2",
    }
    whole = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "settings.part").write_text(whole)
    (folder / "settings.part").rename(folder / "settings")
    await server.wait_closed()


asyncio.run(serve(Path(sys.argv[1])))
