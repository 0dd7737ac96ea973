"""Sources: what every registered one must do, and what each says about bad input."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganlib.data.idx import copy_uncompressed, read_idx, write_idx
from ganlib.data.pack import PackImages, PackWriter
from ganlib.data.raw import RawRecord, SourceInfo
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES, fashion_mnist, fetch_raw
from ganlib.files import sha256_file


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill_incoming(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Small valid input for `source` in `folder`; how many images it has."""
    rng = np.random.default_rng(0)
    if source == "image_folder":
        for label in ("cat", "dog"):
            (folder / label).mkdir()
            for number in range(6):
                (folder / label / f"{number}.png").write_bytes(png(number + 100 * (label == "dog")))
        return 12
    if source == "parquet":
        rows = [{"image": {"bytes": png(number), "path": f"{number}.png"}, "label": number % 3} for number in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet", row_group_size=3)
        return 10
    if source == "idx":
        write_idx(folder / "train-images-idx3-ubyte", rng.integers(0, 256, (9, 4, 6), np.uint8))
        write_idx(folder / "train-labels-idx1-ubyte", rng.integers(0, 3, 9).astype(np.uint8))
        return 9
    if source == "fashion-mnist":
        for name in fashion_mnist.SHA256:
            values = rng.integers(0, 10, (5, 28, 28) if "images" in name else (5,), np.uint8)
            write_idx(folder / name, values)
            monkeypatch.setitem(fashion_mnist.SHA256, name, sha256_file(folder / name))
        return 10
    if source in ("ring", "grid"):
        return 50_000
    assert source == "digits", f"{source}: add an example of its input here"
    return 1797


def fetched(source: str, incoming: Path, raw: Path, **options: object) -> SourceInfo:
    raw.mkdir()
    return fetch_raw(DataConfig.model_validate({"source": source, "path": str(incoming), **options}), raw)


@pytest.mark.parametrize("source", SOURCES.names())
def test_contract_of_every_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    count = fill_incoming(source, incoming, monkeypatch)
    before = sorted(incoming.rglob("*"))
    info = fetched(source, incoming, tmp_path / "raw")
    fetched(source, incoming, tmp_path / "again")
    assert sorted(incoming.rglob("*")) == before
    files = {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}  # same input, same bytes
    assert {entry["name"]: entry["sha256"] for entry in json.loads(files["source.json"])["files"]} == {
        name: sha256_file(tmp_path / "raw" / name) for name in files if name != "source.json"
    }
    assert info.source == source
    assert info.class_names is not None

    reader = open_raw(tmp_path / "raw")
    assert len(reader) == count
    sizes = reader.sizes_bytes()
    assert sizes.shape == (count,)
    assert sizes.min() > 0
    records = list(reader.read(0, count))
    assert len(records) == count
    assert len({record.name for record in records}) == count
    for start, stop in ((0, 1), (2, 7), (count - 1, count)):
        for row, record in enumerate(reader.read(start, stop), start=start):
            same(record, records[row])
            assert reader.name(row) == record.name
            assert record.label is not None
            assert 0 <= record.label < len(info.class_names)
            assert sizes[row] == (record.image.nbytes if isinstance(record.image, np.ndarray) else len(record.image or b""))


def same(one: RawRecord, other: RawRecord) -> None:
    assert (one.name, one.label) == (other.name, other.label)
    np.testing.assert_array_equal(one.image, other.image)


def test_an_unknown_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.source='image_foldr' is not a known data source \(did you mean 'image_folder'\?\)"):
        fetched("image_foldr", tmp_path, tmp_path / "raw")


def test_data_is_torch_free() -> None:
    """Converting processes must start fast: nothing they import may bring torch in."""
    code = "import sys, ganlib.data.prepare, ganlib.data.sources as s; s.SOURCES.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# image_folder


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    with pytest.raises(ValueError, match="holds no images, but no files at all"):
        fetched("image_folder", tmp_path / "incoming", tmp_path / "raw")
    (tmp_path / "incoming" / "README.md").write_text("x")
    with pytest.raises(ValueError, match=r"1 other files, the first README\.md"):
        fetched("image_folder", tmp_path / "incoming", tmp_path / "raw2")
    with pytest.raises(ValueError, match="is not a folder"):
        fetched("image_folder", tmp_path / "nowhere", tmp_path / "raw3")


def test_image_folder_order_labels_and_ignored_files(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    for path in ("b/2.PNG", "b/deep/1.png", "a/x.png", "a-b/x.png", "a/notes.txt", ".git/x.png", "a/.hidden.png"):
        (incoming / path).parent.mkdir(parents=True, exist_ok=True)
        (incoming / path).write_bytes(png(0))
    info = fetched("image_folder", incoming, tmp_path / "raw")
    records = list(open_raw(tmp_path / "raw").read(0, 99))
    assert [(record.name, record.label) for record in records] == [
        ("a-b/x.png", 1),
        ("a/x.png", 0),
        ("b/2.PNG", 2),
        ("b/deep/1.png", 2),
    ]
    assert info.ignored_examples == (".git", "a/.hidden.png", "a/notes.txt")
    assert info.ignored_count == 3


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "x.png").write_bytes(png(0))
    assert fetched("image_folder", incoming, tmp_path / "raw").class_names is None
    assert [record.label for record in open_raw(tmp_path / "raw").read(0, 1)] == [None]
    (incoming / "cat").mkdir()
    (incoming / "cat" / "y.png").write_bytes(png(1))
    with pytest.raises(ValueError, match=r"1 images beside its class folders, the first x\.png"):
        fetched("image_folder", incoming, tmp_path / "raw2")


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "caf\udce9.png").write_bytes(png(0))
    fetched("image_folder", incoming, tmp_path / "raw")
    assert open_raw(tmp_path / "raw").name(0) == "caf\\xe9.png"


