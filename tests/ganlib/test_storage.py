"""A folder and a real S3 server behind the same verbs."""

import logging

import pytest

from ganlib import storage
from ganlib.storage import StorageError, open_storage


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.heavy)])
def place(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "state")
    store = request.getfixturevalue("s3")
    for key, value in store.environment.items():
        monkeypatch.setenv(key, value)
    return f"{store.uri}/{request.node.name}"


def test_the_verbs(place):
    files = open_storage(place)
    assert files.names("") == []
    files.write("a/b.txt", b"1")
    files.write("a/b.txt", b"22")
    files.write("a/c/d.txt", b"3")
    assert files.read("a/b.txt") == b"22"
    assert files.names("a") == ["b.txt", "c"]
    assert [files.size_bytes(name) for name in ("a", "a/c", "", "not there")] == [3, 1, 3, 0]
    assert files.local("a/c/d.txt").read_bytes() == b"3"
    files.append("log", "one\n")
    files.append("log", "two\n")
    assert open_storage(place).read("log") == b"one\ntwo\n"
    again = open_storage(place)
    again.append("log", "three\n")  # by another process, later
    assert again.read("log") == b"one\ntwo\nthree\n"
    again.write("log", b"new\n")
    again.append("log", "end\n")
    assert again.read("log") == b"new\nend\n"
    for name in ("a", "log", "not there"):
        files.remove(name)
    assert files.names("") == []
    with pytest.raises(FileNotFoundError):
        files.read("a/b.txt")


def test_a_folder_is_replaced_as_a_whole(place):
    files = open_storage(place)
    files.write_folder("x/step", {"data": b"1", "seal": b"s"})
    files.write_folder("x/step", {"data": b"2", "seal": b"t"})
    assert files.names("x") == ["step"]
    assert (files.names("x/step"), files.read("x/step/data"), files.read("x/step/seal")) == (["data", "seal"], b"2", b"t")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", "legal: a folder, or s3://bucket/prefix"),
        ("s3:///x", "legal: a folder, or s3://bucket/prefix"),
        ("s3://bucket/x?endpoint=1", "unknown option 'endpoint'; legal: endpoint_override, scheme, region"),
    ],
)
def test_an_address_that_is_none_is_refused(uri, message):
    with pytest.raises(ValueError, match=message):
        open_storage(uri)


def test_a_store_that_is_away_is_tried_again_and_then_named(monkeypatch, caplog):
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.01, 0.01))
    for key, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(key, value)
    files = open_storage("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(StorageError, match=r"writing 3 bytes to s3://bucket/x/name failed: .*AWS_ENDPOINT_URL"),
    ):
        files.write("name", b"abc")
    assert sum("next try in" in record.message for record in caplog.records) == 2


@pytest.mark.heavy
def test_wrong_credentials_are_not_tried_again(s3, monkeypatch, caplog):
    for key, value in {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}.items():
        monkeypatch.setenv(key, value)
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError, match="SIGNATURE_DOES_NOT_MATCH"):
        open_storage(f"{s3.uri}/x").write("name", b"abc")
    assert caplog.records == []
