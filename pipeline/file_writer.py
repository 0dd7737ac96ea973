"""The process that `many_files` starts: it writes files and flushes them to the disk while another makes them.

Of each file it is told the lengths of its name and its bytes (HEADER), the name, which is relative to the folder, and the bytes. When its input
ends and all files are on the disk, it says how many; where it cannot go on, why. It has the standard library alone, so it starts in hundredths of
a second. Flushing a file is mostly waiting, and files that are flushed at the same time share what they wait for: hence many threads, and a
process of its own, in which they do not ask for the interpreter's lock of the one that makes images.
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
PR_SET_PDEATHSIG = 1  # prctl(2), of Linux


class Flushing:
    """Files that are written and not yet on the disk."""

    def __init__(self) -> None:
        self.failed: OSError | None = None
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MOST_OPEN)
        self._threads = [threading.Thread(target=self._flush, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def add(self, file: int) -> None:
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
    flushing, count = Flushing(), 0
    while len(header := told.read(HEADER.size)) == HEADER.size and flushing.failed is None:
        name_bytes, data_bytes = HEADER.unpack(header)
        name, data = told.read(name_bytes), told.read(data_bytes)
        if len(data) < data_bytes:  # whoever told was killed
            break
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        flushing.add(file)
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
