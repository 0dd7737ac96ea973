import json

import numpy as np
import pyarrow.parquet as pq
import torch

from ganlib import sampling
from ganlib.rng import keyed_rng
from pipeline.stages.sample import interpolate, write_parquet


def test_interpolation_starts_and_ends_at_its_latents_and_keeps_their_length():
    z = sampling.latents(4, 64, "normal", keyed_rng(0, "z"))
    path = interpolate(z, steps=9).reshape(2, 9, 64)
    torch.testing.assert_close(path[:, 0], z[0::2])
    torch.testing.assert_close(path[:, -1], z[1::2])
    lengths = path.norm(dim=2)
    between = torch.stack([torch.linspace(*z[2 * r : 2 * r + 2].norm(dim=1).tolist(), 9) for r in range(2)])
    torch.testing.assert_close(lengths, between)  # a straight line would pass near the origin


def test_interpolation_of_parallel_latents_is_a_line():
    a = torch.ones(1, 8)
    torch.testing.assert_close(interpolate(torch.cat([a, 2 * a]), steps=3), torch.tensor([[1.0], [1.5], [2.0]]).expand(3, 8))


def test_parquet_holds_the_pixels(tmp_path):
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    write_parquet(tmp_path / "s.parquet", images, seed=3, generator_sha256="abc")
    table = pq.read_table(tmp_path / "s.parquet")
    assert json.loads(table.schema.metadata[b"shape"]) == [3, 4, 5]
    assert table.schema.metadata[b"generator_sha256"] == b"abc"
    assert b"synthetic" in table.schema.metadata[b"notice"]
    found = np.stack([np.frombuffer(value, np.uint8).reshape(3, 4, 5) for value in table["image"].to_pylist()])
    assert np.array_equal(found, images)
    assert table["seed"].to_pylist() == [3, 3]
    assert table["label"].null_count == 2
