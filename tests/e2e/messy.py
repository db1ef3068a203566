"""A script that saves a checkpoint every moment beside what `kind` says, until it is told to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

FOLDERS = [os.environ["RUNCTL_CHECKPOINT_DIR"], os.environ["RUNCTL_OUTPUT_DIR"], os.getcwd()]


def oddities(folder: str) -> None:
    os.mkfifo(f"{folder}/pipe")
    os.mkfifo(f"{folder}/step_9999.pt")
    os.symlink("gone", f"{folder}/dead")
    os.symlink("loop2", f"{folder}/loop1")
    os.symlink("loop1", f"{folder}/loop2")
    os.symlink("/dev/zero", f"{folder}/endless.pt")
    os.symlink(".", f"{folder}/self")
    here = os.getcwd()
    os.chdir(folder)  # a socket's name is short
    socket.socket(socket.AF_UNIX).bind("socket")
    os.chdir(here)


def names(folder: str) -> None:
    raw = os.fsencode(folder)
    for name in (
        b"caf\xe9.txt",
        b"new\nline.txt",
        b"n" * 255,
        b"\xff" * 255,
        b"-rf",
        b" ",
        b"a\x1b[31mb",
        b"%s$(x)",
    ):
        Path(os.fsdecode(raw + b"/" + name)).write_text("kept")
    os.symlink(b"caf\xe9.txt", raw + b"/to-bytes")
    deep = folder
    for level in range(200):
        deep += f"/level{level:03}"
    os.makedirs(deep)
    Path(deep, "deep.txt").write_text("kept")
    odd = raw + b"/" + b"/".join([b"\xfe" * 250] * 8)
    os.makedirs(odd)
    Path(os.fsdecode(odd + b"/odd.txt")).write_text("kept")


def unreadable(folder: str) -> None:
    Path(folder, "secret.txt").write_text("x")
    os.chmod(f"{folder}/secret.txt", 0)
    os.makedirs(f"{folder}/closed/inner")
    Path(folder, "closed/inner/file").write_text("x")
    os.chmod(f"{folder}/closed", 0)


def grows(folder: str) -> None:
    """Of one nobody of ours waits for: it left the script's session."""

    def forever() -> None:
        with open(f"{folder}/growing.log", "ab", buffering=0) as file:
            while True:
                file.write(b"x" * 1000 + b"\n")
                time.sleep(0.001)

    threading.Thread(target=forever, daemon=True).start()


def churns(folder: str) -> None:
    """Files come, change names and go faster than anybody can look at them."""

    def forever(word: str) -> None:
        number = 0
        while True:
            number += 1
            below = f"{folder}/churn/{word}{number % 50}/sub"
            os.makedirs(below, exist_ok=True)
            Path(below, f"cached-{word}.txt").write_bytes(b"y" * number)
            for name in os.listdir(below)[:-2]:
                os.unlink(f"{below}/{name}")
            if number % 7 == 0:
                subprocess.run(["rm", "-rf", f"{folder}/churn/{word}{(number + 25) % 50}"], check=False)

    for word in "ab":
        threading.Thread(target=forever, args=(word,), daemon=True).start()


def full(folder: str) -> None:
    """Nothing at first: see `fill`."""


def fill(folder: str) -> None:
    disk = os.statvfs(folder)
    if disk.f_blocks * disk.f_frsize > 64 * 2**20:
        sys.exit("this is no small disk: it is left alone")
    file = os.open(f"{folder}/filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (65536, 4096, 1):
            try:
                while True:
                    os.write(file, b"x" * size)
            except OSError:
                pass
    finally:
        os.close(file)


def save(step: int) -> None:
    path = Path(FOLDERS[0], f"step_{step}.json")
    try:
        path.write_text(json.dumps({"step": step}))
    except OSError:
        path.unlink(missing_ok=True)


def main() -> None:
    kind, last = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10**9
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    for folder in FOLDERS:
        Path(folder, "metrics.csv").write_text("1,0.5\n")
        globals()[kind](folder)
    step = 0
    while step < last and not stopping:
        step += 1
        save(step)
        with contextlib.suppress(OSError):
            print(f"step {step}/many", flush=True)
        if kind == "full" and step >= 20:
            fill(FOLDERS[1])
        time.sleep(0.1)
    save(step + 1)
    for old in range(step - 20):
        Path(FOLDERS[0], f"step_{old}.json").unlink(missing_ok=True)


main()
