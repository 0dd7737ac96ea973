"""A folder and a real S3 server behind the same verbs. `gs://` and `az://` are made from their addresses here, and were never run.

Long because every verb is held to the same promises in both places.
"""

import errno
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from ganlib import storage
from ganlib.storage import Address, ObjectStorage, StorageError, Tag, open_storage
from tests.disk import disk

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.heavy)])
def place(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "state")
    return s3_place(request, monkeypatch)


class Deaf(BaseHTTPRequestHandler):
    """As old servers that speak S3: takes every write, whatever its conditions. A stand-in, because the real server here listens to them."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        data = self.body()
        if not self.path.startswith("/state/"):
            return self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>It does not exist.</Message></Error>")
        self.objects[self.path] = data
        return self.answer(200)

    def do_GET(self) -> None:
        if not self.path.startswith("/state"):
            return self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>It does not exist.</Message></Error>")
        if self.path in self.objects:
            return self.answer(200, self.objects[self.path])
        return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_POST(self) -> None:  # ?delete
        keys = re.findall("<Key>(.*?)</Key>", self.body().decode())
        for key in keys:
            self.objects.pop(f"/state/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, *_) -> None:
        return


@pytest.fixture
def deaf(monkeypatch):
    """The scheme and the options of an address on a Deaf store."""
    for key, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(Deaf, "objects", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), Deaf) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["no flock", "deaf store", pytest.param("no conditions", marks=pytest.mark.heavy)])
def weak_place(request, tmp_path, monkeypatch):
    """A place that cannot compare and write as one action: a file system without flock, a store that takes every write, one told not to ask."""
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.5)
    if request.param == "deaf store":
        return f"s3://state/x?{request.getfixturevalue('deaf')}"
    if request.param == "no flock":

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        return str(tmp_path / "state")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    return s3_place(request, monkeypatch)


def s3_place(request, monkeypatch) -> str:
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
    with files.local("a/c/d.txt") as path:
        assert path.read_bytes() == b"3"
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


def test_a_power_failure_takes_nothing_that_was_written(tmp_path: Path) -> None:
    """On a real ext4, which forgets what it has not on the disk. Kills: a checkpoint, a pointer or a file that is renamed before it is flushed
    (a name with no bytes), and a name that is not flushed."""
    with disk(tmp_path / "disk") as place:
        files = open_storage(str(place.path / "state"))
        files.write("a/b.json", b"1" * 100_000)
        files.write_folder("checkpoints/1", {"weights": b"w" * 300_000, "seal": b"s"})
        tag = files.swap("pointer", b"first", None)
        assert files.swap("pointer", b"second", tag) is not None
        files.append("log", "may be lost")
        place.fail_power()
        place.start()
        assert (files.read("a/b.json"), files.read("pointer")) == (b"1" * 100_000, b"second")
        assert [files.read(f"checkpoints/1/{name}") for name in ("weights", "seal")] == [b"w" * 300_000, b"s"]


def test_a_large_file_and_an_empty_one(place):
    """More than one part. Killed by `read` without all chunks, and by a write that stops at its first part."""
    files = open_storage(place)
    large = os.urandom(1000) * (2 * storage.PART_BYTES // 1000 + 7)
    files.write("large", large)
    files.write("empty", b"")
    assert files.read("large") == large
    assert files.read("empty") == b""


def test_a_swap_replaces_the_version_that_was_read_or_nothing(place):
    """Killed by `swap` as a plain `write`, and by one that looks at content that is long gone."""
    files, other = open_storage(place), open_storage(place)
    assert files.swap("lock", b"1", Tag("of nothing", "1")) is None
    first = files.swap("lock", b"2", None)
    assert other.read_tagged("lock") == (b"2", first)
    assert other.swap("lock", b"3", None) is None
    second = other.swap("lock", b"4", first)
    assert second is not None
    assert files.swap("lock", b"5", first) is None
    assert files.read("lock") == b"4"
    assert files.swap("lock", b"6", second) is not None
    files.remove("lock")
    assert files.swap("lock", b"7", second) is None
    assert files.swap("lock", b"8", None) is not None
    assert other.read("lock") == b"8"


def test_a_swap_whose_answer_was_lost_is_known_by_its_content(place):
    """The client tries again a write that got through: the store then refuses it. Killed by taking every refusal at its word."""
    if "://" not in place:
        pytest.skip("a folder loses no answers")
    files = open_storage(place)
    first = files.swap("lock", b"mine", None)
    assert files.swap("lock", b"mine", None) == first
    assert files.swap("lock", b"mine", Tag('"stale"')) == first


def swap_at_once(place, names, contenders=2) -> list[list[int]]:
    """For each name, who of the contenders created it."""
    start, winners = threading.Barrier(contenders), [[] for _ in names]

    def contend(number):
        files = open_storage(place)
        for name, won in zip(names, winners, strict=True):
            start.wait(60)
            if files.swap(name, f"{name} {number}".encode(), None) is not None:
                won.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return winners


def test_of_two_that_swap_at_once_one_wins(place, caplog):
    """Fifty times, and by one action each: nobody looks again. Killed by a guard that locks nothing, and by `mode="overwrite"`."""
    assert open_storage(place).swap("other.json", b"1", None) is not None
    assert caplog.text == ""  # the store looks at conditions
    winners = swap_at_once(place, [f"lock-{number}.json" for number in range(50)])
    assert [len(won) for won in winners] == [1] * 50
    for number, (winner,) in enumerate(winners):
        assert open_storage(place).read(f"lock-{number}.json") == f"lock-{number}.json {winner}".encode()


def test_a_place_that_cannot_compare_looks_again(weak_place, caplog):
    """Killed by a `swap` that believes its own write."""
    assert [len(won) for won in swap_at_once(weak_place, ["lock.json"])] == [1]
    files = open_storage(weak_place)
    data, tag = files.read_tagged("lock.json")
    assert files.swap("lock.json", b"next", None) is None
    assert files.read("lock.json") == data
    assert files.swap("lock.json", b"next", tag) is not None
    assert ("does not look at conditions" in caplog.text) == ("://" in weak_place)
    assert [name for name in [*Deaf.objects, *(files.names("") if "?" not in weak_place else [])] if "probe" in name] == []


def test_a_bucket_that_is_missing_is_no_missing_file(deaf):
    """Read as one, a training would begin anew. Killed by passing on the client's FileNotFoundError."""
    files = open_storage(f"s3://nobody/x?{deaf}")
    for call in (
        lambda: files.read("name"),
        lambda: files.write("name", b"1"),
        lambda: files.names("name"),
        lambda: files.swap("name", b"1", None),
    ):
        with pytest.raises(StorageError, match=r"s3://nobody/x/\S+ failed: NoSuchBucket: It does not exist"):
            call()


