"""The state of a training as named files in a folder or below an S3 address: the same few verbs for both.

A name is relative and has forward slashes (`grids/images-000000006400.png`). A write is whole or not at all: a folder has rename, an object store
has PUT. An object store is tried again when it fails, and every failure is said aloud.
"""

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from ganlib.files import atomic_folder, atomic_write

T = TypeVar("T")
RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # waits between tries of an object store
REQUEST_SECONDS = 10  # a request may be without a byte for so long
REFUSED = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")  # trying again would not help


class StorageError(OSError):
    """The state of a training cannot be read or written; says where, why and what to do."""


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

    def write(self, name: str, data: bytes) -> None:
        """Raises OSError with the place and the bytes needed; the file is then as it was before."""
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

    def local(self, name: str) -> Path:
        """A file as a path of this machine, to be read only."""
        ...


def open_storage(uri: str | Path) -> Storage:
    """The storage at a folder (absolute) or an `s3://bucket/prefix` address.

    Raises:
        ValueError: another scheme, or no bucket.
        StorageError: the object store does not answer.
    """
    if "://" not in str(uri):
        return FolderStorage(Path(uri))
    return ObjectStorage(str(uri))


class FolderStorage:
    """A folder of a file system, shared between nodes where there are several."""

    poll_seconds = 0.5

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.folder / name, data)

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

    def local(self, name: str) -> Path:
        return self.folder / name


class ObjectStorage:
    """Below `s3://bucket/prefix`. Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    AWS_ENDPOINT_URL), as for every S3 client; `?endpoint_override=HOST:PORT&scheme=http&region=R` in the address goes first.
    """

    poll_seconds = 2.0

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise ValueError(f"train.state_uri={uri!r} is not a place for the state of a training; legal: a folder, or s3://bucket/prefix")
        from pyarrow import fs

        given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint and "endpoint_override" not in given:
            address = urlsplit(endpoint)
            given |= {"endpoint_override": address.netloc, "scheme": address.scheme}
        region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region is None and "endpoint_override" in given:
            region = "us-east-1"  # a store of one's own has no regions, but a signature names one
        unknown = sorted(set(given) - {"endpoint_override", "scheme", "region"})
        if unknown:
            raise ValueError(f"train.state_uri={uri!r}: unknown option {unknown[0]!r}; legal: endpoint_override, scheme, region")
        settings: dict[str, Any] = {key: given[key] for key in ("endpoint_override", "scheme") if key in given}
        self.uri = uri
        self.filesystem = fs.S3FileSystem(
            region=region,
            background_writes=False,
            allow_delayed_open=True,  # one PUT for a small file
            connect_timeout=5,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # ours says what it does
            **settings,
        )
        self.path = f"{parts.netloc}{parts.path}".rstrip("/")
        self._grown: dict[str, bytes] = {}  # what `append` has written: objects cannot grow
        self._copies: Path | None = None

    def read(self, name: str) -> bytes:
        def get() -> bytes:
            with self.filesystem.open_input_stream(self._at(name)) as stream:
                return bytes(stream.read())

        return self._persistently(get, f"reading s3://{self._at(name)}")

    def write(self, name: str, data: bytes) -> None:
        def put() -> None:
            with self.filesystem.open_output_stream(self._at(name)) as stream:
                stream.write(data)

        self._persistently(put, f"writing {len(data):,} bytes to s3://{self._at(name)}")
        self._grown.pop(name, None)

    def append(self, name: str, text: str) -> None:
        if name in self._grown:
            before = self._grown[name]
        else:
            before = self.read(name) if self._exists(name) else b""
        whole = self._grown[name] = before + text.encode()  # kept when the write fails: the next append brings it
        self.write(name, whole)
        self._grown[name] = whole

    def write_folder(self, name: str, files: Mapping[str, bytes]) -> None:
        *_, seal = files
        if self._exists(f"{name}/{seal}"):
            self._persistently(lambda: self.filesystem.delete_file(self._at(f"{name}/{seal}")), f"replacing s3://{self._at(name)}")
        for file, data in files.items():
            self.write(f"{name}/{file}", data)

    def names(self, folder: str) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        found = self._persistently(lambda: self.filesystem.get_file_info(selector), f"listing s3://{self._at(folder)}")
        return sorted(info.base_name for info in found)

    def size_bytes(self, folder: str) -> int:
        from pyarrow import fs

        selector = fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True)
        found = self._persistently(lambda: self.filesystem.get_file_info(selector), f"listing s3://{self._at(folder)}")
        return sum(info.size for info in found if info.is_file)

    def remove(self, name: str) -> None:
        from pyarrow import fs

        def delete() -> None:
            kind = self.filesystem.get_file_info(self._at(name)).type
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self._at(name))
            elif kind == fs.FileType.File:
                self.filesystem.delete_file(self._at(name))

        self._persistently(delete, f"removing s3://{self._at(name)}")
        self._grown.pop(name, None)

    def local(self, name: str) -> Path:
        if self._copies is None:
            self._copies = Path(tempfile.mkdtemp(prefix="state-"))
        path = self._copies / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read(name))
        return path

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _exists(self, name: str) -> bool:
        from pyarrow import fs

        info = self._persistently(lambda: self.filesystem.get_file_info(self._at(name)), f"looking for s3://{self._at(name)}")
        return bool(info.type == fs.FileType.File)

    def _persistently(self, action: Callable[[], T], what: str) -> T:
        """`action`, tried again after a failure that may pass.

        Raises:
            FileNotFoundError: at once.
            StorageError: after the last try.
        """
        for wait in (*RETRY_SECONDS, None):
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                reason = str(error).strip()
                if wait is None or any(word in reason for word in REFUSED):
                    raise StorageError(
                        error.errno or errno.EIO,
                        f"{what} failed: {reason}; check that the store answers and that "
                        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL fit it, then run the same command again",
                    ) from error
                logging.getLogger(__name__).warning("%s failed, next try in %g s: %s", what, wait, reason)
                time.sleep(wait)
        raise AssertionError("unreachable")
