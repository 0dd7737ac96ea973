"""Parquet as people have it: labels that differ over files, images in every form, hidden and odd files. Each is right or names the file."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganlib.data.raw import RawRecord, SourceInfo
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.data.sources import fetch_raw

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)


def png(image: np.ndarray = GREY) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, image: Any = None, label: Any = None, *, names: Sequence[str] | None = None, metadata: Any = None) -> None:
    """A file with one column for images and one for labels, the names of its classes as Hugging Face writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(image if image is not None else label)
    columns = {"image": [png()] * count if image is None else image, "label": [0] * count if label is None else label}
    if names is not None:
        metadata = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    pq.write_table(pa.table(columns).replace_schema_metadata(None if metadata is None else {b"huggingface": text}), path)


def fetched(path: Path, raw: Path, **options: object) -> tuple[SourceInfo, list[RawRecord]]:
    raw.mkdir()
    info = fetch_raw(DataConfig.model_validate({"source": "parquet", "path": str(path), **options}), raw)
    return info, list(open_raw(raw).read(0, 1000))


def pixels(record: RawRecord) -> np.ndarray:
    assert isinstance(record.image, bytes)
    return np.asarray(Image.open(io.BytesIO(record.image)))


def refused(path: Path, raw: Path, match: str, **options: object) -> None:
    with pytest.raises(ValueError, match=match):
        fetched(path, raw, **options)


# classes


def test_files_whose_class_lists_differ_are_joined_by_name(tmp_path: Path) -> None:
    """Kills the mutant that reads the names of the first file alone: label 0 of the second would be a cat."""
    write(tmp_path / "in" / "a.parquet", label=[0, 1, -1], names=["cat", "dog"])
    write(tmp_path / "in" / "b.parquet", label=[0, 1], names=["dog", "cat"])
    write(tmp_path / "in" / "c.parquet", label=[0, 2, 7], names=["eel", "cat", "dog"])
    info, records = fetched(tmp_path / "in", tmp_path / "raw")
    assert info.class_names == ("cat", "dog", "eel")
    assert info.notes == ("the files list their classes differently: they were joined by name, 3 classes",)
    assert [record.label for record in records] == [0, 1, -1, 1, 0, 2, 1, 7]  # -1 and 7 are of no class: prepare refuses them


def test_a_label_that_only_another_file_has_a_name_for_is_refused(tmp_path: Path) -> None:
    """Kills the mutant that takes such a number as one of the joined list: 2 would be an eel."""
    write(tmp_path / "in" / "a.parquet", label=[0, 1], names=["cat", "dog", "eel"])
    write(tmp_path / "in" / "b.parquet", label=[0, 1, 2], names=["dog", "cat"])
    refused(tmp_path / "in", tmp_path / "raw", r"b\.parquet, row 2: label 2, but the metadata of this file name the classes 0 to 1 only")


