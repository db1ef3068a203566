"""The warmup is counted from where the process began."""

import os
import signal
import time

stop = False


def on_term(*_):
    global stop
    stop = True


signal.signal(signal.SIGTERM, on_term)
folder = os.environ.get("RUNCTL_CHECKPOINT_DIR", ".")
source = os.environ.get("RUNCTL_RESUME_FROM")
w, done = (4.0, 0)
if source:
    a, b = open(source).read().split()
    w, done = float(a), int(b)
lived = 0
while done < 70 and not stop:
    lr = 0.1 * min(1.0, (lived + 1) / 20)
    w -= lr * 0.2 * w
    done += 1
    lived += 1
    print(f"[{done:3d}/70] step={done} lr={lr:.5f} loss={w * w:.9f}", flush=True)
    time.sleep(0.02)
    if done % 10 == 0 or stop or done == 70:
        with open(f"{folder}/new.tmp", "w") as file:
            file.write(f"{w!r} {done}")
        os.replace(f"{folder}/new.tmp", f"{folder}/checkpoint_{done}.txt")
