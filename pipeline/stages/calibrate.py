"""calibrate: known faults of held-out real images, measured as generated ones will be: what can these metrics see? Writes data/calibration."""

from pathlib import Path

import numpy as np
import torch

from ganlib.data.arrow import ArrowImages, read_manifest
from ganlib.files import atomic_folder
from ganlib.metrics import METRICS, interface, ladder
from ganlib.metrics.calibration import Calibration
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng
from pipeline import cli, params
from pipeline.report import ladder as pictures


def calibrate(config: EvaluateConfig, *, root: Path) -> Calibration:
    """Write data/calibration: calibration.json, ladder.png and metrics.png; where there are too few held-out images the first alone, which says so.

    Raises:
        ValueError: an unknown metric, or a reference of other data.
    """
    metrics: dict[str, interface.Metric] = {name: METRICS.get(name, key="evaluate.metrics") for name in config.metrics}
    prepared = root / "data" / "prepared"
    manifest = read_manifest(prepared)
    reference = Reference.read(root / "data" / "reference", data_digest=manifest.data_digest)
    splits = {name: ArrowImages(prepared / f"{name}.arrow") for name in ("train", "val", "test")}
    split = ladder.choose_split({name: len(images) for name, images in splits.items()})
    train_rows = reference.tensors["train.indices"].numpy()
    chosen = np.sort(torch.randperm(len(train_rows), generator=keyed_rng(config.seed, "calibration train"))[: ladder.MAX_TRAIN].numpy())
    is_there = f"{split}.features" in reference.tensors
    view = ladder.View(
        extractor=reference.extractor,
        sha256=reference.summary["extractor_sha256"],
        held_out=reference.tensors[f"{split}.features"] if is_there else torch.empty(0, reference.features("train").shape[1]),
        rows=reference.tensors[f"{split}.indices"].numpy() if is_there else np.empty(0, np.int64),
        train=reference.features("train")[torch.from_numpy(chosen)],
        train_rows=train_rows[chosen],
        class_counts=manifest.splits["train"].class_counts,
        accuracy=reference.summary["accuracy"].get(split),
    )
    ruler = ladder.Ruler.of(view, images=splits[split], train=splits["train"], metrics=metrics, config=config)
    result, held = ladder.climb(ruler, split=split, data_digest=manifest.data_digest)
    with atomic_folder(root / "data" / "calibration") as folder:
        result.write(folder)
        if held is not None:
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
