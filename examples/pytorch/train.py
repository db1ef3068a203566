# /// script
# requires-python = ">=3.10"
# dependencies = ["torch", "scikit-learn"]
# ///
"""Trains a small convolutional network with PyTorch, and can be stopped after any step.

A checkpoint holds all that the next step depends on: model, optimizer, schedule, the random generator
that dropout draws from, and where in which epoch's order of samples the run stands. So a run that was
stopped in mid-epoch goes on at the very next batch, and ends with the same weights as one that was not.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

CHECKPOINTS = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR", "checkpoints"))
OUTPUTS = Path(os.environ.get("RUNCTL_OUTPUT_DIR", "outputs"))


class Batches:
    """Batches of sample numbers without end. Its state is two numbers: epoch and position."""

    def __init__(self, samples: int, size: int, seed: int) -> None:
        self.samples, self.size, self.seed = samples, size, seed
        self.epoch, self.position = 0, 0
        self.order = self._shuffled()

    def _shuffled(self) -> torch.Tensor:
        return torch.randperm(
            self.samples, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        )

    def next(self) -> torch.Tensor:
        if self.position + self.size > self.samples:  # the rest of an epoch is too small for a batch
            self.epoch, self.position = self.epoch + 1, 0
            self.order = self._shuffled()
        self.position += self.size
        return self.order[self.position - self.size : self.position]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.order = self._shuffled()


class Training:
    """Everything that changes from step to step, so that saving it is saving the run."""

    def __init__(self, options: argparse.Namespace, samples: int) -> None:
        torch.manual_seed(options.seed)
        self.step = 0
        self.settings = {"seed": options.seed, "batch": options.batch, "steps": options.steps}
        self.model = new_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=options.learning_rate, total_steps=options.steps
        )
        self.batches = Batches(samples, options.batch, options.seed)

    def advance(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One step; answers its loss."""
        batch = self.batches.next()
        self.model.train()
        loss = nn.functional.cross_entropy(self.model(images[batch]), labels[batch])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Write a checkpoint that is seen whole or not at all, and keep the newest two."""
        CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        target = CHECKPOINTS / f"step-{self.step:06}.pt"
        partial = target.with_name(target.name + ".tmp")
        with partial.open("wb") as file:
            torch.save(
                {
                    "step": self.step,
                    "settings": self.settings,
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "batches": self.batches.state_dict(),
                    "random": torch.get_rng_state(),
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        for old in sorted(CHECKPOINTS.glob("step-*.pt"))[:-2]:
            old.unlink()

    def resume(self) -> None:
        """Go on from the checkpoint that runctl names, else from the newest here, else from nothing."""
        named = os.environ.get("RUNCTL_RESUME_FROM")
        found = [Path(named)] if named else sorted(CHECKPOINTS.glob("step-*.pt"))
        if not found:
            return
        saved = torch.load(found[-1], weights_only=True)
        if saved["settings"] != self.settings:
            sys.exit(f"{found[-1]} was written with other settings: {saved['settings']}")
        self.step = saved["step"]
        for part in ("model", "optimizer", "schedule", "batches"):
            getattr(self, part).load_state_dict(saved[part])
        torch.set_rng_state(saved["random"])
        print(f"resumed after step {self.step} from {found[-1].name}", flush=True)


def main() -> int:
    options = parse_options()
    stop: list[int] = []
    ignore = options.ignore_sigterm
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else lambda number, _: stop.append(number))

    torch.set_num_threads(1)  # one thread adds up in one order: two runs end with the same bits
    torch.use_deterministic_algorithms(True)
    (images, labels), held_out = load_data()
    training = Training(options, len(images))
    training.resume()

    while training.step < options.steps:
        loss = training.advance(images, labels)
        last = training.step == options.steps
        if last or training.step % options.log_every == 0:
            print(f"step {training.step}/{options.steps} loss {loss:.4f}", flush=True)
        if last or stop or training.step % options.checkpoint_every == 0:
            training.save()
        if stop and not last:
            print(f"SIGTERM: saved step {training.step}, going", flush=True)
            return 128 + signal.SIGTERM

    report(training, *held_out, options)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small convolutional network on handwritten digits.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--log-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--ignore-sigterm", action="store_true", help="be the script that does not listen")
    return parser.parse_args()


def load_data():
    """Four fifths of 1,797 digits to train on and one fifth held out, always the same."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16
    y = torch.tensor(labels)[order]
    held_out = len(x) // 5
    return (x[held_out:], y[held_out:]), (x[:held_out], y[:held_out])


def new_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 4 * 4, 10),
    )


def report(
    training: Training, images: torch.Tensor, labels: torch.Tensor, options: argparse.Namespace
) -> None:
    training.model.eval()
    with torch.no_grad():
        accuracy = (training.model(images).argmax(dim=1) == labels).float().mean().item()
    weights = training.model.state_dict()
    digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights.values())).hexdigest()
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    torch.save(weights, OUTPUTS / "weights.pt")
    result = {"steps": options.steps, "accuracy": accuracy, "weights_sha256": digest, "seed": options.seed}
    (OUTPUTS / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"accuracy on the held-out fifth: {accuracy:.4f}")
    print(f"weights sha256: {digest}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
