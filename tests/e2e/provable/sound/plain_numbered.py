"""No variable of ours: numbered files in a folder of its own, the newest by its number."""

import glob
import json
import os
import time

os.makedirs("out/ckpts", exist_ok=True)
found = sorted(glob.glob("out/ckpts/*.json"), key=lambda name: int(name.split("_")[-1][:-5]))
step, w = 0, 0.0
if found:
    saved = json.load(open(found[-1]))
    step, w = saved["step"], saved["w"]
log = open("out/metrics.jsonl", "a")
while step < 60:
    step += 1
    w += 0.1 * (3 - w)
    print(f"step {step}/60 | loss {(3 - w) ** 2:.10f}", flush=True)
    log.write(json.dumps({"step": step, "loss": (3 - w) ** 2}) + "\n")
    log.flush()
    time.sleep(0.02)
    if step % 5 == 0:
        with open("out/ckpts/.new", "w") as file:
            json.dump({"step": step, "w": w}, file)
        os.replace("out/ckpts/.new", f"out/ckpts/ckpt_{step}.json")
