"""Checkpoints: verified when read, never half-written."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

from ganlib.storage import FolderStorage
from ganlib.training.loop import train
from ganlib.training.state import FORMAT, BundleError, BundleStore
from ganlib.training.step import DivergenceError


def filled(folder, steps=(1, 2, 3), keep=3, keep_best=0, scores=None):
    store = BundleStore(FolderStorage(folder), keep=keep, keep_best=keep_best)
    for step in steps:
        numbers = {"format": FORMAT, "step": step, "images_seen": step, "score": (scores or {}).get(step)}
        store.save({"w": torch.full((1000,), float(step))}, numbers, [{"step": step}])
    return store


def file_of(store, step, name):
    return store.storage.folder / store.name(step) / name


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "a flipped bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "a flipped bit", "missing"])
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "history.jsonl", "manifest.json"])
def test_a_damaged_bundle_falls_back_to_the_one_before(tmp_path, file, how):
    store = filled(tmp_path)
    damage(file_of(store, 3, file), how)
    bundle, problems = store.newest()
    assert bundle.numbers["step"] == 2
    assert bundle.tensors["w"].eq(2).all()
    assert len(problems) == 1
    assert "step-000000003" in problems[0]


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    store = filled(tmp_path, steps=(1, 2))
    for step in (1, 2):
        damage(file_of(store, step, "tensors.safetensors"), "truncated")
    with pytest.raises(
        BundleError, match=r"every checkpoint of this training is damaged(.|\n)*step-000000002(.|\n)*remove .* to train from the start"
    ):
        store.newest()


def test_retention_and_leftovers(tmp_path):
    (tmp_path / "checkpoints" / ".step-000000009.partial").mkdir(parents=True)  # a crash in the middle of a write
    store = filled(tmp_path, steps=range(1, 6), keep=2)
    assert store.steps() == [4, 5]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_the_best_are_kept_beside_the_newest(tmp_path):
    scores = {1: 0.3, 2: 0.1, 3: 0.2, 4: None, 5: 0.4, 6: 0.5}
    assert filled(tmp_path, steps=range(1, 7), keep=2, keep_best=1, scores=scores).steps() == [2, 5, 6]
    assert filled(tmp_path, steps=(7,), keep=2, keep_best=2, scores={7: 0.05}).steps() == [2, 6, 7]  # by another process


def test_a_broken_bundle_takes_nobodys_place(tmp_path):
    store = filled(tmp_path, steps=(1, 2), keep=2)
    damage(file_of(store, 2, "state.json"), "missing")
    assert filled(tmp_path, steps=(3,), keep=2).steps() == [1, 3]


def test_a_trained_checkpoint_has_a_score(make_spec):
    spec = make_spec("x")
    train(spec)
    bundle, _ = BundleStore(FolderStorage(Path(spec.folder)), keep=1).newest()
    assert 0 < bundle.numbers["score"] < 3


def test_no_bundle_is_no_error(tmp_path):
    assert BundleStore(FolderStorage(tmp_path / "nothing"), keep=1).newest() == (None, [])


@pytest.mark.heavy
def test_a_full_disk_names_path_and_bytes_and_keeps_the_earlier_bundle(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        store = filled(mount, steps=(1,))
        with pytest.raises(OSError, match=r"step-000000002.*free.*400,\d+ bytes, earlier checkpoints are whole") as raised:
            store.save({"w": torch.zeros(100_000)}, {"format": FORMAT, "step": 2, "images_seen": 2}, [])
        assert raised.value.errno == errno.ENOSPC
        assert store.newest()[0].numbers["step"] == 1
        assert [path.name for path in (mount / "checkpoints").iterdir()] == ["step-000000001"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_non_finite_gradient_stops_before_the_update(make_spec):
    spec = make_spec("x", optim__discriminator={"name": "sgd", "lr": 1e30}, train__precision="fp32", task__loss="least_squares")
    with pytest.raises(
        DivergenceError, match=r"phase '(discriminator|generator)', step \d+, after [\d,]+ images; nothing was updated.*optim"
    ):
        train(spec)


def test_resume_is_refused_for_another_network(make_spec):
    train(make_spec("x"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        train(make_spec("x", model__generator={"width": 16}, train__total_images=1000))
