"""`data/raw` opened by the layout its `source.json` names."""

from pathlib import Path

from ganlib.data.idx import IdxImages
from ganlib.data.pack import PackImages
from ganlib.data.raw import RawImages, read_source

LAYOUTS: dict[str, type[IdxImages] | type[PackImages]] = {"idx": IdxImages, "pack": PackImages}


def open_raw(raw: Path) -> RawImages:
    """The rows of a fetched folder.

    Raises:
        ValueError: nothing was fetched, or files are missing or damaged; names the stage to rerun.
    """
    info = read_source(raw)
    if info.layout not in LAYOUTS:
        raise ValueError(f"{raw / 'source.json'}: layout {info.layout!r} is unknown, expected {', '.join(LAYOUTS)}; rerun the fetch stage")
    return LAYOUTS[info.layout](raw, info.class_names, (raw / "source.json").stat().st_mtime_ns)
