"""Whose process is at the other end of a loopback connection: the kernel says it, and cannot be lied to."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

Address = tuple[str, int]
Way = Callable[[Address, Address], int | None]

_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST = 4, 20, 1  # linux/netlink.h, linux/sock_diag.h
_HEADER = struct.Struct("=IHHII")
_ANY_STATE = _ANY_COOKIE = 0xFFFFFFFF
_OWNER = struct.Struct("=II")
_OWNER_AT = _HEADER.size + 64  # uid and inode in struct inet_diag_msg
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAPPED = "0000000000000000FFFF0000"  # how /proc/net/tcp6 writes ::ffff:0:0/96


def is_own(ours: Address, theirs: Address) -> bool:
    """Whether a process of this user holds the socket at `theirs` that is connected to `ours`, both IPv4.

    False too for a socket whose process has closed it: the kernel shows such ones as root's. Where the system
    tells nobody (any but Linux), it is True: callers need a second lock.
    """
    uid = owner(ours, theirs)
    return uid == os.geteuid() if uid is not None else not _TABLES[0].exists()


def owner(ours: Address, theirs: Address) -> int | None:
    """The user of the open socket at `theirs` that is connected to `ours`; None where there is none."""
    try:
        return asked(ours, theirs)
    except OSError:  # a kernel without inet_diag, a container that forbids netlink
        return looked_up(ours, theirs)


def asked(ours: Address, theirs: Address) -> int | None:
    """By inet_diag, which finds one connection among any number. OSError where the kernel has none."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("no netlink")
    ports = struct.pack("!HH", theirs[1], ours[1])
    hosts = b"".join(socket.inet_aton(host).ljust(16, b"\0") for host in (theirs[0], ours[0]))
    connection = ports + hosts + struct.pack("=III", 0, _ANY_COOKIE, _ANY_COOKIE)
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + connection
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
        kernel.settimeout(5)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0) + request)
        told = kernel.recv(8192)
    _, kind, _, _, _ = _HEADER.unpack_from(told)
    if kind != _SOCK_DIAG_BY_FAMILY:
        code = -struct.unpack_from("=i", told, _HEADER.size)[0]
        if code == 2:  # ENOENT: no such connection
            return None
        raise OSError(code, os.strerror(code))
    uid, inode = _OWNER.unpack_from(told, _OWNER_AT)
    return uid if inode else None


def looked_up(ours: Address, theirs: Address) -> int | None:
    """By the tables of all connections."""
    for table in _TABLES:
        with contextlib.suppress(OSError), table.open() as lines:
            found = _row(lines, _hex(theirs), _hex(ours))
            if found is not None:
                return found
    return None


def _row(lines: Iterable[str], local: str, remote: str) -> int | None:
    for line in lines:
        fields = line.split(maxsplit=10)
        if len(fields) < 11:
            continue
        if fields[1].removeprefix(_MAPPED) == local and fields[2].removeprefix(_MAPPED) == remote:
            return int(fields[7]) if fields[9] != "0" else None
    return None


def _hex(address: Address) -> str:
    """As the tables write it: the address in the order of the host, the port in that of the network."""
    return f"{int.from_bytes(socket.inet_aton(address[0]), 'little'):08X}:{address[1]:04X}"
