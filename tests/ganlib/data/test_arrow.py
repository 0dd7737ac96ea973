"""The prepared splits: round trips, random access, and what a damaged file says."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ganlib.data.arrow import SPLITS, ArrowImages, ArrowWriter, read_manifest, write_manifest

SHAPE = (3, 4, 5)
CLASS_NAMES = ["a", "b", "c"]


def make_images(count: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 3, count)


def write(path: Path, images: np.ndarray, labels: np.ndarray | None, *, chunk: int = 7, batch_bytes: int = 600) -> Path:
    names = None if labels is None else CLASS_NAMES
    with ArrowWriter(path, shape=images.shape[1:], class_names=names, batch_bytes=batch_bytes) as writer:
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            writer.append(images[part], None if labels is None else labels[part])
    assert writer.num_images == len(images)
    return path


@pytest.mark.parametrize("batch_bytes", [1, 600, 1 << 20])  # one row, ten rows, all rows a batch
@pytest.mark.parametrize("count", [0, 1, 10, 43])
def test_round_trip(tmp_path: Path, count: int, batch_bytes: int) -> None:
    images, labels = make_images(count)
    stored = ArrowImages(write(tmp_path / "x.arrow", images, labels, batch_bytes=batch_bytes))
    assert (stored.shape, len(stored), stored.class_names, stored.num_classes) == (SHAPE, count, CLASS_NAMES, 3)
    np.testing.assert_array_equal(stored.labels, labels)
    assert stored.labels is not None
    assert stored.labels.dtype == np.int64
    np.testing.assert_array_equal(stored.slice(0, count), images)
    np.testing.assert_array_equal(stored.slice(3, 25), images[3:25])
    np.testing.assert_array_equal(stored.slice(40, 99), images[40:99])
    indices = np.random.default_rng(1).integers(0, max(count, 1), 0 if count == 0 else 64)
    gathered = stored.gather(indices)
    np.testing.assert_array_equal(gathered, images[indices])
    assert gathered.dtype == np.uint8
    assert gathered.flags.writeable
    assert gathered.flags.c_contiguous


def test_unlabelled_and_pickled(tmp_path: Path) -> None:
    images, _ = make_images(9)
    stored = pickle.loads(pickle.dumps(ArrowImages(write(tmp_path / "x.arrow", images, None))))
    assert (stored.labels, stored.class_names, stored.num_classes) == (None, None, 0)
    np.testing.assert_array_equal(stored.gather(np.array([8, 0])), images[[8, 0]])


def test_bytes_depend_on_the_images_alone(tmp_path: Path) -> None:
    images, labels = make_images(43)
    one = write(tmp_path / "one.arrow", images, labels, chunk=43)
    other = write(tmp_path / "other.arrow", images, labels, chunk=2)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("indices", [[-1], [0, 43], [50]])
@pytest.mark.parametrize("batch_bytes", [600, 1 << 20])
def test_gather_refuses_what_is_not_there(tmp_path: Path, indices: list[int], batch_bytes: int) -> None:
    stored = ArrowImages(write(tmp_path / "x.arrow", *make_images(43), batch_bytes=batch_bytes))
    with pytest.raises(IndexError, match=r"expected 0\.\.42"):
        stored.gather(np.array(indices))


def test_gather_is_fast_enough_for_training(tmp_path: Path) -> None:
    """32 random rows of 784 bytes: about 15 us; the limit leaves room for a busy machine."""
    images, labels = make_images(20_000, (1, 28, 28))
    stored = ArrowImages(write(tmp_path / "x.arrow", images, labels, chunk=20_000, batch_bytes=64 << 20))
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(300):
        indices = rng.integers(0, len(images), 32)
        start = time.perf_counter()
        stored.gather(indices)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 50e-6


def test_a_missing_truncated_or_foreign_file_names_the_stage(tmp_path: Path) -> None:
    path = write(tmp_path / "x.arrow", *make_images(43))
    with pytest.raises(ValueError, match="does not exist; run the prepare stage"):
        ArrowImages(tmp_path / "none.arrow")
    data = path.read_bytes()
    for end in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"truncated or not an Arrow file.*rerun the prepare stage"):
            ArrowImages(path)
    table = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    with pytest.raises(ValueError, match="format none, expected ganlib-images-1 or ganlib-table-1; rerun"):
        ArrowImages(path)


def test_manifest(tmp_path: Path) -> None:
    images, labels = make_images(30)
    for index, split in enumerate(SPLITS):
        write(tmp_path / f"{split}.arrow", images[index * 10 : index * 10 + 10], labels[index * 10 : index * 10 + 10])
    counts = {split: [1, 2, 7] for split in SPLITS}
    written = write_manifest(tmp_path, class_names=CLASS_NAMES, class_counts=counts)
    assert written == read_manifest(tmp_path)
    told = write_manifest(tmp_path, class_names=CLASS_NAMES, class_counts=counts, preparation={"resize": "box"})
    assert told.preparation == {"resize": "box"}
    assert told.data_digest == written.data_digest  # a hash of the data alone: what was done to them does not name them
    assert (written.shape, written.class_names) == (SHAPE, tuple(CLASS_NAMES))
    assert written.splits["val"].images == 10
    assert written.splits["test"].class_counts == (1, 2, 7)
    write(tmp_path / "val.arrow", images[:10], labels[:10])
    assert write_manifest(tmp_path, class_names=CLASS_NAMES, class_counts=counts).data_digest != written.data_digest


def test_a_bad_manifest_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; run the prepare stage"):
        read_manifest(tmp_path)
    for text in ("{", "[]", "{}", json.dumps({"format": 99})):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged.*rerun the prepare stage"):
            read_manifest(tmp_path)
