"""Every family that is registered: a short training is the same on one process and on two, whole and resumed."""

import pytest
from parts import parts_of
from test_exactness import torchrun

from ganlib.models import MODELS
from ganlib.training.loop import Interrupted, train

# what a family needs beyond the defaults, and what its paper does that could break exactness
SETTINGS = {
    "began": {"task__loss": "began"},
    "biggan": {"task__loss": "hinge", "model__conditional": True, "task__regularizers": {"orthogonal": {}}},
    "dcgan": {
        "model__conditional": True,
        "model__discriminator": {"width": 8, "condition": "auxiliary"},
        "task__regularizers": {"auxiliary_classifier": {}},
    },
    "progressive": {"task__name": "progressive", "task__loss": "wasserstein", "task__regularizers": {"gradient_penalty": {}}},
    "r3gan": {"task__loss": "relativistic", "task__regularizers": {"r1": {}, "r2": {}}},
    "resnet": {"task__loss": "hinge", "model__conditional": True, "task__discriminator_repeats": 2},
    "sagan": {"task__loss": "hinge"},
    "stylegan2": {"task__regularizers": {"r1": {"interval_steps": 4}, "path_length": {"interval_steps": 2}}},
}


def settings_of(name: str) -> dict:
    small = {"model__name": name, "model__generator": {"width": 8}, "model__discriminator": {"width": 8}}
    return {**small, "model__latent_dim": 12, "train__total_images": 320, "train__logical_workers": 2, **SETTINGS.get(name, {})}


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS.names())
def test_two_processes_and_a_resume_end_in_the_same_bytes(make_spec, name):
    alone = make_spec("alone", **settings_of(name))
    train(alone)
    expected = parts_of(alone.folder)
    together = make_spec("together", **settings_of(name))
    torchrun(together, 2)
    assert parts_of(together.folder) == expected
    resumed = make_spec("resumed", **settings_of(name))
    asked = iter([True, *[False] * 1000])
    with pytest.raises(Interrupted):
        train(resumed, should_stop=lambda: next(asked))
    train(resumed)
    assert parts_of(resumed.folder) == expected
