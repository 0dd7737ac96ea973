"""One's own files in an object store: what is fetched is what the same files in a folder give, from a real S3 server (SeaweedFS)."""

import hashlib
import json
import os
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ganlib import storage
from ganlib.data.raw import SourceInfo
from ganlib.data.settings import DataConfig
from ganlib.data.sources import BROUGHT, fetch_raw
from ganlib.data.stored import AT_ONCE, FILES, JOURNAL, Listed, Objects, bring
from ganlib.storage import StorageError, open_storage
from tests.ganlib.data.test_layouts import lay, png, zipped
from tests.object_store import ObjectStore

needs_server = pytest.mark.heavy


@pytest.fixture
def store(s3: ObjectStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this test's own."""
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    return f"s3://state/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}/my photos"


def put(folder: Path, uri: str) -> None:
    files = open_storage(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            files.write(path.relative_to(folder).as_posix(), path.read_bytes())


def fetched(at: Path, **options: object) -> tuple[SourceInfo, dict[str, bytes]]:
    """`source.json`, and the files beside it."""
    raw = at / "raw"
    raw.mkdir(parents=True)
    info = fetch_raw(DataConfig.model_validate({"source": "image_folder", **options}), raw)
    return info, {path.name: path.read_bytes() for path in raw.iterdir() if path.name != "source.json"}


def layout(kind: str, folder: Path) -> tuple[dict[str, str], str]:
    """Files of a kind in `folder`; the settings that fit them, and what below `folder` the address names."""
    if kind == "classes":
        lay(folder, "train/cats & dogs/1 #%20+é.png", "train/birds/2.png", "test/birds/3.png", "test/cats & dogs/a/4.png", ".git/x.png")
    elif kind == "metadata":
        lay(folder, "1.png", "2.png", files={"metadata.csv": "file_name,label\n1.png,late\n2.png,early\n", "notes.txt": "mine"})
    elif kind in ("zip alone", "zip"):
        zipped(lay(folder.parent / "packed", "b/1.png", "a/2.png"), folder / "all.zip")
        return {}, "/all.zip" if kind == "zip" else ""
    elif kind == "idx":
        folder.mkdir()
        pixels, labels = bytes(range(12)), bytes([1, 0, 1])
        (folder / "train-images-idx3-ubyte").write_bytes(bytes.fromhex("00000803000000030000000200000002") + pixels)
        (folder / "train-labels-idx1-ubyte").write_bytes(bytes.fromhex("0000080100000003") + labels)
        return {"source": "idx"}, ""
    else:
        folder.mkdir()
        for number, split in enumerate(("train", "test")):
            pq.write_table(pa.table({"image": [png(number)], "label": [0]}), folder / f"{split}-00000-of-00001.parquet")
        return {"source": "parquet"}, "/test-00000-of-00001.parquet" if kind == "one parquet" else ""
    return {}, ""


@needs_server
@pytest.mark.parametrize("kind", ["classes", "metadata", "zip alone", "zip", "idx", "parquet", "one parquet"])
def test_the_bytes_are_those_of_the_same_files_in_a_folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Kills: the store's order as the order of images, names that are escaped or cut, an archive that is looked for below its own name."""
    options, below = layout(kind, tmp_path / "here")
    put(tmp_path / "here", store)
    here, expected = fetched(tmp_path / "a", path=f"{tmp_path / 'here'}{below}", **options)
    there, found = fetched(tmp_path / "b", source_uri=f"{store}{below}", **options)
    assert found == expected
    listing = Objects.files
    monkeypatch.setattr(Objects, "files", lambda self: listing(self)[::-1])
    again, turned = fetched(tmp_path / "c", source_uri=f"{store}{below}/", **options)
    assert turned == expected
    for info in (there, again):
        assert (info.class_names, info.ignored_count, info.notes) == (here.class_names, here.ignored_count, here.notes)
        assert info.stored is not None
    assert there.stored is not None
    assert again.stored is not None
    assert (again.stored.sha256, here.stored) == (there.stored.sha256, None)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["raw"]  # nothing is kept twice


@needs_server
def test_the_record_tells_what_the_store_held(store: str, tmp_path: Path) -> None:
    """Kills: a digest of names or sizes alone, which a changed picture of the same size does not change, and one of the time of writing."""
    put(lay(tmp_path / "here", "a/1.png", "b/2.png"), store)
    first, _ = fetched(tmp_path / "1", source_uri=store)
    put(tmp_path / "here", store)  # written anew, the same bytes
    second, _ = fetched(tmp_path / "2", source_uri=store)
    assert (tmp_path / "1/raw/source.json").read_bytes() == (tmp_path / "2/raw/source.json").read_bytes()
    lines = "".join(f"{hashlib.sha256((tmp_path / 'here' / name).read_bytes()).hexdigest()}  {name}\n" for name in ("a/1.png", "b/2.png"))
    assert first.stored == second.stored
    assert first.stored is not None
    assert (first.stored.uri, first.stored.num_files, first.stored.sha256) == (store, 2, hashlib.sha256(lines.encode()).hexdigest())
    picture = (tmp_path / "here/a/1.png").read_bytes()
    open_storage(store).write("a/1.png", picture[:-1] + b"!")
    changed, _ = fetched(tmp_path / "3", source_uri=store)
    assert changed.stored is not None
    assert (changed.stored.size_bytes, changed.stored.sha256 == first.stored.sha256) == (first.stored.size_bytes, False)


@needs_server
def test_who_was_interrupted_brings_only_what_is_not_there(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a half file that counts as whole, an object that was written since and is taken from the disk, a file that is gone from the store
    and stays, trust in the size of a damaged file, and bringing everything again."""
    names = [f"class{number % 2}/{number:02d}.png" for number in range(20)]
    put(lay(tmp_path / "here", *names), store)
    brought: list[str] = []
    chunks = Objects.chunks

    def breaking(self: Objects, name: str) -> Iterator[bytes]:
        if name == names[-1]:
            yield b"half"
            raise StorageError(5, "the store is gone")
        brought.append(name)
        yield from chunks(self, name)

    monkeypatch.setattr(Objects, "chunks", breaking)
    with pytest.raises(StorageError, match="is gone"):
        fetched(tmp_path / "work", source_uri=store)
    assert list((tmp_path / "work/raw").iterdir()) == []
    folder = tmp_path / "work" / BROUGHT
    kept = [json.loads(line)["name"] for line in (folder / JOURNAL).read_text().splitlines()]
    assert 3 < len(kept) < 20

    def counting(self: Objects, name: str) -> Iterator[bytes]:
        brought.append(name)
        yield from chunks(self, name)

    monkeypatch.setattr(Objects, "chunks", counting)
    brought.clear()
    damaged, written, removed, *others = kept
    path = folder / FILES / damaged
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (folder / FILES / names[-1]).write_bytes(b"half")
    with (folder / JOURNAL).open("a") as journal:
        journal.write('{"name": "cut by a ki')
    files = open_storage(store)
    (tmp_path / "here" / written).write_bytes(png(99))
    files.write(written, png(99))
    (tmp_path / "here" / removed).unlink()
    files.remove(removed)
    (tmp_path / "work/raw").rmdir()
    assert fetched(tmp_path / "work", source_uri=store)[1] == fetched(tmp_path / "local", path=str(tmp_path / "here"))[1]
    assert sorted(brought) == sorted(set(names) - set(others) - {removed})
    assert not folder.exists()


@needs_server
def test_an_interrupt_ends_the_threads_too(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a Ctrl-C that waits until all objects are here, that asks for those which wait, or that leaves threads writing."""
    put(lay(tmp_path / "here", *(f"{number}.png" for number in range(30))), store)
    begun, ended, all_begun = [], [], threading.Barrier(AT_ONCE + 1)

    def endless(self: Objects, name: str) -> Iterator[bytes]:
        begun.append(name)
        if len(begun) <= AT_ONCE:
            all_begun.wait()
        for _ in range(200):
            threading.Event().wait(0.05)
            yield b""
        ended.append(name)

    def interrupt() -> None:
        all_begun.wait()
        threading.Event().wait(0.3)  # until all are asked for
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Objects, "chunks", endless)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        fetched(tmp_path / "work", source_uri=store)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("bring")] == []
    assert (len(begun), ended) == (AT_ONCE, [])
    assert (tmp_path / "work" / BROUGHT / JOURNAL).read_text() == ""


@needs_server
def test_a_large_object_passes_in_pieces(store: str, tmp_path: Path) -> None:
    """Kills: a whole object in memory."""
    size_bytes = 6 * storage.PART_BYTES
    block = os.urandom(1 << 20)
    files = open_storage(store)
    files.write("large.zip", block * (size_bytes >> 20))
    tracemalloc.start()
    try:
        with bring(f"{store}/large.zip", tmp_path / "brought") as (path, stored):
            peak_bytes = tracemalloc.get_traced_memory()[1]
            assert (path.stat().st_size, stored.size_bytes, stored.num_files) == (size_bytes, size_bytes, 1)
    finally:
        tracemalloc.stop()
    assert peak_bytes < size_bytes / 2
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(block * (size_bytes >> 20)).digest()


@needs_server
def test_refusals_name_the_address_and_its_key(store: str, tmp_path: Path) -> None:
    """Kills: messages about the folder beside data/raw, which the user never made; a prefix that is taken for its longer neighbour."""
    put(lay(tmp_path / "here", "notes.txt", files={"a.zip": b"x", "b.zip": b"x"}), store)
    for source, uri, message in (
        ("image_folder", store, rf"^{store} holds 2 zip archives, a.zip, b.zip; set data.source_uri to one"),
        ("idx", store, rf"^{store} holds no IDX images.*params.yaml: data.source_uri"),
        ("image_folder", f"{store}/a.zip", rf"^{store}/a.zip is not a zip archive"),
        ("image_folder", store[:-1], rf"^{store[:-1]} holds nothing: there is no object of that name, and none below it"),
        ("image_folder", f"{store}/a.zip/b", r"a.zip/b holds nothing"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            fetched(tmp_path / message[-9:], source=source, source_uri=uri)
        assert "\n" not in str(raised.value)


@needs_server
def test_an_object_that_changes_meanwhile_is_refused(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a record of sizes that nobody had."""
    put(lay(tmp_path / "here", "1.png"), store)
    listing = Objects.files

    def written_after(self: Objects) -> list[Listed]:
        found = listing(self)
        self.write("1.png", b"longer than any listing said" * 100)
        return found

    monkeypatch.setattr(Objects, "files", written_after)
    with pytest.raises(
        ValueError, match=rf"^{store}/1.png was written or removed while the files were brought; run the same command again"
    ):
        fetched(tmp_path / "work", source_uri=store)


@needs_server
def test_a_bucket_or_a_key_that_is_wrong_is_said_before_other_work(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"listing s3://nobody/x failed: .*NoSuchBucket"):
        fetched(tmp_path / "1", source_uri="s3://nobody/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-hush")
    with pytest.raises(StorageError, match=rf"listing {store} failed: SignatureDoesNotMatch: .*AWS_SECRET_ACCESS_KEY") as raised:
        fetched(tmp_path / "2", source_uri=store)
    assert "hush" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path for name in ("1", "2") for path in (tmp_path / name).rglob("*") if path.is_file()] == []


def test_a_store_that_is_away_and_a_key_that_is_not_set_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    for key, value in {"AWS_ACCESS_KEY_ID": "a key", "AWS_SECRET_ACCESS_KEY": "hush"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(StorageError, match=r"listing s3://bucket/x failed: .*Connection refused.*AWS_ENDPOINT_URL fit it") as raised:
        fetched(tmp_path / "1", source_uri=uri)
    assert "hush" not in str(raised.value)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    with pytest.raises(StorageError, match=r"listing s3://bucket/x failed: .*AWS_ACCESS_KEY_ID is not set"):
        fetched(tmp_path / "2", source_uri=uri)


class Listing(BaseHTTPRequestHandler):
    """A store that lists `keys`. A stand-in, because the real server here makes such names into others."""

    keys: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>1</ETag><Size>{size}</Size></Contents>"
            for key, size in self.keys.items()
        )
        body = f"<ListBucketResult>{entries}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
        is_listing = "list-type" in self.path
        self.send_response(200 if is_listing else 404)
        self.end_headers()
        self.wfile.write(body if is_listing else b"")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for key, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(key, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"s3://state/data?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("key", ["data/../x.png", "data//etc/x.png", "data/./x.png", "data/cats/../../x.png", "data/..", "data/a//x.png"])
def test_names_that_leave_the_folder_are_refused_by_name(listing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Kills: a refusal that blames the credentials, and one that comes after something was written."""
    monkeypatch.setattr(Listing, "keys", {"data/1.png": 1, key: 1})
    with pytest.raises(ValueError, match=r"s3://state/data has an object called \"" + key.replace(".", r"\.") + '"') as raised:
        fetched(tmp_path / "work", source_uri=listing)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["raw"]


def test_a_file_and_a_folder_of_one_name_are_refused_but_a_folders_mark_is_none(
    listing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consoles write an empty object `cats/` to show a folder. Kills: it as a file where the folder must be."""
    monkeypatch.setattr(Listing, "keys", {"data/cats": 3, "data/cats/1.png": 1})
    with pytest.raises(ValueError, match=r"has an object called 'cats' and others below 'cats/'"):
        fetched(tmp_path / "1", source_uri=listing)
    monkeypatch.setattr(Listing, "keys", {"data/": 0, "data/cats/": 0, "data/cats/1.png": 1})
    with pytest.raises(ValueError, match=r"^s3://state/data/cats/1.png was written or removed while the files were brought"):
        fetched(tmp_path / "2", source_uri=listing)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "data/incoming",
            r"data.source_uri='data/incoming' is no address of an object store; legal: s3://bucket/prefix, gs://.*goes to data.path",
        ),
        ("ftp://host/x", r"data.source_uri='ftp://host/x' is no address of an object store"),
        ("s3:///x", r"data.source_uri='s3:///x' is no place"),
        ("s3://b/x?endpoint=y", r"unknown option 'endpoint'"),
        ("s3://me:hush@b/x", r"data.source_uri has an @ in it"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        fetched(tmp_path, source_uri=uri)
    assert "hush" not in str(raised.value)