def test_a_string_that_the_first_file_lacks(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", label=["dog", None])
    write(tmp_path / "in" / "b.parquet", label=["cat", "dog"])
    write(tmp_path / "in" / "c.parquet", label=pa.array(["eel"]).dictionary_encode())
    write(tmp_path / "in" / "d.parquet", label=[None])  # no type at all
    info, records = fetched(tmp_path / "in", tmp_path / "raw")
    assert info.class_names == ("cat", "dog", "eel")
    assert [record.label for record in records] == [1, None, 0, 1, 2, None]


@pytest.mark.parametrize(
    ("label", "names", "said"),
    [
        (["cat"], None, r"numbers with names \(ClassLabel\) in .*a\.parquet, but strings in .*b\.parquet"),
        ([1], None, r"numbers with names \(ClassLabel\) in .*a\.parquet, but numbers without names in .*b\.parquet"),
    ],
)
def test_labels_of_two_kinds_are_refused(label: list[object], names: None, said: str, tmp_path: Path) -> None:
    """The second case would be mislabelled in silence where the numbers of the second file mean other classes."""
    write(tmp_path / "in" / "a.parquet", label=[0, 1], names=["cat", "dog"])
    write(tmp_path / "in" / "b.parquet", label=label, names=names)
    refused(tmp_path / "in", tmp_path / "raw", said)
    write(tmp_path / "in" / "b.parquet", label=label[:0], image=[png()][:0], names=names)  # an empty one says nothing
    assert fetched(tmp_path / "in", tmp_path / "raw2")[0].class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "metadata",
    [
        {"info": None},
        {"info": {"features": None}},
        {"info": {"features": []}},
        {"info": {"features": {"label": None}}},
        {"info": {"features": {"label": {"names": None, "_type": "Value"}}}},
        ["info"],
        b"not json",
        b"\xff\xfe",
    ],
)
def test_metadata_without_names(metadata: object, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", label=[0, 2], metadata=metadata)
    assert fetched(tmp_path / "a.parquet", tmp_path / "raw")[0].class_names == ("0", "1", "2")


@pytest.mark.parametrize("names", [["cat", "cat"], ["cat", 3], {"0": "cat"}, "cat"])
def test_names_that_name_nothing_are_refused(names: object, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", label=[0], metadata={"info": {"features": {"label": {"names": names}}}})
    refused(tmp_path, tmp_path / "raw", r"a\.parquet: the huggingface metadata name the classes of column 'label' .*cat.*different strings")


def test_labels_that_are_withheld(tmp_path: Path) -> None:
    """-1 and null are no label. Kills the mutant that counts -1 as a class number and refuses the whole set."""
    write(tmp_path / "in" / "a.parquet", label=[-1, None])
    refused(tmp_path / "in", tmp_path / "raw", r"holds no label, only null or -1; set data\.label_column: null")
    write(tmp_path / "in" / "b.parquet", label=[1, 3])
    info, records = fetched(tmp_path / "in", tmp_path / "raw2")
    assert info.class_names == ("0", "1", "2", "3")
    assert [record.label for record in records] == [-1, None, 1, 3]


@pytest.mark.parametrize("withheld", [[-1, -1], [None, None]])
def test_a_test_split_whose_labels_are_withheld_is_left_out(withheld: list[object], tmp_path: Path) -> None:
    """As competitions have it. Kills the mutants that stop there, that leave out a split with one label, and that do so under splits: content."""
    write(tmp_path / "in" / "train.parquet", label=[0, 1], names=["cat", "dog"])
    write(tmp_path / "in" / "test-00000-of-00001.parquet", label=withheld, names=["cat", "dog"])
    info, records = fetched(tmp_path / "in", tmp_path / "raw")
    assert [(record.name, record.split) for record in records] == [("train.parquet#0", "train"), ("train.parquet#1", "train")]
    assert "2 images of the test split have no label: they were left out" in info.notes[1]
    _, records = fetched(tmp_path / "in", tmp_path / "raw2", splits="content")
    assert len(records) == 4
    _, records = fetched(tmp_path / "in", tmp_path / "raw3", label_column=None)
    assert len(records) == 4
    write(tmp_path / "in" / "test-00001-of-00001.parquet", label=[1], names=["cat", "dog"])
    _, records = fetched(tmp_path / "in", tmp_path / "raw4")
    assert [record.label for record in records] == [*withheld, 1, 0, 1]


def test_names_are_in_natural_order_and_no_two_look_alike(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", label=["10", "9", "b2", "b10"])
    assert fetched(tmp_path / "in", tmp_path / "raw")[0].class_names == ("9", "10", "b2", "b10")
    write(tmp_path / "in" / "b.parquet", label=["caf\u00e9", "cafe\u0301"])
    refused(tmp_path / "in", tmp_path / "raw2", r"the classes 'cafe\\u0301' and 'caf\\xe9' look like one name; write them alike")


# files


def test_names_give_the_splits(tmp_path: Path) -> None:
    """Hugging Face's names of files, and of folders. Kills the mutants that look at one of the two, or at the farthest folder."""
    expected = {
        "train-00000-of-00002.parquet": "train",
        "train-00001-of-00002.parquet": "train",
        "validation-00000-of-00001.parquet": "val",
        "test-00000-of-00001.parquet": "test",
        "default/train/0000.parquet": "train",
        "test/more/train/0000.parquet": "train",
        "dev/0000.parquet": "val",
        "testing/test-0.parquet": "test",
    }
    for name in expected:
        write(tmp_path / "in" / name, label=[0])
    info, records = fetched(tmp_path / "in", tmp_path / "raw")
    assert {record.name.removesuffix("#0"): record.split for record in records} == expected
    assert info.notes == (
        "splits by the names of the files: test 2, train 4, val 2 (data.splits: content splits all rows by their pixels)",
    )
    info, records = fetched(tmp_path / "in", tmp_path / "raw2", splits="content")
    assert {record.split for record in records} == {None}
    assert info.notes == ()
    write(tmp_path / "in" / "train" / "test.parquet", label=[0])
    refused(
        tmp_path / "in", tmp_path / "raw3", r"train/test\.parquet is of the test and of the train split by its names; rename it, or set"
    )
    assert len(fetched(tmp_path / "in", tmp_path / "raw4", splits="content")[1]) == 9


def test_linked_folders_are_refused(tmp_path: Path) -> None:
    """DVC does not look into them. Kills the mutant that walks by itself."""
    write(tmp_path / "elsewhere" / "a.parquet", label=[0])
    write(tmp_path / "in" / "a.parquet", label=[0])
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "in", tmp_path / "raw", r"linked is a linked folder")


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    """Kills the mutant that searches everything: the cached copy would double the data."""
    write(tmp_path / "in" / "a" / "x.parquet", label=[0])
    write(tmp_path / "in" / "b" / "x.PARQUET", label=[1])
    for hidden in (".cache/huggingface/x.parquet", ".huggingface/x.parquet", "b/.x.parquet", "b/_x.parquet", "_temporary/x.parquet"):
        write(tmp_path / "in" / hidden, label=[9])
    for name in ("README.md", "_SUCCESS", "_metadata"):
        (tmp_path / "in" / name).touch()
    info, records = fetched(tmp_path / "in", tmp_path / "raw")
    assert [(record.name, record.label) for record in records] == [("a/x.parquet#0", 0), ("b/x.PARQUET#0", 1)]  # alike, told apart
    assert info.ignored_examples == tuple(
        sorted([".cache", ".huggingface", "README.md", "_SUCCESS", "_metadata", "_temporary", "b/.x.parquet", "b/_x.parquet"])
    )
    assert info.ignored_count == 8
    refused(tmp_path / "in" / ".cache" / "nothing", tmp_path / "raw2", "is not a Parquet file and holds none")
    (tmp_path / "in" / "c").mkdir()
    (tmp_path / "in" / "c" / "_x.parquet").touch()
    refused(tmp_path / "in" / "c", tmp_path / "raw3", r"holds none, but 1 other files, the first _x\.parquet")


def test_doubled_columns_are_refused(tmp_path: Path) -> None:
    def doubled(column: str) -> None:
        arrays = {"image": pa.array([png()]), "label": pa.array([0])}
        names = ["image", "label", column]
        pq.write_table(pa.Table.from_arrays([arrays[name] for name in names], names=names), tmp_path / "a.parquet")

    doubled("label")
    refused(tmp_path, tmp_path / "raw", r"a\.parquet has 2 columns 'label', expected one.*data\.label_column")
    doubled("image")
    refused(tmp_path, tmp_path / "raw2", r"a\.parquet has 2 columns 'image', expected one.*data\.image_column")


# images


def test_paths_without_bytes_are_read_below_data_path(tmp_path: Path) -> None:
    """Kills the mutants that look from data.path, and that count the files that were read as ignored."""
    incoming = tmp_path / "in"
    (incoming / "part" / "images").mkdir(parents=True)
    (incoming / "part" / "images" / "0.png").write_bytes(png(COLOUR))
    (incoming / "1.png").write_bytes(png(GREY))
    rows = [{"bytes": None, "path": "images/0.png"}, {"bytes": png(), "path": "gone.png"}, {"bytes": None, "path": "../1.png"}, None]
    write(incoming / "part" / "x.parquet", image=rows)
    write(incoming / "part" / "y.parquet", image=["images/0.png", None])  # a column of paths
    (incoming / "notes.txt").touch()
    info, records = fetched(incoming, tmp_path / "raw")
    assert [record.name for record in records] == [
        "part/x.parquet#0 (images/0.png)",
        "part/x.parquet#1 (gone.png)",
        "part/x.parquet#2 (../1.png)",
        "part/x.parquet#3",
        "part/y.parquet#0 (images/0.png)",
        "part/y.parquet#1",
    ]
    for record, expected in zip(records, [COLOUR, GREY, GREY, None, COLOUR, None], strict=True):
        assert record.image is None if expected is None else np.array_equal(pixels(record), expected)
    assert info.ignored_examples == ("notes.txt",)


@pytest.mark.parametrize("path", ["gone.png", "../out.png", "/etc/hostname", "https://example.org/0.png", "images", "a\0b", "x" * 5000])
def test_a_path_that_leads_nowhere_names_file_and_row(path: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "out.png").write_bytes(png())
    write(tmp_path / "in" / "a.parquet", image=[{"bytes": png(), "path": None}, {"bytes": None, "path": path}])
    refused(tmp_path / "in", tmp_path / "raw", r"a\.parquet, row 1: no bytes, but the path .*; put the images there")


def test_a_single_file_does_not_lead_out_of_itself(tmp_path: Path) -> None:
    """What lies beside it is not hashed with it."""
    (tmp_path / "0.png").write_bytes(png())
    write(tmp_path / "a.parquet", image=[{"bytes": None, "path": "0.png"}])
    refused(tmp_path / "a.parquet", tmp_path / "raw", r"row 0: .*set data\.path to the folder that holds them and the Parquet files")


def nested(image: np.ndarray, kind: Any) -> Any:
    return pa.array([image.tolist(), None], kind)


def tensors(shape: tuple[int, ...]) -> Any:
    kind = pa.fixed_shape_tensor(pa.uint8(), shape)
    flat = pa.array([COLOUR.reshape(-1).tolist()], pa.list_(pa.uint8(), COLOUR.size))
    return pa.ExtensionArray.from_storage(kind, flat)


U8 = pa.uint8()
FIXED = pa.list_(pa.list_(pa.list_(U8, 3), 7), 5)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (nested(GREY, pa.list_(pa.list_(U8))), GREY),
        (nested(COLOUR, pa.list_(pa.list_(pa.list_(U8)))), COLOUR),
        (nested(COLOUR.transpose(2, 0, 1), pa.list_(pa.large_list(pa.list_(pa.int64())))), COLOUR),  # as pandas writes numpy's rows
        (nested(COLOUR, FIXED)[:1], COLOUR),  # pyarrow reads no nulls among these
        (nested(GREY[:, :, None], pa.list_(pa.list_(pa.list_(U8)))), GREY),
        (
            nested(np.concatenate([COLOUR, COLOUR[:, :, :1]], 2), pa.list_(pa.list_(pa.list_(U8)))),
            np.concatenate([COLOUR, COLOUR[:, :, :1]], 2),
        ),
        (tensors((5, 7, 3)), COLOUR),
        (pa.array([png()], pa.binary(len(png()))), GREY),  # encoded files that happen to be of one size
        (pa.array([png()], pa.large_binary()), GREY),
    ],
)
def test_arrays_are_the_pixels(column: Any, expected: np.ndarray, tmp_path: Path) -> None:
    """Two batches, so that the second starts within the column. Kills the mutants that take the axes in another order."""
    write(tmp_path / "a.parquet", image=pa.concat_arrays([column] * 40))
    _, records = fetched(tmp_path / "a.parquet", tmp_path / "raw")
    assert len(records) == 40 * len(column)
    for row, record in enumerate(records):
        if len(column) == 2 and row % 2:
            assert record.image is None
        else:
            assert np.array_equal(pixels(record), expected)


