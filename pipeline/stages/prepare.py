"""prepare: data/raw becomes data/prepared/{train,val,test}.arrow, manifest.json and reports/data.json."""

from pathlib import Path
from typing import Any

from ganlib.data.prepare import prepare_images
from ganlib.data.rows import Elsewhere
from ganlib.data.settings import DataConfig
from ganlib.files import atomic_folder, write_json
from pipeline import cli, params


def prepare(config: DataConfig, root: Path, *, processes: int | None = None, elsewhere: Elsewhere | None = None) -> dict[str, Any]:
    """Convert, check and split `root`/data/raw; returns the report it writes.

    Args:
        processes: None: as many as are worth it. Never changes a byte of the output.
        elsewhere: converts in their place; neither does this.

    Raises:
        ValueError, OSError: nothing is left behind.
    """
    with atomic_folder(root / "data" / "prepared") as folder:
        report = prepare_images(config, root / "data" / "raw", folder, processes=processes, elsewhere=elsewhere)
    write_json(root / "reports" / "data.json", report)
    return report


def main() -> None:
    from pipeline.driver.ray_data import elsewhere  # no result depends on where

    report = prepare(params.section("data", DataConfig), params.ROOT, elsewhere=elsewhere(params.ROOT / "data" / "raw"))
    images, copies = report["images"], report["duplicates"]["extra_copies"]
    print(
        f"prepared {images['total']:,} images: train {images['train']:,}, val {images['val']:,}, test {images['test']:,}; "
        f"{report['broken']['count']:,} broken, {copies:,} exact copies, {report['sizes']['resized']:,} resized"
    )
    splits = report["splits"]
    if splits["by"] == "given":
        carved = f"; {' and '.join(splits['carved_from_train'])} taken out of train by content" if splits["carved_from_train"] else ""
        print(f"splits as given ({', '.join(splits['given'])}){carved}; data.splits=content splits all by their pixels")
    for warning in report["warnings"]:
        print(f"warning: {warning}")


if __name__ == "__main__":
    cli.run_stage(main)
