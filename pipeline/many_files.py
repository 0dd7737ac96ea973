"""A folder of thousands of small files that is whole or not there, also after a power failure, written beside what makes them.

`ganlib.files.atomic_folder` flushes its files one after the other when all are there, which takes longer than making small images; here
`file_writer`, a process of its own, does it meanwhile. Where a kill ends the one, the system ends the other.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ganlib.files import readable_disk_full
from pipeline import file_writer

PIPE_BYTES = 1 << 20  # what may be told ahead of the disk; the most that Linux grants to everybody
PATIENCE_SECONDS = 20.0  # for a writer that outlives its killed parent in a call to the disk


class ManyFiles:
    """The folder, while it is being filled.

    Attributes:
        sha256: of what `write` was given, by its place; whatever else is put into `path` is flushed in the end too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, place: str, data: bytes) -> None:
        """Have a new file written; `place` is relative, and its folder is there.

        Raises:
            OSError: this one or an earlier one cannot be written.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        name = os.fsencode(place)
        try:
            process.stdin.write(file_writer.HEADER.pack(len(name), len(data)) + name + data)
        except BrokenPipeError:
            self._end(process)
        self.sha256[place] = hashlib.sha256(data).hexdigest()

    def flush(self) -> None:
        """Come back when everything is on the disk.

        Raises:
            OSError: something cannot be written.
        """
        if self._process is not None:
            self._end(self._process)
        for place in files_below(self.path):
            if place not in self.sha256:
                sync(self.path / place)
        for folder, _, _ in os.walk(self.path, topdown=False):
            sync(Path(folder))

    def stop(self) -> None:
        """End what is still being written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert stream is not None
                with suppress(OSError):  # what is not told yet goes nowhere
                    stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", file_writer.__file__, str(self.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1 << 16)
        assert self._process.stdin is not None
        if sys.platform == "linux":
            with suppress(OSError):  # a user with many pipes has smaller ones
                fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Raise OSError unless all files are on the disk."""
        said, complaint = process.communicate()
        try:
            told = json.loads(said)
        except ValueError:
            what = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise ChildProcessError(f"the process that writes its files ended ({what or process.returncode})") from None
        if "errno" in told:
            raise OSError(told["errno"], told["reason"], *([] if told["place"] is None else [told["place"]]))
        assert told["files"] == len(self.sha256), told


@contextmanager
def durable_folder(target: Path) -> Iterator[ManyFiles]:
    """Yield an empty folder beside `target`; when the body succeeds it is on the disk and becomes `target`, else it is removed.

    What a killed process left behind is removed by the next call: the temporary name is fixed, `.<name>.partial`.

    Raises:
        OSError: with a readable message when the disk is full; `target` is then as it was before.
    """
    partial, replaced = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.replaced")
    _remove(partial, replaced)
    files = ManyFiles(partial)
    try:
        with readable_disk_full(target):
            partial.mkdir(parents=True)
            yield files
            files.flush()
            if target.exists():
                target.rename(replaced)
            partial.rename(target)
            sync(target.parent)
    finally:
        files.stop()
        _remove(partial, replaced)


def files_below(folder: Path) -> Iterator[str]:
    """Their places, relative and with slashes; pathlib takes 15 us a file for that, which is much of a small image."""
    start = len(str(folder)) + 1
    for place, _, names in os.walk(folder):
        prefix = f"{place}/"[start:]
        yield from (prefix + name for name in names)


def sync(path: Path) -> None:
    """Have a file or a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(*folders: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    for folder in folders:
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                if time.monotonic() > deadline:
                    break  # who writes into it next says what is wrong
                time.sleep(0.05)
