"""The pictures of a generator that draws from latents: a grid, walks between latents, walks along directions; each says what it shows.

Of what is no picture there is the preview of its modality alone: a walk needs rows that are looked at one by one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ganlib import modalities, sampling
from ganlib.fields import IMAGE
from ganlib.pictures import class_sheet, grid_png
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Inputs, Prior
from pipeline import generator, latent_walks
from pipeline.generator import TrainedGenerator


def of(
    trained: TrainedGenerator,
    prior: Prior,
    config: SampleConfig,
    options: dict[str, Any],
    *,
    first: np.ndarray,
    description: Mapping[str, str],
) -> dict[str, bytes]:
    """grid, interpolation and directions_*: name -> PNG. Where there are classes, the grid shows one a column.

    Args:
        prior: of the classes that were asked for.
        first: the first samples, as many as there are of `num_shown`.
    """
    if (modality := trained.image.modality) != IMAGE:
        return {"grid": modalities.of(modality).preview(first, columns=config.grid_columns, description=description)}
    shown = shown_classes(prior, rows=config.grid_rows, columns=config.grid_columns)
    names = generator.numbered(trained.class_names, shown)
    part = f"{len(shown)} of {len(trained.class_names)} classes" if len(shown) < len(trained.class_names) else ""

    def images_of(inputs: Inputs) -> np.ndarray:
        return sampling.generate(trained.network, inputs, batch_images=config.batch_images, **options)

    def told(place: str) -> dict[str, str]:
        return {**description, **({"Classes": f"one class a {place}, of {names}{f'; {part}' if part else ''}"} if names else {})}

    if shown:
        labels = grid_labels(prior, shown, rows=config.grid_rows, columns=config.grid_columns)
        sheet = class_sheet(
            images_of(of_classes(prior, config.seed, labels)),
            headings=[trained.class_names[i] for i in in_bands(prior, shown, config.grid_columns)],
            numbers=in_bands(prior, shown, config.grid_columns),
            columns=config.grid_columns,
            note=part,
        )
        grid = grid_png(sheet[None], columns=1, description=told("column"))
    else:
        if len(first) < (wanted := config.grid_rows * config.grid_columns):
            first = np.concatenate([first, images_of(prior.seeded(config.seed, range(len(first), wanted)))])
        grid = grid_png(first, columns=config.grid_columns, description=told("column"))
    between = grid_png(images_of(walks(prior, config)), columns=config.interpolation_steps, description=told("row"))
    directions = {
        f"directions_{name}": grid_png(images, columns=latent_walks.STEPS, description={**description, "Directions": f"{name}, a row each"})
        for name, images in latent_walks.directions_of(trained, config, options).items()
    }
    return {"grid": grid, "interpolation": between, **directions}


def num_shown(trained: TrainedGenerator, config: SampleConfig) -> int:
    """Samples of a grid without classes, or of a preview: at least what it takes to see a distribution."""
    return max(config.grid_rows * config.grid_columns, modalities.of(trained.image.modality).least_shown)


def shown_classes(prior: Prior, *, rows: int, columns: int) -> list[int]:
    """Classes with training images, all of them where a grid has place for one image of each, else evenly chosen; [] without classes."""
    known = list(prior.classes)
    place = rows * columns
    return known if len(known) <= place else [known[i * len(known) // place] for i in range(place)]


def in_bands(prior: Prior, shown: list[int], columns: int) -> list[int]:
    """The class of each column, for one band of columns below another until each class had one; the last band begins again where it has place."""
    return list(sampling.only(prior, shown).column_classes(-(-len(shown) // columns) * columns))


def grid_labels(prior: Prior, shown: list[int], *, rows: int, columns: int) -> torch.Tensor:
    """[bands * rows of a band * columns] int64, in the order in which a picture is read; the bands share `rows`."""
    bands = torch.tensor(in_bands(prior, shown, columns)).reshape(-1, 1, columns)
    return bands.expand(-1, max(1, rows // len(bands)), -1).flatten()


def of_classes(prior: Prior, seed: int, labels: torch.Tensor) -> Inputs:
    """The first latents of `seed`, asked for `labels` [n]."""
    return Inputs(prior.seeded(seed, range(len(labels))).z, labels)


def walks(prior: Prior, config: SampleConfig) -> Inputs:
    """A walk between two latents for each row of interpolation.png; where there are classes, each row stays in one."""
    rows, steps = config.interpolation_rows, config.interpolation_steps
    z = sampling.interpolate(prior.seeded(config.seed, range(2 * rows)).z, steps=steps, distribution=prior.distribution)
    shown = shown_classes(prior, rows=rows, columns=1)
    return Inputs(z, torch.tensor(in_bands(prior, shown, rows)[:rows]).repeat_interleave(steps) if shown else None)
