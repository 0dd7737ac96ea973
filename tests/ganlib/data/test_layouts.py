"""Folders and archives as people have them: the split, the class and the order that each image gets, and what is refused.

Every arrangement is written to disk, fetched by the source and read back; the expected rows are written out by hand. Long because each
of some fifty arrangements has its own tree.
"""

import csv
import io
import json
import unicodedata
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganlib.data.arrow import ArrowImages
from ganlib.data.given import split_of_file
from ganlib.data.idx import write_idx
from ganlib.data.names import natural_key
from ganlib.data.prepare import prepare_images
from ganlib.data.raw import SourceInfo
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.data.sources import fetch_raw
from ganlib.data.tree import open_zip

Row = tuple[str, str | None, str | None]  # path, class, split


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def lay(folder: Path, *paths: str, files: Mapping[str, str | bytes] | None = None) -> Path:
    """A picture of its own at each path, and `files` beside them."""
    contents = {path: png(number) for number, path in enumerate(paths)} | dict(files or {})
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def zipped(folder: Path, target: Path, method: int = zipfile.ZIP_STORED) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def fetched(incoming: Path, **options: object) -> tuple[list[Row], SourceInfo]:
    """What the source makes of `incoming`."""
    raw = incoming.parent / f"raw of {incoming.name} {len(list(incoming.parent.iterdir()))}"
    raw.mkdir()
    info = fetch_raw(DataConfig.model_validate({"source": "image_folder", "path": str(incoming), **options}), raw)
    names = info.class_names
    records = list(open_raw(raw).read(0, 10**6))
    return [(r.name, None if r.label is None or names is None else names[r.label], r.split) for r in records], info


def prepared(incoming: Path, source: str = "image_folder", **options: object) -> tuple[dict[str, list[bytes]], dict[str, object]]:
    """The pixels of each split, and the report."""
    number = len(list(incoming.parent.iterdir()))
    raw, out = incoming.parent / f"raw{number}", incoming.parent / f"prepared{number}"
    raw.mkdir()
    out.mkdir()
    values = {"source": source, "path": str(incoming), "image_size": (8, 8), "val_fraction": 0.2, "test_fraction": 0.3, **options}
    config = DataConfig.model_validate(values)
    fetch_raw(config, raw)
    report = prepare_images(config, raw, out, processes=1)
    splits = {split: ArrowImages(out / f"{split}.arrow") for split in ("train", "val", "test")}
    return {split: [image.tobytes() for image in images.slice(0, 10**6)] for split, images in splits.items()}, report


def pixels(data: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(data))).tobytes()


def paths(*folders: str, count: int) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


# splits


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "VALIDATION", "testing"), ("train", "valid", "Test"), ("TRAIN", "dev", "test")]
)
def test_split_folders_are_no_classes(tmp_path: Path, names: tuple[str, str, str]) -> None:
    """Kills a word that is missing, a comparison that minds the case, and folders of splits as classes."""
    train, val, test = names
    rows, info = fetched(lay(tmp_path / "in", f"{train}/cat/1.png", f"{train}/dog/1.png", f"{val}/cat/2.png", f"{test}/dog/x/3.png"))
    assert sorted(rows) == sorted(
        [
            (f"{train}/cat/1.png", "cat", "train"),
            (f"{train}/dog/1.png", "dog", "train"),
            (f"{val}/cat/2.png", "cat", "val"),
            (f"{test}/dog/x/3.png", "dog", "test"),
        ]
    )
    assert info.class_names == ("cat", "dog")
    assert "split folders: test 1, train 2, val 1 images" in info.notes


def test_splits_without_classes_and_below_classes(tmp_path: Path) -> None:
    rows, info = fetched(lay(tmp_path / "plain", "train/1.png", "test/2.png"))
    assert rows == [("test/2.png", None, "test"), ("train/1.png", None, "train")]
    assert info.class_names is None
    rows, info = fetched(lay(tmp_path / "below", "cat/train/1.png", "cat/test/2.png", "dog/train/deep/3.png"))
    assert rows == [("cat/test/2.png", "cat", "test"), ("cat/train/1.png", "cat", "train"), ("dog/train/deep/3.png", "dog", "train")]


