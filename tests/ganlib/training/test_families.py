"""Every family that is registered: a short training on two processes is the same as one on a single process that was interrupted."""

import pytest
from parts import parts_of
from test_exactness import torchrun

from ganlib.models import MODELS, ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.tasks import TASKS
from ganlib.training.hooks import AgreeHook
from ganlib.training.loop import Interrupted, train

BATCH, STEPS = 16, 6
# what a family needs beyond the defaults, and what its paper does that could break exactness
SETTINGS = {
    "began": {"task__loss": "began"},
    "biggan": {"task__loss": "hinge", "model__conditional": True, "task__regularizers": {"orthogonal": {}}},
    "dcgan": {
        "model__conditional": True,
        "model__discriminator": {"width": 4, "condition": "auxiliary"},
        "task__regularizers": {"auxiliary_classifier": {}},
    },
    "gated_conv": {"task__loss": "hinge", "task__regularizers": {"r1": {"interval_steps": 2}}},
    "progressive": {"task__name": "progressive", "task__loss": "wasserstein", "task__regularizers": {"gradient_penalty": {}}},
    "r3gan": {"task__loss": "relativistic", "task__regularizers": {"r1": {}, "r2": {}}},
    "resnet": {"task__loss": "hinge", "model__conditional": True, "task__discriminator_repeats": 2},
    "sagan": {"task__loss": "hinge"},
    "srresnet": {"task__perceptual": "discriminator", "task__loss": "relativistic", "task__loss_options": {"average": True}},
    "stylegan2": {"task__regularizers": {"r1": {"interval_steps": 4}, "path_length": {"interval_steps": 2}}},
}


ADAM = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.99]}}


IMAGE = ImageSpec(channels=1, size=(8, 8), class_counts=(100, 100))


def networks_of(name: str) -> tuple[str, dict[str, str]]:
    """A task that the family can build all networks of, and these: name -> role. The default one where it can be."""
    able, refusals = {}, []
    for entry in TASKS:
        task, options = entry.value(), entry.value.options(name=entry.name)
        networks = task.networks(options)
        try:
            task.meta_networks(ModelConfig(name=name, latent_dim=12), options, IMAGE)  # of the right roles, for what the task feeds them
        except ValueError as error:
            refusals.append(f"{entry.name}: {error}")
        else:
            able[entry.name] = networks
    assert able, f"no task can train {name}: {refusals}"
    chosen = "adversarial" if "adversarial" in able else min(able)
    return chosen, able[chosen]


def settings_of(name: str) -> dict:
    task, networks = networks_of(name)
    small = {"model": {"name": name, "latent_dim": 12, **{network: {"width": 4} for network in networks}}, "task__name": task}
    small["optim"] = dict.fromkeys(networks, ADAM)
    own = SETTINGS.get(name, {})
    total = STEPS * BATCH * own.get("task__discriminator_repeats", 1)
    short = {
        "train__batch_images": BATCH,
        "train__logical_workers": 2,
        "train__total_images": total,
        "train__history_interval_images": 2 * BATCH,
    }
    return {**small, **short, **own}


@pytest.mark.heavy
def test_every_family_trains_alike_on_two_processes_and_when_resumed(make_spec, monkeypatch):
    """Kills layers that advance once a shard, random numbers by rank, and a resume without optimizers or without the numbers that steer."""
    monkeypatch.setattr(AgreeHook, "FIRST_STEPS", 3)  # stops between two log lines, in a fade, between two lazy terms
    together = {name: make_spec(f"together {name}", **settings_of(name)) for name in MODELS.names()}
    torchrun(list(together.values()), 2)
    different = []
    for name, spec in together.items():
        expected = parts_of(spec.folder)
        alone = make_spec(f"alone {name}", **settings_of(name))
        asked = iter([True, *[False] * 1000])
        with pytest.raises(Interrupted):
            train(alone, should_stop=lambda asked=asked: next(asked))
        train(alone)
        found = parts_of(alone.folder)
        different += [f"{name}: {part}" for part in expected if found[part] != expected[part]]
    assert different == []
