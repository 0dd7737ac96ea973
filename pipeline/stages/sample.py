"""sample: the trained generator -> samples/ (images with seeds, and pictures to look at), every picture saying that it is synthetic."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ganlib import samples, sampling
from ganlib.files import atomic_folder
from ganlib.pictures import grid_png, in_turn
from ganlib.products import Column, Rows, Source, beside
from ganlib.sample_settings import DrawConfig, SampleConfig
from ganlib.samples import Samples
from ganlib.sampling import Inputs, Prior
from pipeline import cli, generator, latent_pictures, params
from pipeline.params import ROOT


def sample(config: SampleConfig, root: Path = ROOT) -> None:
    """Write samples/ in `sample.format` with samples.json and the pictures of each product; one batch of images is in memory.

    Image i is that of `sample.seed` and i: the same for any `sample.num_images`. A conditional generator is asked for the classes as often as the
    training data have them, for those of `sample.classes` alone where it names some, or for its counts, class after class. grid.png shows the first
    product; pictures of latents are those of `pipeline.latent_pictures`. A product that is fed with images is made of held-out ones, image i of
    image i, and a further one stands in NAME.png: the input, what is made of it, and the truth, in turn.

    Raises:
        ValueError: `sample.truncation` of a generator without styles; `sample.classes` that it does not have; no held-out images.
    """
    trained = generator.load(root / "models")
    options = trained.options(config.truncation)
    feed = trained.product.feed
    asked = samples.asked_classes(config.classes, trained.class_names, feed.class_counts if isinstance(feed, Prior) else ())
    split, held_out = generator.held_out(root) if any(trained.of_images) else ("", None)
    facts = samples.Facts(
        shape=(trained.image.channels, *trained.image.size),
        seed=config.seed,
        generator_sha256=trained.facts["sha256"],
        class_names=tuple(trained.class_names),
        drawn_classes=tuple(sorted(asked)) or None,
        truncation=config.truncation,
        fed_with=split if isinstance(feed, Column) else None,
    )
    description = {
        "Model": f"{trained.facts['family']} {facts.generator_sha256}",
        "Commit": trained.facts["git_commit"],
        "Seed": str(config.seed),
        "Data": trained.facts["data_digest"],
        **{key.capitalize(): f"{value:g}" for key, value in options.items()},
    }
    source: Source
    if isinstance(feed, Prior):
        source, total = sampling.only(feed, asked), config.num_images
    else:
        assert held_out is not None
        source, total = Rows(column=feed, images=held_out), min(config.num_images, len(held_out))
    first: list[np.ndarray] = []
    with atomic_folder(root / "samples") as folder:
        with samples.writing(folder, facts, config.format) as writer:
            for inputs in batches(source, range(total), config, {number: count for number, count in asked.items() if count is not None}):
                images = sampling.generate(trained.network, inputs, batch_images=config.batch_images, **options)
                writer.add(images, None if inputs.labels is None else inputs.labels.numpy())
                if (lacking := config.grid_rows * config.grid_columns - sum(map(len, first))) > 0:
                    first.append(images[:lacking].copy())
        if isinstance(source, Prior):
            pictures = latent_pictures.of(trained, source, config, options, first=np.concatenate(first), description=description)
            for name, png in pictures.items():
                (folder / f"{name}.png").write_bytes(png)
        for product, column, part in trained.of_images:
            assert held_out is not None
            shown = range(min(len(held_out), config.grid_columns * max(1, config.grid_rows // 2)))
            kinds = beside(Rows(column=column, images=held_out), part, config.seed, shown, batch_images=config.batch_images)
            rows = f"held-out images ({split} split), one below another: {', '.join(kinds)}"
            name = "grid" if product is trained.product else product.name
            sheet = in_turn(*kinds.values(), columns=config.grid_columns)
            picture = grid_png(sheet, columns=config.grid_columns, description=description | {"Rows": rows})
            (folder / f"{name}.png").write_bytes(picture)


def batches(source: Source, numbers: range, config: DrawConfig, counts: dict[int, int]) -> Iterator[Inputs]:
    """The inputs of images `numbers`, `sample.batch_images` at a time; where there are `counts` (class -> images), these instead of the data's."""
    labels = torch.cat([torch.full((count,), number) for number, count in counts.items()]) if counts else None
    for start in range(numbers.start, numbers.stop, config.batch_images):
        indices = range(start, min(start + config.batch_images, numbers.stop))
        inputs = source.seeded(config.seed, indices)
        yield inputs if labels is None else Inputs(inputs.z, labels[start : indices.stop])


def main() -> None:
    config = params.section("sample", SampleConfig)
    sample(config)
    made = Samples(ROOT / "samples")
    fewer = f"; one of each held-out image, of sample.num_images={config.num_images:,}" if len(made) < config.num_images else ""
    print(
        f"samples/: {len(made):,} images ({config.format}{fewer}), {', '.join(sorted(path.name for path in (ROOT / 'samples').glob('*.png')))}"
    )


if __name__ == "__main__":
    cli.run_stage(main)
