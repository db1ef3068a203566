"""Completeness of checkpoints by their formats, and how their steps are read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.agent.progress import StepReader, Steps, step_of_name
from runctl.agent.sets import CheckpointSet, checkpoint_sets, resume_path
from runctl.agent.vouching import state_of
from runctl.agent.walk import walk


def scan(folder: Path, *, own: bool = True, pattern: str | None = None) -> list[CheckpointSet]:
    return checkpoint_sets(walk(str(folder)), pattern, own)


def verdict(folder: Path) -> bool | None:
    (one,) = scan(folder)
    return state_of(str(folder), one, {found.path: found for found in walk(str(folder))})


def resumes(folder: Path, *, own: bool = True, pattern: str | None = None) -> str | None:
    """What a resume would be given if all sets were whole."""
    sets = scan(folder, own=own, pattern=pattern)
    return resume_path(sets[-1], {found.path: found for found in walk(str(folder))}) if sets else None


def lay(folder: Path, *names: str) -> Path:
    """Files with these names, each a second younger than the one before."""
    for second, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (100 if path.suffix not in {".json", ".txt"} else 2))
        os.utime(path, (1000 + second, 1000 + second))
    return folder


def write_torch(path: Path) -> None:
    """As torch.save writes: a zip of stored entries, the tensors among them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({"step": 3}))
        file.writestr("archive/data/0", os.urandom(3000))
        file.writestr("archive/version", "3\n")


def write_npz(path: Path) -> None:
    np.savez(path, a=np.arange(300), b=np.ones((3, 3)))


def write_safetensors(path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]},
            "b": {"dtype": "F32", "shape": [10], "data_offsets": [400, 440]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(440))


def write_zip_in_zip(path: Path) -> None:
    """A torn archive may end with the whole directory of an archive that lies inside it."""
    inner = path.with_name("inner.tmp")
    write_npz(inner.with_suffix(".npz"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.write(inner.with_suffix(".npz"), "weights.npz")
        file.writestr("config.json", "{}")
    inner.with_suffix(".npz").unlink()


WRITERS = {
    "a.pt": write_torch,
    "a.ckpt": write_torch,
    "a.npz": write_npz,
    "a.safetensors": write_safetensors,
    "a.keras": write_zip_in_zip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_file_is_complete(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert verdict(tmp_path) is True


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_not_complete(tmp_path, name, data):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    keep = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:keep])
    assert verdict(tmp_path) is False


def test_an_archive_cut_right_behind_an_inner_archive_is_not_complete(tmp_path):
    path = tmp_path / "a.keras"
    write_zip_in_zip(path)
    whole = path.read_bytes()
    end_of_inner = whole.index(b"PK\x05\x06") + 22
    path.write_bytes(whole[:end_of_inner])
    assert zipfile.is_zipfile(path)
    assert verdict(tmp_path) is False


def test_torchs_old_format_tells_only_that_its_pickles_are_torn(tmp_path):
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"w": 1}, ["0"]]
    data = b"".join(pickle.dumps(one, protocol=2) for one in pickles)
    (tmp_path / "a.pt").write_bytes(data + b"tensor")
    assert verdict(tmp_path) is None
    (tmp_path / "a.pt").write_bytes(data[:-3])
    assert verdict(tmp_path) is False


def compressed(module: object) -> bytes:
    return module.compress(pickle.dumps({"step": 5, "w": os.urandom(3000)}))  # type: ignore[attr-defined]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


