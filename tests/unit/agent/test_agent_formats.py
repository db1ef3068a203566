"""Completeness of checkpoints by their formats, and how their steps are read."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.agent.checkpoints import completeness, scan, step_of
from runctl.agent.progress import StepReader, step_of_name


def verdict(folder: Path) -> bool | None:
    (found,) = scan(str(folder))
    return completeness(str(folder), found)


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


def test_a_legacy_pickle_must_stand_still(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(list(range(100))))
    assert verdict(tmp_path) is None


@pytest.mark.parametrize(
    "name",
    ["a.pt.tmp", "a.part", "a.partial", ".hidden", "x-incomplete.pt", "7.orbax-checkpoint-tmp",
     "7.orbax-checkpoint-tmp-1700", "a.pt.corrupt-1"],
)  # fmt: skip
def test_names_of_unfinished_things_are_not_looked_at(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert scan(str(tmp_path)) == []


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
    (found,) = scan(str(tmp_path))
    assert step_of(str(tmp_path), found) == 500


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
    (folder / ".metadata.tmp").write_bytes(b"x")
    assert verdict(tmp_path) is False
    (folder / ".metadata.tmp").rename(folder / ".metadata")
    assert verdict(tmp_path) is True


def test_a_trainer_checkpoint_of_shards_needs_both(tmp_path, hugging_face):
    """FSDP puts a distributed checkpoint inside a trainer's."""
    shards = hugging_face / "pytorch_model_fsdp_0"
    shards.mkdir()
    (shards / "__0_0.distcp").write_bytes(b"x")
    assert verdict(tmp_path) is False
    (shards / ".metadata").write_bytes(b"x")
    assert verdict(tmp_path) is True
    (hugging_face / "trainer_state.json").unlink()
    assert verdict(tmp_path) is False


def test_a_folder_of_unknown_kind_must_stand_still(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "_CHECKPOINT_METADATA").write_text("{}")
    assert verdict(tmp_path) is None


def test_a_second_name_of_a_checkpoint_is_not_another_one(tmp_path):
    write_torch(tmp_path / "step-5.pt")
    (tmp_path / "last.pt").symlink_to("step-5.pt")
    assert [found.name for found in scan(str(tmp_path))] == ["step-5.pt"]


def test_of_two_saved_in_one_moment_the_higher_step_is_the_newer(tmp_path):
    for name in ("epoch-9.pt", "epoch-10.pt"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (100, 100))
    assert scan(str(tmp_path))[-1].name == "epoch-10.pt"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch-0007.npz", 7), ("step_120.pt", 120), ("checkpoint-500", 500), ("iter_0000500", 500),
        ("epoch=3-step=1500.ckpt", 1500), ("step=1500-epoch=3.ckpt", 1500), ("global_step100", 100),
        ("100", 100), ("model_12.pt", 12), ("weights.10-0.52.h5", 10), ("last.ckpt", None),
        ("llama-7b.pt", None), ("best-f1.pt", None), ("ckpt-3.index", 3),
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
