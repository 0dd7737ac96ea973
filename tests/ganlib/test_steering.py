"""Numbers that follow a training: when they move, with what, and that they survive as JSON."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from ganlib.augment import AUGMENTATIONS
from ganlib.augment.ada import Ada
from ganlib.losses import LOSSES, Began, Hinge
from ganlib.regularizers import REGULARIZERS, LeCam, PathLength
from ganlib.scalars import Scalars
from ganlib.steering import Steered, Steering


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts images, steps or not."""

    seen: float = 0.0
    steered: ClassVar[tuple[str, ...]] = ("seen",)
    watches: ClassVar[tuple[str, ...]] = ()

    def adapt(self, means, images):
        return replace(self, seen=self.seen + images)


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last mean of what is noted now and then."""

    value: float = 0.0
    steered: ClassVar[tuple[str, ...]] = ("value",)
    watches: ClassVar[tuple[str, ...]] = ("now and then",)

    def adapt(self, means, images):
        return replace(self, value=means["now and then"])


def test_moves_after_every_step_in_which_all_it_watches_was_noted():
    steering = Steering({"loss": Hinge(), "counter": Counter(), "last": Last()})
    scalars = Scalars(logical_workers=2, watched=steering.watched)
    seen = []
    for step in range(4):
        for index in range(2):
            scalars.shard(index).add("always", torch.ones(3))
            if step in (1, 3):
                scalars.shard(index).add("now and then", torch.tensor([step, step + 2.0 * index]))
        steering.adapt(scalars, images=64)
        seen.append((steering["counter"].seen, steering["last"].value))
    assert seen == [(64, 0), (128, 1.5), (192, 1.5), (256, 3.5)]  # means over both workers, of that step alone
    assert scalars.take() == {"always": 1.0, "now and then": 2.5}  # the log's means do not notice


def test_nothing_watched_is_every_step():
    steering = Steering({"counter": Counter()})
    assert steering.watched == frozenset()
    steering.adapt(Scalars(logical_workers=1), images=10)
    assert steering.numbers() == {"counter": {"seen": 10.0}}


def test_round_trip_of_the_state():
    def fresh():
        return Steering({"loss": Began(gamma=0.7), "lecam": LeCam(weight=0.1), "path_length": PathLength(), "ada": Ada(interval_steps=3)})

    steering, again = fresh(), fresh()
    scalars = Scalars(logical_workers=1, watched=steering.watched)

    def step(steering):
        for name, value in (("logit_real", -0.3), ("logit_fake", 1 / 3), ("path_length", 0.1), ("sign_real", 0.9)):
            scalars.shard(0).add(name, torch.tensor([value]))
        steering.adapt(scalars, images=64)

    for _ in range(4):  # between two moves of p
        step(steering)
    assert steering.numbers() != again.numbers()
    again.load(json.loads(json.dumps(steering.numbers())))
    assert again.numbers() == steering.numbers()
    for _ in range(2):
        step(steering)
        step(again)
    assert again.numbers() == steering.numbers()
    assert again["ada"].p == pytest.approx(2 * 3 * 64 / 500_000)
    assert again["loss"].gamma == 0.7


@pytest.mark.parametrize(
    "entry", [entry for registry in (LOSSES, REGULARIZERS, AUGMENTATIONS) for entry in registry], ids=lambda entry: entry.name
)
def test_whatever_has_numbers_keeps_the_contract(entry):
    part = entry.value()
    if not isinstance(part, Steered):
        assert not any(hasattr(part, name) for name in ("steered", "watches", "adapt"))  # half a contract is none
        return
    steering = Steering({"part": part})
    numbers = steering.numbers()["part"]
    assert numbers
    assert all(isinstance(value, float) for value in numbers.values())
    moved = part
    for _ in range(3):
        moved = moved.adapt(dict.fromkeys(part.watches, 0.25), 64)
    assert moved != part
    steering.load({"part": {name: getattr(moved, name) for name in part.steered}})
    assert steering["part"] == moved  # the named numbers are all that changed