RECORDS = np.zeros(50, dtype=[("w", "f4", (2, 3)), ("name", "U7"), ("step", "i8")])
WHOLE = {
    "a.pkl": pickle.dumps({"step": 3, "w": b"x" * 70_000}) + pickle.dumps([1, 2]),
    "b.pkl": pickle.dumps({"step": 3}, protocol=0),
    "gzip.pkl": compressed(gzip),
    "bz2.pkl": compressed(bz2),
    "xz.joblib": compressed(lzma),
    "zlib.joblib": compressed(zlib),
    "a.npy": npy(np.arange(300)),
    "records.npy": npy(RECORDS),
    "object.npy": npy(np.array([{"step": 3}], dtype=object)),
    "a.json": json.dumps({"step": 3, "w": [0.5] * 50}).encode(),
    "model.txt": b"tree\nversion=v4\n\nTree=0\n\nend of trees\n\nparameters:\nend of parameters\n",
    "a.msgpack": b"\x82\xa1w\xc4\x05aaaaa\xa4step\xcd\x01\x00",
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_format_tells_a_whole_file_from_one_that_is_cut(tmp_path, name):
    """At a cut that loses only what a reader does not look at, it cannot tell."""
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    assert verdict(tmp_path) is True
    said = []
    for keep in range(0, len(WHOLE[name]), max(1, len(WHOLE[name]) // 150)):
        path.write_bytes(WHOLE[name][:keep])
        said.append(verdict(tmp_path))
    assert True not in said
    assert said[len(said) // 4] is (None if name == "b.pkl" else False)


@pytest.mark.parametrize(("version", "user"), [(0, 0), (0, 1024), (3, 512)])
def test_hdf5_names_its_own_end(tmp_path, version, user):
    block = bytearray(64)
    block[:8], block[8], block[9 if version else 13] = b"\x89HDF\r\n\x1a\n", version, 8
    at = {0: 40, 3: 28}[version]
    block[at : at + 8] = struct.pack("<Q", user + 1000)
    whole = bytes(user) + bytes(block) + bytes(1000 - 64)
    path = tmp_path / "model.h5"
    for data, state in (
        (whole, True),
        (whole[:-1], False),
        (whole[: user + 10], False),
        (bytes(2000), False),
    ):
        path.write_bytes(data)
        assert verdict(tmp_path) is state


def test_what_keras_backs_up_is_of_one_epoch(tmp_path):
    """It writes the weights over, then which epoch they are of."""
    block = bytearray(64)
    block[:8], block[8], block[9] = b"\x89HDF\r\n\x1a\n", 3, 8
    block[28:36] = struct.pack("<Q", 64)
    (tmp_path / "latest.weights.h5").write_bytes(block)
    os.utime(tmp_path / "latest.weights.h5", (1000, 1000))
    assert verdict(tmp_path) is False
    (tmp_path / "training_metadata.json").write_text('{"epoch": 3}')
    assert verdict(tmp_path) is True
    os.utime(tmp_path / "training_metadata.json", (999, 999))
    assert verdict(tmp_path) is False


def test_tensorflows_index_is_written_after_its_data(tmp_path):
    lay(tmp_path, "ckpt-1.data-00000-of-00001")
    assert verdict(tmp_path) is False
    (tmp_path / "ckpt-1.index").write_bytes(bytes(60) + struct.pack("<Q", 0xDB4775248B80FB57))
    assert verdict(tmp_path) is True
    os.utime(tmp_path / "ckpt-1.index", (999, 999))
    assert verdict(tmp_path) is False


@pytest.mark.parametrize(
    "name",
    ["a.pt.tmp", "a.part", "a.partial", ".hidden", "x-incomplete.pt", "7.orbax-checkpoint-tmp",
     "7.orbax-checkpoint-tmp-1700", "a.pt.corrupt-1"],
)  # fmt: skip
def test_names_of_unfinished_things_are_not_looked_at(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert scan(tmp_path) == []


@pytest.fixture
def hugging_face(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors")
    write_torch(folder / "optimizer.pt")
    write_torch(folder / "training_args.bin")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 500, "epoch": 1.5}))
    return folder


def test_a_trainer_checkpoint_is_complete_with_its_state(tmp_path, hugging_face):
    assert verdict(tmp_path) is True
    assert scan(tmp_path)[0].step == 500


def test_a_trainer_checkpoint_without_its_state_is_not(tmp_path, hugging_face):
    (hugging_face / "trainer_state.json").unlink()
    assert verdict(tmp_path) is False


def test_a_trainer_checkpoint_with_a_torn_state_is_not(tmp_path, hugging_face):
    (hugging_face / "trainer_state.json").write_text('{"global_step": 50')
    assert verdict(tmp_path) is False


def test_a_trainer_checkpoint_with_its_marker_of_incompleteness_is_not(tmp_path, hugging_face):
    (hugging_face / "checkpoint-is-incomplete.txt").touch()
    assert verdict(tmp_path) is False


def test_a_trainer_checkpoint_with_a_torn_file_is_not(tmp_path, hugging_face):
    path = hugging_face / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert verdict(tmp_path) is False


def test_a_distributed_checkpoint_needs_its_metadata(tmp_path):
    folder = tmp_path / "step-10"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"x")
    os.utime(folder / "__0_0.distcp", (1000, 1000))
    (folder / ".metadata.tmp").write_bytes(b"x")
    assert verdict(tmp_path) is False
    (folder / ".metadata.tmp").rename(folder / ".metadata")
    assert verdict(tmp_path) is True


def test_a_trainer_checkpoint_of_shards_needs_both(tmp_path, hugging_face):
    """FSDP puts a distributed checkpoint inside a trainer's."""
    shards = hugging_face / "pytorch_model_fsdp_0"
    shards.mkdir()
    (shards / "__0_0.distcp").write_bytes(b"x")
    os.utime(shards / "__0_0.distcp", (1000, 1000))
    assert verdict(tmp_path) is False
    (shards / ".metadata").write_bytes(b"x")
    assert verdict(tmp_path) is True
    (hugging_face / "trainer_state.json").unlink()
    assert verdict(tmp_path) is False


def test_a_folder_of_unknown_kind_must_stand_still(tmp_path):
    lay(tmp_path, "step-7/weights")
    assert verdict(tmp_path) is None


def test_a_folder_of_orbax_has_its_name_when_it_is_whole(tmp_path):
    lay(tmp_path, "7/_CHECKPOINT_METADATA", "7/default/manifest.ocdbt")
    assert verdict(tmp_path) is True
    lay(tmp_path, "7/default.orbax-checkpoint-tmp/manifest.ocdbt")
    assert verdict(tmp_path) is False


def test_a_distributed_checkpoint_that_is_written_over_is_not_whole(tmp_path):
    """torch leaves the metadata of the save before until the end: it vouches for nothing that is younger."""
    lay(tmp_path, "latest/__0_0.distcp", "latest/__1_0.distcp")
    (tmp_path / "latest/.metadata").write_bytes(b"..__0_0.distcp..__1_0.distcp")
    os.utime(tmp_path / "latest/.metadata", (2000, 2000))
    assert verdict(tmp_path) is True
    os.utime(tmp_path / "latest/__1_0.distcp", (2001, 2001))
    assert verdict(tmp_path) is False
    os.utime(tmp_path / "latest/.metadata", (2001, 2001))
    assert verdict(tmp_path) is None
    os.utime(tmp_path / "latest/.metadata", (2002, 2002))
    assert verdict(tmp_path) is True
    (tmp_path / "latest/__1_0.distcp").unlink()
    assert verdict(tmp_path) is False


def test_a_distributed_checkpoint_has_several_archives_in_a_file(tmp_path):
    folder = tmp_path / "step-10"
    folder.mkdir()
    write_torch(folder / "one.pt")
    archive = (folder / "one.pt").read_bytes()
    (folder / "one.pt").unlink()
    (folder / "__0_0.distcp").write_bytes(archive * 3)
    os.utime(folder / "__0_0.distcp", (1000, 1000))
    metadata = pickle.dumps({"stored": "__0_0.distcp"})
    (folder / ".metadata").write_bytes(metadata)
    assert verdict(tmp_path) is True
    (folder / ".metadata").write_bytes(metadata[:-1])
    assert verdict(tmp_path) is False


def test_a_trainers_state_vouches_for_nothing_that_was_saved_after_it(tmp_path, hugging_face):
    later = (hugging_face / "trainer_state.json").stat().st_mtime + 5
    os.utime(hugging_face / "model.safetensors", (later, later))
    assert verdict(tmp_path) is False


def test_an_accelerate_folder_is_not_a_trainers(tmp_path):
    lay(tmp_path, "checkpoint-50/scheduler.bin")
    write_safetensors(tmp_path / "checkpoint-50/model.safetensors")
    write_torch(tmp_path / "checkpoint-50/optimizer.bin")
    (tmp_path / "checkpoint-50/scheduler.bin").unlink()
    assert verdict(tmp_path) is None


def test_deepspeeds_tag_vouches_for_its_folder(tmp_path):
    folder = tmp_path / "global_step20"
    folder.mkdir()
    write_torch(folder / "mp_rank_00_model_states.pt")
    lay(tmp_path, "zero_to_fp32.py")
    assert verdict(tmp_path) is None
    (tmp_path / "latest").write_text("global_step10")
    os.utime(tmp_path / "latest", (1000, 1000))
    assert verdict(tmp_path) is False
    (tmp_path / "latest").write_text("global_step20")
    assert verdict(tmp_path) is True


@pytest.mark.parametrize(
    ("names", "resumed"),
    [
        (["G_10.pth", "D_10.pth", "G_20.pth", "D_20.pth"], "G_20.pth"),
        (["step_50.model.npz", "step_50.optim.npz"], "step_50.model.npz"),
        (["ckpt-10.index", "ckpt-10.data-00000-of-00001", "checkpoint"], "ckpt-10"),
        (["latest.weights.h5", "training_metadata.json"], "latest.weights.h5"),
        (["step_10.pt", "metrics.csv"], "step_10.pt"),
        (["checkpoint-50/model.safetensors", "runs/Dec01/events.out.tfevents.17.host"], "checkpoint-50"),
        (["checkpoint-50/model.safetensors", "model.safetensors", "training_args.bin"], "checkpoint-50"),
        (["step_10.pt", "best.pt"], "step_10.pt"),
        (["best.pt"], "best.pt"),
        (["epoch_10.pt", "last.pt"], "last.pt"),
        (["last.pt", "epoch_10.pt"], "epoch_10.pt"),
        (["checkpoint_3/model.safetensors", "checkpoint_0/model.safetensors"], "checkpoint_0"),
        (["global_step9/mp_rank_00_model_states.pt", "latest", "zero_to_fp32.py"], "global_step9"),
        (["iter_0000010/mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt"], "iter_0000010"),
        (["model_200.json", "model_210.json"], "model_210.json"),
        (["model_200.json", "step_5.pt", "model_210.json"], "step_5.pt"),
        (["metrics.csv", "train.log", "config.json", "README.md", "hparams.yaml"], None),
        (["trainer_state.json", "checkpoint-7/model.safetensors"], "checkpoint-7"),
        (["model.txt.snapshot_iter_10", "model.txt.snapshot_iter_20"], "model.txt.snapshot_iter_20"),
        (["checkpoint_1_1000.pt", "checkpoint_1_500.pt"], "checkpoint_1_500.pt"),
        (["rl_model_10_steps.zip", "rl_model_replay_buffer_10_steps.pkl"], "rl_model_10_steps.zip"),
        (["100_net_G.pth", "100_net_D.pth", "latest_net_G.pth", "latest_net_D.pth"], "latest_net_G.pth"),
        (["latest_model.pt", "latest_checkpoint.txt"], "latest_model.pt"),
        (["step_10.pdparams", "step_10.pdopt"], "step_10.pdparams"),
        (["w2v.model", "w2v.model.wv.vectors.npy"], "w2v.model"),
        (["model-best/tok2vec/model", "model-best/meta.json", "model-last/tok2vec/model",
          "model-last/meta.json"], "model-last"),
        (["2/model.pt", "2/optim.pt", "4/model.pt", "4/optim.pt"], "4"),
        (["0/model_10.pt", "0/model_20.pt"], "0/model_20.pt"),
        (["checkpoint_100", "checkpoint_200"], "checkpoint_200"),
        (["booster_10.txt", "log.txt", "train_log.txt"], "booster_10.txt"),
        (["ckpt.pt", "ckpt.pt.bak", "ckpt_prev.pt"], "ckpt.pt"),
        (["epoch_0/adapter_model.safetensors", "recipe_state/recipe_state.pt"], "epoch_0"),
        (["at-step00000100-state/model.safetensors", "at-step00000100-state/optimizer.bin",
          "at-step00000100.safetensors"], "at-step00000100-state"),
        (["saved/saved_model.pb", "saved/variables/variables.index",
          "saved/variables/variables.data-00000-of-00001"], "saved"),
        (["last/model.safetensors", "last/config.json"], "last"),
        (["checkpoint/model.pt"], "checkpoint/model.pt"),
    ],
)  # fmt: skip
def test_what_a_resume_is_given_of_the_folder_for_checkpoints(tmp_path, names, resumed):
    assert resumes(lay(tmp_path, *names)) == resumed


@pytest.mark.parametrize(
    ("names", "resumed"),
    [
        (["checkpoints/ckpt_30.pt", "checkpoints/ckpt_40.pt", "notes_1.txt"], "checkpoints/ckpt_40.pt"),
        (["lightning_logs/version_0/checkpoints/epoch=5-step=60.ckpt", "lightning_logs/metrics.csv"],
         "lightning_logs/version_0/checkpoints/epoch=5-step=60.ckpt"),
        (["runs/train/exp-3/weights/last.pt", "runs/train/exp-3/weights/best.pt"],
         "runs/train/exp-3/weights/last.pt"),
        (["out/checkpoint-500/optimizer.pt", "out/trainer_state.json"], "out/checkpoint-500"),
        (["model.pt"], "model.pt"),
        (["outputs/2026-12-01/12-00-00/model_3.pt"], "outputs/2026-12-01/12-00-00/model_3.pt"),
        (["data/mnist.npz", "wandb/run-1/model.pt", "out_1.txt", "result.json"], None),
        (["model.pt", "features.npy", "embeddings.pkl"], "model.pt"),
        (["train/checkpoint_100", "train/checkpoint_200"], "train/checkpoint_200"),
        (["seeds/0/model_10.pt", "seeds/0/model_20.pt"], "seeds/0/model_20.pt"),
        (["runs/exp1/ckpts/ckpt_00020.json", "runs/exp1/ckpts/ckpt_00040.json", "runs/exp1/metrics.csv"],
         "runs/exp1/ckpts/ckpt_00040.json"),
        (["checkpoints/00040.json", "checkpoints/opt.txt", "checkpoints/index.json"],
         "checkpoints/00040.json"),
        (["checkpoint.json", "settings.json"], "checkpoint.json"),
        (["checkpoints/exp/opt.txt", "checkpoints/exp/loss_log.txt"], None),
        (["ckpts/step_10.json", "ckpts/step_10.pt"], "ckpts/step_10.pt"),
        (["sample_10.json", "sample_20.json"], None),
    ],
)  # fmt: skip
def test_what_a_resume_is_given_of_a_scripts_own_folder(tmp_path, names, resumed):
    assert resumes(lay(tmp_path, *names), own=False) == resumed


def test_files_of_one_step_are_one_checkpoint_and_best_is_one_of_its_own(tmp_path):
    lay(tmp_path, "G_10.pth", "D_10.pth", "best_10.pth", "G_20.pth")
    assert [one.paths for one in scan(tmp_path)] == [
        ("best_10.pth",),
        ("D_10.pth", "G_10.pth"),
        ("G_20.pth",),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["ckpt_rank0.pt", "ckpt_rank1.pt"],
        ["step_10_rank0.pt", "step_10_rank1.pt"],
        ["ep1-ba100-rank0.pt", "ep1-ba100-rank1.pt"],
        ["model.pt", "training_state.json"],
        ["checkpoint.npz", "checkpoint.json"],
        ["optim_10.pt", "model_10.pt", "model_10.json"],
        ["best_G.pth", "best_D.pth"],
        ["cp.index", "cp.data-00000-of-00002", "cp.data-00001-of-00002"],
        ["__0_0.distcp", "__1_0.distcp", ".metadata"],
        ["optimizer.pt", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["m.pdparams", "m.pdopt"],
    ],
)
def test_these_are_one_checkpoint(tmp_path, names):
    (one,) = scan(lay(tmp_path, *names))
    assert sorted(one.paths) == sorted(names)


def test_fields_of_a_name_that_count_something_else_are_no_step():
    assert [
        step_of_name(name) for name in ("fold_3.pt", "seed1.pt", "v2.pt", "last-v1.ckpt", "rank0.pt")
    ] == [None] * 5
    assert [step_of_name(name) for name in ("optim_10.pt", "fold_3_epoch_7.pt", "checkpoint_2_900.pt")] == [
        10, 7, 900,
    ]  # fmt: skip


def test_a_pattern_says_what_counts(tmp_path):
    lay(tmp_path, "ckpt_1.pt", "other_2.pt", "deep/state.xyz", "save-3/a", "save-3/b")
    assert resumes(tmp_path, pattern="ckpt_*.pt") == "ckpt_1.pt"
    assert resumes(tmp_path, pattern="deep/*.xyz") == "deep/state.xyz"
    assert [one.paths for one in scan(tmp_path, pattern="save-*")] == [("save-3/a", "save-3/b")]


def test_sharded_weights_need_all_their_shards(tmp_path):
    for number in (1, 2):
        write_safetensors(tmp_path / f"model-0000{number}-of-00002.safetensors")
    assert verdict(tmp_path) is None
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert verdict(tmp_path) is False


def test_a_log_knows_which_step_it_was_at_when_a_file_was_written():
    steps = Steps()
    assert (steps.at(5.0), steps.changed_at) == (None, None)
    for at, step in ((10.0, 1), (20.0, 2), (20.5, 2), (30.0, 3)):
        steps.name(at, step)
    assert [steps.at(when) for when in (1.0, 10.0, 19.0, 25.0, 99.0)] == [None, 1, 1, 2, 3]
    assert steps.changed_at == 30.0
    for at in range(10_000):
        steps.name(100.0 + at, at)
    assert steps.at(10_099.0) == 9_999
    assert abs((steps.at(5_100.0) or 0) - 5_000) < 500


def test_a_second_name_of_a_checkpoint_is_not_another_one(tmp_path):
    write_torch(tmp_path / "step-5.pt")
    (tmp_path / "last.pt").symlink_to("step-5.pt")
    assert [found.name for found in scan(tmp_path)] == ["step-5.pt"]


def test_of_two_saved_in_one_moment_the_higher_step_is_the_newer(tmp_path):
    for name in ("epoch-9.pt", "epoch-10.pt"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (100, 100))
    assert scan(tmp_path)[-1].name == "epoch-10.pt"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch-0007.npz", 7), ("step_120.pt", 120), ("checkpoint-500", 500), ("iter_0000500", 500),
        ("epoch=3-step=1500.ckpt", 1500), ("step=1500-epoch=3.ckpt", 1500), ("global_step100", 100),
        ("100", 100), ("model_12.pt", 12), ("weights.10-0.52.h5", 10), ("last.ckpt", None),
        ("llama-7b.pt", None), ("best-f1.pt", None), ("ckpt-3.index", 3), ("gpt-2.pt", None),
        ("bert-base-128.pt", None), ("mp_rank_00_model_states.pt", None), ("model.txt.snapshot_iter_10", 10),
        ("events.out.tfevents.1764500000.123.0", None), ("run_2026-12-01_10-30.pt", None),
    ],
)  # fmt: skip
def test_the_step_in_a_name(name, step):
    assert step_of_name(name) == step


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("step 120", 120), ("step: 120/500", 120), ("iter 5", 5), ("global_step=7", 7), ("epoch 3", 3),
        ('{"step": 12, "loss": 0.5}', 12), ("{'loss': 1.2, 'step': 40, 'epoch': 2}", 40),
        ("Epoch: [4][ 10/5005]", 4), ("Epoch 3/10", 3), ("iteration 77 loss 1", 77),
        ("[INFO] Step #9 done", 9),
        ("max_steps=500", None), ("total steps: 500", None), ("warmup-step 5", None), ("step 0.01", None),
        ("learning rate step: 0.5", None), ("footstep 5", None), ("stepping 5", None), ("epoch 1.5", None),
    ],
)  # fmt: skip
def test_the_step_in_a_line(text, step):
    reader = StepReader()
    reader.feed(text.encode() + b"\n")
    assert reader.step == step


