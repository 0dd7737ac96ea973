"""benchmarks/scale_model.py: the model's limits, worked out by hand, and its fit."""

import math
from dataclasses import replace

import pytest

from benchmarks.scale_model import Step, fitted

STEP = Step(
    fixed_seconds=0.01,
    shard_seconds=0.002,
    image_seconds=0.001,
    logical_workers=8,
    batch_images=128,
    gradient_bytes=100e6,
    bandwidth=1e9,
    latency_seconds=1e-4,
)


def test_a_step_by_hand() -> None:
    """Two workers: 10 ms, four shards of 2 + 16 ms, 2 * 1/2 * 0.1 s of gradients, 2 messages a bucket (4). Kills: a factor 2, log for log2."""
    assert STEP.compute_seconds(2) == pytest.approx(0.01 + 4 * 0.018)
    assert STEP.reduction_seconds(2) == pytest.approx(0.1 + 2 * 4 * 1e-4)
    assert STEP.reduction_seconds(8) == pytest.approx(2 * 7 / 8 * 0.1 + 6 * 4 * 1e-4)
    assert STEP.images_per_second(2) == pytest.approx(128 / (0.082 + 0.1008))
    assert STEP.reduction_seconds(1) == 0
    assert STEP.efficiency(1) == 1
    several = replace(STEP, beside=1.5, group_seconds=0.01)
    assert several.compute_seconds(1) == STEP.compute_seconds(1)
    assert several.compute_seconds(2) == pytest.approx(1.5 * 0.082 + 0.01)
    with pytest.raises(ValueError, match="workers=3 is no divisor of logical_workers=8"):
        STEP.images_per_second(3)


def test_workers_that_share_cores_gain_nothing_and_a_free_link_leaves_what_is_fixed() -> None:
    """Kills: crowding that is forgotten, a `fixed` that shrinks with the workers."""
    free = replace(STEP, bandwidth=math.inf, latency_seconds=0.0)
    crowded = replace(free, cores=2, fixed_seconds=0.0)
    assert crowded.images_per_second(4) == pytest.approx(crowded.images_per_second(2))
    assert replace(STEP, cores=2).seconds(4) == pytest.approx(2 * STEP.seconds(4))  # the messages too
    assert free.images_per_second(8) == pytest.approx(128 / 0.028)


def test_the_fit_finds_what_made_the_steps() -> None:
    true = (0.004, 0.001, 0.0005)
    seconds = {(v, n): true[0] + v * true[1] + n * true[2] for v, n in ((4, 64), (1, 64), (4, 128))}
    assert fitted(seconds) == pytest.approx(true, rel=1e-6)
