"""Whole shards on this machine's own disk: bounded, checked, shared by its processes.

What is in it is a matter of the machine, not of the training: its folder and size are told by the environment, `GANPIPE_DATA_CACHE` (a folder;
`~/.cache/ganpipe/shards` where it is not set) and `GANPIPE_DATA_CACHE_GB` (20; 0 for no cache).

Each epoch takes every shard once in a random order, so that dropping the least recently used shard of a training that does not fit would drop the
one that is wanted next as often as any other, and bring it back for nothing: shards of the training that asks stay, and room is made by dropping
those of others, least recently used first.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ganlib.files import atomic_write, sha256_file

FOLDER, GIGABYTES = "GANPIPE_DATA_CACHE", "GANPIPE_DATA_CACHE_GB"
DEFAULT_GIGABYTES = "20"


class ShardCache:
    """Files named by their SHA-256 in one folder.

    Args:
        limit_bytes: of all of them.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @classmethod
    def of_environment(cls) -> "ShardCache":
        """Raises ValueError for a size that is no number."""
        given = os.environ.get(GIGABYTES, DEFAULT_GIGABYTES)
        try:
            limit_bytes = int(float(given) * 1e9)
        except (ValueError, OverflowError):
            raise ValueError(f"{GIGABYTES}={given!r}, expected a number of gigabytes, 0 for no cache") from None
        return cls(Path(os.environ.get(FOLDER) or "~/.cache/ganpipe/shards").expanduser(), limit_bytes=limit_bytes)

    def find(self, sha256: str) -> Path | None:
        """The path of a shard that is here and whole, and is used from now on; a damaged one is removed."""
        path = self._path(sha256)
        try:
            if sha256_file(path) == sha256:
                os.utime(path)
                return path
            path.unlink()
        except FileNotFoundError:
            pass
        return None

    def bring(self, sha256: str, size_bytes: int, read: Callable[[], bytes], *, keep: Collection[str]) -> Path | None:
        """The path of a shard that was read into the cache; None where there is no room for it.

        Args:
            read: gives its bytes.
            keep: shards that are not dropped for it, by their SHA-256.

        Raises:
            OSError: the shard cannot be read or written.
            ValueError: what was read is another shard.
        """
        if not self._make_room(size_bytes, keep):
            return None
        data = read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"a shard came with other bytes than its name {sha256} says; the store's copy is damaged")
        atomic_write(self._path(sha256), data)
        return self._path(sha256)

    @contextmanager
    def bringing(self) -> Iterator[bool]:
        """Whether this process is the one on its machine that brings shards while the block runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "bringing.lock").open("a") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.arrow"

    def _make_room(self, size_bytes: int, keep: Collection[str]) -> bool:
        held = []
        for path in self.folder.glob("*.arrow") if self.folder.is_dir() else []:
            with suppress(FileNotFoundError):
                status = path.stat()
                held.append((status.st_mtime_ns, status.st_size, path))
        room = self.limit_bytes - sum(size for _, size, _ in held)
        others = [each for each in sorted(held) if each[2].stem not in keep]
        if room + sum(size for _, size, _ in others) < size_bytes:
            return False
        for _, size, path in others:
            if room >= size_bytes:
                break
            path.unlink(missing_ok=True)  # who has mapped it keeps it until it ends
            room += size
        return True