def test_raw_pixels_with_the_shape_in_the_metadata(tmp_path: Path) -> None:
    """The column that samples.parquet has: C, H, W."""
    column = pa.array([COLOUR.transpose(2, 0, 1).tobytes()], pa.binary(COLOUR.size))
    table = pa.table({"image": column, "label": [0]})
    pq.write_table(table.replace_schema_metadata({"shape": "[3, 5, 7]"}), tmp_path / "a.parquet")
    _, records = fetched(tmp_path / "a.parquet", tmp_path / "raw")
    assert np.array_equal(pixels(records[0]), COLOUR)
    pq.write_table(table.replace_schema_metadata({"shape": "[3, 5, 8]"}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", tmp_path / "raw2", r"a\.parquet: .*105 bytes a row, .* the metadata's shape \[3, 5, 8\]")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([{"bytes": "text", "path": "x"}]), r"a\.parquet: column 'image': its field 'bytes' is string, expected encoded bytes"),
        (pa.array([{"bytes": png(), "path": 3}]), r"a\.parquet: column 'image': its field 'path' is int64, expected strings"),
        (pa.array([{"url": "x"}]), r"a\.parquet: column 'image' is struct<url: string>, expected encoded bytes"),
        (pa.array([GREY.reshape(-1).tolist()]), r"a\.parquet: .*flat lists do not say how high and wide"),
        (pa.array([GREY.astype(float).tolist()]), r"a\.parquet: .*expected arrays of whole numbers from 0 to 255"),
        (pa.array([[[300]]]), r"a\.parquet, row 0: an array with numbers from 300 to 300, expected 0 to 255"),
        (pa.array([[[-1]]]), r"a\.parquet, row 0: an array with numbers from -1 to -1"),
        (pa.array([[[1, 2], [3]]]), r"a\.parquet, row 0: an array whose rows differ in length"),
        (pa.array([[[1, 2], None]]), r"a\.parquet, row 0: an array whose rows differ in length or are null"),
        (pa.array([[[1, None]]]), r"a\.parquet, row 0: an array with 1 nulls"),
        (pa.array([np.zeros((5, 7, 2), int).tolist()]), r"a\.parquet, row 0: an array of shape \[5, 7, 2\]"),
        (pa.array([np.zeros((3, 7, 3), int).tolist()]), r"a\.parquet, row 0: an array of shape \[3, 7, 3\]"),  # which axis is not said
        (pa.array([[[]]], pa.list_(pa.list_(U8))), r"a\.parquet, row 0: an array of shape \[1, 0\]"),
        (pa.array([[]], pa.list_(pa.list_(U8))), r"a\.parquet, row 0: an array"),
        (pa.array([True]), r"a\.parquet: column 'image' is bool, expected encoded bytes"),
    ],
)
def test_what_is_no_image_column_names_the_file(column: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=column)
    refused(tmp_path, tmp_path / "raw", said)


def test_a_column_of_ids_is_no_column_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all files together. Kills the mutant that counts each by itself."""
    monkeypatch.setattr("ganlib.data.sources.parquet_labels.MAX_CLASSES", 3)
    write(tmp_path / "in" / "a.parquet", label=["a", "b"])
    write(tmp_path / "in" / "b.parquet", label=["b", "c"])
    assert fetched(tmp_path / "in", tmp_path / "raw")[0].class_names == ("a", "b", "c")
    write(tmp_path / "in" / "c.parquet", label=["d"])
    refused(tmp_path / "in", tmp_path / "raw2", r"c\.parquet: column 'label' has more than 3 distinct values up to here")
