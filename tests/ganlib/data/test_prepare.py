"""Preparation: the same bytes for any number of processes, the split by content, the contract and its report."""

import io
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.data.arrow import SPLITS, ArrowImages, read_manifest
from ganlib.data.contract import Converted
from ganlib.data.decode import Conversion
from ganlib.data.idx import write_idx
from ganlib.data.pack import PackWriter
from ganlib.data.prepare import prepare_images, split_work
from ganlib.data.raw import Fetched, write_source
from ganlib.data.readers import open_raw
from ganlib.data.rows import Elsewhere, Range, Work, convert_rows
from ganlib.data.settings import DataConfig
from ganlib.data.splits import assign, content_digest
from ganlib.files import sha256_file
from tests.packs import pack


def encode(values: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def picture(seed: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def prepared(raw: Path, folder: Path, *, processes: int | None = None, **options: Any) -> dict[str, Any]:
    folder.mkdir()
    values = {"source": "image_folder", "image_size": (8, 8), "val_fraction": 0.2, "test_fraction": 0.3, **options}
    return prepare_images(DataConfig.model_validate(values), raw, folder, processes=processes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_same_bytes_for_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 8 << 10)  # many tasks
    files: list[tuple[str, int | None, bytes | None]] = [
        (f"{number}.x", number % 3, encode(picture(number % 90, (8 + number % 5, 9)), "JPEG" if number % 2 else "PNG"))
        for number in range(120)
    ]
    files[17] = ("broken.png", 0, b"?")
    raw = pack(tmp_path / "raw", files, ("a", "b", "c"))
    reports = [prepared(raw, tmp_path / str(processes), processes=processes, on_error="skip") for processes in (1, 2, 3)]
    assert reports[0] == reports[1] == reports[2]
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")
    assert sorted(files_of(tmp_path / "1")) == ["manifest.json", "test.arrow", "train.arrow", "val.arrow"]
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 2 << 20)  # the size of the tasks does not show either
    assert prepared(raw, tmp_path / "large", on_error="skip") == reports[0]
    assert files_of(tmp_path / "large") == files_of(tmp_path / "1")


def test_what_is_prepared_is_what_came_in_source_order(tmp_path: Path) -> None:
    """A slow, obvious reference: convert nothing, split by hand."""
    raw = tmp_path / "raw"
    raw.mkdir()
    images = np.stack([picture(number) for number in range(80)])
    labels = np.arange(80, dtype=np.uint8) % 4
    write_idx(raw / "x-images-idx3-ubyte", images)
    write_idx(raw / "x-labels-idx1-ubyte", labels)
    write_source(raw, "idx", Fetched(layout="idx", class_names=("a", "b", "c", "d")))
    report = prepared(raw, tmp_path / "out")
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, image in enumerate(images):
        u = int.from_bytes(content_digest(image[None])[:8], "big") / 2**64
        rows["test" if u < 0.3 else "val" if u < 0.5 else "train"].append(row)
    manifest = read_manifest(tmp_path / "out")
    for split in SPLITS:
        stored = ArrowImages(tmp_path / "out" / f"{split}.arrow")
        np.testing.assert_array_equal(stored.slice(0, 99)[:, 0], images[rows[split]])
        np.testing.assert_array_equal(stored.labels, labels[rows[split]])
        info = manifest.splits[split]
        assert info.images == len(rows[split]) == report["images"][split]
        assert info.class_counts == tuple(np.bincount(labels[rows[split]], minlength=4))
        assert info.sha256 == sha256_file(tmp_path / "out" / f"{split}.arrow")


def test_a_row_keeps_the_split_it_was_given(tmp_path: Path) -> None:
    """Through the pack and the conversion, a null and a broken row between; kills a reader that drops the column or shifts it by the broken row."""
    raw = tmp_path / "raw"
    raw.mkdir()
    given = ["train", None, "test", "val", None, "test"]
    with PackWriter(raw, batch_bytes=150) as writer:  # several record batches
        for number, split in enumerate(given):
            writer.append(str(number), 0, b"?" if number == 2 else encode(picture(number)), split)
    write_source(raw, "image_folder", Fetched(layout="pack", class_names=("a",)))
    assert [record.split for record in open_raw(raw).read(0, 6)] == given
    part = convert_rows(open_raw(raw), 1, 6, Conversion(channels=1, height=8, width=8, resize="lanczos", crop="center"))
    assert part.given.dtype == np.int8
    assert part.given.tolist() == [-1, 1, -1, 2]
    assert part.rows.tolist() == [1, 3, 4, 5]
    assert part.sizes.tolist() == [[8, 8]] * 4


def test_duplicates_never_straddle_splits(tmp_path: Path) -> None:
    """40 pictures four times each, under other names, in other formats, with other labels."""
    files: list[tuple[str, int | None, bytes | None]] = [
        (f"{copy}/{seed}", copy, encode(picture(seed), "PNG" if copy % 2 else "BMP")) for copy in range(4) for seed in range(40)
    ]
    report = prepared(pack(tmp_path / "raw", files, ("a", "b", "c", "d")), tmp_path / "out")
    contents = {split: {image.tobytes() for image in ArrowImages(tmp_path / "out" / f"{split}.arrow").slice(0, 999)} for split in SPLITS}
    assert sum(map(len, contents.values())) == 40
    assert len(set().union(*contents.values())) == 40
    duplicates = report["duplicates"]
    assert (duplicates["groups"], duplicates["extra_copies"], duplicates["groups_with_several_labels"]) == (40, 120, 40)
    assert duplicates["first"] == [[f"{copy}/{seed}" for copy in range(4)] for seed in range(5)]
    assert any("120 images are exact copies" in warning for warning in report["warnings"])
    assert any("40 groups of equal images have more than one label" in warning for warning in report["warnings"])


def test_assign_keeps_the_fractions() -> None:
    heads = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64, endpoint=False)
    splits = assign(heads, val_fraction=0.05, test_fraction=0.15)
    shares = np.bincount(splits, minlength=3) / len(heads)
    np.testing.assert_allclose(shares, [0.80, 0.05, 0.15], atol=0.005)  # 5 sigma is 0.006
    np.testing.assert_array_equal(assign(heads[:7], val_fraction=0.05, test_fraction=0.15), splits[:7])
    edges = np.array([0, 2**64 - 1], np.uint64)
    assert [SPLITS[index] for index in assign(edges, val_fraction=0.1, test_fraction=0.1)] == ["test", "train"]


