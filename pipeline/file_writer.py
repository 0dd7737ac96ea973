"""The process that `many_files` starts: it writes files and flushes them to the disk while another makes them.

Of each file it is told the lengths of its name and its bytes (HEADER), the name, which is relative to the folder, and the bytes. When its input
ends and all files are on the disk, it says how many; where it cannot go on, why. It has the standard library alone, so it starts in hundredths of
a second. A process of its own does not ask for the interpreter's lock of the one that makes images.

Flushing one file by itself costs the kernel 130 us or more, a fourth of what a small image costs to make. Where `syncfs(2)` promises as much as
`fsync(2)` of each file (`is_synced_whole`), it is called now and then for all that was written since, which costs 10 us a file. It waits for what
others have written there too; nothing but the end of a part waits for it. Elsewhere files are flushed one by one, in many threads, because those
that are flushed at the same time share what they wait for.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import struct
import sys
import threading
from typing import BinaryIO

HEADER = struct.Struct("<IQ")
THREADS = 16
MOST_OPEN = 192  # files; macOS allows a process 256
FILES_AT_ONCE, BYTES_AT_ONCE = 1000, 1 << 26  # that are flushed together: few enough to leave little for the end
WHOLE = {0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs"}  # file systems by statfs(2): what syncfs leaves survives a power failure
ERRORS_SINCE = (5, 8)  # Linux: syncfs(2) says what could not be written
PR_SET_PDEATHSIG = 1  # prctl(2), of Linux


def is_enough(system: str, release: str, magic: int) -> bool:
    """Whether `syncfs` does what `fsync` of every file would, and says what went wrong, on a `release` of an operating system, where `magic` is the
    file system's number."""
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2]]
    return system == "linux" and tuple(numbers) >= ERRORS_SINCE and magic in WHOLE


def is_synced_whole(folder: int) -> bool:
    """Whether `syncfs` is enough for what is written into the open `folder`."""
    found = ctypes.create_string_buffer(512)  # struct statfs, whose first field is f_type
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL(None).fstatfs(folder, found) == 0:
            return is_enough(sys.platform, os.uname().release, ctypes.c_long.from_buffer(found).value)
    return False


def syncfs(folder: int) -> None:
    """Have all on the disk that was written to the file system of the open `folder`.

    Raises:
        OSError: something cannot be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(folder):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Together:
    """Files that are written and not yet on the disk, of a file system that `is_synced_whole`."""

    def __init__(self, folder: int) -> None:
        self.failed: OSError | None = None
        self._folder, self._files, self._bytes = folder, 0, 0
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._flush, daemon=True)
        self._thread.start()

    def add(self, file: int, size: int) -> None:
        """Close `file`, and flush it some time."""
        os.close(file)
        self._files, self._bytes = self._files + 1, self._bytes + size
        if (self._files >= FILES_AT_ONCE or self._bytes >= BYTES_AT_ONCE) and self._asked.empty():
            self._asked.put(True)
            self._files = self._bytes = 0

    def end(self) -> None:
        """Come back when all are on the disk.

        Raises:
            OSError: one is not.
        """
        self._asked.put(False)
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _flush(self) -> None:
        is_asked = True
        while is_asked and self.failed is None:
            is_asked = self._asked.get()
            try:
                syncfs(self._folder)
            except OSError as error:
                self.failed = error


class Each:
    """Files that are written and not yet on the disk, each of which is flushed by itself."""

    def __init__(self) -> None:
        self.failed: OSError | None = None
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MOST_OPEN)
        self._threads = [threading.Thread(target=self._flush, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def add(self, file: int, size: int) -> None:
        """Flush `file` and close it, soon."""
        self._room.acquire()
        self._waiting.put(file)

    def end(self) -> None:
        """Come back when all are on the disk.

        Raises:
            OSError: one is not.
        """
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        if self.failed is not None:
            raise self.failed

    def _flush(self) -> None:
        while (file := self._waiting.get()) is not None:
            try:
                os.fsync(file)
                os.close(file)
            except OSError as error:
                self.failed = error
            self._room.release()


def write(told: BinaryIO, folder: int) -> int:
    """Write what is told into the open `folder`; how many files.

    Raises:
        OSError: one of them cannot be written.
    """
    flushing, count = Together(folder) if is_synced_whole(folder) else Each(), 0
    while len(header := told.read(HEADER.size)) == HEADER.size and flushing.failed is None:
        name_bytes, data_bytes = HEADER.unpack(header)
        name, data = told.read(name_bytes), told.read(data_bytes)
        if len(data) < data_bytes:  # whoever told was killed
            break
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        flushing.add(file, data_bytes)
        count += 1
    flushing.end()
    return count


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is not for this process to say what Ctrl-C ends
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        said: dict[str, int | str | None] = {"files": write(sys.stdin.buffer, os.open(sys.argv[1], os.O_RDONLY))}
    except OSError as error:
        place = None if error.filename is None else os.path.join(sys.argv[1], os.fsdecode(error.filename))
        said = {"errno": error.errno, "reason": error.strerror, "place": place}
    print(json.dumps(said), flush=True)
    os._exit(0)  # threads may still wait for a disk that failed


if __name__ == "__main__":
    main()
