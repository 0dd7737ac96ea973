"""sample: the trained generator -> samples/ (Parquet with seeds, a grid, latent interpolations), every picture saying that it is synthetic."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ganlib import sampling
from ganlib.files import atomic_folder
from ganlib.pictures import NOTICE, grid_png
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Inputs, Prior
from pipeline import cli, generator, params
from pipeline.params import ROOT

ROWS_PER_GROUP = 2_000


def sample(config: SampleConfig, root: Path = ROOT) -> None:
    """Write samples/samples.parquet, grid.png and interpolation.png.

    Row i of the Parquet is image i of `sample.seed`: the same for any `sample.num_images`. A conditional generator is asked for the classes as
    often as the training data have them; its grid shows one class a column.

    Raises:
        ValueError: `sample.truncation` of a generator without styles.
    """
    trained = generator.load(root / "models")
    options = trained.options(config.truncation)

    def images_of(inputs: Inputs) -> np.ndarray:
        return sampling.generate(trained.network, inputs, batch_images=config.batch_images, **options)

    drawn = trained.inputs(config.seed, range(config.num_images))
    images = images_of(drawn)
    grid = images[: config.grid_rows * config.grid_columns]
    if drawn.labels is not None:
        grid = images_of(trained.prior.seeded_of_classes(config.seed, range(len(grid)), columns=config.grid_columns))
    between = images_of(walks(trained.prior, config))
    sha256 = trained.facts["sha256"]
    description = {
        "Model": f"{trained.facts['family']} {sha256}",
        "Commit": trained.facts["git_commit"],
        "Seed": str(config.seed),
        "Data": trained.facts["data_digest"],
        **{key.capitalize(): f"{value:g}" for key, value in options.items()},
    }

    def told(place: str) -> dict[str, str]:
        names = generator.numbered(trained.class_names)
        return description | ({"Classes": f"one class a {place}, of {names}"} if names else {})

    with atomic_folder(root / "samples") as samples:
        write_parquet(samples / "samples.parquet", images, drawn.labels, seed=config.seed, generator_sha256=sha256, **options)
        (samples / "grid.png").write_bytes(grid_png(grid, columns=config.grid_columns, description=told("column")))
        picture = grid_png(between, columns=config.interpolation_steps, description=told("row"))
        (samples / "interpolation.png").write_bytes(picture)


def walks(prior: Prior, config: SampleConfig) -> Inputs:
    """A walk between two latents for each row of interpolation.png; where there are classes, each row stays in one."""
    rows, steps = config.interpolation_rows, config.interpolation_steps
    z = sampling.interpolate(prior.seeded(config.seed, range(2 * rows)).z, steps=steps, distribution=prior.distribution)
    labels = prior.seeded_of_classes(config.seed, range(rows), columns=rows).labels
    return Inputs(z, None if labels is None else labels.repeat_interleave(steps))


def write_parquet(
    path: Path, images: np.ndarray, labels: torch.Tensor | None = None, *, seed: int, generator_sha256: str, truncation: float = 1.0
) -> None:
    """[N, C, H, W] uint8 -> columns image (raw CHW bytes), seed, index, label (null: unconditional); the rest is metadata."""
    width = int(np.prod(images.shape[1:]))
    schema = pa.schema(
        [("image", pa.binary(width)), ("seed", pa.int64()), ("index", pa.int64()), ("label", pa.int64())],
        metadata={"shape": json.dumps(list(images.shape[1:])), "notice": NOTICE, "generator_sha256": generator_sha256}
        | ({"truncation": repr(truncation)} if truncation != 1.0 else {}),
    )
    table = pa.table(
        {
            "image": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(width), len(images), [None, pa.py_buffer(np.ascontiguousarray(images))]
            ),
            "seed": np.full(len(images), seed, np.int64),
            "index": np.arange(len(images)),
            "label": pa.nulls(len(images), pa.int64()) if labels is None else labels.numpy(),
        },
        schema=schema,
    )
    pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression="zstd")


def main() -> None:
    config = params.section("sample", SampleConfig)
    sample(config)
    print(f"samples/: {config.num_images:,} images, grid.png, interpolation.png")


if __name__ == "__main__":
    cli.run_stage(main)
