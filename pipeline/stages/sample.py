"""sample: the trained generator -> samples/ (Parquet with seeds, a grid, latent interpolations), every picture saying that it is synthetic."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ganlib import sampling
from ganlib.config import SampleConfig
from ganlib.files import atomic_folder
from ganlib.pictures import NOTICE, grid_png
from pipeline import cli, generator, params
from pipeline.params import ROOT

ROWS_PER_GROUP = 2_000


def sample(config: SampleConfig, root: Path = ROOT) -> None:
    """Write samples/samples.parquet, grid.png and interpolation.png.

    Row i of the Parquet is image i of `sample.seed`: the same for any `sample.num_images`.
    """
    trained = generator.load(root / "models")
    inputs = trained.inputs(config.seed, range(config.num_images))
    images = sampling.generate(trained.network, inputs, batch_images=config.batch_images)
    path = sampling.Inputs(
        interpolate(trained.inputs(config.seed, range(2 * config.interpolation_rows)).z, steps=config.interpolation_steps)
    )
    between = sampling.generate(trained.network, path, batch_images=config.batch_images)
    description = {
        "Model": f"{trained.facts['family']} {trained.facts['sha256']}",
        "Commit": trained.facts["git_commit"],
        "Seed": str(config.seed),
        "Data": trained.facts["data_digest"],
    }
    count = min(config.grid_rows * config.grid_columns, len(images))
    with atomic_folder(root / "samples") as samples:
        write_parquet(samples / "samples.parquet", images, seed=config.seed, generator_sha256=trained.facts["sha256"])
        (samples / "grid.png").write_bytes(grid_png(images[:count], columns=config.grid_columns, description=description))
        (samples / "interpolation.png").write_bytes(grid_png(between, columns=config.interpolation_steps, description=description))


def interpolate(z: torch.Tensor, *, steps: int) -> torch.Tensor:
    """[2 R, D] -> [R * steps, D]: each pair joined along a great circle (arXiv:1609.04468, section 2), lengths interpolated linearly."""
    rows = []
    for a, b in zip(z[0::2], z[1::2], strict=True):
        angle = torch.arccos(torch.clamp(torch.dot(a / a.norm(), b / b.norm()), -1, 1))
        for t in torch.linspace(0, 1, steps):
            if angle < 1e-4:  # parallel latents: the circle is a line
                rows.append(a + t * (b - a))
                continue
            direction = (torch.sin((1 - t) * angle) * a / a.norm() + torch.sin(t * angle) * b / b.norm()) / torch.sin(angle)
            rows.append(direction * (a.norm() + t * (b.norm() - a.norm())))
    return torch.stack(rows)


def write_parquet(path: Path, images: np.ndarray, *, seed: int, generator_sha256: str) -> None:
    """[N, C, H, W] uint8 -> columns image (raw CHW bytes), seed, index, label (null: unconditional); shape and generator are in the metadata."""
    width = int(np.prod(images.shape[1:]))
    schema = pa.schema(
        [("image", pa.binary(width)), ("seed", pa.int64()), ("index", pa.int64()), ("label", pa.int64())],
        metadata={"shape": json.dumps(list(images.shape[1:])), "notice": NOTICE, "generator_sha256": generator_sha256},
    )
    table = pa.table(
        {
            "image": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(width), len(images), [None, pa.py_buffer(np.ascontiguousarray(images))]
            ),
            "seed": np.full(len(images), seed, np.int64),
            "index": np.arange(len(images)),
            "label": pa.nulls(len(images), pa.int64()),
        },
        schema=schema,
    )
    pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression="zstd")


def main() -> None:
    config = params.load().sample
    sample(config)
    print(f"samples/: {config.num_images:,} images, grid.png, interpolation.png")


if __name__ == "__main__":
    cli.run(main)
