"""Files that are either whole or not there: atomic writes, checksums, and disk errors in words."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def require_space(folder: Path, *, needed_bytes: int) -> None:
    """Raise OSError when the file system that holds `folder` (which need not exist yet) has less than `needed_bytes` free."""
    probe = folder.absolute()
    while not probe.exists():
        probe = probe.parent
    free_bytes = shutil.disk_usage(probe).free
    if free_bytes < needed_bytes:
        raise OSError(errno.ENOSPC, _disk_full(folder, f"{needed_bytes:,} bytes needed, {free_bytes:,} free"))


@contextmanager
def readable_disk_full(target: Path) -> Iterator[None]:
    """Turn a "no space left" (or quota) error of the body into an OSError that names `target` and the bytes that are free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        if "not enough disk space" in str(error):  # said already, by require_space or by an inner call
            raise
        probe = target.absolute()
        while not probe.exists():
            probe = probe.parent
        free_bytes = shutil.disk_usage(probe).free
        raise OSError(errno.ENOSPC, _disk_full(target, f"the disk ran full while writing, {free_bytes:,} bytes free")) from None


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the body succeeds it is flushed to disk and becomes `target`, else it is removed.

    What a killed process left behind is removed by the next call: the temporary name is fixed, `.<name>.partial`.

    Raises:
        OSError: with a readable message when the disk is full; `target` is then as it was before.
    """
    partial = target.with_name(f".{target.name}.partial")
    replaced = target.with_name(f".{target.name}.replaced")
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with readable_disk_full(target):
            partial.mkdir(parents=True)
            yield partial
            for path in sorted(partial.rglob("*"), reverse=True):
                _sync(path)
            _sync(partial)
            if target.exists():
                target.rename(replaced)
            partial.rename(target)
            _sync(target.parent)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def atomic_write(target: Path, data: bytes) -> None:
    """Write `data` to `target` through a temporary name, so that a reader sees the old file or the new one, never a part.

    Raises:
        OSError: with a readable message when the disk is full; `target` is then as it was before.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with readable_disk_full(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            _sync(partial)
            partial.replace(target)
            _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON with sorted keys; NaN and infinities are refused, because JSON has none."""
    atomic_write(target, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode())


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk_full(target: Path, detail: str) -> str:
    return f"not enough disk space for {target}: {detail}; free some space and run the same command again"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
