"""A state of a training, or shards of data, as named files in a folder or below the address of an object store: the same few verbs for all.

A name is relative and has forward slashes (`grids/images-000000006400.png`). A write is whole or not at all: a folder has rename, an object store
has PUT. `swap` is the one verb that says no: it writes only where nothing has changed, as one action, which is what a lock needs.

Both kinds of place stand in this one file of more than 300 lines, because they keep one contract, and are tested and changed side by side.
"""

import errno
import fcntl
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from ganlib.files import atomic_folder, atomic_write
from ganlib.redact import redacted

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")
KEY = "train.state_uri"  # of params.yaml, where most addresses are written
ADDRESSES = {"s3": "s3://bucket/prefix", "gs": "gs://bucket/prefix", "az": "az://container/prefix"}  # by scheme
OPTIONS = {"s3": ("endpoint_override", "region", "scheme")}  # by scheme: what may stand after `?` of an address
CREDENTIALS = {  # by scheme: environment variables an error names
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}
REQUEST_SECONDS = 10.0  # a request may be without a byte for so long
RETRY_SECONDS = 25.0  # of an object store: no new try of a request after so long
PART_BYTES = 8 * 2**20  # a larger object is sent in parts of this size, each within REQUEST_SECONDS
PARTS_AT_ONCE = 4
GUARD_SECONDS = 20.0  # the guard of a folder's `swap` is held for one small file at a time
SETTLE_SECONDS = 2.0  # where `swap` cannot be one action: longer than another one takes from looking to writing


class StorageError(OSError):
    """The state of a training cannot be read or written; says where, why and what to do."""


class Tag(NamedTuple):
    """Names one version of a file: equal where nothing was written since. What each field holds is the place's own affair."""

    e_tag: str | None
    version: str | None = None


class Storage(Protocol):
    """Named files below one address.

    Attributes:
        uri: the address, as params.yaml would have it.
        poll_seconds: how often it is reasonable to look for something new.
    """

    uri: str
    poll_seconds: float

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, or StorageError where the store does not answer."""
        ...

    def read_ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Bytes starts[i] .. ends[i] of a file, for each i; raises as `read` does."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file; raises as `read` does."""
        ...

    def where(self, name: str) -> Path | None:
        """A file's path on this machine, which need not exist; None where files are not on its file system."""
        ...

    def read_tagged(self, name: str) -> tuple[bytes, Tag]:
        """`read`, and what `swap` needs to replace just this version."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Raises OSError with the place and the bytes needed; the file is then as it was before."""
        ...

    def swap(self, name: str, data: bytes, tag: Tag | None) -> Tag | None:
        """Replace the version that has `tag`, or create the file (None), as one action for all who use `swap`.

        Args:
            data: no other writer writes the same bytes, so that an answer that was lost can be told from a refusal.

        Returns:
            the tag of what was written; None where another version is there by now, which stays.
        """
        ...

    def append(self, name: str, text: str) -> None:
        """Add to the end of a text file that nobody else writes."""
        ...

    def write_folder(self, name: str, files: Mapping[str, bytes]) -> None:
        """Replace a folder. Its last file is its seal: where that one is, the others are."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders directly in `folder`, sorted; none where it does not exist."""
        ...

    def size_bytes(self, folder: str) -> int:
        """Of all files in `folder` and below; 0 where it does not exist."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder; nothing to do where it does not exist."""
        ...

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file as a path of this machine while the block runs, to be read only."""
        ...


@dataclass(frozen=True, kw_only=True)
class Address:
    """An object store's address, taken apart."""

    scheme: str
    bucket: str
    prefix: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    @classmethod
    def parse(cls, uri: str, *, key: str = KEY) -> "Address":
        """Looks at the form only; `key` is where it was written.

        Raises:
            ValueError: another scheme, no bucket, an unknown option.
        """
        parts = urlsplit(uri)
        if "@" in parts.netloc + parts.query:  # not repeated: a password may be in it
            raise ValueError(f"{key} has an @ in it, as if for a user or a password; credentials belong in the environment")
        if parts.scheme not in ADDRESSES or not parts.netloc:
            legal = ", ".join(ADDRESSES.values())
            raise ValueError(f"{key}={redacted(uri)!r} is no place that files can be written to; legal: a folder, {legal}")
        given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        known = OPTIONS.get(parts.scheme, ())
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"{key}={redacted(uri)!r}: unknown option {unknown[0]!r}; legal: {', '.join(known) or 'none'}")
        return cls(scheme=parts.scheme, bucket=parts.netloc, prefix=parts.path.strip("/"), options=given)


