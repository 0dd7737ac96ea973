"""Further columns of the data (`data.columns`): from the source to the training, aligned with the rows they belong to."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganlib.data.arrow import SPLITS, ArrowImages, read_manifest
from ganlib.data.ipc import image_field
from ganlib.data.pack import PackWriter
from ganlib.data.prepare import prepare_images
from ganlib.data.raw import Fetched, write_source
from ganlib.data.settings import DataConfig
from ganlib.data.sources import fetch_raw, parquet_columns
from ganlib.fields import Field, class_field

COUNT = 40
COLUMNS = {"edges": {"channels": 1, "column": "drawing"}, "small": {"image_size": [4, 4], "resize": "box"}}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Photographs [n, 8, 8, 3], and a drawing [n, 8, 8] of each, whose first pixel is its number."""
    rng = np.random.default_rng(0)
    drawings = rng.integers(0, 256, (COUNT, 8, 8), np.uint8)
    drawings[:, 0, 0] = np.arange(COUNT)
    photographs = rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    photographs[:, 0, 0, 0] = np.arange(COUNT)
    return photographs, drawings


def write_parquet(folder: Path, *, drawings: list[bytes | None]) -> None:
    photographs, _ = rows()
    encoded = [png(photograph) for photograph in photographs]
    values = {"image": encoded, "label": [i % 2 for i in range(COUNT)], "drawing": drawings, "small": encoded}
    folder.mkdir()
    pq.write_table(pa.table(values), folder / "train.parquet")


def config(folder: Path, **changes) -> DataConfig:
    values = {
        "source": "parquet",
        "path": str(folder),
        "image_size": [8, 8],
        "channels": 3,
        "columns": COLUMNS,
        "splits": "content",
        "val_fraction": 0.2,
        "test_fraction": 0.2,
    }
    return DataConfig.model_validate({**values, **changes})


def prepared(chosen: DataConfig, root: Path) -> Path:
    for name in ("raw", "prepared"):
        (root / name).mkdir()
    fetch_raw(chosen, root / "raw")
    prepare_images(chosen, root / "raw", root / "prepared", processes=1)
    return root / "prepared"


def test_columns_of_parquet_arrive_beside_their_rows(tmp_path):
    """Every image keeps its drawing through packing, splitting and batches. Kills: a column in another order, the size of the main image for all."""
    photographs, drawings = rows()
    write_parquet(tmp_path / "in", drawings=[png(drawing) for drawing in drawings])
    folder = prepared(config(tmp_path / "in"), tmp_path)
    fields = (
        image_field("image", (3, 8, 8)),
        class_field("label", ("0", "1")),
        image_field("edges", (1, 8, 8)),
        image_field("small", (3, 4, 4)),
    )
    assert read_manifest(folder).fields == fields
    seen = []
    for split in SPLITS:
        table = ArrowImages(folder / f"{split}.arrow")
        every = np.arange(len(table))
        images, edges, small = (table.read(name, every) for name in ("image", "edges", "small"))
        numbers = edges[:, 0, 0, 0]
        np.testing.assert_array_equal(images, photographs.transpose(0, 3, 1, 2)[numbers])
        np.testing.assert_array_equal(edges[:, 0], drawings[numbers])
        np.testing.assert_array_equal(table.labels, numbers % 2)
        assert np.abs(small.mean((2, 3)) - images.mean((2, 3))).max() < 1  # box: means of 2 x 2
        seen += numbers.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_without_columns_the_bytes_are_those_of_images_alone(tmp_path):
    """A data set does not change its name because its file has columns that nobody asked for."""
    _, drawings = rows()
    write_parquet(tmp_path / "in", drawings=[png(drawing) for drawing in drawings])
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    plain = prepared(config(tmp_path / "in", columns={}), tmp_path / "without")
    both = prepared(config(tmp_path / "in"), tmp_path / "with")
    assert ArrowImages(plain / "train.arrow").fields == {
        name: field for name, field in ArrowImages(both / "train.arrow").fields.items() if name in ("image", "label")
    }
    assert read_manifest(plain).splits["train"].images == read_manifest(both).splits["train"].images
    schema = pa.ipc.open_file(pa.OSFile(str(plain / "train.arrow"))).schema
    assert schema.metadata[b"format"] == b"ganlib-images-1"
    assert schema.names == ["image", "label"]


