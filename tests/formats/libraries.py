"""Checkpoints as the real libraries write and read them; run as a script, it does so for the tests.

Each kind saves a step below a folder, and loads what lies there. All that it saves is made from the step, so
a load tells whether it is all of one step.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Wrong(Exception):
    """It could be loaded, and is not what was saved."""


class Kind(NamedTuple):
    """`is_set`: several files or a folder. `cuts`: whether a save that ends early leaves it so named."""

    save: Callable[[Path, int, int], None]
    load: Callable[[Path], int]
    is_set: bool = False
    cuts: bool = True


def noise(step: int, size: int) -> np.ndarray:
    return np.random.default_rng(step).random(size).astype(np.float32)


def same(step: int, values: Any) -> int:
    """The step, if these are its values."""
    values = np.asarray(values).ravel()
    if not np.array_equal(values, noise(int(step), values.size)):
        raise Wrong(f"these are not the values of step {step}")
    return int(step)


def of_one_step(*steps: int) -> int:
    if len(set(steps)) != 1:
        raise Wrong(f"a mix of steps {steps}")
    return steps[0]


KINDS: dict[str, Kind] = {}


def kind(name: str, **options: bool) -> Callable[[type], type]:
    def add(what: type) -> type:
        KINDS[name] = Kind(what.save, what.load, **options)  # type: ignore[attr-defined]
        return what

    return add


def simple(
    name: str,
    save: Callable[[Any, Path], None],
    load: Callable[[Path], Any],
    make: Callable[[int, int], Any] | None = None,
) -> None:
    """A file of one state: its values, and the step."""

    def save_to(path: Path, step: int, size: int) -> None:
        save(make(step, size) if make else {"w": noise(step, size), "step": step}, path)

    def load_from(path: Path) -> int:
        state = load(path)
        return same(int(state["step"]), state["w"])

    KINDS[name] = Kind(save_to, load_from)


def _torch_state(step: int, size: int) -> dict[str, Any]:
    import torch

    return {"w": torch.from_numpy(noise(step, size)), "step": step, "more": [torch.full((3, 3), step)] * 2}


def _torch_save(**options: Any) -> Callable[[Any, Path], None]:
    def save(state: Any, path: Path) -> None:
        import torch

        torch.save(state, path, **options)

    return save


def _torch_load(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=False)


simple("torch.pt", _torch_save(), _torch_load, _torch_state)
simple("torch.bin", _torch_save(), _torch_load, _torch_state)
simple("torch.pth.tar", _torch_save(), _torch_load, _torch_state)
simple("torch-legacy.pt", _torch_save(_use_new_zipfile_serialization=False), _torch_load, _torch_state)


def _npz(path: Path) -> Any:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


simple("numpy.npz", lambda state, path: np.savez(path, **state), _npz)
simple("numpy-compressed.npz", lambda state, path: np.savez_compressed(path, **state), _npz)
simple(
    "numpy-object.npy",
    lambda state, path: np.save(path, np.array([state], dtype=object)),
    lambda path: np.load(path, allow_pickle=True)[0],
)


@kind("numpy.npy")
class _Npy:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        np.save(path, np.concatenate([np.array([step], np.float32), noise(step, size)]))

    @staticmethod
    def load(path: Path) -> int:
        values = np.load(path)
        return same(int(values[0]), values[1:])


@kind("numpy-records.npy")
class _NpyRecords:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        records = np.zeros(size, dtype=[("w", "f4"), ("step", "i8")])
        records["w"], records["step"] = noise(step, size), step
        np.save(path, records)

    @staticmethod
    def load(path: Path) -> int:
        records = np.load(path)
        return same(int(records["step"][0]), records["w"])


def _dump(protocol: int, opened: Callable[..., Any] = open) -> Callable[[Any, Path], None]:
    def save(state: Any, path: Path) -> None:
        with opened(path, "wb") as file:
            pickle.dump(state, file, protocol=protocol)

    return save


def _unpickled(opened: Callable[..., Any] = open) -> Callable[[Path], Any]:
    def load(path: Path) -> Any:
        with opened(path, "rb") as file:
            return pickle.load(file)

    return load


for number in (0, 2, 4, 5):
    simple(f"pickle-{number}.pkl", _dump(number), _unpickled())
simple("pickle.pkl.gz", _dump(5, gzip.open), _unpickled(gzip.open))
for opener in ("bz2", "lzma"):
    module = __import__(opener)
    simple(f"pickle.pkl.{opener[:3].replace('lzm', 'xz')}", _dump(5, module.open), _unpickled(module.open))


def _joblib(compress: Any) -> Callable[[Any, Path], None]:
    def save(state: Any, path: Path) -> None:
        import joblib

        joblib.dump(state, path, compress=compress)

    return save


def _joblib_load(path: Path) -> Any:
    import joblib

    return joblib.load(path)


simple("joblib.joblib", _joblib(0), _joblib_load)
for name, compress in {
    "zlib": 3,
    "gzip": ("gzip", 3),
    "bz2": ("bz2", 3),
    "xz": ("xz", 1),
    "lzma": ("lzma", 1),
}.items():
    simple(f"joblib-{name}.joblib", _joblib(compress), _joblib_load)
simple("joblib-zlib.pkl", _joblib(3), _joblib_load)
simple(
    "state.json",
    lambda state, path: path.write_text(json.dumps({**state, "w": [float(value) for value in state["w"]]})),
    lambda path: {**(told := json.loads(path.read_text())), "w": np.array(told["w"], np.float32)},
)


@kind("safetensors.safetensors")
class _Safetensors:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"w": torch.from_numpy(noise(step, size)), "step": torch.tensor([step])}, path)

    @staticmethod
    def load(path: Path) -> int:
        from safetensors.torch import load_file

        state = load_file(path)
        return same(int(state["step"][0]), state["w"])


def _hdf5(**options: Any) -> type:
    class Hdf5:
        @staticmethod
        def save(path: Path, step: int, size: int) -> None:
            import h5py

            with h5py.File(path, "w", **options) as file:
                file["w"] = noise(step, size)
                file.create_group("a").create_group("b")["step"] = step
                file.attrs["note"] = "a" * 500

        @staticmethod
        def load(path: Path) -> int:
            import h5py

            with h5py.File(path, "r") as file:
                return same(int(file["a/b/step"][()]), file["w"][()])

    return Hdf5


kind("hdf5.h5")(_hdf5())
kind("hdf5-latest.h5")(_hdf5(libver="latest"))
kind("hdf5-userblock.hdf5")(_hdf5(userblock_size=1024))


def _keras_model() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(300), keras.layers.Dense(30)])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _keras_filled(step: int) -> Any:
    model = _keras_model()
    for variable in [*model.weights, *model.optimizer.variables[2:]]:
        variable.assign(noise(step, int(np.prod(variable.shape))).reshape(variable.shape))
    model.layers[-1].bias.assign(np.full(30, step, np.float32))
    return model


def _keras_step(model: Any) -> int:
    *weights, last = model.weights
    step = int(np.asarray(last.numpy()).ravel()[0])
    for variable in [*weights, *model.optimizer.variables[2:]]:
        same(step, variable.numpy())
    return step


@kind("keras.keras")
class _Keras:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        _keras_filled(step).save(path)

    @staticmethod
    def load(path: Path) -> int:
        os.environ["KERAS_BACKEND"] = "torch"
        import keras

        return _keras_step(keras.models.load_model(path))


@kind("keras.weights.h5")
class _KerasWeights:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        _keras_filled(step).save_weights(path)

    @staticmethod
    def load(path: Path) -> int:
        model = _keras_model()
        model.load_weights(path)
        return _keras_step(model)


def _xgboost(path: Path, step: int, size: int) -> None:
    import xgboost

    data = noise(7, 4000).reshape(-1, 8)
    labels = data[:, 0] * 3 + data[:, 1]
    xgboost.train({"nthread": 1, "max_depth": 4}, xgboost.DMatrix(data, labels), step).save_model(path)


def _xgboost_rounds(path: Path) -> int:
    import xgboost

    model = xgboost.Booster(model_file=str(path))
    model.predict(xgboost.DMatrix(noise(7, 4000).reshape(-1, 8)))
    return int(model.num_boosted_rounds())


KINDS["xgboost.ubj"] = KINDS["xgboost.json"] = Kind(_xgboost, _xgboost_rounds)


@kind("lightgbm.txt")
class _LightGbm:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        import lightgbm

        data = noise(7, 8000).reshape(-1, 8)
        options = {"num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5}
        lightgbm.train(options, lightgbm.Dataset(data, data[:, 0] * 3 + data[:, 1]), step).save_model(path)

    @staticmethod
    def load(path: Path) -> int:
        import lightgbm

        model = lightgbm.Booster(model_file=str(path))
        model.predict(noise(7, 8000).reshape(-1, 8))
        return int(model.num_trees())


@kind("flax.msgpack")
class _Flax:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        from flax import serialization

        state = {"params": {"w": noise(step, size)}, "opt": [noise(step, 30), {"count": step}], "step": step}
        path.write_bytes(serialization.to_bytes(state))

    @staticmethod
    def load(path: Path) -> int:
        from flax import serialization

        state = serialization.msgpack_restore(path.read_bytes())
        return same(int(state["step"]), state["params"]["w"])


@kind("sb3.zip")
class _StableBaselines:
    @staticmethod
    def save(path: Path, step: int, size: int) -> None:
        import stable_baselines3

        model = stable_baselines3.A2C("MlpPolicy", "CartPole-v1", device="cpu")
        model.num_timesteps = step
        model.save(path)

    @staticmethod
    def load(path: Path) -> int:
        import stable_baselines3

        return int(stable_baselines3.A2C.load(path, device="cpu").num_timesteps)


# Sets: several files, of which the step is told by each.


@kind("pair of torch.save, in place", is_set=True)
class _Pair:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        for name in ("generator.pt", "discriminator.pt"):
            _torch_save()(_torch_state(step, size), folder / name)

    @staticmethod
    def load(folder: Path) -> int:
        states = [_torch_load(folder / name) for name in ("generator.pt", "discriminator.pt")]
        return of_one_step(*(same(state["step"], state["w"]) for state in states))


@kind("safetensors with optimizer and state.json, in place", is_set=True)
class _ThreeInPlace:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        KINDS["safetensors.safetensors"].save(folder / "model.safetensors", step, size)
        _torch_save()(_torch_state(step, size), folder / "optimizer.pt")
        (folder / "training_state.json").write_text(json.dumps({"step": step}))

    @staticmethod
    def load(folder: Path) -> int:
        optimizer = _torch_load(folder / "optimizer.pt")
        told = json.loads((folder / "training_state.json").read_text())
        return of_one_step(
            KINDS["safetensors.safetensors"].load(folder / "model.safetensors"),
            same(optimizer["step"], optimizer["w"]),
            told["step"],
        )


@kind("torch DCP", is_set=True)
class _Distributed:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        import torch
        import torch.distributed.checkpoint as dcp

        state = {f"w{number}": torch.from_numpy(noise(step, size // 4)) for number in range(4)}
        writer = dcp.FileSystemWriter(folder / "latest", thread_count=2, overwrite=True)
        dcp.save({**state, "step": torch.tensor([step])}, storage_writer=writer, no_dist=True)

    @staticmethod
    def load(folder: Path) -> int:
        import torch
        import torch.distributed.checkpoint as dcp

        metadata = dcp.FileSystemReader(folder / "latest").read_metadata().state_dict_metadata
        state = {name: torch.zeros(about.size) for name, about in metadata.items() if name != "step"}
        step = torch.zeros(1, dtype=torch.int64)
        try:
            dcp.load({**state, "step": step}, checkpoint_id=folder / "latest", no_dist=True)
        except BaseException as error:  # CheckpointException is no Exception
            raise RuntimeError(str(error)[:200]) from error
        return of_one_step(*(same(int(step), values) for values in state.values()))


@kind("Keras BackupAndRestore", is_set=True)
class _BackupAndRestore:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        model = _keras_filled(step)
        import keras

        backup = keras.callbacks.BackupAndRestore(folder)
        backup.set_model(model)
        backup.on_epoch_end(step - 1)

    @staticmethod
    def load(folder: Path) -> int:
        step = KINDS["keras.weights.h5"].load(folder / "latest.weights.h5")
        return of_one_step(step, json.loads((folder / "training_metadata.json").read_text())["epoch"])


@kind("TensorFlow Checkpoint.write, in place", is_set=True)
class _TensorFlow:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        import tensorflow as tf

        checkpoint = tf.train.Checkpoint(w=tf.Variable(noise(step, size)), step=tf.Variable(step))
        checkpoint.write(str(folder / "ckpt"))

    @staticmethod
    def load(folder: Path) -> int:
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(folder / "ckpt"))
        names = {name.partition("/")[0]: name for name in reader.get_variable_to_shape_map()}
        return same(int(reader.get_tensor(names["step"])), reader.get_tensor(names["w"]))


@kind("accelerate save_state, in place", is_set=True)
class _Accelerate:
    @staticmethod
    def _parts(step: int) -> Any:
        import torch
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        model = torch.nn.Linear(200, 300)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        with torch.no_grad():
            for values in model.parameters():
                values.copy_(torch.from_numpy(noise(step, values.numel())).reshape(values.shape))
                values.grad = torch.ones_like(values)
        accelerator, model, optimizer = accelerator, *accelerator.prepare(model, optimizer)
        return accelerator, model, optimizer

    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        accelerator, _, optimizer = _Accelerate._parts(step)
        optimizer.param_groups[0]["step_of_test"] = step
        accelerator.save_state(folder / "checkpoint")

    @staticmethod
    def load(folder: Path) -> int:
        from safetensors.torch import load_file

        accelerator, _, optimizer = _Accelerate._parts(0)
        accelerator.load_state(folder / "checkpoint")
        step = optimizer.param_groups[0]["step_of_test"]
        for values in load_file(folder / "checkpoint" / "model.safetensors").values():
            same(step, values)
        try:
            _torch_load(folder / "checkpoint" / "random_states_0.pkl")
        except Exception as error:  # accelerate says so, and goes on
            raise Wrong("it has no state of the random generators") from error
        return step


@kind("Hugging Face Trainer", is_set=True)
class _Trainer:
    """As the Trainer saves each step of a model of one layer."""

    @staticmethod
    def trainer(folder: Path, steps: int, size: int) -> Any:
        import torch
        from transformers import Trainer, TrainingArguments

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(size // 50, 50)

            def forward(self, x: Any, labels: Any) -> Any:
                return {"loss": (self.layer(x).sum(1) - labels).square().mean()}

        options = TrainingArguments(
            output_dir=str(folder), max_steps=steps, save_steps=1, save_total_limit=2, use_cpu=True,
            report_to="none", per_device_train_batch_size=2, disable_tqdm=True,
        )  # fmt: skip
        data = [{"x": torch.ones(size // 50), "labels": torch.tensor(1.0)}] * 8
        return Trainer(Model(), options, train_dataset=data)

    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        _Trainer.trainer(folder, step, size).train()

    @staticmethod
    def load(folder: Path) -> int:
        from safetensors.torch import load_file
        from transformers import TrainerState

        newest = max(folder.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
        load_file(newest / "model.safetensors")
        optimizer = _torch_load(newest / "optimizer.pt")
        _torch_load(newest / "rng_state.pth")
        return of_one_step(
            TrainerState.load_from_json(str(newest / "trainer_state.json")).global_step,
            int(optimizer["state"][0]["step"]),
            _torch_load(newest / "scheduler.pt")["last_epoch"],
            int(newest.name.rpartition("-")[2]),
        )


@kind("Orbax", is_set=True, cuts=False)
class _Orbax:
    @staticmethod
    def save(folder: Path, step: int, size: int) -> None:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
            manager.save(step, args=ocp.args.StandardSave({"w": noise(step, size), "step": np.array([step])}))
            manager.wait_until_finished()

    @staticmethod
    def load(folder: Path) -> int:
        import orbax.checkpoint as ocp

        (newest,) = (one for one in folder.iterdir() if one.name.isdigit())
        with ocp.CheckpointManager(folder.resolve()) as manager:
            state = manager.restore(int(newest.name), args=ocp.args.StandardRestore())
        return of_one_step(same(int(state["step"][0]), state["w"]), int(newest.name))


def _loaded(name: str, path: Path) -> dict[str, Any]:
    try:
        return {"loads": "right", "step": KINDS[name].load(path)}
    except Wrong as error:
        return {"loads": "wrong", "why": str(error)}
    except Exception as error:  # whatever a library raises
        return {"loads": "no", "why": f"{type(error).__name__}: {str(error)[:200]}"}


def _serve() -> None:
    """A line a request, a line an answer; what libraries print goes to standard error meanwhile."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        path = Path(asked["path"])
        if asked["do"] == "load":
            told: dict[str, Any] = _loaded(asked["kind"], path)
        else:
            try:
                if asked["do"] == "go on":
                    _go_on_saving(asked["kind"], path, asked["size"], asked["keep"], answers)
                else:
                    KINDS[asked["kind"]].save(path, asked["step"], asked["size"])
                told = {"done": True}
            except Exception as error:  # the test tells it
                told = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")


def _go_on_saving(name: str, path: Path, size: int, keep: int, answers: Any) -> None:
    """Save step after step until there is a request: in one place, or so that the last `keep` stay."""
    one = KINDS[name]
    ending = path.name[path.name.index(".") :] if keep else ""
    for step in range(1, 10**6):
        if select.select([sys.stdin], [], [], 0)[0]:
            return
        one.save(path.parent / f"step_{step}{ending}" if keep else path, step, size)
        if keep and step > keep:
            (path.parent / f"step_{step - keep}{ending}").unlink()
        answers.write(json.dumps({"saved": step}) + "\n")


if __name__ == "__main__":
    _serve()