def open_storage(uri: str | Path, *, key: str = KEY) -> Storage:
    """The storage at a folder (absolute) or at an address as in ADDRESSES; `key` is where it was written. Nothing is asked yet.

    Raises:
        ValueError: an address that is none, or credentials that can be none.
    """
    if "://" not in str(uri):
        return FolderStorage(Path(uri))
    return ObjectStorage(str(uri), key=key)


class FolderStorage:
    """A folder of a file system, shared between nodes where there are several."""

    poll_seconds = 0.5

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def read_ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        found = []
        with (self.folder / name).open("rb") as file:
            for start, end in zip(starts, ends, strict=True):
                file.seek(start)
                found.append(file.read(end - start))
        return found

    def size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def where(self, name: str) -> Path | None:
        return self.folder / name

    def read_tagged(self, name: str) -> tuple[bytes, Tag]:
        data = self.read(name)
        return data, Tag(hashlib.sha256(data).hexdigest())

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.folder / name, data)

    def swap(self, name: str, data: bytes, tag: Tag | None) -> Tag | None:
        guard = (self.folder / name).with_suffix(".guard")  # stays, because removing it would let two in
        guard.parent.mkdir(parents=True, exist_ok=True)
        with guard.open("a") as file:
            if not _flock(file.fileno(), guard):
                return _swap_by_looking(self, name, data, tag, write=self._write_at_once)
            if _tag_of(self, name) != tag:
                return None
            self.write(name, data)
            return self.read_tagged(name)[1]

    def append(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a") as file:
            file.write(text)

    def write_folder(self, name: str, files: Mapping[str, bytes]) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self.folder / name) as temporary:
            for file, data in files.items():
                (temporary / file).write_bytes(data)

    def names(self, folder: str) -> list[str]:
        path = self.folder / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def size_bytes(self, folder: str) -> int:
        total = 0
        for at, _, names in os.walk(self.folder / folder):
            for name in names:
                with suppress(FileNotFoundError):  # replaced while we look
                    total += (Path(at) / name).stat().st_size
        return total

    def remove(self, name: str) -> None:
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self.folder / name

    def _write_at_once(self, name: str, data: bytes) -> None:
        """`write` beside others that write the same name."""
        own = f"{name}.{uuid.uuid4().hex}"
        self.write(own, data)
        (self.folder / own).replace(self.folder / name)


