"""reference: data/prepared becomes data/reference: feature extractors, and what the real images are in them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.files import atomic_folder
from ganlib.metrics import choice, interface, reference_store
from ganlib.metrics.settings import ReferenceConfig
from ganlib.rng import keyed_rng
from pipeline import cli, params

MAX_TRAIN_IMAGES = (
    100_000  # of the train split, whose nearest images are looked for: 102 MB of features of the classifier, 218 of ImageNet's
)
MAX_HELD_OUT_IMAGES = 50_000


def choose(num_images: int, limit: int, *, seed: int, purpose: str) -> np.ndarray:
    """At most `limit` of 0..num_images-1, in order: [n] int64."""
    return np.sort(torch.randperm(num_images, generator=keyed_rng(seed, purpose))[:limit].numpy())


def reference(config: ReferenceConfig, *, root: Path) -> dict[str, Any]:
    """Train the extractors on the train split and describe every split by them; returns what reference.json holds.

    Raises:
        ValueError: an extractor cannot be trained on these data. OSError: a file is missing. Nothing is left behind.
    """
    prepared = root / "data" / "prepared"
    manifest = read_manifest(prepared)
    splits = {name: ArrowImages(split_path(prepared, name)) for name in ("train", "val", "test")}
    train = splits["train"]
    asked = choice.asked(config.extractor)
    num_classes = 0 if train.labels is None else len(np.unique(train.labels))
    names = choice.resolved(asked, channels=train.shape[0], num_classes=num_classes)
    indices = {
        name: choose(
            len(images), MAX_TRAIN_IMAGES if name == "train" else MAX_HELD_OUT_IMAGES, seed=config.seed, purpose=f"reference {name}"
        )
        for name, images in splits.items()
        if len(images) >= 2  # a split may be switched off
    }
    rows = {name: torch.from_numpy(chosen) for name, chosen in indices.items()}
    entries: list[dict[str, Any]] = []
    with atomic_folder(root / "data" / "reference") as folder:
        for name in names:
            extractor = choice.fit(name, train, seed=config.seed, epochs=config.epochs, root=root)
            features = {split: interface.extract(extractor, splits[split], chosen) for split, chosen in indices.items()}
            accuracy = {split: extractor.accuracy(splits[split]) for split in ("val", "test") if len(splits[split])}
            entry = {
                "label": choice.label(name),
                "name": extractor.name,
                "sha256": interface.sha256(extractor),
                "depths": {depth: tensor.shape[1] for depth, tensor in features["train"].items()},
                "accuracy": {split: value for split, value in accuracy.items() if value is not None},
                **extractor.protocol(),
            }
            tensors = {f"{split}.{depth}": tensor for split, found in features.items() for depth, tensor in found.items()}
            reference_store.write(
                folder, reference_store.Described(entry["label"], extractor, tensors, entry), rows, data_digest=manifest.data_digest
            )
            entries.append(entry)
        result = {
            "data_digest": manifest.data_digest,
            "asked_for": list(asked),
            "seed": config.seed,
            "epochs": config.epochs,
            "images": {name: len(indices[name]) if name in indices else 0 for name in splits},
            "extractors": entries,
        }
        reference_store.write_summary(folder, result)
    return result


def main() -> None:
    result = reference(params.section("reference", ReferenceConfig), root=params.ROOT)
    counts = ", ".join(f"{name} {count:,}" for name, count in result["images"].items())
    labels = [entry["label"] for entry in result["extractors"]]
    if choice.AUTO in result["asked_for"]:
        print(f"reference.extractor={', '.join(result['asked_for'])}: {', '.join(labels)}, as the data allow")
    for entry in result["extractors"]:
        accuracy = ", ".join(f"{value:.3f} on {name}" for name, value in entry["accuracy"].items())
        told = [f"accuracy {accuracy}"] if accuracy else []
        told += [f"published figures in it: {entry['published']}"] if "published" in entry else []
        depths = ", ".join(f"{dim} {depth}" for depth, dim in entry["depths"].items())
        print(f"extractor {entry['label']} {entry['sha256'][:12]}: {'; '.join([*told, f'numbers: {depths}'])}")
    print(f"features of {counts}")


if __name__ == "__main__":
    cli.run_stage(main, is_prepared=True)