def test_a_copy_of_a_file_goes_when_the_block_ends(place, monkeypatch, tmp_path):
    """Killed by a temporary folder that nobody removes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    files = open_storage(place)
    files.write("grids/a.png", b"1")
    with files.local("grids/a.png") as path:
        assert (path.name, path.read_bytes()) == ("a.png", b"1")
    with pytest.raises(FileNotFoundError), files.local("grids/b.png") as path:
        path.read_bytes()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert files.read("grids/a.png") == b"1"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hdfs://host/x", "legal: a folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix"),
        ("s3:///x", "legal: a folder, s3://bucket/prefix"),
        ("s3://bucket/x?endpoint=1", "unknown option 'endpoint'; legal: endpoint_override, region, scheme"),
        ("gs://bucket/x?region=1", "unknown option 'region'; legal: none"),
        ("s3://bucket/x?endpoint_override=host:1&scheme=ftp", "expected http://HOST:PORT or https://HOST:PORT"),
        ("s3://bucket/x?endpoint_override=:9", "expected http://HOST:PORT or https://HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_refused(uri, message):
    with pytest.raises(ValueError, match=message):
        open_storage(uri)


@pytest.mark.parametrize("where", ["address", "option", "environment"])
def test_a_password_in_an_address_is_refused_and_not_repeated(monkeypatch, where):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hush@127.0.0.1:9" if where == "environment" else "http://127.0.0.1:9")
    uri = {"address": "s3://me:hush@bucket/x", "option": "s3://bucket/x?endpoint_override=me:hush@127.0.0.1:9"}.get(where, "s3://bucket/x")
    with pytest.raises(ValueError, match="password") as raised:
        open_storage(uri)
    assert "hush" not in str(raised.value)


def test_where_the_endpoint_and_the_region_come_from(monkeypatch):
    """The address first, then the variables of S3, then the general ones."""
    for key in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(key, raising=False)

    def settings(uri="s3://bucket/x"):
        return storage._s3_settings(Address.parse(uri))

    assert settings() == {}
    monkeypatch.setenv("AWS_DEFAULT_REGION", "r1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    assert settings() == {"endpoint": "http://general:1", "region": "r1"}
    monkeypatch.setenv("AWS_REGION", "r2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3:2")
    assert settings() == {"endpoint": "https://s3:2", "region": "r2"}
    own = "s3://bucket/x?endpoint_override=own:3&scheme=http&region=r3"
    assert settings(own) == {"endpoint": "http://own:3", "region": "r3"}
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert settings()["region"] == "us-east-1"


def test_the_other_clouds_are_made_from_their_addresses(monkeypatch, tmp_path):
    """Made, not run: no store of theirs answers here."""
    from obstore.store import AzureStore, GCSStore

    for key in [key for key in os.environ if key.startswith(("AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(key)
    with pytest.raises(ValueError, match=r"az://box/x cannot be opened: .*Account must be specified; it needs AZURE_STORAGE_ACCOUNT_NAME"):
        open_storage("az://box/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    azure = open_storage("az://box/x/y/")
    assert isinstance(azure, ObjectStorage)
    assert isinstance(azure._store, AzureStore)
    assert (azure._store.prefix, azure._at("name")) == ("x/y", "az://box/x/y/name")
    google = open_storage("gs://bucket")
    assert isinstance(google, ObjectStorage)
    assert isinstance(google._store, GCSStore)
    assert (google._store.prefix, google._at("name")) == (None, "gs://bucket/name")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"gs://bucket cannot be opened: .*it needs GOOGLE_APPLICATION_CREDENTIALS"):
        open_storage("gs://bucket")


def test_a_folder_needs_no_client_of_any_store():
    code = "import sys; from ganlib.storage import open_storage; open_storage('/x'); sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture
def nobody(monkeypatch):
    """An address where nobody listens."""
    for key, value in {"AWS_ACCESS_KEY_ID": "a key", "AWS_SECRET_ACCESS_KEY": "hush"}.items():
        monkeypatch.setenv(key, value)
    return "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"


@pytest.mark.parametrize("verb", ["read", "write", "swap", "append", "names", "remove", "local"])
def test_a_store_that_is_away_is_named(nobody, monkeypatch, verb):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    files = open_storage(nobody)
    calls = {
        "read": lambda: files.read("name"),
        "write": lambda: files.write("name", b"abc"),
        "swap": lambda: files.swap("name", b"abc", None),
        "append": lambda: files.append("name", "abc"),
        "names": lambda: files.names("name"),
        "remove": lambda: files.remove("name"),
        "local": lambda: files.local("name").__enter__(),
    }
    with pytest.raises(
        StorageError, match=r"s3://bucket/x/\S+ failed: .*Connection refused.*check that .*AWS_ENDPOINT_URL fit it"
    ) as raised:
        calls[verb]()
    assert "hush" not in (text := str(raised.value))
    assert "\n" not in text
    if verb == "write":
        assert "writing 3 bytes to s3://bucket/x/name failed" in text


def test_a_store_that_is_away_is_tried_again_for_a_bounded_time(nobody, monkeypatch):
    """By the client's own count. Killed by `max_retries=0`, and by bounds that are not handed over."""
    monkeypatch.setattr(storage, "RETRY_SECONDS", 2.0)
    with pytest.raises(StorageError, match=r"after [1-9]\d* retries, max_retries: \d+, retry_timeout: 2s"):
        open_storage(nobody).write("name", b"abc")
    assert storage.RETRY_SECONDS + storage.REQUEST_SECONDS <= 45