def test_steps_win_over_epochs_once_seen():
    reader = StepReader()
    reader.feed(b"epoch 1\n")
    assert reader.step == 1
    reader.feed(b"step 50\nepoch 2\n")
    assert reader.step == 50


@settings(max_examples=100)
@given(
    steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=10),
    ending=st.sampled_from([b"\n", b"\r", b"\r\n"]),
    noise=st.binary(max_size=30).filter(lambda b: not set(b.lower()) & set(b"step")),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_the_last_step_is_found_however_the_output_arrives(steps, ending, noise, cuts):
    output = b"".join(b"step %d " % step + noise.replace(b"\n", b"") + ending for step in steps) + b"\n"
    reader, start = StepReader(), 0
    for cut in [*sorted(cuts), len(output)]:
        reader.feed(output[start:cut])
        start = max(start, cut)
    assert reader.step == steps[-1]


@settings(max_examples=100)
@given(st.binary(max_size=2000), st.sampled_from([b"step", b"epoch ", b'"step":', b" ", b"step=" * 50]))
def test_no_output_breaks_or_delays_the_reader(noise, word):
    reader = StepReader()
    begun = time.thread_time()
    reader.feed(noise + word * 2000)
    reader.feed(b"\nstep 5\n")
    assert reader.step == 5
    assert (
        time.thread_time() - begun < 2
    )  # of CPU: milliseconds, unless it goes through its input again and again