def test_given_splits_stay_and_what_is_missing_is_carved_from_train(tmp_path: Path) -> None:
    """Kills auto that splits by content, val taken out of test, and a fraction of the whole instead of train."""
    train, test = paths("train/a", "train/b", count=60), paths("test/a", "test/b", count=10)
    incoming = lay(tmp_path / "in", *train, *test)
    splits, report = prepared(incoming)
    given = {path: pixels((incoming / path).read_bytes()) for path in (*train, *test)}
    assert sorted(splits["test"]) == sorted(given[path] for path in test)
    assert sorted(splits["train"] + splits["val"]) == sorted(given[path] for path in train)
    assert 10 < len(splits["val"]) < 40  # 24 of 120 expected
    by_content, content = prepared(incoming, splits="content")
    assert sorted(image for images in by_content.values() for image in images) == sorted(given.values())
    assert set(splits["val"]) <= set(by_content["val"]) | set(by_content["test"])  # the same hash decides, by the same order
    assert report["splits"] == {
        "by": "given",
        "given": {"train": 120, "test": 20},
        "carved_from_train": ["val"],
        "also_in_train": {"val": 0, "test": 0},
    }
    assert content["splits"] == {"by": "content", "given": {}, "carved_from_train": [], "also_in_train": {"val": 0, "test": 0}}


def test_a_lone_train_folder_is_split_by_content(tmp_path: Path) -> None:
    """Both splits are carved: the same images in each as without the folder, since only pixels decide."""
    names = paths("a", "b", count=50)
    bare = prepared(lay(tmp_path / "bare", *names))[0]
    splits, report = prepared(lay(tmp_path / "in", *(f"train/{name}" for name in names)), splits="given")
    assert splits == bare
    assert report["splits"]["carved_from_train"] == ["val", "test"]  # type: ignore[index]


def test_all_three_given_leave_nothing_to_carve(tmp_path: Path) -> None:
    splits, report = prepared(lay(tmp_path / "in", *paths("train", count=30), *paths("val", count=4), *paths("test", count=5)))
    assert {split: len(images) for split, images in splits.items()} == {"train": 30, "val": 4, "test": 5}
    assert report["splits"]["carved_from_train"] == []  # type: ignore[index]


def test_what_leaks_between_given_splits_is_counted_and_stays(tmp_path: Path) -> None:
    """Two of test's five and one of val's four have a training image's pixels; test's own twins are no leak."""
    incoming = lay(tmp_path / "in", *paths("train", count=30), *paths("val", count=4), *paths("test", count=5))
    for target, source in {"test/0": "train/7", "test/1": "train/7", "val/3": "train/9", "test/4": "test/3"}.items():
        (incoming / f"{target}.png").write_bytes((incoming / f"{source}.png").read_bytes())
    splits, report = prepared(incoming)
    assert {split: len(images) for split, images in splits.items()} == {"train": 30, "val": 4, "test": 5}
    assert report["splits"]["also_in_train"] == {"val": 1, "test": 2}  # type: ignore[index]
    assert report["duplicates"]["extra_copies"] == 4  # type: ignore[index]
    warnings = "\n".join(report["warnings"])  # type: ignore[arg-type]
    assert "2 of 5 test images have the pixels of a training image" in warnings
    assert "1 of 4 val images have the pixels of a training image" in warnings
    assert "copies share a split" not in warnings
    by_content, report = prepared(incoming, splits="content")
    assert report["splits"]["also_in_train"] == {"val": 0, "test": 0}  # type: ignore[index]
    assert not set(by_content["train"]) & set(by_content["test"])