def test_a_key_that_is_not_set_is_said(nobody, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ValueError, match=r"s3://bucket/x cannot be opened: .*Missing AccessKeyId; it needs AWS_ACCESS_KEY_ID"):
        open_storage(nobody)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"AWS_ACCESS_KEY_ID is not set"):
        open_storage(nobody).write("name", b"abc")


@pytest.mark.heavy
def test_a_store_that_hangs_is_named_and_holds_up_no_signal(s3, monkeypatch):
    """The store comes back because a signal is heard while the client waits. Killed by calling the client in the main thread."""
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(storage, "REQUEST_SECONDS", 4.0)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    files = open_storage(f"{s3.uri}/hangs")
    files.write("name", b"abc")
    s3.stop()
    before = signal.signal(signal.SIGUSR1, lambda *_: s3.resume())
    later = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
    later.start()
    try:
        assert files.read("name") == b"abc"
        s3.stop()
        with pytest.raises(StorageError, match=r"reading s3://state/trainings/hangs/name failed: .*no answer within 4 s"):
            files.read("name")
    finally:
        s3.resume()
        later.cancel()
        later.join()  # unheard, the signal would end the process that runs the tests
        signal.signal(signal.SIGUSR1, before)
    assert files.read("name") == b"abc"


@pytest.mark.heavy
@pytest.mark.parametrize("verb", ["read", "write", "swap", "names", "remove"])
def test_wrong_credentials_are_not_tried_again(s3, monkeypatch, verb):
    """RETRY_SECONDS is longer than a test may last. Killed by trying a refusal again."""
    for key, value in {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong-hush"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 3600.0)
    files = open_storage(f"{s3.uri}/x")
    calls = {
        "read": lambda: files.read("name"),
        "write": lambda: files.write("name", b"abc"),
        "swap": lambda: files.swap("name", b"abc", None),
        "names": lambda: files.names(""),
        "remove": lambda: files.remove("name"),
    }
    with pytest.raises(StorageError, match=r"failed: SignatureDoesNotMatch: .*AWS_SECRET_ACCESS_KEY") as raised:
        calls[verb]()
    assert "hush" not in str(raised.value)
    assert s3.environment["AWS_ACCESS_KEY_ID"] not in str(raised.value)


def test_what_a_client_says_is_cut_to_what_a_person_may_read():
    """An answer may quote keys and signatures, and so may a query."""
    body = "<Error><Code>AccessDenied</Code><Message>No.</Message><AWSAccessKeyId>AKIA1</AWSAccessKeyId><Signature>s</Signature></Error>"
    assert storage._reason(f"Error performing PUT http://h/b in 1ms - 403 Forbidden: {body}\n\nDebug source:\nx") == "AccessDenied: No."
    text = "Error performing GET https://me:hush@h/b?sig=hush&x=1 in 1ms  - HTTP error: error\n sending request\n\nDebug source:\nhush"
    assert storage._reason(text) == "Error performing GET https://h/b in 1ms - HTTP error: error sending request"