def test_pack_shards(tmp_path: Path) -> None:
    data = [png(number) for number in range(30)]
    with PackWriter(tmp_path, shard_bytes=1000, batch_bytes=300) as pack:
        for number, content in enumerate(data):
            pack.append(str(number), number % 2, content)
        pack.append("null", None, None)
    assert len(list(tmp_path.glob("files-*.arrow"))) > 2
    reader = PackImages(tmp_path, ("a", "b"))
    assert [record.image for record in reader.read(0, 31)] == [*data, None]
    assert [record.name for record in reader.read(7, 23)] == [str(number) for number in range(7, 23)]
    np.testing.assert_array_equal(reader.sizes_bytes(), [*map(len, data), 0])


# idx


def test_idx_compressed_rgb_and_several_pairs(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    rng = np.random.default_rng(0)
    last, first = rng.integers(0, 256, (3, 4, 5, 3), np.uint8), rng.integers(0, 256, (2, 3, 4, 5), np.uint8)
    write_idx(incoming / "a-images-idx4-ubyte", last)
    write_idx(incoming / "b-images.idx4-ubyte", first)
    (incoming / "a-images-idx4-ubyte.gz").write_bytes(gzip.compress((incoming / "a-images-idx4-ubyte").read_bytes()))
    (incoming / "a-images-idx4-ubyte").unlink()
    assert fetched("idx", incoming, tmp_path / "raw").class_names is None
    images = [record.image for record in open_raw(tmp_path / "raw").read(0, 5)]
    for image, expected in zip(images, [*last, *first.transpose(0, 2, 3, 1)], strict=True):
        np.testing.assert_array_equal(image, expected)


def test_bad_idx(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    with pytest.raises(ValueError, match="holds no IDX images"):
        fetched("idx", incoming, tmp_path / "raw0")
    path = incoming / "train-images-idx3-ubyte"
    write_idx(path, np.zeros((3, 4, 4), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"has 63 bytes, its header \[3, 4, 4\] promises 64: it is truncated"):
        fetched("idx", incoming, tmp_path / "raw1")
    for data in (b"", b"\x89PNG", whole[:7]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"is not an IDX file|is truncated"):
            fetched("idx", incoming, tmp_path / f"raw-{len(data)}-{data[:1].hex()}")
    path.write_bytes(whole)
    write_idx(incoming / "train-labels-idx1-ubyte", np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match=r"\[2\] labels for the 3 images"):
        fetched("idx", incoming, tmp_path / "raw2")
    write_idx(incoming / "test-images-idx3-ubyte", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="test-images-idx3-ubyte has no partner"):
        fetched("idx", incoming, tmp_path / "raw3")
    (incoming / "train-images-idx3-ubyte.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="the same part twice"):
        fetched("idx", incoming, tmp_path / "raw4")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match=r"cut\.gz is damaged or truncated"):
        copy_uncompressed(tmp_path / "cut.gz", tmp_path)
    write_idx(tmp_path / "empty", np.zeros((0, 4, 4), np.uint8))
    assert read_idx(tmp_path / "empty").shape == (0, 4, 4)


def bomb(path: Path, mebibytes: int) -> None:
    """A .gz of an IDX file of zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes([0, 0, 8, 3]) + np.array([mebibytes, 1024, 1024], ">u4").tobytes())
        for _ in range(mebibytes):
            file.write(bytes(2**20))


def test_a_decompression_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    """A real one: 256 MiB of zeros. Kills a limit that is looked at when all of it is written, and one that no key raises."""
    incoming, raw = tmp_path / "incoming", tmp_path / "raw"
    incoming.mkdir()
    bomb(incoming / "train-images-idx3-ubyte.gz", 256)
    packed = (incoming / "train-images-idx3-ubyte.gz").stat().st_size
    with pytest.raises(ValueError, match=r"unpacks to more than .* from .* decompression bomb .* set data\.max_inflation above 100"):
        fetched("idx", incoming, raw)
    assert sum(path.stat().st_size for path in raw.iterdir()) <= max(100 * packed, 64 * 2**20)
    fetched("idx", incoming, tmp_path / "allowed", max_inflation=2000)
    assert len(open_raw(tmp_path / "allowed")) == 256
    (incoming / "train-images-idx3-ubyte.gz").unlink()
    bomb(incoming / "train-images-idx3-ubyte.gz", 60)  # the same ratio, and nothing to fear
    fetched("idx", incoming, tmp_path / "small")
    assert len(open_raw(tmp_path / "small")) == 60


# parquet


def write_parquet(path: Path, table: dict[str, list[object]], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path)


def test_parquet_without_the_column(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    write_parquet(incoming / "x.parquet", {"img": [png(0)], "label": [0]})
    with pytest.raises(ValueError, match=r"x\.parquet has no column 'image'; it has: img, label \(params\.yaml: data\.image_column\)"):
        fetched("parquet", incoming, tmp_path / "raw")
    with pytest.raises(ValueError, match=r"no column 'fine_label'.*data\.label_column, or null for none"):
        fetched("parquet", incoming, tmp_path / "raw2", image_column="img", label_column="fine_label")
    with pytest.raises(ValueError, match="column 'label' is int64, expected encoded bytes, a struct"):
        fetched("parquet", incoming, tmp_path / "raw3", image_column="label")
    with pytest.raises(ValueError, match="column 'img' is binary, expected integers or strings"):
        fetched("parquet", incoming, tmp_path / "raw4", image_column="img", label_column="img")


def test_parquet_labels(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    features = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    write_parquet(incoming / "x.parquet", {"image": [png(0), None], "label": [1, -1]}, {"huggingface": json.dumps(features)})
    assert fetched("parquet", incoming, tmp_path / "raw").class_names == ("cat", "dog", "eel")
    records = list(open_raw(tmp_path / "raw").read(0, 2))
    assert [(record.name, record.label) for record in records] == [("x.parquet#0", 1), ("x.parquet#1", -1)]
    assert records[1].image is None
    write_parquet(incoming / "x.parquet", {"image": [png(0), png(1), png(2)], "label": ["dog", "cat", "dog"]})
    assert fetched("parquet", incoming, tmp_path / "raw2").class_names == ("cat", "dog")
    assert [record.label for record in open_raw(tmp_path / "raw2").read(0, 3)] == [1, 0, 1]
    assert fetched("parquet", incoming / "x.parquet", tmp_path / "raw3", label_column=None).class_names is None
    write_parquet(incoming / "x.parquet", {"image": [png(0)], "label": [10**9]})
    with pytest.raises(ValueError, match="expected class numbers from 0 to at most 99,999"):
        fetched("parquet", incoming, tmp_path / "raw4")


def test_bad_parquet(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    with pytest.raises(ValueError, match="is not a Parquet file and holds none"):
        fetched("parquet", incoming, tmp_path / "raw")
    (incoming / "x.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"x\.parquet is not a readable Parquet file"):
        fetched("parquet", incoming, tmp_path / "raw2")
    write_parquet(incoming / "x.parquet", {"image": [b""][:0], "label": [0][:0]})
    with pytest.raises(ValueError):
        fetched("parquet", incoming, tmp_path / "raw3")


# fashion-mnist


def test_fashion_mnist_tries_every_way_and_says_why_each_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-such-folder")
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    monkeypatch.setattr(fashion_mnist, "ADDRESSES", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    (tmp_path / "incoming").mkdir()
    with pytest.raises(ValueError) as caught:
        fetched("fashion-mnist", tmp_path / "incoming", tmp_path / "raw")
    message = str(caught.value)
    for part in ("incoming", "no-such-folder", "there is no apt-get", "127.0.0.1:9/a", "127.0.0.1:9/b", "refused", "data.source=digits"):
        assert part in message
    assert list((tmp_path / "raw").iterdir()) == []


def test_fashion_mnist_refuses_other_files_under_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    fill_incoming("fashion-mnist", incoming, monkeypatch)
    write_idx(incoming / "train-images-idx3-ubyte", np.zeros((5, 28, 28), np.uint8))
    with pytest.raises(ValueError, match=r"is not Fashion-MNIST's train-images-idx3-ubyte.*set data\.source=idx"):
        fetched("fashion-mnist", incoming, tmp_path / "raw")


def test_fashion_mnist_is_the_same_compressed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    packed.mkdir()
    fill_incoming("fashion-mnist", plain, monkeypatch)
    for path in plain.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=1))
    fetched("fashion-mnist", plain, tmp_path / "raw1")
    fetched("fashion-mnist", packed, tmp_path / "raw2")
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("raw1", "raw2"))
    assert len(one) > 4  # images and labels of two splits, and their description
    assert one == other


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(tmp_path: Path) -> None:
    assert fetched("fashion-mnist", tmp_path / "none", tmp_path / "raw").class_names == fashion_mnist.CLASS_NAMES
    assert len(open_raw(tmp_path / "raw")) == 70_000
    assert open_raw(tmp_path / "raw").given_splits() == {"train": 60_000, "test": 10_000}  # as published figures count
    assert [next(open_raw(tmp_path / "raw").read(row, row + 1)).split for row in (0, 9_999, 10_000, 69_999)] == [
        "test",
        "test",
        "train",
        "train",
    ]


def test_a_raw_folder_that_lost_files_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the fetch stage first"):
        open_raw(tmp_path / "raw")
    fetched("digits", tmp_path, tmp_path / "raw")
    path = tmp_path / "raw" / "digits-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"has 1,804 bytes, expected 1,805; rerun the fetch stage"):
        open_raw(tmp_path / "raw")
    path.unlink()
    with pytest.raises(ValueError, match="is missing; rerun the fetch stage"):
        open_raw(tmp_path / "raw")
