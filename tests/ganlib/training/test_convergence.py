"""A tiny GAN learns a tiny distribution: the averaged generator's brightness pattern comes close to the data's."""

import pytest
import torch

from ganlib import sampling
from ganlib.training.hooks import calibrate_generator
from ganlib.training.loop import train


@pytest.mark.heavy
def test_the_tiny_recipe_learns_the_tiny_data(make_spec, tiny_data):
    from ganlib.data.arrow import ArrowImages

    spec = make_spec(
        "x",
        train__total_images=24_000,
        train__history_interval_images=4000,
        train__grid_interval_images=24_000,
        train__checkpoint_interval_images=24_000,
    )
    state = train(spec)
    network = state.ema.module
    prior = sampling.Prior(latent_dim=8, distribution="normal")
    calibrate_generator(network, prior, spec.train)
    fake = sampling.generate(network, prior.seeded(9, range(200)), batch_images=100).astype(float)
    real = ArrowImages(tiny_data).slice(0, 200).astype(float)

    def bright_side(images):  # left minus right, top minus bottom: two modes far apart
        return torch.tensor([[(i[:, :, :4].mean() - i[:, :, 4:].mean()), (i[:, :4].mean() - i[:, 4:].mean())] for i in images])

    modes = (bright_side(fake)[:, 0] > bright_side(fake)[:, 1]).double().mean()
    assert 0.15 < modes < 0.85  # both modes
    assert abs(fake.mean() - real.mean()) < 20
    assert bright_side(fake).max(1).values.median() > 75  # images are one or the other: real ones are at about 150