class ObjectStorage:
    """Below an address as in ADDRESSES, by obstore, which tries again by itself what failed and may pass.

    Credentials come from the environment, as every client of that store reads them; what is not in the environment (files such as
    `~/.aws/credentials`) is not read. Amazon's and the metadata services of the three clouds are asked where no key is given.
    Options in the address go before the environment: `?endpoint_override=HOST:PORT&scheme=http&region=R` of `s3://`.

    `s3://` is tested against a SeaweedFS. `gs://` and `az://` were never run against a store: only made from their addresses.
    """

    poll_seconds = 2.0

    def __init__(self, uri: str, *, key: str = KEY) -> None:
        self.uri = uri
        self.address = Address.parse(uri, key=key)
        self._store = _open(self.address)
        self._grown: dict[str, bytes] = {}  # what `append` has written: objects cannot grow
        self._compares: bool | None = None  # whether the store looks at conditions; None: not tried yet

    def read(self, name: str) -> bytes:
        return self.read_tagged(name)[0]

    def read_ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        def get() -> list[bytes]:
            return [bytes(part) for part in self._store.get_ranges(name, starts=starts, ends=ends)]

        return self._ask(get, f"reading {len(starts)} parts of {self._at(name)}")

    def size(self, name: str) -> int:
        size: int = self._ask(lambda: self._store.head(name), f"looking at {self._at(name)}")["size"]
        return size

    def where(self, name: str) -> Path | None:
        return None

    def read_tagged(self, name: str) -> tuple[bytes, Tag]:
        def get() -> tuple[bytes, Tag]:
            result = self._store.get(name)
            whole = io.BytesIO()  # hands out what it holds without a copy
            for chunk in result.stream():
                whole.write(chunk)
            return whole.getvalue(), Tag(result.meta["e_tag"], result.meta["version"])

        return self._ask(get, f"reading {self._at(name)}")

    def write(self, name: str, data: bytes) -> None:
        what = f"writing {len(data):,} bytes to {self._at(name)}"
        try:
            self._ask(lambda: self._store.put(name, data, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE), what)
        except FileNotFoundError as error:  # only the bucket can be missing
            raise self._failure(what, "there is no such bucket") from error
        self._grown.pop(name, None)

    def swap(self, name: str, data: bytes, tag: Tag | None) -> Tag | None:
        if self._compares is None:
            self._compares = self._try_conditions()
        return self._swap(name, data, tag) if self._compares else _swap_by_looking(self, name, data, tag, write=self.write)

    def append(self, name: str, text: str) -> None:
        if name in self._grown:
            before = self._grown[name]
        else:
            try:
                before = self.read(name)
            except FileNotFoundError:
                before = b""
        whole = self._grown[name] = before + text.encode()  # kept when the write fails: the next append brings it
        self.write(name, whole)
        self._grown[name] = whole

    def write_folder(self, name: str, files: Mapping[str, bytes]) -> None:
        *_, seal = files
        self._delete([f"{name}/{seal}"], f"replacing {self._at(name)}")
        for file, data in files.items():
            self.write(f"{name}/{file}", data)

    def names(self, folder: str) -> list[str]:
        found = self._ask(lambda: self._store.list_with_delimiter(folder), f"listing {self._at(folder)}")
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        below = f"{folder}/" if folder else ""  # some servers list the folder itself too
        return sorted({path.removeprefix(below) for path in paths if path and path.startswith(below)})

    def size_bytes(self, folder: str) -> int:
        entries = self._ask(lambda: [entry for page in self._store.list(folder or None) for entry in page], f"listing {self._at(folder)}")
        return sum(entry["size"] for entry in entries)

    def remove(self, name: str) -> None:
        what = f"removing {self._at(name)}"
        files = self._ask(lambda: [entry["path"] for page in self._store.list(name) for entry in page], what)
        self._delete([*files, name], what)
        if self.address.scheme == "s3":  # some servers keep empty folders; to others these are names of nothing
            parents = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
            self._delete(sorted((path for path in parents if f"{path}/".startswith(f"{name}/")), key=len, reverse=True), what)
        self._grown.pop(name, None)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="state-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(self.read(name))
            yield path

    def _at(self, name: str) -> str:
        return f"{self.address}/{name}".rstrip("/")

    def _delete(self, names: list[str], what: str) -> None:
        with suppress(FileNotFoundError):  # some stores say so, and it is what was wanted
            self._ask(lambda: self._store.delete(names), what)

    def _swap(self, name: str, data: bytes, tag: Tag | None) -> Tag | None:
        """`swap` by a conditional write (If-None-Match, If-Match, or a generation)."""
        mode: Any = "create" if tag is None else {key: value for key, value in tag._asdict().items() if value is not None}
        what = f"writing {len(data):,} bytes to {self._at(name)}"
        try:
            return Tag(**self._ask(lambda: self._store.put(name, data, mode=mode, use_multipart=False), what))
        except (FileNotFoundError, FileExistsError):
            try:
                found, now = self.read_tagged(name)
            except FileNotFoundError:
                return None
            return now if found == data else None  # equal: an earlier try got through, and only its answer was lost

    def _try_conditions(self) -> bool:
        """Whether the store refuses a write whose condition does not hold: some that speak S3 take every write, which would be no lock."""
        name, is_comparing = f"probe-{uuid.uuid4().hex}", False
        with suppress(NotImplementedError):  # AWS_CONDITIONAL_PUT=disabled
            first = self._swap(name, b"1", None)
            refuses = self._swap(name, b"2", None) is None and self._swap(name, b"3", Tag('"of nothing"', "1")) is None
            is_comparing = first is not None and refuses and self._swap(name, b"4", first) is not None
            self._delete([name], f"removing {self._at(name)}")
        if is_comparing:
            return True
        logging.getLogger(__name__).warning(
            "%s does not look at conditions of a write (If-None-Match, If-Match): two trainings that start at the same moment are told apart by "
            "looking again %g s later, which a store that is slow can outlast",
            self.address,
            SETTLE_SECONDS,
        )
        return False

    def _ask(self, action: Callable[[], T], what: str) -> T:
        """`action` of the client, its failures in our words.

        Raises:
            FileNotFoundError, FileExistsError: a name is not there; a condition did not hold.
            StorageError: refused, or not answered within about RETRY_SECONDS + REQUEST_SECONDS.
        """
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            return _interruptible(action)
        except (AlreadyExistsError, PreconditionError):
            raise FileExistsError(errno.EEXIST, f"{what}: somebody else has written it") from None
        except (BaseError, FileNotFoundError) as error:
            text = str(error)
            if isinstance(error, FileNotFoundError) and "<Code>NoSuchBucket" not in text:
                raise FileNotFoundError(errno.ENOENT, f"{what}: there is no such file") from None
            raise self._failure(what, _reason(text)) from None  # the client's own text may have a signature in it

    def _failure(self, what: str, reason: str) -> StorageError:
        names = CREDENTIALS[self.address.scheme]
        missing = "" if os.environ.get(names[0]) else f" ({names[0]} is not set)"
        return StorageError(
            errno.EIO,
            f"{what} failed: {reason}; check that the store answers and that {', '.join(names)} fit it{missing}, then run the same command again",
        )


