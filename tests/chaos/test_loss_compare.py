"""benchmarks/loss_compare.py tells two commits apart by their numbers, to the last bit."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.loss_compare import Outcome, difference, first_difference, hash_tensors

pytestmark = pytest.mark.chaos


def line(step: int, **scalars: float) -> dict:
    return {"step": step, "images_seen": 64 * step, "scalars": scalars, "time": float(step), "images_per_second": 1.0}


def outcome(**changes) -> Outcome:
    """What a training came to, and what is different about it."""
    tensors = {"ema.w": "1", "generator.w": "2", "optimizer.generator.0.step": "3"}
    same = Outcome(settings={}, history=[line(1, loss=0.1)], tensors=tensors, picture="4", numbers={"score": 0.5}, wall_seconds=1.0)
    return dataclasses.replace(same, **changes)


def test_the_last_bit_counts_and_the_clock_does_not():
    one = [line(1, loss=0.1, other=2.0), line(2, loss=0.3, other=2.0)]
    two = [line(1, loss=0.1, other=2.0), line(2, loss=0.3, other=2.0)]
    two[1]["time"], two[1]["images_per_second"] = 99.0, 3.0
    assert first_difference(one, two) is None
    near = math.nextafter(0.3, 1)
    two[1]["scalars"]["loss"] = near
    assert first_difference(one, two) == f"step 2: loss is {(0.3).hex()} and {near.hex()} (0.3 and {near!r})"
    assert first_difference([line(1, loss=0.0)], [line(1, loss=-0.0)]) is not None


def test_what_only_one_of_them_has_is_named():
    assert first_difference([line(1, loss=0.1)], [line(1, loss=0.1, more=1.0)]) == "step 1: only B has more"
    assert first_difference([line(1, loss=0.1)], [line(1, loss=0.1), line(2, loss=0.1)]) == "A has 1 log lines, B has 2"


def test_every_part_of_an_outcome_counts_and_is_named():
    """Kills a `difference` that leaves out tensors, the grid, the numbers of the bundle, or a failure."""
    assert difference(outcome(), outcome(wall_seconds=9.0)) is None
    equal = "(the scalars of all 1 steps are equal)"
    other = {"ema.w": "9", "generator.w": "2", "optimizer.generator.0.step": "3"}
    assert difference(outcome(), outcome(tensors=other)) == f"ema differs: 1 tensor, the first ema.w {equal}"
    alone = difference(outcome(), outcome(tensors={"ema.w": "1", "generator.w": "9"}))
    assert alone == f"generator, optimizer.generator differ: 2 tensors, the first generator.w {equal}"
    alone = difference(outcome(tensors={}), outcome(tensors={"ema.w": "1"}))
    assert alone == f"ema differs: 1 tensor, the first ema.w, which only B has {equal}"
    assert difference(outcome(), outcome(picture="9")) == "the last sample grid differs (scalars and tensors are equal)"
    assert difference(outcome(), outcome(numbers={"score": 0.6})) == "state.json: score is 0.5 and 0.6"
    measured = {"step": 1, "values": {"diversity": 0.5}, "time": 1.0, "images_per_second": 2.0, "memory_bytes": 3}
    one, later = ({"health": [measured | clock]} for clock in ({}, {"time": 9.0, "images_per_second": 9.0, "memory_bytes": 9}))
    assert difference(outcome(numbers=one), outcome(numbers=later)) is None  # the machine's doing
    other = {"health": [measured | {"values": {"diversity": 0.6}}]}
    assert "state.json: health" in (difference(outcome(numbers=one), outcome(numbers=other)) or "")
    assert difference(outcome(error="Traceback\nValueError: no"), outcome()) == "A failed: ValueError: no"
    both = difference(outcome(error="ValueError: no"), outcome(error="ValueError: no"))
    assert both == "A failed: ValueError: no; B failed: ValueError: no", "what cannot be compared is not equal"


def test_the_hash_of_a_tensor_sees_bytes_types_and_shapes(tmp_path):
    """Kills a hash over bytes alone, and one over what it knows how to read as numbers only."""

    def hashes(**tensors: torch.Tensor) -> dict[str, str]:
        save_file(tensors, tmp_path / "t")
        return hash_tensors(tmp_path / "t")

    zeros = torch.zeros(2, 2)
    base = hashes(w=zeros, v=torch.ones(3, dtype=torch.bfloat16))
    assert sorted(base) == ["v", "w"]
    for changed in (-zeros, zeros.reshape(4), zeros.to(torch.int32)):
        now = hashes(w=changed, v=torch.ones(3, dtype=torch.bfloat16))
        assert [name for name in sorted(base) if now[name] != base[name]] == ["w"]


@pytest.mark.slow
def test_two_commits(make_clone):
    """A fault is found whatever it touches: losses, the average alone, a recipe; and what changes nothing is equal."""
    clone = make_clone()

    def compare(*arguments: str) -> tuple[int, list[str]]:
        done = clone.run("python", "benchmarks/loss_compare.py", *arguments, check=False)
        assert done.stdout, done.stderr
        return done.returncode, done.stdout.splitlines()

    def plant(path: str, old: str, new: str) -> None:
        text = (clone.root / path).read_text()
        assert old in text, path
        (clone.root / path).write_text(text.replace(old, new))

    losses = clone.root / "ganlib" / "losses.py"
    losses.write_text("# a comment changes no number\n" + losses.read_text())
    clone.commit("comment")
    code, lines = compare("HEAD~1", "--recipes", "params,goodfellow2014")
    assert (code, lines[0].split(), lines[1].split()) == (0, ["params", "equal"], ["goodfellow2014", "equal"])
    assert lines[2] == "2 of 2 equal: HEAD~1 and WORKTREE, 18 steps each, seed 0"

    plant("ganlib/losses.py", "softplus(fake_logits)", "softplus(1.001 * fake_logits)")  # the working tree alone, which is not committed
    code, lines = compare("HEAD", "--recipes", "params")
    assert code == 1
    assert lines[0].startswith("params  step 1: loss_discriminator is 0x")

    clone.run("git", "checkout", "-q", ".")
    plant("ganlib/ema.py", "1.0 - beta)", "0.999 * (1.0 - beta))")  # no scalar sees the average
    plant("recipes/lsgan.yaml", "discriminator: {name: adam, lr: 2.0e-4", "discriminator: {name: adam, lr: 1.0e+30")
    (clone.root / "recipes" / "new.yaml").write_text("train: {precision: fp32}\n")
    code, lines = compare("HEAD", "--recipes", "goodfellow2014,lsgan,new")
    assert code == 1
    assert lines[0].startswith("goodfellow2014  ema differs: ")
    assert lines[0].endswith("(the scalars of all 18 steps are equal)")
    assert lines[1].startswith("lsgan           B failed: ")
    assert "DivergenceError" in lines[1]
    assert lines[2] == "new             only B has this recipe"
    assert lines[3].startswith("0 of 3 equal: ")