def test_given_splits_that_are_not_there_or_leave_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.splits=given, but .*image_folder\) has no given splits: .*folders named train or training, val"
    ):
        prepared(lay(tmp_path / "bare", *paths("cat", "dog", count=20)), splits="given")
    test = lay(tmp_path / "test", *paths("test/cat", "test/dog", count=20))
    with pytest.raises(ValueError, match=r"the given splits \(test 40\) leave nothing to train on; .*data\.splits=content"):
        prepared(test)
    assert sum(map(len, prepared(test, splits="content")[0].values())) == 40


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["val/1.png", "valid/2.png", "train/3.png"], "val and valid, which are both the val split"),
        (["train/1.png", "test/2.png", "extra/3.png"], r"folders of splits, test, train, and extra beside them; move extra into one"),
        (["train/1.png", "test/2.png", "3.png"], r"folders of splits, test, train, and images beside them"),
        (["train/1.png", "test/cat/2.png", "test/dog/2.png"], "the train split has no class folders, another split has cat, dog"),
        (
            ["train/cat/1.png", "train/dog/2.png", "test/Cat/1.png", "test/Dog/2.png"],
            "the test split has the folders Cat, Dog, none of which is",
        ),
        (["train/a/1.png", "train/2.png", "test/a/3.png"], r"train holds 1 images beside its class folders, the first train/2\.png"),
    ],
)
def test_splits_that_may_mean_two_things_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetched(lay(tmp_path / "in", *names))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """As in PASCAL VOC and COCO: beside other classes it is one of them, and the note says so."""
    rows, info = fetched(lay(tmp_path / "in", "bus/1.png", "train/2.png", "car/3.png"))
    assert info.class_names == ("bus", "car", "train")
    assert {split for _, _, split in rows} == {None}
    assert "the folder train is a class: the folders beside it are no splits" in info.notes


def test_words_in_file_names() -> None:
    """Kills a word inside another one, and a choice between two."""
    names = ["train-images", "t10k-images", "QMNIST_Test.images", "x-dev-", "trains-", "retest-", "train-test-", "images"]
    assert [split_of_file(name) for name in names] == ["train", "test", "test", "val", None, None, None, None]


@pytest.mark.parametrize("folder", ["test", "test/unknown"])
def test_an_unlabelled_test_split_is_left_out_and_counted(tmp_path: Path, folder: str) -> None:
    """Kaggle's test folder; the labels of train are kept. Kills "unknown" as a class, and a null label that stops prepare later."""
    incoming = lay(tmp_path / "in", *paths("train/cat", "train/dog", count=2), *paths(folder, count=3))
    rows, info = fetched(incoming)
    assert info.class_names == ("cat", "dog")
    assert {split for _, _, split in rows} == {"train"}
    assert any(note.startswith("3 images of the test split lie in none of the class folders") for note in info.notes)
    rows, info = fetched(incoming, classes="none")
    assert (len(rows), info.class_names) == (7, None)


def test_idx_files_by_their_names(tmp_path: Path) -> None:
    """The official names of MNIST, Fashion-MNIST and EMNIST; other names give no split, and a mixture is refused."""
    incoming = tmp_path / "in"
    incoming.mkdir()

    def images(name: str, count: int) -> None:
        write_idx(incoming / f"{name}images-idx3-ubyte", np.random.default_rng(count).integers(0, 256, (count, 8, 8), np.uint8))

    images("emnist-letters-train-", 40)
    images("t10k-", 6)
    splits, report = prepared(incoming, "idx")
    assert len(splits["test"]) == 6
    assert report["splits"]["given"] == {"train": 40, "test": 6}  # type: ignore[index]
    images("restrained-", 5)  # no word of its own
    with pytest.raises(ValueError, match=r"some images are given a split \(train 40, test 6\), 5 others are not; .*data\.splits=content"):
        prepared(incoming, "idx")
    assert sum(map(len, prepared(incoming, "idx", splits="content")[0].values())) == 51


# StyleGAN's dump


def stylegan(folder: Path, labels: object) -> Path:
    names = [f"{number // 3:05d}/img{number:08d}.png" for number in range(7)]
    return lay(folder, *names, files={"dataset.json": json.dumps({"labels": labels})})


LABELS = [[f"{number // 3:05d}/img{number:08d}.png", 10 if number % 2 else 2] for number in range(7)]
STYLEGAN_ROWS = [(name, str(label), None) for name, label in LABELS]


def test_stylegans_dump_as_folder_and_as_zip(tmp_path: Path) -> None:
    """The same rows however it comes; kills chunk folders as classes, and classes in the order of strings (10 before 2)."""
    folder = stylegan(tmp_path / "dump", LABELS)
    rows, info = fetched(folder)
    assert rows == STYLEGAN_ROWS
    assert (info.class_names, info.ignored_count) == (("2", "10"), 0)
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        assert fetched(zipped(folder, tmp_path / f"{name}.zip", method))[0] == STYLEGAN_ROWS
        archive = zipped(folder, tmp_path / name / "dump.zip", method)
        (archive.parent / "README.md").write_text("beside it")
        rows, info = fetched(archive.parent)
        assert rows == STYLEGAN_ROWS
        assert info.ignored_examples == ("README.md",)
        assert [record.image for record in open_raw(next(tmp_path.glob(f"raw of {name} *"))).read(0, 9)] == [
            png(number) for number in range(7)
        ]


