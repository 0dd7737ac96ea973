"""The Parquet files at data.path: which there are, which split each is named after, and their rows."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ganlib.data.given import split_of_file, split_of_folder
from ganlib.data.tree import printable, read_folder


@dataclass(frozen=True)
class Files:
    """What lies at data.path.

    Attributes:
        folder: what the names are relative to.
        paths: Parquet files, in order.
        images: files that a row may name by their path: all that are not hidden.
        others: what was left out if no row names it, hidden ones too; a hidden folder is one of them, whatever it holds.
    """

    folder: Path
    paths: list[Path]
    images: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()


def find_files(root: Path) -> Files:
    """The Parquet files at or below `root`.

    Raises:
        ValueError: there is none, or a linked folder.
    """
    if root.is_file():
        return Files(root.parent, [root])
    if not root.is_dir():
        raise ValueError(f"{root} is not a Parquet file and holds none: there is no such file or folder (params.yaml: data.path)")
    tree = read_folder(root)
    paths: list[Path] = []
    others: list[str] = []
    hidden: set[str] = set()
    for name in tree.files:
        parts = name.split("/")
        first = next((number for number, part in enumerate(parts) if part.startswith("_")), None)
        if first is not None:
            hidden.add("/".join(parts[: first + 1]))
        elif name.lower().endswith(".parquet"):
            paths.append(root / name)
        else:
            others.append(name)
    left_out = tuple(sorted({*others, *hidden, *tree.left_out}))
    if not paths:
        found = f", but {len(left_out):,} other files, the first {printable(left_out[0])}" if left_out else ""
        raise ValueError(f"{root} is not a Parquet file and holds none{found} (params.yaml: data.path)")
    return Files(root, sorted(paths), frozenset(others), left_out)


def split_of(path: Path) -> str | None:
    """The split that a file or the nearest of its folders is named after, as `train-00000-of-00002.parquet` and `train/0000.parquet` are.

    Raises:
        ValueError: they name two.
    """
    folders = [split for folder in reversed(path.parts[:-1]) if (split := split_of_folder(folder))]
    found = {split for split in (split_of_file(path.stem), *folders[:1]) if split}
    if len(found) > 1:
        raise ValueError(
            f"{path} is of the {' and of the '.join(sorted(found))} split by its names; rename it, or set data.splits: content"
        )
    return found.pop() if found else None


def open_file(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`; raises ValueError where it is none."""
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from None


def stream(path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    """Record batches of at most `rows` rows; raises ValueError where the file is damaged."""
    try:
        yield from open_file(path).iter_batches(batch_size=rows, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is a damaged Parquet file, or holds what pyarrow cannot read: {error}") from None


def file_beside(path: Path, beside: str, files: Files) -> str:
    """The file that a row without bytes names, relative to `files.folder`; the row's path is relative to the file it stands in.

    Raises:
        ValueError: it is none of the files that are known to be the data.
    """
    found = os.path.relpath(os.path.normpath(path.parent / beside), files.folder)
    if found not in files.images:
        raise ValueError(
            f"no bytes, but the path {beside!r:.200}, which from {path.parent} leads to no file inside data.path; put the images there, in no "
            "hidden folder, and set data.path to the folder that holds them and the Parquet files"
        )
    return found
