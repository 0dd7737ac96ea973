import json

import numpy as np
import pyarrow.parquet as pq

from pipeline.stages.sample import write_parquet


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
