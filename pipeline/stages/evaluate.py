"""evaluate: the samples against held-out real images; writes reports/evaluation.json, reports/ladder.csv, reports/plots, reports/report.html."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganlib.checks import require_finite
from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.files import atomic_write, sha256_file
from ganlib.metrics import METRICS, calibration, choice, interface, ladder, measure, needs
from ganlib.metrics.fid import FID
from ganlib.metrics.memorization import memorization
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig
from ganlib.samples import Samples
from ganlib.train_settings import TrainConfig
from pipeline import cli, discriminator, looking, pairs, params, path_length, preflight
from pipeline.generator import DESCRIPTION, weights_file
from pipeline.report import page, standing
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation import SECTIONS, try_to_log
from pipeline.tracking.settings import TrackingConfig

DELIVERY_SECONDS = 300.0  # for what the training could not tell MLflow, and as long for the numbers


def evaluate(config: EvaluateConfig, *, root: Path) -> dict[str, Any]:
    """Measure the samples, draw the plots, write the report; returns what evaluation.json holds.

    Samples are decoded a batch at a time; of all of them only features are kept. Where `sample.classes` asked for some classes, they are
    compared with the held-out images of these, and the protocol says which and how many.

    Raises:
        ValueError: an unknown metric, or inputs that do not belong together.
    """
    metrics: dict[str, Any] = {name: METRICS.get(name, key="evaluate.metrics") for name in config.metrics}
    manifest = read_manifest(root / "data" / "prepared")
    reference = Reference.read(root / "data" / "reference", data_digest=manifest.data_digest)
    if choice.AUTO in reference.summary["asked_for"] and reference.knows_classes is None:
        metrics = {name: metric for name, metric in metrics.items() if not needs.of(metric).classes}
    described = json.loads((root / "models" / DESCRIPTION).read_text(encoding="utf-8"))
    weights_sha256 = sha256_file(root / "models" / weights_file(described))
    for key, expected in (("data_digest", manifest.data_digest), ("sha256", weights_sha256)):
        if described[key] != expected:
            raise ValueError(f"models/generator.json has {key} {described[key][:12]}, found {expected[:12]}; run `dvc repro train`")
    fake_images = Samples(root / "samples")
    made_by, drawn = fake_images.facts.generator_sha256, fake_images.facts.drawn_classes
    if made_by != weights_sha256:
        raise ValueError(f"samples/ were made by generator {made_by[:12]}, models/ holds {weights_sha256[:12]}; run `dvc repro sample`")
    fake = measure.extract(reference, fake_images)
    splits = {name: ArrowImages(split_path(root / "data" / "prepared", name)) for name in ("train", "val", "test")}

    def asked_for(split: str) -> tuple[measure.Features, np.ndarray]:
        """Features and indices of a split's real images, of the classes that were drawn alone: others were never asked for."""
        everything = measure.stored(reference, split)
        indices, labels = reference.indices[split].numpy(), splits[split].labels
        if drawn is None or labels is None:
            return everything, indices
        chosen = np.isin(labels[indices], drawn)
        return measure.stored(reference, split, torch.from_numpy(chosen)), indices[chosen]

    (real, real_indices), (train, train_indices) = asked_for(config.split), asked_for("train")

    def compare(fake: measure.Features, labels: np.ndarray | None = None) -> measure.Comparisons:
        return measure.Comparisons(
            reference=reference, real=real, fake=fake, train=train, fake_labels=labels, class_counts=manifest.splits["train"].class_counts
        )

    other = "val" if config.split == "test" else "test"
    baseline_features = asked_for(other)[0] if other in reference.indices else None
    compared = compare(fake, fake_images.labels)
    pixels = interface.PixelComparison(real=splits[config.split], fake=fake_images, real_indices=real_indices, train=splits["train"])
    sets = {
        "train": discriminator.Shown(splits["train"], train_indices),
        "real": discriminator.Shown(splits[config.split], real_indices),
        "fake": discriminator.Shown(fake_images, np.arange(len(fake_images))),
    }
    is_judged = any(needs.of(metric).discriminator for metric in metrics.values())
    judged = discriminator.judged(root / "models", sets["train"], sets["real"], fake_images, seed=config.seed) if is_judged else None
    paths = path_length.walked(root / "models", metrics, reference, fake_images.facts, seed=config.seed)
    is_paired = any(needs.of(metric).pairs for metric in metrics.values())
    true_features = real[reference.main.label]["last"]
    of = (root / "models", reference.extractor, splits[config.split], real_indices)
    paired = pairs.compared(*of, seed=fake_images.facts.seed, features=true_features) if is_paired else None
    measured = compared.measured_from(metrics, config, pixels=pixels, judged=judged, paths=paths, paired=paired)
    values = {name: value for _, found in measured for name, value in found.items()}
    nulls = compared.nulls(metrics, config, pixels=pixels)
    baseline: dict[str, Any] = {}
    main = reference.main.label
    if baseline_features is not None and (n_baseline := len(baseline_features[main]["last"])) > config.neighbours:
        baseline = {**compare(baseline_features).measure(metrics, config), "split": other, "n": n_baseline}  # real images, not fakes
    shown = compared.of(reference.main, needs.of(memorization).depth)
    require_finite(values, where="evaluation")
    calibrated = calibration.read(root / "data" / "calibration")
    ruler = ladder.Ruler.of(reference, splits, metrics=metrics, config=config, class_counts=manifest.splits["train"].class_counts)
    count = calibrated.n if calibrated is not None and drawn is None else 0  # the ladder is of all classes
    alike = ruler.generated(fake_images, fake, count)
    digests = {"data_digest": manifest.data_digest, "extractor_sha256": reference.main.facts["sha256"]}
    result = values | {
        "ruler": calibration.told(calibrated, values, alike, **digests),
        "null": nulls,
        "baseline": baseline,
        "resampled": compared.resampled(metrics),
        "protocol": {
            "n_fake": len(shown.fake),
            "n_real": len(shown.real),
            "n_train": len(shown.train),
            "split": config.split,
            "seed": config.seed,
            "neighbours": config.neighbours,
            "bootstrap": config.bootstrap,
            "extractor": reference.main.label,
            "extractor_sha256": reference.main.facts["sha256"],
            "extractor_accuracy": reference.main.facts["accuracy"].get(config.split),
            "extractors": [each.told(config.split) for each in reference.described],
            "read_from": measure.read_from(measured),
            "data_digest": manifest.data_digest,
            "generator_sha256": weights_sha256,
            "latents": fake_images.facts.latents(described),
            **({"truncation": fake_images.facts.truncation} if fake_images.facts.truncation != 1.0 else {}),
            **({"classes": fake_images.class_counts} if drawn is not None else {}),
        },
    }
    classes = compared.of(reference.knows_classes or reference.main)
    modality = fake_images.facts.modality
    looked = looking.take(shown, sets, class_names=manifest.class_names, root=root, classes=classes, modality=modality)
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"  # in reading order, not sorted
    atomic_write(root / "reports" / "evaluation.json", text.encode())
    atomic_write(root / "reports" / "ladder.csv", standing.table(calibrated if alike else None, alike or values, FID.key).encode())
    atomic_write(root / "reports" / "report.html", page.render(root, result, looked).encode())
    return result


def main() -> None:
    config = params.section("evaluate", EvaluateConfig)
    result = evaluate(config, root=params.ROOT)
    for name in config.metrics:
        need = needs.of(METRICS.get(name))
        if not any(value.key in result for value in need.gives):
            print(f"{name}: left out, {need.why_left_out}")
    values = {key: float(value) for key, value in result.items() if isinstance(value, int | float)}
    print(", ".join(f"{key} {value:.4g}" for key, value in values.items() if not key.endswith(("_low", "_high"))))
    for warning in result["ruler"]["warnings"]:
        print(f"warning: {warning}")
    # ---- the one place that tells the tracking server ----
    tracking = params.section("tracking", TrackingConfig)
    for line in deliver_pending(tracking, params.section("train", TrainConfig).state_uri, limit_seconds=DELIVERY_SECONDS):
        print(line)
    whole = preflight.load()
    settings = {name: getattr(whole, name).model_dump(mode="json") for name in SECTIONS}
    line = try_to_log(tracking, settings, limit_seconds=DELIVERY_SECONDS)  # the numbers are on disk; `register` tells them, and insists
    print(line, file=sys.stderr if line.startswith("warning") else sys.stdout)


if __name__ == "__main__":
    cli.run_stage(main, is_prepared=True)