def test_a_broken_value_breaks_its_row_and_says_which_column(tmp_path):
    _, drawings = rows()
    encoded: list[bytes | None] = [png(drawing) for drawing in drawings]
    encoded[3], encoded[5] = None, b"no picture"
    write_parquet(tmp_path / "in", drawings=encoded)
    with pytest.raises(ValueError, match=r"2 of 40 images cannot be used:\n.*column edges: null\n.*column edges: not an image"):
        prepared(config(tmp_path / "in"), tmp_path)


def test_numbers_may_be_a_column_of_files(tmp_path):
    """A source of one's own packs .npy files; the training would see them in [-1, 1]."""
    photographs, _ = rows()
    heights = np.linspace(0, 10, COUNT, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    for name in ("raw", "out"):
        (tmp_path / name).mkdir()
    with PackWriter(tmp_path / "raw", columns=("height",)) as pack:
        for i, (photograph, height) in enumerate(zip(photographs, heights, strict=True)):
            stream = io.BytesIO()
            np.save(stream, height)
            pack.append(f"{i}.png", None, png(photograph), None, {"height": stream.getvalue()})
    write_source(tmp_path / "raw", "own", Fetched(layout="pack", class_names=None, columns=("height",)))
    settings = {"height": {"modality": "points", "channels": 1, "image_size": [2, 3], "value_range": [0, 10]}}
    prepare_images(config(tmp_path, columns=settings), tmp_path / "raw", tmp_path / "out", processes=1)
    table = ArrowImages(tmp_path / "out" / "train.arrow")
    field = Field(name="height", kind="points", shape=(1, 2, 3), dtype="float32", value_range=(0.0, 10.0))
    assert table.fields["height"] == field
    every = np.arange(len(table))
    numbers = table.gather(every)[:, 0, 0, 0]
    np.testing.assert_allclose(table.read("height", every), (heights[numbers] / 5 - 1)[:, None], atol=1e-6)


def test_columns_of_other_modalities_are_packed_as_their_decoders_read_them(tmp_path):
    """Numbers and lists of them, unrounded; text in UTF-8. Kills: a caption that is taken for a path, floats that are cast to bytes."""
    photographs, _ = rows()
    values = {
        "image": [png(photograph) for photograph in photographs],
        "age": [i / 4 for i in range(COUNT)],
        "place": [[i * 1.5, -i * 0.5] for i in range(COUNT)],
        "caption": [f"Bär {i}" for i in range(COUNT)],
    }
    for name in ("in", "raw", "out"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table(values), tmp_path / "in" / "train.parquet")
    common = {"modality": "points", "channels": 1, "value_range": [-60, 60]}
    columns = {"age": {**common, "image_size": [1, 1]}, "place": {**common, "image_size": [1, 2]}}
    chosen = config(tmp_path / "in", columns=columns, label_column=None)
    fetch_raw(chosen, tmp_path / "raw")
    prepare_images(chosen, tmp_path / "raw", tmp_path / "out", processes=1)
    table = ArrowImages(tmp_path / "out" / "train.arrow")
    every = np.arange(len(table))
    numbers = table.gather(every)[:, 0, 0, 0].astype(np.float32)
    np.testing.assert_allclose(table.read("age", every).ravel() * 60, numbers / 4, atol=1e-4)
    np.testing.assert_allclose(table.read("place", every).reshape(-1, 2) * 60, numbers[:, None] * [1.5, -0.5], atol=1e-4)
    schema = pa.schema([("caption", pa.string())])
    found = list(parquet_columns.reader(schema, "caption", modality="tokens")(pa.array(["Bär 0", None])))
    assert found == [("Bär 0".encode(), None), (None, None)]
    with pytest.raises(ValueError, match=r"column 'caption' is bool, expected bytes, text, numbers or lists of numbers"):
        parquet_columns.reader(pa.schema([("caption", pa.bool_())]), "caption", modality="tokens")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "digits"}, r"data.source=digits brings no column 'edges' \(params.yaml: data.columns\)"),
        ({"columns": {"edges": {"column": "none"}}}, r"has no column 'none'.*params.yaml: data.columns.edges.column"),
    ],
)
def test_a_column_that_is_not_there_is_refused(tmp_path, changes, message):
    _, drawings = rows()
    write_parquet(tmp_path / "in", drawings=[png(drawing) for drawing in drawings])
    with pytest.raises(ValueError, match=message):
        prepared(config(tmp_path / "in", **changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"label": {}}}, "data.columns has 'label', which the data have already"),
        ({"pages": "all"}, "data.pages=all makes several rows of a file"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)