def test_stylegans_dump_without_labels(tmp_path: Path) -> None:
    rows, info = fetched(stylegan(tmp_path / "null", None))
    assert (len(rows), info.class_names) == (7, None)
    assert any("dataset.json labels nothing: it has no labels" in note for note in info.notes)
    with pytest.raises(ValueError, match=r"data\.classes=file, but dataset\.json labels nothing"):
        fetched(stylegan(tmp_path / "wanted", None), classes="file")
    assert fetched(stylegan(tmp_path / "folders", None), classes="folders")[1].class_names == ("00000", "00001", "00002")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], r"1 images have no line in dataset\.json, the first 00002/img00000006\.png"),
        ([*LABELS, ["00009/img9.png", 1]], r"names 1 images that are not there, the first 00009/img9\.png"),
        ([[name, [0.5, 1.0]] for name, _ in LABELS], r"img00000000\.png has the label \[0\.5, 1\.0\], expected a whole number or a name"),
        ([[name, 2.5] for name, _ in LABELS], r"has the label 2\.5, expected a whole number"),
        ({"a": 1}, r'expected \{"labels": \[\["00000/img'),
    ],
)
def test_dataset_json_that_does_not_fit(tmp_path: Path, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetched(stylegan(tmp_path / "dump", labels))


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK but no more")
    with pytest.raises(ValueError, match=r"x\.zip is not a zip archive"):
        fetched(path)
    dump = stylegan(tmp_path / "dump", LABELS)
    archive = zipped(dump, tmp_path / "dump.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(png(3)) + 40] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"00001/img00000003\.png cannot be read: .*the archive is damaged"):
        fetched(archive)
    lay(tmp_path / "two", files={"a.zip": b"", "b.zip": b""})
    with pytest.raises(
        ValueError, match=r"holds 2 zip archives, a\.zip, b\.zip; set data\.path to one of them|set data\.path to one, or unpack"
    ):
        fetched(tmp_path / "two")
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as written:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = 0o120777 << 16
        written.writestr(entry, "elsewhere.png")
    with pytest.raises(ValueError, match=r"link\.zip: a\.png is a link"):
        fetched(tmp_path / "link.zip")


def test_a_decompression_bomb_in_an_archive_is_refused(tmp_path: Path) -> None:
    """Kills: a limit on the archive alone, which plain images beside the bomb dilute; one on each file alone, which overlapping files get round."""
    diluted, many = tmp_path / "diluted.zip", tmp_path / "many.zip"
    with zipfile.ZipFile(diluted, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(0))
        archive.writestr("b.bin", np.random.default_rng(0).bytes(2**20))
        archive.writestr("c.png", bytes(80 * 2**20))
    with pytest.raises(ValueError, match=r"c\.png unpacks to more than 67,108,864 bytes from .* set data\.max_inflation above 100"):
        fetched(diluted)
    with open_zip(diluted, max_inflation=2000) as tree:
        assert tree.size_bytes("c.png") == 80 * 2**20
    with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "ab":
            archive.writestr(f"{name}.png", bytes(40 * 2**20))
    with pytest.raises(ValueError, match=r"many\.zip unpacks to more than"):
        fetched(many)
    hidden = tmp_path / "hidden.zip"  # what is left out is not unpacked
    with zipfile.ZipFile(hidden, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png(0))
        archive.writestr("__MACOSX/b.png", bytes(80 * 2**20))
    assert [row[0] for row in fetched(hidden)[0]] == ["a.png"]


# files of labels


def table(*lines: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(lines)
    return buffer.getvalue()


def test_a_table_beside_the_images(tmp_path: Path) -> None:
    """metadata.csv, metadata.jsonl and labels.csv say the same; the folders are then no classes. Kills a sort of strings, and folders that win."""
    lines = [("a/1.png", "10"), ("a/2.png", "9"), ("b/3.png", "10")]
    text = table(("file_name", "caption", "label"), *((name, "x, y", label) for name, label in lines))
    records = "\n".join(json.dumps({"file_name": name, "label": int(label)}) for name, label in lines)
    for name, content in (("metadata.csv", "\ufeff" + text), ("labels.csv", text), ("metadata.jsonl", records)):
        rows, info = fetched(lay(tmp_path / name[:-4] / "in", *(path for path, _ in lines), files={name: content}))
        assert rows == [(path, label, None) for path, label in lines]
        assert (info.class_names, info.ignored_count) == (("9", "10"), 0)
        assert f"2 classes from {name}" in info.notes


def test_tables_in_split_folders(tmp_path: Path) -> None:
    files = {"train/metadata.csv": table(("file_name", "label"), ("1.png", "dog"), ("2.png", "cat"))}
    rows, _ = fetched(
        lay(
            tmp_path / "in",
            "train/1.png",
            "train/2.png",
            "test/1.png",
            files=files | {"test/metadata.csv": table(("file_name", "label"), ("1.png", "dog"))},
        )
    )
    assert rows == [("test/1.png", "dog", "test"), ("train/1.png", "dog", "train"), ("train/2.png", "cat", "train")]
    rows, info = fetched(lay(tmp_path / "kaggle", "train/1.png", "train/2.png", "test/1.png", files=files))
    assert rows == [("train/1.png", "dog", "train"), ("train/2.png", "cat", "train")]
    assert any(note.startswith("1 images of the test split have no line in train/metadata.csv: they were left out") for note in info.notes)


def test_names_in_a_table(tmp_path: Path) -> None:
    """Bare names and names without an ending, other columns, and an accent in two characters on disk against one in the table."""
    accent = unicodedata.normalize("NFD", "é")
    incoming = lay(
        tmp_path / "in",
        "images/1.png",
        f"images/caf{accent}.png",
        files={"labels.csv": table(("id", "breed"), ("1", "pug"), ("café", "elo"))},
    )
    rows, _ = fetched(incoming, image_column="id", label_column="breed")
    assert rows == [("images/1.png", "pug", None), (f"images/caf{accent}.png", "elo", None)]
    (incoming / "labels.csv").write_text(table(("id", "breed"), ("1", "pug"), (f"caf{accent}", "elo")))
    (incoming / "images" / f"caf{accent}.png").rename(incoming / "images" / "café.png")  # and the other way round
    assert fetched(incoming, image_column="id", label_column="breed")[0][1] == ("images/café.png", "elo", None)
    with pytest.raises(
        ValueError,
        match=r"labels\.csv labels nothing: it has no column file_name or image, but id, breed \(params\.yaml: data\.image_column",
    ):
        fetched(incoming, classes="file")
    rows, info = fetched(incoming)  # auto: it says so and looks at the folders
    assert any("labels.csv labels nothing: it has no column file_name or image" in note for note in info.notes)
    assert info.class_names is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [("1.png", "x")],
            r"1 images have no line in metadata\.csv, the first b/1\.png|1\.png may be a/1\.png or b/1\.png; write its path",
        ),
        ([("a/1.png", "x"), ("a/1.png", "y"), ("b/1.png", "x")], r"line 3: a/1\.png has the label 'y' here and 'x' before"),
        ([("a/1.png", "x"), ("b/1.png", "")], r"line 3 has the label ''"),
        ([("a/1.png", "x"), ("b/1.png", "x"), ("b/2.png", "x")], r"names 1 images that are not there, the first b/2\.png"),
        ([("a/1.png", "x"), ("", "x")], r"line 3: file_name is ''"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, lines: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetched(lay(tmp_path / "in", "a/1.png", "b/1.png", files={"metadata.csv": table(("file_name", "label"), *lines)}))


def test_files_of_labels_that_contradict_or_cannot_be_read(tmp_path: Path) -> None:
    line = table(("file_name", "label"), ("1.png", "x"))
    with pytest.raises(ValueError, match=r"labels\.csv and metadata\.csv would both label the images beside them; remove one"):
        fetched(lay(tmp_path / "two", "1.png", files={"metadata.csv": line, "labels.csv": line}))
    with pytest.raises(ValueError, match=r"metadata\.csv cannot be read: .*write it anew as UTF-8"):
        fetched(lay(tmp_path / "latin", "1.png", files={"metadata.csv": "file_name,label\n1.png,caf\u00e9".encode("latin-1")}))
    text = '{"file_name": "1.png", "label": 1}\n{"file_name": "2.png", "label": "1"}\n'
    with pytest.raises(ValueError, match=r"metadata\.jsonl has numbers and names as labels"):
        fetched(lay(tmp_path / "mixed", "1.png", "2.png", files={"metadata.jsonl": text}))
    with pytest.raises(
        ValueError, match=r"data\.classes=file, but .* has none of dataset\.json, metadata\.csv, metadata\.jsonl, labels\.csv"
    ):
        fetched(lay(tmp_path / "none", "a/1.png", "b/1.png"), classes="file")


# wrappers, classes, chunks


def test_a_lone_folder_is_a_wrapper(tmp_path: Path) -> None:
    """Kills "mydataset" as the one class, and a wrapper that hides splits."""
    rows, info = fetched(
        lay(tmp_path / "in", "mydataset/v2/cats/1.png", "mydataset/v2/dogs/2.png", files={"README.md": "x", "labels/x.txt": "x"})
    )
    assert [label for _, label, _ in rows] == ["cats", "dogs"]
    assert info.notes == ("mydataset/v2 is the only folder: it wraps the images and is no class",)
    assert info.ignored_examples == ("README.md", "labels/x.txt")
    rows, _ = fetched(lay(tmp_path / "split", "x/train/cats/1.png", "x/train/dogs/2.png", "x/test/cats/3.png"))
    assert sorted(split for _, _, split in rows) == ["test", "train", "train"]
    rows, info = fetched(lay(tmp_path / "twice", "train/train/cat.0.png", "test/test/1.png"))  # Kaggle's dogs-vs-cats
    assert (rows, info.class_names) == ([("test/test/1.png", None, "test"), ("train/train/cat.0.png", None, "train")], None)
    incoming = lay(tmp_path / "one", "img_align_celeba/1.png", "img_align_celeba/2.png")
    assert fetched(incoming)[1].class_names is None
    assert fetched(incoming)[1].notes == (
        "img_align_celeba is the only folder: it wraps the images and is no class (data.classes: folders makes it one)",
    )
    assert fetched(incoming, classes="folders")[1].class_names == ("img_align_celeba",)


def test_classes_none_and_folders(tmp_path: Path) -> None:
    rows, info = fetched(lay(tmp_path / "in", "2019/a.png", "2020/b.png", "c.png"), classes="none")
    assert (len(rows), info.class_names) == (3, None)
    with pytest.raises(ValueError, match=r"data\.classes=folders, but .* has no class folders"):
        fetched(lay(tmp_path / "flat", "1.png"), classes="folders")


def test_class_order_is_natural(tmp_path: Path) -> None:
    """Class 2 is folder 2. Kills the sort of strings, where class 2 is folder 10."""
    rows, info = fetched(lay(tmp_path / "in", *(f"{number}/x.png" for number in range(12))))
    assert info.class_names == tuple(str(number) for number in range(12))
    assert sorted(rows) == sorted((f"{number}/x.png", str(number), None) for number in range(12))
    assert info.notes == ("the folders 0, 1, ..., 11 are 12 classes, ordered by number (data.classes: none if they are chunks)",)
    names = ["img10", "img9", "B", "a", "010", "10", "9", "img9b", "²", "img"]
    assert sorted(names, key=natural_key) == ["9", "010", "10", "B", "a", "img", "img9", "img9b", "img10", "²"]


@pytest.mark.parametrize(
    ("names", "are_classes"),
    [
        ([f"{n // 4:05d}/img{n:08d}.png" for n in range(10)], False),  # StyleGAN
        ([f"{n // 4 * 1000:05d}/{n // 4 * 1000 + n % 4:05d}.png" for n in range(10)], False),  # FFHQ
        ([f"{n // 4:05d}/{n // 4:05d}_{n % 4:05d}.ppm" for n in range(10)], True),  # GTSRB: classes, each counted from 0
        ([f"{n % 3}/{n}.png" for n in range(10)], True),  # MNIST: numbers from all over the set
        ([f"{n // 4}/{n:05d}.png" for n in range(10)], True),  # written class after class, names as people count
        ([f"{n // 4:03d}/{n * 7919 % 97:x}x.png" for n in range(10)], True),  # names that count nothing
    ],
)
def test_chunks_of_one_set_are_told_from_classes(tmp_path: Path, names: list[str], are_classes: bool) -> None:
    """Either way it says so, and which key overrides."""
    incoming = lay(tmp_path / "in", *names)
    info = fetched(incoming)[1]
    folders = sorted({name.split("/")[0] for name in names})
    assert info.class_names == (tuple(folders) if are_classes else None)
    assert any(
        ("data.classes: none if they are chunks" if are_classes else "data.classes: folders makes them classes") in note
        for note in info.notes
    )
    assert fetched(incoming, classes="folders")[1].class_names == tuple(folders)
    assert fetched(incoming, classes="none")[1].class_names is None


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    one, other = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    with pytest.raises(ValueError, match=r"the class folders 'cafe\\u0301' and 'caf\\xe9' look like one name"):
        fetched(lay(tmp_path / "splits", f"train/{one}/1.png", "train/x/1.png", f"test/{other}/2.png"))
    rows, info = fetched(lay(tmp_path / "files", f"{one}.png", f"{other}.png"))
    assert len(rows) == 2
    assert info.notes == ("'cafe\\u0301.png' and 'caf\\xe9.png' look like one name, but are two files",)
    assert "2 class folders are called cat but for their case" in fetched(lay(tmp_path / "case", "Cat/1.png", "cat/2.png"))[1].notes


SYSTEM_FILES = [
    "@eaDir/1.png/thumb.png",
    "cat/@eaDir/2.png",
    "__MACOSX/cat/._1.png",
    "cat/.ipynb_checkpoints/1-checkpoint.png",
    "cat/Thumbs.db",
    "cat/._1.png",
]
LEFT_OUT = ("@eaDir", "__MACOSX", "cat/._1.png", "cat/.ipynb_checkpoints", "cat/@eaDir", "cat/Thumbs.db")


def test_hidden_and_system_files_are_left_out_and_counted(tmp_path: Path) -> None:
    """In a folder and in a zip; a system folder beside a wrapper does not keep it from being one."""
    incoming = lay(tmp_path / "in", "cat/1.png", "dog/2.png", *SYSTEM_FILES)
    archive = zipped(incoming, tmp_path / "in.zip")
    for where in (incoming, archive):
        rows, info = fetched(where)
        assert rows == [("cat/1.png", "cat", None), ("dog/2.png", "dog", None)]
        assert (info.ignored_examples, info.ignored_count) == (LEFT_OUT, 6)
    rows, info = fetched(lay(tmp_path / "wrapped", "set/a/1.png", "set/b/2.png", "__MACOSX/set/a/x.png"))
    assert info.class_names == ("a", "b")


# what DVC hashes is what is read


def hashed(folder: Path) -> str:
    """What dvc.lock would hold of `folder` as a dependency."""
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build

    repo = Repo.init(str(folder.parent / "repo"), no_scm=True, force=True)
    try:
        return str(build(repo.cache.local, str(folder), repo.cache.local.fs, "md5", dry_run=True)[2].hash_info.value)
    finally:
        repo.close()


def test_linked_folders_are_refused_for_dvc_does_not_see_into_them(tmp_path: Path) -> None:
    incoming, away = lay(tmp_path / "in", "cat/1.png"), lay(tmp_path / "away", "2.png")
    (incoming / "dog").symlink_to(away)
    before = hashed(incoming)
    (away / "2.png").write_bytes(png(77))
    assert hashed(incoming) == before  # so a change would be missed
    with pytest.raises(
        ValueError, match=r"in/dog is a linked folder, to .*away: DVC would not notice .*copy the folder here, or set data\.path"
    ):
        fetched(incoming)


def test_a_linked_data_path_and_linked_files_are_read_for_dvc_hashes_them(tmp_path: Path) -> None:
    away = lay(tmp_path / "away", "cat/1.png", "dog/2.png")
    linked = tmp_path / "linked"
    linked.symlink_to(away)
    assert [row[0] for row in fetched(linked)[0]] == ["cat/1.png", "dog/2.png"]
    file = lay(tmp_path / "in", "cat/0.png") / "dog" / "1.png"
    file.parent.mkdir()
    file.symlink_to(away / "dog" / "2.png")
    assert [row[0] for row in fetched(tmp_path / "in")[0]] == ["cat/0.png", "dog/1.png"]
    for folder in (linked, tmp_path / "in"):
        before = hashed(folder)
        (away / "dog" / "2.png").write_bytes(png(99 + len(folder.name)))
        assert hashed(folder) != before
