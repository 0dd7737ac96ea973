import pytest
import torch

from ganlib import rng, sampling
from ganlib.rng import keyed_rng


def test_a_generator_is_a_function_of_its_key_alone():
    def draw(*key):
        return torch.rand(4, generator=keyed_rng(*key))

    assert torch.equal(draw(1, "latents", 2, 3), draw(1, "latents", 2, 3))
    keys = [
        (1, "latents", 2, 3),
        (1, "latents", 3, 2),
        (2, "latents", 2, 3),
        (1, "order", 2, 3),
        (1, "latents", 23),
        (1, "latents", 2, 3, 0),
    ]
    assert len({tuple(draw(*key).tolist()) for key in keys}) == len(keys)


def test_nothing_touches_the_global_generator():
    before = torch.get_rng_state()
    sampling.Prior(latent_dim=4, distribution="normal").seeded(0, range(3))
    with rng.layer_noise(keyed_rng(0, "layers")):
        rng.draw_uniform((3,), like=torch.ones(1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_layer_outside_the_block_is_told_so():
    with pytest.raises(RuntimeError, match="layer_noise"):
        rng.draw_uniform((3,), like=torch.ones(1))


def test_latents_have_their_distribution():
    normal = sampling.latents(20_000, 4, "normal", keyed_rng(0, "n"))
    uniform = sampling.latents(20_000, 4, "uniform", keyed_rng(0, "u"))
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() <= 1
    assert abs(uniform.mean()) < 0.02


def test_one_image_can_be_made_again_alone():
    prior = sampling.Prior(latent_dim=8, distribution="normal")
    together = prior.seeded(5, range(10)).z
    assert torch.equal(together[7:8], prior.seeded(5, range(7, 8)).z)
