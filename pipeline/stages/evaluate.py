"""evaluate: the samples against held-out real images; writes reports/evaluation.json, reports/plots and reports/report.html."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch import Tensor

from ganlib.checks import require_finite
from ganlib.data.arrow import ArrowImages, read_manifest
from ganlib.files import atomic_folder, atomic_write, sha256_file
from ganlib.metrics import METRICS, interface
from ganlib.metrics.memorization import nearest_pairs
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig
from ganlib.train_settings import TrainConfig
from pipeline import cli, params
from pipeline.report import page, plots
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation import log_evaluation
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Unanswered

CLASSES_ALONE = "class_coverage"  # the metric that means nothing without classes
DELIVERY_SECONDS = 300.0  # for what the training could not tell MLflow


def read_samples(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """samples.parquet -> images [N, C, H, W] uint8, labels [N] int64 or None where the generator is unconditional."""
    table = pq.read_table(path)
    shape = json.loads((table.schema.metadata or {})[b"shape"])
    images = np.stack([np.frombuffer(value, np.uint8).reshape(shape) for value in table["image"].to_pylist()])
    labels = table["label"]
    return images, labels.to_numpy().astype(np.int64) if labels.null_count == 0 else None


def evaluate(config: EvaluateConfig, *, root: Path) -> dict[str, Any]:
    """Measure the samples, draw the plots, write the report; returns what evaluation.json holds.

    Raises:
        ValueError: an unknown metric, or inputs that do not belong together.
    """
    metrics: dict[str, interface.Metric] = {name: METRICS.get(name, key="evaluate.metrics") for name in config.metrics}
    manifest = read_manifest(root / "data" / "prepared")
    reference = Reference.read(root / "data" / "reference", data_digest=manifest.data_digest)
    if reference.summary["asked_for"] == "auto" and reference.extractor.class_logits(reference.features("train")[:1]) is None:
        metrics.pop(CLASSES_ALONE, None)
    generator = json.loads((root / "models" / "generator.json").read_text(encoding="utf-8"))
    weights_sha256 = sha256_file(root / "models" / "generator.safetensors")
    for key, expected in (("data_digest", manifest.data_digest), ("sha256", weights_sha256)):
        if generator[key] != expected:
            raise ValueError(f"models/generator.json has {key} {generator[key][:12]}, found {expected[:12]}; run `dvc repro train`")
    written = pq.read_schema(root / "samples" / "samples.parquet").metadata or {}
    made_by = written.get(b"generator_sha256", b"").decode()
    if made_by and made_by != weights_sha256:
        raise ValueError(f"samples/ were made by generator {made_by[:12]}, models/ holds {weights_sha256[:12]}; run `dvc repro sample`")
    fake_images, fake_labels = read_samples(root / "samples" / "samples.parquet")
    fake = interface.extract(reference.extractor, interface.ArrayImages(fake_images))
    real, train = reference.features(config.split), reference.features("train")

    def compare(fake: Tensor, labels: np.ndarray | None = None) -> interface.Comparison:
        return interface.Comparison(
            real=real,
            fake=fake,
            train=train,
            fake_labels=labels,
            **interface.predicted_classes(reference.extractor, real, fake, manifest.splits["train"].class_counts),
        )

    other = "val" if config.split == "test" else "test"
    baseline_features = reference.tensors.get(f"{other}.features")
    data = compare(fake, fake_labels)
    values = {key: value for metric in metrics.values() for key, value in metric(data, config).items()}
    baseline: dict[str, Any] = {}
    if baseline_features is not None and len(baseline_features) > config.neighbours:  # real images in the place of the fakes
        perfect = compare(baseline_features)
        baseline = {key: value for metric in metrics.values() for key, value in metric(perfect, config).items()}
        baseline |= {"split": other, "n": len(baseline_features)}
    require_finite(values, where="evaluation")
    result = values | {
        "baseline": baseline,
        "protocol": {
            "n_fake": len(fake),
            "n_real": len(real),
            "n_train": len(train),
            "split": config.split,
            "seed": config.seed,
            "neighbours": config.neighbours,
            "bootstrap": config.bootstrap,
            "extractor": reference.extractor.name,
            "extractor_sha256": reference.summary["extractor_sha256"],
            "extractor_accuracy": reference.summary["accuracy"].get(config.split),
            "data_digest": manifest.data_digest,
            "generator_sha256": weights_sha256,
            **({"truncation": float(written[b"truncation"])} if b"truncation" in written else {}),
        },
    }
    splits = {name: ArrowImages(root / "data" / "prepared" / f"{name}.arrow") for name in ("train", config.split)}
    fakes, nearest, distances = (tensor.numpy() for tensor in nearest_pairs(data, plots.NUM_PAIRS))
    chosen = reference.tensors[f"{config.split}.indices"].numpy()[: plots.NUM_SIDE]
    with atomic_folder(root / "reports" / "plots") as folder:
        plots.real_vs_fake(folder / "real_vs_fake.png", splits[config.split].gather(chosen), fake_images[: plots.NUM_SIDE])
        nearest_images = splits["train"].gather(reference.tensors["train.indices"].numpy()[nearest])
        plots.nearest_train(folder / "nearest_train.png", fake_images[fakes], nearest_images, distances)
        plots.feature_map(folder / "features.png", real, fake)
        if data.real_classes is not None and data.fake_classes is not None:
            plots.classes(folder / "classes.png", data.real_classes, data.fake_classes, manifest.class_names, data.known_classes)
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"  # in reading order, not sorted
    atomic_write(root / "reports" / "evaluation.json", text.encode())
    atomic_write(root / "reports" / "report.html", page.render(root, result).encode())
    return result


def main() -> None:
    config = params.section("evaluate", EvaluateConfig)
    result = evaluate(config, root=params.ROOT)
    if CLASSES_ALONE in config.metrics and CLASSES_ALONE not in result:
        print(f"{CLASSES_ALONE} was left out: the data have no classes (reference.extractor=auto)")
    values = {key: float(value) for key, value in result.items() if isinstance(value, int | float)}
    print(", ".join(f"{key} {value:.4g}" for key, value in values.items() if not key.endswith(("_low", "_high"))))
    # ---- the one place that tells the tracking server ----
    tracking = params.section("tracking", TrackingConfig)
    for line in deliver_pending(tracking, params.section("train", TrainConfig).state_uri, limit_seconds=DELIVERY_SECONDS):
        print(line)
    try:
        print(f"MLflow: {log_evaluation(tracking)}")
    except Unanswered as problem:  # the numbers are on disk; `register` tells them, and insists
        print(f"warning: {problem}", file=sys.stderr)


if __name__ == "__main__":
    cli.run_stage(main)
