"""Packs as a source leaves them in data/raw, for tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path

from ganlib.data.pack import PackWriter
from ganlib.data.raw import Fetched, write_source


def pack(raw: Path, files: Sequence[tuple[str, int | None, bytes | None]], class_names: tuple[str, ...] | None = None) -> Path:
    """A new folder `raw` that holds `files`: name, label, encoded image."""
    raw.mkdir()
    with PackWriter(raw) as writer:
        for name, label, data in files:
            writer.append(name, label, data)
    write_source(raw, "image_folder", Fetched(layout="pack", class_names=class_names))
    return raw
