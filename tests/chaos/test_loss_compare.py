"""benchmarks/loss_compare.py tells two commits apart by their numbers, to the last bit."""

import math

import pytest

from benchmarks.loss_compare import first_difference

pytestmark = pytest.mark.chaos


def line(step: int, **scalars: float) -> dict:
    return {"step": step, "images_seen": 64 * step, "scalars": scalars, "time": float(step), "images_per_second": 1.0}


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


@pytest.mark.slow
def test_two_commits(make_clone):
    clone = make_clone()
    losses = clone.root / "ganlib" / "losses.py"
    losses.write_text("# a comment changes no number\n" + losses.read_text())
    clone.commit("comment")
    small = ["python", "benchmarks/loss_compare.py", "--images", "640"]
    assert clone.run(*small, "HEAD~1", "HEAD").stdout == "equal\n"
    text = losses.read_text()
    losses.write_text(text.replace("softplus(fake_logits)", "softplus(1.001 * fake_logits)"))
    assert losses.read_text() != text
    done = clone.run(*small, "HEAD", check=False)  # against the working tree, which is not committed
    assert done.returncode == 1
    assert done.stdout.startswith("step 1: loss_discriminator is ")
    assert "0x" in done.stdout
