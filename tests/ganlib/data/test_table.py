"""Tables of any columns: round trips by name, the fields they say they have, and the bytes of a table of images."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ganlib.data.arrow import SPLITS, ArrowImages, ArrowWriter, read_manifest, write_manifest
from ganlib.data.ipc import TableWriter, image_field
from ganlib.data.table import Table
from ganlib.fields import Field
from tests.tables import FIELDS, KIND, columns


@pytest.mark.parametrize("batch_bytes", [1, 300, 1 << 20])  # one row, some rows, all rows a batch
def test_columns_of_any_kind_stay_aligned(tmp_path: Path, batch_bytes: int) -> None:
    """Kills a view of a column that takes another one's buffer or row size, and a class that is looked for at a fixed place."""
    values = columns(23)
    with TableWriter(tmp_path / "x.arrow", fields=FIELDS, batch_bytes=batch_bytes) as writer:
        for start in range(0, 23, 5):
            writer.append({name: value[start : start + 5] for name, value in values.items()})
    table = pickle.loads(pickle.dumps(Table(tmp_path / "x.arrow")))
    assert tuple(table.fields.values()) == FIELDS
    indices = np.array([22, 0, 7, 7, 13])
    for name, value in values.items():
        np.testing.assert_array_equal(table.read(name, indices), value[indices])
        assert table.read(name, indices).dtype == value.dtype
    for name in ("image", "depth", "caption"):
        np.testing.assert_array_equal(table.rows(name, 3, 99), values[name][3:])
    seen = ArrowImages(tmp_path / "x.arrow")  # as a training sees it: the first column, and `label`
    np.testing.assert_array_equal(seen.gather(indices), values["image"][indices])
    np.testing.assert_array_equal(seen.labels, values["label"])
    assert seen.class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match="has no column 'sound'; it has: image, depth, label, caption, weather"):
        table.read("sound", indices)


def test_rows_may_be_chosen_from_a_batch(tmp_path: Path) -> None:
    values = columns(10)
    with TableWriter(tmp_path / "x.arrow", fields=FIELDS, batch_bytes=100) as writer:
        writer.append(values, np.array([9, 2, 4]))
    table = Table(tmp_path / "x.arrow")
    for name, value in values.items():
        np.testing.assert_array_equal(table.read(name, np.arange(3)), value[[9, 2, 4]])


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_table_of_images_has_the_bytes_it_always_had(tmp_path: Path, names: list[str] | None) -> None:
    """A data set is named by these bytes, and trainings by the data set: written here a second time, by pyarrow alone."""
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 3), np.uint8)
    labels = None if names is None else np.array([0, 1, 1, 0, 1])
    with ArrowWriter(tmp_path / "x.arrow", shape=(1, 2, 3), class_names=names, batch_bytes=18) as writer:
        writer.append(images, labels)
    header = {"shape": [1, 2, 3], "class_names": names}
    metadata = {"format": "ganlib-images-1", "header": json.dumps(header, sort_keys=True)}
    schema = pa.schema([("image", pa.binary(6)), ("label", pa.int64())], metadata=metadata)
    with pa.OSFile(str(tmp_path / "y.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for start in (0, 3):
            part = slice(start, start + 3)
            rows = pa.array([image.tobytes() for image in images[part]], pa.binary(6))
            told = pa.nulls(len(rows), pa.int64()) if labels is None else pa.array(labels[part])
            file.write_batch(pa.record_batch([rows, told], schema=schema))
    written, expected = ((tmp_path / f"{name}.arrow").read_bytes() for name in "xy")
    assert hashlib.sha256(written).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_the_manifest_names_the_fields_and_an_older_one_has_those_of_images(tmp_path: Path) -> None:
    for split in SPLITS:
        with TableWriter(tmp_path / f"{split}.arrow", fields=FIELDS) as writer:
            writer.append(columns(4))
    counts = {split: [2, 2] for split in SPLITS}
    assert write_manifest(tmp_path, class_names=["cat", "dog"], class_counts=counts).fields == FIELDS
    for split in SPLITS:
        with ArrowWriter(tmp_path / f"{split}.arrow", shape=(1, 2, 3), class_names=["cat", "dog"]) as writer:
            writer.append(np.zeros((4, 1, 2, 3), np.uint8), np.arange(4) % 2)
    told = write_manifest(tmp_path, class_names=["cat", "dog"], class_counts=counts)
    values = json.loads((tmp_path / "manifest.json").read_text())
    del values["fields"]
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path) == told
    assert told.fields == (image_field("image", (1, 2, 3)), KIND)


def test_a_field_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="a class has them, and nothing else"):
        Field(name="x", kind="image", shape=(1, 2, 2), dtype="uint8", classes=("a",))
    with pytest.raises(ValueError, match="a class has them, and nothing else"):
        Field(name="x", kind="class", shape=(), dtype="int64")
