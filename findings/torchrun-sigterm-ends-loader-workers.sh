#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11, Linux): SIGTERM to torchrun ends the DataLoader workers of every rank.
#
# A training script that only notes SIGTERM and saves at the next step works when it is run by `python train.py`
# and gets the signal itself. Under `torchrun`, which promises to pass the signal on to its ranks, the same script
# loses its save: torchrun starts each rank in a session of its own and signals the rank's whole process group, so
# the loader's worker processes end by the signal's default action, and the main process raises
#   RuntimeError: DataLoader worker (pid N) is killed by signal: Terminated.
# at whatever line it has reached. `accelerate launch` with several processes runs the same code.
#
# Seen: "direct: saved", then "torchrun: DataLoader worker ... is killed by signal: Terminated", and no "saved".
# The script exits with 1 when that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
export OMP_NUM_THREADS=1
cat > train.py <<'PY'
import signal, time, torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 100_000
    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.tensor([float(index)])

stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
for step, _ in enumerate(DataLoader(Numbers(), batch_size=8, num_workers=2)):
    print("step", step, flush=True)
    if stop:
        break
time.sleep(2)  # the save
print("saved", flush=True)
PY

# run NAME COMMAND...: start it, wait for its second step, send SIGTERM to the process that was started.
run() {
  local log="$1.log"
  shift
  "$@" > "$log" 2>&1 &
  local pid=$!
  for _ in $(seq 600); do grep -q "step 2" "$log" && break; sleep 0.2; done
  kill -TERM "$pid"
  wait "$pid" || true
}
run direct env/bin/python train.py
run torchrun env/bin/torchrun --nproc-per-node 1 --master-addr 127.0.0.1 --master-port 29517 train.py
grep -m1 '^saved' direct.log | sed 's/^/direct: /'
grep -m1 -o 'DataLoader worker (pid [0-9]*) is killed by signal: Terminated' torchrun.log | sed 's/^/torchrun: /'
if grep -q '^saved' torchrun.log; then
  echo "changed: under torchrun the script saved"
  exit 1
fi