def _open(address: Address) -> "ObjectStore":
    """A client for one bucket, with our bounds."""
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    client: ClientConfig = {
        "connect_timeout": "5s",
        "read_timeout": timedelta(seconds=REQUEST_SECONDS),
        "timeout": "1h",  # of a whole answer; large ones are bounded by `read_timeout`, which begins anew with every byte
    }
    retry: RetryConfig = {
        "max_retries": 100,  # bounded by time
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=8), "base": 2},
    }
    prefix = address.prefix or None
    try:
        if address.scheme == "gs":
            return GCSStore(address.bucket, prefix=prefix, client_options=client, retry_config=retry)
        if address.scheme == "az":
            return AzureStore(address.bucket, prefix=prefix, client_options=client, retry_config=retry)
        settings = _s3_settings(address)
        client["allow_http"] = str(settings.get("endpoint", "")).startswith("http://")
        return S3Store(address.bucket, prefix=prefix, client_options=client, retry_config=retry, **settings)
    except BaseError as error:
        names = ", ".join(CREDENTIALS[address.scheme])
        raise ValueError(f"{address} cannot be opened: {_reason(str(error))}; it needs {names} in the environment") from None


def _s3_settings(address: Address) -> dict[str, Any]:
    """Endpoint and region: of the address, else of the environment."""
    given = address.options
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if "endpoint_override" in given:
        endpoint = f"{given.get('scheme', 'https')}://{given['endpoint_override']}"
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                "the endpoint of s3:// (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or ?endpoint_override=HOST:PORT&scheme=http of the address) "
                "is none; expected http://HOST:PORT or https://HOST:PORT, without a user or a password"
            )
        region = region or "us-east-1"  # a store of one's own has no regions, but a signature names one
    return {key: value for key, value in {"endpoint": endpoint, "region": region}.items() if value}


def _reason(text: str) -> str:
    """What the client says, in one line and without anything secret: no queries, no bodies."""
    summary, _, details = text.partition("\n\nDebug source:")
    code, message = (re.search(f"<{key}>(.*?)</{key}>", summary, re.DOTALL) for key in ("Code", "Message"))
    if code:  # the store's own words; what else is in its answer may quote the request's signature
        return f"{code[1]}: {message[1]}" if message else code[1]
    summary = re.sub(r"(https?://)[^\s/]*@", r"\1", summary)
    summary = re.sub(r"\?\S+", "", summary)
    summary = " ".join(summary.split())[:300]
    cause = re.search(r'(?:message|error): "([^"]+)"', details)
    if "kind: Timeout" in details:
        return f"{summary} (no answer within {REQUEST_SECONDS:g} s)"
    return f"{summary} ({cause[1]})" if cause else summary


def _interruptible(action: Callable[[], T]) -> T:
    """`action`, in a thread of its own where this is the main one: inside the client no signal is heard, for up to half a minute."""
    if threading.current_thread() is not threading.main_thread():
        return action()
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as problem:  # handed to the main thread
            future.set_exception(problem)

    threading.Thread(target=work, name="object store", daemon=True).start()
    return future.result()


def _tag_of(storage: Storage, name: str) -> Tag | None:
    try:
        return storage.read_tagged(name)[1]
    except FileNotFoundError:
        return None


def _swap_by_looking(storage: Storage, name: str, data: bytes, tag: Tag | None, *, write: Callable[[str, bytes], None]) -> Tag | None:
    """`swap` where a place offers nothing better: whoever has written looks again after a moment whether it is still the last one."""
    if _tag_of(storage, name) != tag:
        return None
    write(name, data)
    time.sleep(SETTLE_SECONDS)
    with suppress(FileNotFoundError):
        found, now = storage.read_tagged(name)
        return now if found == data else None
    return None


def _flock(handle: int, guard: Path) -> bool:
    """Take the flock of an open file, which ends when it is closed; False on a file system without flock."""
    deadline = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    errno.EIO,
                    f"{guard} has been locked for {GUARD_SECONDS:g} s: a process that uses this state hangs; find it with: fuser {guard}",
                ) from None
            time.sleep(0.01)
        except OSError:
            return False
