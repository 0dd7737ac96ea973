"""The files of a folder or of a zip archive, alike: relative POSIX paths, and their bytes."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ganlib.data.inflation import allowed_bytes, refusal
from ganlib.data.settings import MAX_INFLATION

# What file managers, NAS boxes and notebooks leave among the files; thumbnails of pictures are pictures too.
SYSTEM_NAMES = {"@eadir", "@recently-snapshot", "@recycle", "#recycle", "$recycle.bin", "__macosx", "__pycache__", "desktop.ini"}
SYSTEM_NAMES |= {"ehthumbs.db", "icon\r", "lost+found", "system volume information", "thumbs.db"}
LINK_MODE = 0o120000  # of a zip entry, in the upper half of its external attributes


class Tree(Protocol):
    """Where files lie."""

    @property
    def where(self) -> str: ...  # for messages

    @property
    def files(self) -> list[str]: ...  # relative POSIX paths, sorted

    @property
    def left_out(self) -> list[str]: ...  # hidden and system files, sorted; such a folder is one of them, whatever it holds

    def size_bytes(self, path: str) -> int: ...

    def read(self, path: str) -> bytes: ...


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or of a system and not of the user."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


@dataclass(frozen=True)
class FolderTree:
    """Files below a folder."""

    folder: Path
    where: str
    files: list[str]
    left_out: list[str]

    def size_bytes(self, path: str) -> int:
        return (self.folder / path).stat().st_size

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()


def read_folder(folder: Path) -> FolderTree:
    """What lies below `folder`, which may itself be a link: DVC hashes what it points at.

    Raises:
        ValueError: a linked folder below it. DVC does not look into one when it hashes the folder, so that its files would be read and no change
            of them noticed; what a linked file points at is hashed as if it lay here.
    """
    files: list[str] = []
    left_out: list[str] = []
    pending = [""]  # folders by their relative path, each with its slash
    while pending:
        inside = pending.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = inside + entry.name
                if is_left_out(entry.name):
                    left_out.append(name)
                elif entry.is_dir() and entry.is_symlink():
                    raise ValueError(
                        f"{printable(entry.path)} is a linked folder, to {printable(os.path.realpath(entry.path))}: DVC would not notice when its "
                        "files change, so it is not read; copy the folder here, or set data.path to the real one (params.yaml)"
                    )
                elif entry.is_dir():
                    pending.append(f"{name}/")
                else:
                    (files if entry.is_file() else left_out).append(name)
    return FolderTree(folder, str(folder), sorted(files), sorted(left_out))


@dataclass(frozen=True)
class ZipTree:
    """Files in a zip archive; nothing is unpacked."""

    archive: zipfile.ZipFile
    where: str
    files: list[str]
    left_out: list[str]
    entries: dict[str, zipfile.ZipInfo]

    def size_bytes(self, path: str) -> int:
        return self.entries[path].file_size

    def read(self, path: str) -> bytes:
        try:
            return self.archive.read(self.entries[path])
        except Exception as error:  # zipfile, zlib, lzma and bz2 each have their own
            raise ValueError(
                f"{self.where}: {path} cannot be read: {error}; the archive is damaged, or packed in a way of its own"
            ) from None


@contextmanager
def open_zip(path: Path, *, max_inflation: int = MAX_INFLATION) -> Iterator[ZipTree]:
    """The files in the zip archive `path`, compressed or not.

    Raises:
        ValueError: no zip archive; encrypted files, links or one name twice in it; a file, or all of them, that grow by more than `max_inflation`.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a zip archive, or a damaged one: {error}") from None
    with archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        left_out: set[str] = set()
        for entry in archive.infolist():
            parts = [part for part in entry.filename.replace("\\", "/").split("/") if part not in ("", ".")]
            hidden = next((number for number, part in enumerate(parts) if is_left_out(part)), None)
            if hidden is not None:
                left_out.add("/".join(parts[: hidden + 1]))
            elif parts and not entry.is_dir() and not entry.filename.endswith("\\"):
                name = "/".join(parts)
                problem = (
                    "is encrypted" if entry.flag_bits & 1 else "is a link" if (entry.external_attr >> 16) & 0o170000 == LINK_MODE else ""
                )
                if problem or name in entries:
                    raise ValueError(f"{path}: {name} {problem or 'is in it twice'}; pack the archive anew, with plain files")
                if entry.file_size > allowed_bytes(entry.compress_size, max_inflation):  # zipfile itself reads no more than `file_size`
                    raise ValueError(refusal(f"{path}: {name}", entry.compress_size, max_inflation))
                entries[name] = entry
        packed_bytes = path.stat().st_size
        if sum(entry.file_size for entry in entries.values()) > allowed_bytes(
            packed_bytes, max_inflation
        ):  # files that share their packed bytes
            raise ValueError(refusal(str(path), packed_bytes, max_inflation))
        yield ZipTree(archive, str(path), sorted(entries), sorted(left_out), entries)


def printable(path: str) -> str:
    """A file name as UTF-8, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
