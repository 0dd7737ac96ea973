"""Small steps in a trained generator's latent space, and features of the images at their ends: what metrics of the generator are shown."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganlib import directions, sampling
from ganlib.levels import to_levels
from ganlib.metrics import needs
from ganlib.metrics.interface import Extractor, PathComparison, depth_of
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import Depth
from ganlib.models import MODELS
from ganlib.rng import keyed_rng
from ganlib.samples import Facts
from ganlib.sampling import Prior
from pipeline import generator
from pipeline.generator import TrainedGenerator

PAIRS = 1_000  # of latents; the paper has 100,000
EPSILON = 1e-4  # a step's share of its path, as in the paper
BATCH_PAIRS = 50  # fixed: which kernel runs depends on it


class Ends(NamedTuple):
    """Latents [n, D] float32 at the start and at the end of each step."""

    start: Tensor
    end: Tensor


def compare(
    trained: TrainedGenerator, prior: Prior, extractor: Extractor, depth: Depth, *, seed: int, options: Mapping[str, Any]
) -> PathComparison:
    """Steps between latents of `prior` that `seed` draws, both of one class where there are classes.

    Images stay float: a step is far below a grey level.

    Args:
        extractor: one that `takes_float`.
        options: of the generator's `forward`, `truncation` for one.
    """
    first, second = (prior.draw(PAIRS, keyed_rng(seed, "path length", side)) for side in range(2))
    t = torch.rand(PAIRS, generator=keyed_rng(seed, "path length places"), dtype=torch.float64) * (
        1 - EPSILON
    )  # the end is on the path too
    labels, network, depth = first.labels, trained.network, depth_of(extractor, depth)
    mapping = network.get_submodule("mapping") if MODELS.get(trained.model.name).has_styles else None
    a, b = first.z.double(), second.z.double()  # the difference of two places EPSILON apart has 4 digits less than they have
    steps = {"z": Ends(*(sampling.along(a, b, at, distribution=prior.distribution).float() for at in (t, t + EPSILON)))}
    if mapping is not None:
        with torch.inference_mode():
            u, v = (mapping(z, labels).double() for z in (first.z, second.z))
        steps["w"] = Ends(*(torch.lerp(u, v, at[:, None]).float() for at in (t, t + EPSILON)))
        steps["w_end"] = Ends(u.float(), torch.lerp(u, v, EPSILON).float())

    @torch.inference_mode()
    def seen(latents: Tensor, labels: Tensor | None, *, is_style: bool) -> Tensor:
        """[n, D] -> features [n, d] float32."""
        styled = directions.styled(mapping, latents) if is_style and mapping is not None else nullcontext()
        with styled:
            images = network(latents, labels, **options)
        return extractor.features(to_levels(images))[depth]

    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, ends in steps.items():
        parts: list[tuple[Tensor, ...]] = []
        for i in range(0, PAIRS, BATCH_PAIRS):
            batch = slice(i, i + BATCH_PAIRS)
            told = None if labels is None else labels[batch].repeat(2)
            parts.append(seen(torch.cat([ends.start[batch], ends.end[batch]]), told, is_style=name != "z").chunk(2))
        starts, stops = zip(*parts, strict=True)
        found[name] = torch.cat(starts), torch.cat(stops)
    return PathComparison(steps=found, epsilon=EPSILON)


def walked(folder: Path, metrics: Mapping[str, Any], reference: Reference, drawn: Facts, *, seed: int) -> PathComparison | None:
    """Of the generator in `folder`, in the classes and with the truncation that samples were drawn with.

    Returns:
        None where none of `metrics` asks for it, no extractor sees such small steps, or there are no latents.
    """
    depth = next((needs.of(metric).depth for metric in metrics.values() if needs.of(metric).generator), None)
    if depth is None or reference.of_paths is None:
        return None
    trained = generator.load(folder)
    if not isinstance(trained.product.feed, Prior):
        return None
    prior = sampling.only(trained.prior, drawn.drawn_classes or ())
    return compare(trained, prior, reference.of_paths.extractor, depth, seed=seed, options=trained.options(drawn.truncation))
