"""fetch: the bytes arrive in data/raw, whole and checked, from the source that params.yaml names."""

from pathlib import Path

from ganlib.data.raw import SourceInfo
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.data.sources import fetch_raw
from ganlib.files import atomic_folder
from pipeline import cli, params
from pipeline.dvc_ignore import refuse_ignored


def fetch(config: DataConfig, root: Path) -> SourceInfo:
    """Write `root`/data/raw; a relative data.path counts from `root`, and nothing there is read where data.source_uri is set.

    Raises:
        ValueError, OSError: nothing is left behind.
    """
    located = config.model_copy(update={"path": str(root / config.path)})
    if config.source_uri is None:
        refuse_ignored(root / config.path, root)
    with atomic_folder(root / "data" / "raw") as raw:
        return fetch_raw(located, raw)


def told(info: SourceInfo, num_images: int) -> str:
    """What was fetched, for a person. Many images may lie packed in one file."""
    ignored = f", {info.ignored_count:,} other files left out" if info.ignored_count else ""
    classes = f"{len(info.class_names)} classes" if info.class_names else "no labels"
    files = f"{info.num_files} file{'s' if info.num_files != 1 else ''}"
    stored = info.stored
    origin = f", from {stored.num_files:,} objects with the digest {stored.sha256[:16]}" if stored else ""
    return f"fetched {info.source}: {num_images:,} images in {files}, {info.size_bytes / 1e6:,.1f} MB, {classes}{ignored}{origin}"


def main() -> None:
    info = fetch(params.section("data", DataConfig), params.ROOT)
    print(told(info, len(open_raw(params.ROOT / "data" / "raw"))))
    for note in info.notes:
        print(f"note: {note}")


if __name__ == "__main__":
    cli.run_stage(main)
