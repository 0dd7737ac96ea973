"""Walks of a trained generator along the latent directions that change its images most, as the sample stage pictures them."""

from typing import Any

import numpy as np
import torch

from ganlib import directions, sampling
from ganlib.models import MODELS
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Inputs
from pipeline.generator import TrainedGenerator

COUNT, STEPS = 5, 9
REACH = 3.0  # standard deviations of the latents along a direction, to each side
SAMPLES = 512  # from which principal components are taken
PIXELS = 32  # a side of the images they are taken of


def directions_of(trained: TrainedGenerator, config: SampleConfig, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """One image of `sample.seed` moved along latent directions: how they were found -> [directions * steps, C, H, W] uint8.

    Three standard deviations of the latents along a direction to each side of the image itself; uniform latents stay in [-1, 1].
    """
    prior, network = trained.prior, trained.network
    drawn = prior.seeded(config.seed, range(SAMPLES))
    start = Inputs(drawn.z[:1], None if drawn.labels is None else drawn.labels[:1])
    count = min(COUNT, prior.latent_dim)
    has_styles = MODELS.get(trained.model.name).has_styles
    mapping = network.get_submodule("mapping") if has_styles else None
    if mapping is not None:
        with torch.no_grad():
            latents = mapping(*drawn)
        found = {"factorised": directions.factorised(network, prior.latent_dim, count, labels=start.labels, mapping=mapping)}
        found["principal"] = directions.principal(latents, latents, count)
    else:
        latents = drawn.z
        made = sampling.to_float(sampling.generate(network, drawn, batch_images=config.batch_images, **options))
        height, width = (min(side, PIXELS) for side in made.shape[2:])
        small = torch.nn.functional.adaptive_avg_pool2d(made, (height, width))
        found = {"factorised": directions.factorised(network, prior.latent_dim, count, labels=start.labels)}
        found["principal"] = directions.principal(small, latents, count)
    pictures = {}
    for name, vectors in found.items():
        spread = ((latents - latents.mean(dim=0)) @ vectors.T).std(dim=0)
        walk = directions.walk(latents[0], vectors * spread[:, None], STEPS, REACH)
        labels = None if start.labels is None else start.labels.expand(len(walk))
        if mapping is None:
            walk = walk.clamp(-1, 1) if prior.distribution == "uniform" else walk
            pictures[name] = sampling.generate(network, Inputs(walk, labels), batch_images=config.batch_images, **options)
        else:
            with directions.styled(mapping, walk):
                inputs = Inputs(start.z.expand(len(walk), -1), labels)
                pictures[name] = sampling.generate(network, inputs, batch_images=len(walk), **options)
    return pictures
