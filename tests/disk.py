"""A disk of its own for a test: an ext4 in a file, whose power can fail, and which can be worse than it says."""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXT4_IOC_SHUTDOWN = 0x8004587D  # of Linux's include/uapi/linux/ext4.h: _IOR('X', 125, __u32)
NO_LOG_FLUSH = struct.pack("I", 2)  # what is in memory is lost, the journal's too


class Disk:
    """An ext4 that says it has 64 MB.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, image: Path, path: Path) -> None:
        self.path, self._image = path, image

    def fail_power(self) -> None:
        """Lose all that the disk does not have yet; nothing can be written or flushed any more."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(folder)

    def start(self) -> None:
        """Come back after a power failure; nobody has anything open on it."""
        subprocess.run(["umount", self.path], check=True)
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)


@contextlib.contextmanager
def disk(folder: Path, *, real_bytes: int = 1 << 26) -> Iterator[Disk]:
    """In the new `folder`; skips the test where none can be had.

    Args:
        real_bytes: what it really has: what goes beyond is taken, and is an error when it is flushed.
    """
    below, path = folder / "below", folder / "disk"
    below.mkdir(parents=True)
    path.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root, and Linux")
    with contextlib.ExitStack() as stack:

        def run(*command: str | Path) -> None:
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"needs the right to mount, and mkfs.ext4: {error}")

        def mounted(*options: str | Path) -> None:
            run("mount", *options)
            stack.callback(subprocess.run, ["umount", "-l", options[-1]], check=True)

        mounted("-t", "tmpfs", "-o", f"size={real_bytes}", "tmpfs", below)
        with (below / "image").open("wb") as file:
            file.truncate(1 << 26)
        run("mkfs.ext4", "-q", below / "image")
        mounted("-o", "loop", below / "image", path)
        yield Disk(below / "image", path)
