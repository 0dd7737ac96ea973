"""Numbers that follow images seen: closed forms, what can follow one, and what is refused."""

import dataclasses
from typing import ClassVar

import pytest
import torch

from ganlib import augment, optim
from ganlib.augment.ada import Ada
from ganlib.config import options
from ganlib.ema import Ema
from ganlib.losses import Hinge
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.optim import OptimConfig, OptimizerConfig
from ganlib.regularizers import R1
from ganlib.scalars import SIGN_REAL, Scalars
from ganlib.schedule import Schedule, Scheduled, replaced, spoken
from ganlib.steering import Steering
from ganlib.tasks.adversarial import AdversarialConfig, check_parts
from ganlib.train_settings import TrainConfig


def schedule(**values):
    return options(Schedule, {"from" if key == "first" else key: value for key, value in values.items()}, key="key")


def at(one, *images):
    return [one.value(images_seen=seen, total_images=1000) for seen in images]


def test_closed_forms():
    """Mutants: a whole cosine for a half, `from` and `to` swapped, shares of the rest instead of the whole, no stop at the end."""
    line = schedule(schedule="linear", first=2.0, to=1.0, begin_share=0.2, end_images=600)
    assert at(line, 0, 200, 300, 400, 600, 5000) == pytest.approx([2, 2, 1.75, 1.5, 1, 1])
    cosine = schedule(schedule="cosine", first=0.1, to=0.3, end_share=0.6)
    # 0.1 + 0.2 * sin(pi / 2 * x)^2 at x = 1/3, 1/2, 2/3: a quarter, a half, three quarters of the way
    assert at(cosine, 0, 200, 300, 400, 600, 601) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3, 0.3])
    assert at(schedule(schedule="linear", first=1, to=0), 0, 250, 1000) == [1, 0.75, 0]
    assert at(schedule(schedule="constant", first=0.7), 0, 500, 2000) == [0.7, 0.7, 0.7]
    assert (at(cosine, 0), at(cosine, 600)) == ([0.1], [0.3])  # the ends are the numbers that were written, to the last bit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "step", "first": 1.0, "to": 0.0}, r"key.schedule='step': input should be 'constant', 'linear' or 'cosine'"),
        ({"schedule": "linear", "first": 1.0}, r"key=\{.*\}: linear needs `to`"),
        ({"schedule": "constant", "first": 1.0, "to": 2.0}, r"key=\{.*\}: constant stays at `from`; leave `to` out"),
        (
            {"schedule": "linear", "first": 1.0, "to": 0.0, "end_images": 9, "end_share": 1.0},
            r"end_images and end_share exclude each other",
        ),
        (
            {"schedule": "linear", "first": 1.0, "to": 0.0, "end": 9},
            r"key.end=9 is not a known key; legal: begin_images, .*, from, schedule, to",
        ),
        ({"schedule": "linear", "to": 0.0}, r"key.from is missing"),
        ({"schedule": "linear", "first": float("inf"), "to": 0.0}, r"expected finite numbers"),
        (
            {"schedule": "linear", "first": 1.0, "to": 0.0, "end_share": 80.0},
            r"key.end_share=80.0: input should be less than or equal to 1",
        ),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(values, message):
    with pytest.raises(ValueError, match=message):
        schedule(**values)


def test_an_end_before_the_beginning_is_refused():
    one = schedule(schedule="linear", first=1.0, to=0.0, begin_images=5000)
    one.check(6000, key="optim.generator.lr")
    with pytest.raises(
        ValueError, match=r"optim.generator.lr: begins to move at 5,000 images and is at `to` at 1,000 \(train.total_images=1,000\)"
    ):
        one.check(1000, key="optim.generator.lr")


