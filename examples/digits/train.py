# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy", "scikit-learn"]
# ///
"""Trains a small network on 1,797 handwritten digits, and survives losing its machine.

What makes it survive, in the order of the code below:
  1. a checkpoint holds everything that the next epoch depends on: weights, optimizer, epoch
  2. it is written under another name first and renamed when it is whole
  3. the order of the samples depends on the seed and the epoch alone
  4. SIGTERM means: finish the epoch, save, go
  5. a start looks for a checkpoint to go on from
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

# One thread adds up in one order, so that two runs end with the same bits.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

CHECKPOINTS = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR", "checkpoints"))
OUTPUTS = Path(os.environ.get("RUNCTL_OUTPUT_DIR", "outputs"))
LAYERS = ("w1", "b1", "w2", "b2")
BATCH = 32
MOMENTUM = 0.9


def main() -> int:
    options = parse_options()
    stop = watch_for_sigterm(ignore=options.ignore_sigterm)
    (x, y), (x_held_out, y_held_out) = load_data()
    settings = {"seed": options.seed, "hidden": options.hidden, "learning_rate": options.learning_rate}
    done, weights, velocity = resume(settings) or (0, *new_network(options.seed, options.hidden))

    for epoch in range(done + 1, options.epochs + 1):
        loss = train_epoch(x, y, weights, velocity, options, epoch)
        accuracy = measure(x_held_out, y_held_out, weights)
        print(f"epoch {epoch}/{options.epochs} loss {loss:.4f} accuracy {accuracy:.4f}", flush=True)
        if stop or epoch == options.epochs or epoch % options.checkpoint_every == 0:
            save(epoch, weights, velocity, settings)
        if stop and epoch < options.epochs:
            print(f"SIGTERM: saved epoch {epoch}, going", flush=True)
            return 128 + signal.SIGTERM

    report(weights, measure(x_held_out, y_held_out, weights), options)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=768, help="units of the hidden layer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--checkpoint-every", type=int, default=1, metavar="EPOCHS")
    parser.add_argument("--ignore-sigterm", action="store_true", help="be the script that does not listen")
    return parser.parse_args()


def watch_for_sigterm(ignore: bool) -> list[int]:
    """A list that is empty until SIGTERM arrives."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else lambda number, _: received.append(number))
    return received


def load_data():
    """Four fifths to train on and one fifth held out, always the same."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order] / 16.0, labels[order]
    held_out = len(images) // 5
    return (images[held_out:], labels[held_out:]), (images[:held_out], labels[:held_out])


def new_network(seed: int, hidden: int):
    random = np.random.default_rng([seed])
    weights = {
        "w1": random.normal(0, np.sqrt(2 / 64), (64, hidden)),
        "b1": np.zeros(hidden),
        "w2": random.normal(0, np.sqrt(1 / hidden), (hidden, 10)),
        "b2": np.zeros(10),
    }
    return weights, {name: np.zeros_like(weights[name]) for name in LAYERS}


def train_epoch(x, y, weights, velocity, options, epoch: int) -> float:
    """One pass over all samples in an order that only the seed and the epoch decide."""
    order = np.random.default_rng([options.seed, epoch]).permutation(len(x))
    total = 0.0
    for start in range(0, len(x), BATCH):
        batch = order[start : start + BATCH]
        loss, gradients = loss_and_gradients(x[batch], y[batch], weights)
        total += loss * len(batch)
        for name in LAYERS:
            velocity[name] *= MOMENTUM
            velocity[name] -= options.learning_rate * gradients[name]
            weights[name] += velocity[name]
    return total / len(x)


def loss_and_gradients(x, y, weights):
    """Cross-entropy of a softmax over one ReLU layer, and its derivatives."""
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    chances = np.exp(scores)
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(chances[rows, y]).mean()

    chances[rows, y] -= 1
    d_scores = chances / len(y)
    d_hidden = (d_scores @ weights["w2"].T) * (hidden > 0)
    return loss, {
        "w1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_scores,
        "b2": d_scores.sum(axis=0),
    }


def measure(x, y, weights) -> float:
    """The share of samples that the network names rightly."""
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    return float(((hidden @ weights["w2"] + weights["b2"]).argmax(axis=1) == y).mean())


def save(epoch: int, weights, velocity, settings) -> None:
    """Write a checkpoint that is seen whole or not at all, and keep the newest two."""
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    target = CHECKPOINTS / f"epoch-{epoch:05}.npz"
    partial = target.with_name(target.name + ".tmp")
    with partial.open("wb") as file:
        np.savez(
            file,
            epoch=epoch,
            settings=json.dumps(settings, sort_keys=True),
            **weights,
            **{f"velocity_{name}": velocity[name] for name in LAYERS},
        )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    for old in sorted(CHECKPOINTS.glob("epoch-*.npz"))[:-2]:
        old.unlink()


def resume(settings):
    """Where an earlier run stopped: the checkpoint that runctl names, else the newest here, else None."""
    named = os.environ.get("RUNCTL_RESUME_FROM")
    found = [Path(named)] if named else sorted(CHECKPOINTS.glob("epoch-*.npz"))
    if not found:
        return None
    with np.load(found[-1]) as saved:
        if json.loads(str(saved["settings"])) != settings:
            sys.exit(f"{found[-1]} was written with other settings: {saved['settings']}")
        epoch = int(saved["epoch"])
        weights = {name: saved[name] for name in LAYERS}
        velocity = {name: saved[f"velocity_{name}"] for name in LAYERS}
    print(f"resumed after epoch {epoch} from {found[-1].name}", flush=True)
    return epoch, weights, velocity


def report(weights, accuracy: float, options) -> None:
    digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in LAYERS)).hexdigest()
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    np.savez(OUTPUTS / "weights.npz", **weights)
    result = {
        "epochs": options.epochs,
        "accuracy": accuracy,
        "weights_sha256": digest,
        "seed": options.seed,
    }
    (OUTPUTS / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"accuracy on the held-out fifth: {accuracy:.4f}")
    print(f"weights sha256: {digest}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
