"""Splits in shards in a store: the rows and the trainings of one file, from a folder, a cache and ranges."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ganlib.data.arrow import SPLITS, read_manifest, split_path
from ganlib.data.ipc import MappedColumns, TableWriter
from ganlib.data.prepare import prepare_images
from ganlib.data.settings import DataConfig
from ganlib.data.shard_cache import FOLDER, GIGABYTES, ShardCache
from ganlib.data.shards import ShardList, ShardWriter, damaged
from ganlib.data.sources import fetch_raw
from ganlib.data.table import Table
from ganlib.files import sha256_file
from ganlib.storage import open_storage
from tests.object_store import object_store
from tests.tables import FIELDS, columns

ROW_BYTES = 12 + 24 + 28  # image, depth, caption


@pytest.fixture(scope="module")
def server():
    with object_store() as store:
        yield store


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.heavy)])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "store")
    server = request.getfixturevalue("server")
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return f"{server.uri}/{tmp_path.name}"


def written(folder: Path, store: str, *, count: int = 23, rows: int = 5) -> tuple[Path, dict[str, np.ndarray]]:
    values, path = columns(count), folder / "train.shards.json"
    with ShardWriter(path, fields=FIELDS, store=store, shard_bytes=rows * ROW_BYTES) as writer:
        for start in range(0, count, 7):
            writer.append({name: value[start : start + 7] for name, value in values.items()})
    return path, values


def require_rows(table: Table, values: dict[str, np.ndarray]) -> None:
    indices = np.array([22, 0, 7, 7, 13, 4, 5])
    for name, value in values.items():
        np.testing.assert_array_equal(table.read(name, indices), value[indices])
        assert table.read(name, indices).dtype == value.dtype
    for name in ("image", "depth", "caption"):
        np.testing.assert_array_equal(table.rows(name, 3, 99), values[name][3:])


@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_rows_come_back_whatever_the_size_of_a_shard(tmp_path, store, rows):
    """Kills an offset of another column, a row counted in the wrong shard, and rows of two shards in the wrong order."""
    path, values = written(tmp_path, store, rows=rows)
    table = Table(path)
    assert (len(table), tuple(table.fields.values())) == (23, FIELDS)
    np.testing.assert_array_equal(table.numbers("label"), values["label"])
    require_rows(table, values)
    asked = np.array([1, 22, 9])
    table.ahead(asked)
    for row in range(16):  # the shares of as many logical workers: what is wanted first is not dropped for them
        table.ahead(np.array([row]))
    assert not table.is_far or ("image", asked.tobytes()) in table._columns._coming
    table.ahead(np.array([3, 4]))  # never taken
    np.testing.assert_array_equal(table.read("image", asked), values["image"][asked])
    require_rows(table, values)


def test_a_shard_is_an_arrow_file_named_by_its_content(tmp_path):
    """Each can be read by itself, as a whole split can; kills a name that is not that of the bytes."""
    path, values = written(tmp_path, str(tmp_path / "store"), rows=10)
    listed = ShardList.read(path)
    assert [shard.rows for shard in listed.shards] == [10, 10, 3]
    start = 0
    for shard in listed.shards:
        file = tmp_path / "store" / shard.name
        assert (sha256_file(file), file.stat().st_size) == (shard.sha256, shard.bytes)
        with TableWriter(tmp_path / "alone.arrow", fields=FIELDS) as writer:
            writer.append({name: value[start : start + 10] for name, value in values.items()})
        assert (tmp_path / "alone.arrow").read_bytes() == file.read_bytes()
        start += 10
    assert not list(tmp_path.glob("*.arrow.*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.arrow", "store", "train.shards.json"]


def test_the_second_preparation_sends_nothing(tmp_path, monkeypatch):
    path, _ = written(tmp_path, str(tmp_path / "store"))
    before = path.read_bytes()
    monkeypatch.setattr("ganlib.storage.FolderStorage.write", lambda *_: pytest.fail("sent again"))
    written(tmp_path, str(tmp_path / "store"))
    assert path.read_bytes() == before


def test_a_store_that_lost_a_shard_is_told_when_the_split_is_opened(tmp_path, store):
    path, _ = written(tmp_path, store)
    shard = ShardList.read(path).shards[2]
    open_storage(store).remove(shard.name)
    with pytest.raises(ValueError, match=rf"train.shards.json: .* has no {shard.name} of .* data.store_uri .*dvc repro --force prepare"):
        Table(path)


def test_what_a_store_keeps_is_held_against_its_names(tmp_path, store):
    """Kills a check by size, and one that ends at the first shard."""
    path, _ = written(tmp_path, store)
    listed = ShardList.read(path)
    assert list(damaged(listed)) == []
    files, (lost, changed) = open_storage(store), listed.shards[1:3]
    files.remove(lost.name)
    files.write(changed.name, files.read(changed.name)[::-1])
    assert [line.partition(" in ")[0] for line in damaged(listed)] == [f"{store} has no {lost.name}", changed.name]


def test_a_list_that_is_none_is_refused(tmp_path):
    path = tmp_path / "train.shards.json"
    with pytest.raises(ValueError, match="does not exist; run the prepare stage"):
        Table(path)
    for text in ("{", "[]", json.dumps({"format": "other"})):
        path.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            Table(path)


@pytest.mark.heavy
def test_the_cache_takes_what_has_room_and_the_rest_comes_as_ranges(tmp_path, monkeypatch, server):
    """Kills a cache without a bound, one that forgets to check, and one that drops the shards of the training that asks."""
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    path, values = written(tmp_path, f"{server.uri}/cache")
    shards = ShardList.read(path).shards
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{'0' * 64}.arrow").write_bytes(b"x" * 100)  # of somebody else: goes first
    (cache / f"{shards[0].sha256}.arrow").write_bytes(b"damaged")
    monkeypatch.setenv(FOLDER, str(cache))
    monkeypatch.setenv(GIGABYTES, str(sum(shard.bytes for shard in shards[:3]) / 1e9 + 1e-9))
    table = Table(path)
    table.read("image", np.array([0]))
    assert table.is_far
    table.ahead(np.arange(23))
    table._columns._bringing.join(30)
    assert {file.name: sha256_file(file) for file in cache.glob("*.arrow")} == {f"{s.sha256}.arrow": s.sha256 for s in shards[:3]}
    assert sorted(table._columns._here) == [0, 1, 2]
    for shard in shards[:3]:
        open_storage(f"{server.uri}/cache").remove(shard.name)
    require_rows_of = np.array([0, 22, 14, 15, 3])
    np.testing.assert_array_equal(table.read("depth", require_rows_of), values["depth"][require_rows_of])  # without those of the store
    np.testing.assert_array_equal(table.rows("image", 0, 23), values["image"])


def test_one_process_of_a_machine_brings_and_others_drop_the_least_recently_used(tmp_path):
    cache = ShardCache(tmp_path / "cache", limit_bytes=300)
    contents = {name: name.encode() * 100 for name in "abcd"}
    keys = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    with cache.bringing() as mine, ShardCache(tmp_path / "cache", limit_bytes=300).bringing() as theirs:
        assert (mine, theirs) == (True, False)
    for age, name in enumerate("abc"):
        path = cache.bring(keys[name], 100, lambda name=name: contents[name], keep=())
        os.utime(path, (age, age))
    assert cache.find(keys["a"]) is not None  # used just now
    assert cache.bring(keys["d"], 100, lambda: contents["d"], keep=()) is not None
    assert {name for name in "abcd" if cache.find(keys[name])} == {"a", "c", "d"}
    assert cache.bring("f" * 64, 250, lambda: pytest.fail("read for nothing"), keep=[keys["a"]]) is None
    assert {name for name in "abcd" if cache.find(keys[name])} == {"a", "c", "d"}  # nothing was dropped in vain
    with pytest.raises(ValueError, match="other bytes than its name"):
        cache.bring("f" * 64, 100, lambda: contents["a"], keep=())


def test_a_size_of_the_cache_that_is_none_is_told_before_any_work(tmp_path, monkeypatch):
    path, _ = written(tmp_path, str(tmp_path / "store"))
    monkeypatch.setenv(GIGABYTES, "much")
    with pytest.raises(ValueError, match="GANPIPE_DATA_CACHE_GB='much', expected a number of gigabytes, 0 for no cache"):
        Table(path)


def test_prepared_shards_hold_the_images_of_prepared_files(tmp_path, store):
    digits = DataConfig(source="digits", image_size=(8, 8))
    (tmp_path / "raw").mkdir()
    fetch_raw(digits, tmp_path / "raw")
    for name, config in (("files", digits), ("shards", digits.model_copy(update={"store_uri": store, "shard_mb": 1}))):
        (tmp_path / name).mkdir()
        prepare_images(config, tmp_path / "raw", tmp_path / name, processes=1)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["manifest.json", *sorted(f"{s}.shards.json" for s in SPLITS)]
    for split in SPLITS:
        one, other = Table(split_path(tmp_path / "files", split)), Table(split_path(tmp_path / "shards", split))
        np.testing.assert_array_equal(one.rows("image", 0, 9999), other.rows("image", 0, 9999))
        np.testing.assert_array_equal(one.numbers("label"), other.numbers("label"))
    files, shards = read_manifest(tmp_path / "files"), read_manifest(tmp_path / "shards")
    assert (files.shape, files.class_names, files.fields) == (shards.shape, shards.class_names, shards.fields)
    assert files.data_digest != shards.data_digest
    assert MappedColumns(tmp_path / "files" / "train.arrow").length == shards.splits["train"].images