def test_content_digest_tells_shapes_apart() -> None:
    assert content_digest(np.zeros((1, 4, 9), np.uint8)) != content_digest(np.zeros((1, 9, 4), np.uint8))


def test_split_work_covers_every_row_once_in_parts_of_like_cost() -> None:
    sizes = np.random.default_rng(0).integers(100, 400_000, 500)
    for image_bytes in (784, 3 << 20, 100 << 20):
        tasks = split_work(sizes, image_bytes)
        assert [row for start, stop in tasks for row in range(start, stop)] == list(range(500))
    costs = [sizes[start:stop].sum() for start, stop in split_work(sizes, 784)]
    assert max(costs) < (2 << 20) + 400_000
    assert len(costs) > 40
    assert split_work(np.empty(0, np.int64), 784) == []


def test_broken_images_fail_with_the_first_twenty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 8 << 10)  # the broken ones lie in several tasks
    whole = encode(picture(0, (32, 32)))
    files: list[tuple[str, int | None, bytes | None]] = [(f"good/{number}", 0, encode(picture(number))) for number in range(40)]
    files += [(f"bad/{number:02d}.png", 0, whole[: len(whole) // 2]) for number in range(25)]
    raw = pack(tmp_path / "raw", files, ("x",))
    for processes in (1, 2):
        with pytest.raises(ValueError) as caught:
            prepared(raw, tmp_path / f"out{processes}", processes=processes)
        message = str(caught.value)
        assert message.startswith("25 of 65 images cannot be used, the first 20:\n  bad/00.png: truncated")
        assert message.count("bad/") == 20
        assert "data.on_error=skip" in message
    report = prepared(raw, tmp_path / "skipped", on_error="skip")
    assert report["broken"]["count"] == 25
    assert len(report["broken"]["first"]) == 20
    assert report["images"]["total"] == 40
    assert report["warnings"][0].startswith("25 broken images were left out")


def test_rows_without_image_or_with_an_impossible_label_are_broken(tmp_path: Path) -> None:
    files: list[tuple[str, int | None, bytes | None]] = [(str(number), 0, encode(picture(number))) for number in range(30)]
    files += [("null", 0, None), ("unlabelled", None, encode(picture(1))), ("high", 2, encode(picture(1)))]
    files += [("withheld", -1, encode(picture(1))), ("low", -2, encode(picture(1)))]
    report = prepared(pack(tmp_path / "raw", files, ("a", "b")), tmp_path / "out", on_error="skip")
    assert {entry["name"]: entry["reason"] for entry in report["broken"]["first"]} == {
        "null": "no image bytes (null)",
        "unlabelled": "no label (null)",
        "high": "label 2, expected 0..1",
        "withheld": "no label (-1)",
        "low": "label -2, expected 0..1",
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images_for_the_splits(tmp_path: Path, count: int) -> None:
    raw = pack(tmp_path / "raw", [("cat/only.png", 0, encode(picture(0)))] * count, ("cat",))
    with pytest.raises(
        ValueError, match=rf"{count} images \({min(count, 1)} distinct\) do not fill the splits.*add images, or raise data\."
    ):
        prepared(raw, tmp_path / "out")


def test_report_of_sizes_classes_and_warnings(tmp_path: Path) -> None:
    files: list[tuple[str, int | None, bytes | None]] = [(f"many/{number}", 0, encode(picture(number))) for number in range(150)]
    files += [(f"few/{number}", 1, encode(picture(1000 + number, (4, 30)))) for number in range(3)]
    files += [("large/0", 0, encode(picture(2000, (90, 20))))]
    report = prepared(pack(tmp_path / "raw", files, ("many", "few", "none")), tmp_path / "out")
    assert report["sizes"] == {
        "wanted": [8, 8],
        "resized": 4,
        "enlarged": 3,
        "smallest_height_width": [4, 8],
        "largest_height_width": [90, 30],
    }
    totals = {name: sum(row.values()) for name, row in report["classes"]["images"].items()}
    assert totals == {"many": 151, "few": 3}
    assert (report["classes"]["count"], report["classes"]["without_images"]) == (2, {"count": 1, "first": ["none"]})
    assert report["classes"]["balance"] == round(3 / 151, 6)  # of those that there are
    warnings = "\n".join(report["warnings"])
    assert "1 classes have fewer than 10 images: few (3)" in warnings
    assert "1 classes are named and have no image: none" in warnings
    assert "3 of 154 images are smaller than [8, 8] and were enlarged" in warnings
    assert "the smallest class has 0.0199 times the images of the largest" in warnings


def test_unlabelled(tmp_path: Path) -> None:
    report = prepared(pack(tmp_path / "raw", [(str(number), None, encode(picture(number))) for number in range(40)]), tmp_path / "out")
    assert report["classes"] is None
    assert read_manifest(tmp_path / "out").class_names is None
    assert ArrowImages(tmp_path / "out" / "train.arrow").labels is None


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sizes_that_are_not_square(tmp_path: Path, channels: int) -> None:
    files: list[tuple[str, int | None, bytes | None]] = [(str(number), None, encode(picture(number, (20, 30)))) for number in range(40)]
    prepared(pack(tmp_path / "raw", files), tmp_path / "out", image_size=(6, 10), channels=channels)
    assert ArrowImages(tmp_path / "out" / "train.arrow").shape == (channels, 6, 10)


def test_what_is_converted_elsewhere_must_come_in_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: parts that are written as they come, and a cluster that gave up halfway taken for the end."""
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 8 << 10)
    raw = pack(tmp_path / "raw", [(f"{number}.png", None, encode(picture(number))) for number in range(90)])
    config = DataConfig.model_validate({"source": "image_folder", "image_size": (8, 8), "val_fraction": 0.2, "test_fraction": 0.3})
    prepared(raw, tmp_path / "here")

    def elsewhere(turn: Callable[[list[Range]], list[Range]]) -> Elsewhere:
        def convert(work: Work) -> Generator[tuple[Range, Converted], None, None]:
            assert len(work.ranges) > 3
            yield from ((rows, work.convert(rows)) for rows in turn(list(work.ranges)))

        return convert

    for name, turn in {"same": lambda ranges: ranges, "turned": lambda ranges: ranges[::-1], "short": lambda ranges: ranges[:-1]}.items():
        (tmp_path / name).mkdir()
        if name == "same":
            prepare_images(config, raw, tmp_path / name, elsewhere=elsewhere(turn))
            assert files_of(tmp_path / name) == files_of(tmp_path / "here")
        else:
            with pytest.raises(RuntimeError, match=r"rows \(\d+, 90\) were to come next, not None|rows \(0, \d+\) were to come next, not"):
                prepare_images(config, raw, tmp_path / name, elsewhere=elsewhere(turn))
