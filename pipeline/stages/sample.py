"""sample: the trained generator -> samples/ (images with seeds, a grid, latent interpolations), every picture saying that it is synthetic."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ganlib import samples, sampling
from ganlib.files import atomic_folder
from ganlib.pictures import class_sheet, grid_png
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Inputs, Prior
from pipeline import cli, generator, latent_walks, params
from pipeline.params import ROOT


def sample(config: SampleConfig, root: Path = ROOT) -> None:
    """Write samples/ in `sample.format` with samples.json, grid.png and interpolation.png; one batch of images is in memory.

    Image i is that of `sample.seed` and i: the same for any `sample.num_images`. A conditional generator is asked for the classes as often as the
    training data have them, for those of `sample.classes` alone where it names some, or for its counts, class after class; the grid shows one
    class a column.

    Raises:
        ValueError: `sample.truncation` of a generator without styles; `sample.classes` that it does not have.
    """
    trained = generator.load(root / "models")
    options = trained.options(config.truncation)
    asked = samples.asked_classes(config.classes, trained.class_names, trained.prior.class_counts)
    prior = sampling.only(trained.prior, asked)

    def images_of(inputs: Inputs) -> np.ndarray:
        return sampling.generate(trained.network, inputs, batch_images=config.batch_images, **options)

    facts = samples.Facts(
        shape=(trained.image.channels, *trained.image.size),
        seed=config.seed,
        generator_sha256=trained.facts["sha256"],
        class_names=tuple(trained.class_names),
        drawn_classes=tuple(sorted(asked)) or None,
        truncation=config.truncation,
    )
    description = {
        "Model": f"{trained.facts['family']} {facts.generator_sha256}",
        "Commit": trained.facts["git_commit"],
        "Seed": str(config.seed),
        "Data": trained.facts["data_digest"],
        **{key.capitalize(): f"{value:g}" for key, value in options.items()},
    }
    shown = shown_classes(prior, rows=config.grid_rows, columns=config.grid_columns)
    names = generator.numbered(trained.class_names, shown)
    part = f"{len(shown)} of {len(trained.class_names)} classes" if len(shown) < len(trained.class_names) else ""

    def told(place: str) -> dict[str, str]:
        return description | ({"Classes": f"one class a {place}, of {names}{f'; {part}' if part else ''}"} if names else {})

    with atomic_folder(root / "samples") as folder:
        wanted = config.grid_rows * config.grid_columns
        first: list[np.ndarray] = []  # of a grid without classes
        with samples.writing(folder, facts, config.format) as writer:
            for inputs in batches(prior, config, {number: count for number, count in asked.items() if count is not None}):
                images = images_of(inputs)
                writer.add(images, None if inputs.labels is None else inputs.labels.numpy())
                if not shown and (lacking := wanted - sum(map(len, first))) > 0:
                    first.append(images[:lacking].copy())
        if shown:
            sheet = class_sheet(
                images_of(of_classes(prior, config.seed, grid_labels(prior, shown, rows=config.grid_rows, columns=config.grid_columns))),
                headings=[trained.class_names[i] for i in in_bands(prior, shown, config.grid_columns)],
                numbers=in_bands(prior, shown, config.grid_columns),
                columns=config.grid_columns,
                note=part,
            )
            (folder / "grid.png").write_bytes(grid_png(sheet[None], columns=1, description=told("column")))
        else:
            if config.num_images < wanted:
                first.append(images_of(prior.seeded(config.seed, range(config.num_images, wanted))))
            (folder / "grid.png").write_bytes(grid_png(np.concatenate(first), columns=config.grid_columns, description=told("column")))
        between = images_of(walks(prior, config))
        picture = grid_png(between, columns=config.interpolation_steps, description=told("row"))
        (folder / "interpolation.png").write_bytes(picture)
        for name, images in latent_walks.directions_of(trained, config, options).items():
            (folder / f"directions_{name}.png").write_bytes(
                grid_png(images, columns=latent_walks.STEPS, description=description | {"Directions": f"{name}, a row each"})
            )


def batches(prior: Prior, config: SampleConfig, counts: dict[int, int]) -> Iterator[Inputs]:
    """The inputs of every image, `sample.batch_images` at a time; `counts` (class -> images) instead of the data's classes where there are any."""
    labels = torch.cat([torch.full((count,), number) for number, count in counts.items()]) if counts else None
    for start in range(0, config.num_images, config.batch_images):
        indices = range(start, min(start + config.batch_images, config.num_images))
        inputs = prior.seeded(config.seed, indices)
        yield inputs if labels is None else Inputs(inputs.z, labels[start : indices.stop])


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


def main() -> None:
    config = params.section("sample", SampleConfig)
    sample(config)
    print(f"samples/: {config.num_images:,} images ({config.format}), grid.png, interpolation.png")


if __name__ == "__main__":
    cli.run_stage(main)
