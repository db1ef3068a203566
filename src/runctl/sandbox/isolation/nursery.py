# Without pathlib, which would double the time to start and the memory that every machine shares.
# ruff: noqa: PTH103, PTH110, PTH112, PTH120, PTH123, PTH208, PTH211
"""The process in which machines are born: it forks one private world per request and dies with its parent.

Run as a program (`python -I -S nursery.py FD`), standard library only. It stays small and single-threaded: it
forks without exec, which is what makes a machine cheap (a few milliseconds, memory shared until written), and
`setns` for mounts is refused to programs with threads.

On the socket FD come JSON requests, each with one more socket that carries the answers:

    {"do": "boot", ...}                           -> "pid N" and "ready" (in either order), or "failed WHY";
                                                     "gone" when the last of its processes has ended.
                                                     "off" sent to it ends every process with SIGTERM.
    {"do": "plug", "pid": N, "source", "target"}  -> "done" or "failed WHY"
    {"do": "unplug", "pid": N, "target"}          -> the same
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
PR_SET_PDEATHSIG = 1
OPEN_TREE, MOVE_MOUNT = 428, 429  # the same numbers on every architecture
AT_FDCWD, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 1, 4
LOCKED = {"ro": MS_RDONLY, "nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    check(done, f"mount {source} on {target}")


def die_with_parent() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def flags_of(path: str, table: list[tuple[str, int]]) -> int:
    """The restrictions that the mount over `path` has already: a user namespace must keep them."""
    best = ("", 0)
    for point, flags in table:
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, flags)
    return best[1]


def mounts_here() -> list[tuple[str, int]]:
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return [
        (row[4].encode().decode("unicode_escape"), sum(LOCKED.get(option, 0) for option in row[5].split(",")))
        for row in rows
    ]


def bind(source: str, target: str, read_only: bool, table: list[tuple[str, int]]) -> None:
    """Show `source` at `target`; mount points are made where they are missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    # Locked mounts below a folder can only be taken along, never left behind, in a user namespace.
    mount(source, target, "", MS_BIND | MS_REC)
    if read_only:
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | flags_of(source, table))


def furnish_dev(root: str, dev: str) -> None:
    """Devices in the machine's dev/ folder; /dev is a link to it, so both names show the same disks."""
    here = root + dev
    names = ["null", "zero", "full", "random", "urandom", "tty"]
    names += [name for name in os.listdir("/dev") if name.startswith("nvidia") or name == "dri"]
    for name in names:
        if os.path.exists("/dev/" + name):
            bind("/dev/" + name, here + "/" + name, False, [])
    for name in ("shm", "pts"):
        os.makedirs(here + "/" + name, exist_ok=True)
    mount("shm", here + "/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    with contextlib.suppress(OSError):  # no terminals, then: nothing that trains needs one
        mount("devpts", here + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        link(target, here + "/" + name)


def link(target: str, path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.symlink(target, path)


def furnish(order: dict[str, Any]) -> None:
    """Build the private root of a machine and move into it."""
    root, dev = order["root"], order["dev"]
    table = mounts_here()
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount(root, root, "", MS_BIND)
    for folder in ("proc", "run", "var/tmp", "var/log", "var/lib", "root", "mnt", "srv", "home"):
        os.makedirs(root + "/" + folder, exist_ok=True)
    for path, target in order["links"]:
        link(target, root + path)
    link(dev, root + "/dev")
    for source, target, read_only in order["binds"]:
        bind(source, root + target, read_only, table)
    mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    furnish_dev(root, dev)
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the host's root")
    os.chdir("/")
    socket.sethostname(order["hostname"])


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def others_live() -> bool:
    try:
        os.kill(-1, 0)
    except ProcessLookupError:
        return False
    return True


def ignore_signal(_signum: int, _frame: object) -> None:
    """Taken instead of ignored, so that it wakes the loop."""


def live(answers: socket.socket) -> None:
    """PID 1 of a machine: adopts and buries orphans, obeys "off", ends when nobody is left to obey."""
    wake, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, ignore_signal)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    reap()
    while True:
        ready, _, _ = select.select([answers, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        reap()
        if answers in ready:
            if answers.recv(16).startswith(b"off"):
                os.kill(-1, signal.SIGTERM)
                while others_live():
                    time.sleep(0.005)
                    reap()
            os._exit(0)


def first_process(order: dict[str, Any], answers: socket.socket) -> None:
    die_with_parent()
    try:
        furnish(order)
        answers.send(b"ready\n")
    except BaseException as error:
        answers.send(f"failed {error}\n".encode())
        os._exit(1)
    live(answers)


def boot(order: dict[str, Any], answers: socket.socket) -> None:
    """In a fork: new namespaces, PID 1 in them, and a word when all of it is gone."""
    die_with_parent()
    os.setsid()
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    try:
        if order["user_namespace"]:
            uid, gid = os.geteuid(), os.getegid()
            check(libc.unshare(flags | CLONE_NEWUSER), "unshare")
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open("/proc/self/" + name, "w") as file:
                    file.write(text)
        else:
            check(libc.unshare(flags), "unshare")
        die_with_parent()  # a change of credentials forgets it
    except OSError as error:
        answers.send(f"failed {error}\n".encode())
        return
    pid = os.fork()
    if pid == 0:
        try:
            first_process(order, answers)
        finally:
            os._exit(1)
    answers.send(f"pid {pid}\n".encode())
    os.waitpid(pid, 0)  # returns when the kernel has ended every process of the namespace
    with contextlib.suppress(OSError):
        answers.send(b"gone\n")


def enter(pid: int, kind: str) -> None:
    handle = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    check(libc.setns(handle, 0), f"enter the {kind} namespace of {pid}")


def plug(order: dict[str, Any]) -> None:
    """In a fork: carry a folder of the host into a running machine."""
    if order["user_namespace"]:
        enter(order["pid"], "user")
        check(libc.unshare(CLONE_NEWNS), "unshare")
    target_namespace = os.open(f"/proc/{order['pid']}/ns/mnt", os.O_RDONLY)
    tree = check(
        libc.syscall(OPEN_TREE, AT_FDCWD, order["source"].encode(), OPEN_TREE_CLONE | os.O_CLOEXEC),
        "open_tree",
    )
    check(libc.setns(target_namespace, CLONE_NEWNS), "enter the machine")
    os.makedirs(order["target"], exist_ok=True)
    moved = libc.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, order["target"].encode(), MOVE_MOUNT_F_EMPTY_PATH)
    check(moved, "move_mount")


def unplug(order: dict[str, Any]) -> None:
    if order["user_namespace"]:
        enter(order["pid"], "user")
    enter(order["pid"], "mnt")
    check(libc.umount2(order["target"].encode(), MNT_DETACH), "umount")


def attend(order: dict[str, Any], answers: socket.socket) -> None:
    if order["do"] == "boot":
        boot(order, answers)
        return
    try:
        {"plug": plug, "unplug": unplug}[order["do"]](order)
        answers.send(b"done\n")
    except OSError as error:
        answers.send(f"failed {error}\n".encode())


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to obey
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its forks need no burial
    gc.freeze()
    while True:
        data, handles, _, _ = socket.recv_fds(requests, 1 << 20, 1)
        if not data:
            os._exit(0)  # the parent is gone; every machine follows by its death signal
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                requests.close()
                attend(json.loads(data), socket.socket(fileno=handles[0]))
            finally:
                os._exit(0)
        os.close(handles[0])


if __name__ == "__main__":
    main()