def test_it_survives_as_json():
    """What a worker is told, and what a state remembers of its settings: plain values, as params.yaml has them."""
    chosen = options(OptimizerConfig, {"lr": {"schedule": "cosine", "from": 2e-4, "to": 5e-5, "end_share": 0.8}}, key="optim.generator")
    assert chosen.model_dump(mode="json")["lr"] == {"schedule": "cosine", "from": 2e-4, "to": 5e-5, "end_share": 0.8}
    assert OptimizerConfig.model_validate_json(chosen.model_dump_json()) == chosen
    train = TrainConfig.model_validate({"total_images": 10, "ema_halflife_images": {"schedule": "linear", "from": 0, "to": 5}})
    assert TrainConfig.model_validate_json(train.model_dump_json()) == train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One option of each kind."""

    weight: float = 1.0
    pair: tuple[float, float] = (0.1, 0.2)
    count: int = 3
    once: float = 0.5
    fixed: ClassVar[tuple[str, ...]] = ("once",)
    other: ClassVar[float] = 1.0

    def __post_init__(self):
        if self.weight > 5:
            raise ValueError(f"weight={self.weight}: expected at most 5")


def test_every_float_of_an_object_of_options_can_follow_one():
    move = {"schedule": "linear", "from": 1.0, "to": 3.0}
    part = Scheduled.of(Part, {"weight": move, "pair": [0.7, move], "count": 4}, key="key")
    assert part.start == Part(weight=1.0, pair=(0.7, 1.0), count=4)
    numbers = part.at(images_seen=250, total_images=1000)
    assert replaced(part.start, numbers) == Part(weight=1.5, pair=(0.7, 1.5), count=4)
    assert [spoken(name) for name in numbers] == ["weight", "pair2"]


@pytest.mark.parametrize("values", [{"count": 1}, {"once": 1}, {"pair": 1}, {"other": 1}])
def test_what_cannot_follow_one_is_named(values):
    values = {name: {"schedule": "linear", "from": 1.0, "to": 3.0} for name in values}
    with pytest.raises(ValueError, match=r"is a schedule, and this setting cannot follow one; those that can: weight, pair.0, pair.1$"):
        Scheduled.of(Part, values, key="key")


def test_both_ends_are_checked_by_the_class_itself():
    for ends in ({"from": 1.0, "to": 6.0}, {"from": 6.0, "to": 1.0}):
        with pytest.raises(ValueError, match=r"weight=6.0: expected at most 5"):
            Scheduled.of(Part, {"weight": {"schedule": "cosine", **ends}}, key="key")


def test_a_schedule_takes_the_place_of_steering_and_is_no_state():
    """Mutants: p that adapts all the same; a scheduled number in a checkpoint."""
    p = schedule(schedule="linear", first=0.0, to=1.0)
    steering = Steering(
        {"loss": Hinge(), "ada": Ada(interval_steps=1, speed_images=100), "r1": R1()}, {"ada": {"p": p}, "r1": {"gamma": p}}
    )
    scalars = Scalars(logical_workers=1, watched=steering.watched)
    for images in (0, 250, 500):
        assert steering.follow(images_seen=images, total_images=1000) == {"ada_p": images / 1000, "r1_gamma": images / 1000}
        assert (steering["ada"].p, steering["r1"].gamma) == (images / 1000, images / 1000)
        scalars.shard(0).add(SIGN_REAL, torch.ones(1))
        steering.adapt(scalars, images=64)
    assert steering.numbers() == {"ada": {"sign_sum": 0.0, "steps": 0.0}}


def adam(**changes):
    values = {"name": "adam", "lr": {"schedule": "linear", "from": 1e-3, "to": 0.0}, "options": {"betas": [0.5, 0.9]}} | changes
    return options(OptimizerConfig, values, key="optim.generator")


def test_an_optimizer_follows_with_the_lazy_correction_and_the_factor():
    """By hand, k = 16: lr * 16/17, betas to the power 16/17, then the factor. Mutants: the correction or the factor left out, or made twice."""
    chosen = adam(options={"betas": [0.5, {"schedule": "linear", "from": 0.9, "to": 0.99}]})
    optimizer = optim.build(chosen, [torch.nn.Parameter(torch.ones(1))], lazy_interval=16)
    planned = optim.plan(chosen, key="optim.generator")
    for images in (0, 300, 300, 600):  # the same once more: nothing piles up
        found = planned.follow(optimizer, images_seen=images, total_images=1000)
        optim.set_lr(optimizer, 0.25)
        share = images / 1000
        assert found == pytest.approx({"lr": 1e-3 * (1 - share), "beta2": 0.9 + 0.09 * share})
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(0.25 * 1e-3 * (1 - share) * 16 / 17)
        assert group["betas"] == pytest.approx((0.5 ** (16 / 17), (0.9 + 0.09 * share) ** (16 / 17)))


def test_an_optimizer_without_schedules_is_left_alone():
    chosen = OptimizerConfig(lr=0.1)
    optimizer = optim.build(chosen, [torch.nn.Parameter(torch.ones(1))])
    before = dict(optimizer.param_groups[0])
    assert optim.plan(chosen, key="optim.generator").follow(optimizer, images_seen=5, total_images=10) == {}
    assert optimizer.param_groups[0] == before
    assert "lazy" not in before  # the bundles of trainings without schedules are what they were


def test_two_schedules_of_one_rate_are_refused():
    fixed = OptimizerConfig(lr=1e-3)
    optim.check(OptimConfig(generator=adam(), discriminator=fixed, warmup_images=10))
    with pytest.raises(ValueError, match=r"optim.decay=linear would lower optim.generator.lr.*set optim.decay: none"):
        optim.check(OptimConfig(generator=adam(), discriminator=fixed, decay="linear"))
    with pytest.raises(ValueError, match=r"optim.discriminator.lr=.*expected at least 0 at both ends"):
        optim.check(OptimConfig(generator=fixed, discriminator=adam(lr={"schedule": "linear", "from": 1e-3, "to": -1e-3})))
    with pytest.raises(ValueError, match=r"betas=\[0.5, 1.0\]: each must be at least 0 and below 1"):
        optim.check(
            OptimConfig(generator=adam(options={"betas": [0.5, {"schedule": "linear", "from": 0.9, "to": 1.0}]}), discriminator=fixed)
        )
    rmsprop = {"name": "rmsprop", "options": {"momentum": {"schedule": "linear", "from": 0.0, "to": 0.9}}}
    with pytest.raises(ValueError, match=r"options.momentum=.* cannot follow one"):
        optim.check(OptimConfig(generator=adam(**rmsprop), discriminator=fixed))


def test_a_term_cannot_come_or_go_and_the_data_cannot_move():
    move = {"schedule": "linear", "from": 0.0, "to": 1e-4}
    with pytest.raises(ValueError, match=r"task.regularizers.orthogonal has a schedule that begins or ends at 0"):
        check_parts(
            ModelConfig(name="dcgan", latent_dim=4),
            AdversarialConfig(regularizers={"orthogonal": {"generator_weight": move}}),
            ImageSpec(channels=1, size=(8, 8)),
        )
    with pytest.raises(ValueError, match=r"train.augment.hflip.p is a schedule.* task.augment only"):
        augment.build({"hflip": {"p": move}})
    with pytest.raises(ValueError, match=r"train.ema_halflife_images=.*expected at least 0 at both ends"):
        options(TrainConfig, {"total_images": 5, "ema_halflife_images": {"schedule": "linear", "from": 5, "to": -1}}, key="train")
    with pytest.raises(ValueError, match=r"train.ema_halflife_images=-1: input should be greater than or equal to 0"):
        options(TrainConfig, {"total_images": 5, "ema_halflife_images": -1}, key="train")


def test_an_average_follows_its_half_life():
    """By hand: 64 images at a half-life of 64 leave a half of what was there, at 32 a quarter."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    ema = Ema(network, halflife_images=64.0)
    torch.nn.init.ones_(network.weight)
    for halflife, left in ((64.0, 1 / 2), (32.0, 1 / 8)):
        ema.halflife_images = halflife
        ema.update(batch_images=64, images_seen=10**9)
        assert ema.module.weight.item() == pytest.approx(1 - left)
