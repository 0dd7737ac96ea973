"""calibrate: known faults of held-out real images, measured as generated ones will be: what can these metrics see? Writes data/calibration."""

from pathlib import Path
from typing import Any

from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.files import atomic_folder
from ganlib.metrics import METRICS, ladder
from ganlib.metrics.calibration import Calibration
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig
from pipeline import cli, params
from pipeline.report import ladder as pictures


def calibrate(config: EvaluateConfig, *, root: Path) -> Calibration:
    """Write data/calibration: calibration.json, metrics.png, and ladder.png of pictures; where there are too few held-out images the first alone,
    which says so.

    Raises:
        ValueError: an unknown metric, or a reference of other data.
    """
    metrics: dict[str, Any] = {name: METRICS.get(name, key="evaluate.metrics") for name in config.metrics}
    prepared = root / "data" / "prepared"
    manifest = read_manifest(prepared)
    reference = Reference.read(root / "data" / "reference", data_digest=manifest.data_digest)
    splits = {name: ArrowImages(split_path(prepared, name)) for name in ("train", "val", "test")}
    ruler = ladder.Ruler.of(reference, splits, metrics=metrics, config=config, class_counts=manifest.splits["train"].class_counts)
    result, held = ladder.climb(ruler, data_digest=manifest.data_digest)
    with atomic_folder(root / "data" / "calibration") as folder:
        result.write(folder)
        if held is not None:
            if held.are_pictures:
                pictures.ladder(folder / "ladder.png", result, held)
            pictures.curves(folder / "metrics.png", result)
    return result


def main() -> None:
    result = calibrate(params.section("evaluate", EvaluateConfig), root=params.ROOT)
    if result.n:
        seen = ", ".join(f"{key} {verdict.num_seen}" for key, verdict in result.metrics.items())
        applying = sum(rungs.applies for rungs in result.faults.values())
        print(f"calibrated on {result.n:,} against {result.n:,} images of {result.split}: of {applying} faults {seen} are seen")
    for warning in result.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    cli.run_stage(main, is_prepared=True)
