"""`train.freeze`: what is frozen keeps its bytes, the rest moves, on any number of processes; without it nothing changes."""

import pytest
import torch
from parts import parts_of
from test_exactness import torchrun

from ganlib import freeze
from ganlib.models import ImageSpec
from ganlib.tasks import TASKS
from ganlib.training.loop import Running, train

FROZEN = {  # FreezeD's lower layers, and what could move them past the gradient: weight decay, clipping, terms on the weights
    "train__freeze": {"discriminator": ["features.0.*"], "generator": ["layers.0.*"]},
    "task__loss": "least_squares",
    "task__weight_clip": 0.03,
    "task__regularizers": {"r1": {"interval_steps": 4}, "orthogonal": {"discriminator_weight": 1e-2, "generator_weight": 1e-2}},
    "model__discriminator": {"width": 8, "normalization": "none"},
    "optim__discriminator": {"name": "adamw", "lr": 1e-3, "options": {"weight_decay": 0.1}, "max_gradient_norm": 0.1},
}
IMAGE = ImageSpec(channels=1, size=(8, 8))


def parameters(running):
    networks = running.state.networks
    return {f"{name}.{key}": value.detach().clone() for name in networks for key, value in networks[name].named_parameters()}


def is_frozen(name):
    return name.startswith(("discriminator.features.0.", "generator.layers.0."))


def test_the_frozen_keep_their_bytes_and_the_rest_moves(make_spec):
    """Kills: weight clipping, decay or an optimizer that reaches a frozen parameter; a freeze that takes more than it names."""
    running = Running.start(make_spec("frozen", **FROZEN))
    before = parameters(running)
    assert max(value.abs().max() for name, value in before.items() if is_frozen(name)) > 0.03  # the clip would be seen
    for _ in range(5):
        running.step()
    after = parameters(running)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not is_frozen(name)}
    assert any(is_frozen(name) for name in before)


def test_the_frozen_have_no_gradient_and_no_place_in_an_optimizer(make_spec):
    """Kills: a phase that switches every gradient on again."""
    running = Running.start(make_spec("frozen", **FROZEN))
    running.step()
    held = {p for optimizer in running.state.optimizers.values() for group in optimizer.param_groups for p in group["params"]}
    for network in running.state.networks:
        named = dict(running.state.networks[network].named_parameters())
        summed = set(running.state.networks.replica(network).accumulator.parameters)
        for name, parameter in named.items():
            assert (parameter in held) == (parameter in summed) == (not is_frozen(f"{network}.{name}")), name
            assert (parameter.grad is None) == is_frozen(f"{network}.{name}") or network == "generator", name


@pytest.mark.heavy
def test_a_frozen_training_on_two_processes_ends_in_the_same_bytes(make_spec):
    """Kills: a bucket that waits for the gradient of a frozen parameter, or a tree that misses one."""
    alone, shared = make_spec("alone", **FROZEN), make_spec("shared", **FROZEN)
    train(alone)
    torchrun([shared], 2)
    assert parts_of(shared.folder) == parts_of(alone.folder)


@pytest.mark.parametrize(
    ("family", "patterns", "message"),
    [
        ("dcgan", {"critic": ["*"]}, r"names the network 'critic'; legal: generator, discriminator"),
        ("dcgan", {"discriminator": ["feature.*"]}, r"'feature.\*' matches no parameter; there are: features.0.weight, "),
        (
            "dcgan",
            {"discriminator": ["features.*", "head.*"]},
            r"leaves nothing of the discriminator to train; leave out at least one of: features.0",
        ),
        ("progressive", {"generator": ["to_rgb.*"]}, r"'to_rgb.\*' matches no parameter; there are: levels.0.linear.weight, "),
        ("progressive", {"generator": ["*"]}, r"leaves nothing of the generator to train"),
    ],
)
def test_a_freeze_that_means_nothing_is_refused(make_spec, family, patterns, message):
    task = "progressive" if family == "progressive" else "adversarial"
    spec = make_spec("x", task__name=task, model__name=family, train__freeze=patterns)
    with pytest.raises(ValueError, match=message):
        TASKS.get(task)().check(spec.model, spec.task, spec.train, IMAGE)


def test_a_stage_of_a_growing_network_with_nothing_to_train_is_refused(make_spec):
    """Of the full network something is left, of its first size nothing."""
    patterns = {"generator": ["levels.0.*", "to_image.0.*"]}
    spec = make_spec("x", task__name="progressive", model__name="progressive", train__freeze=patterns)
    with pytest.raises(ValueError, match="leaves nothing of the generator to train"):
        TASKS.get("progressive")().check(spec.model, spec.task, spec.train, IMAGE)
    full = TASKS.get("progressive")().meta_networks(spec.model, spec.task, IMAGE)
    freeze.check(full, patterns)
