"""reference: data/prepared becomes data/reference: a feature extractor, and the features and moments of the real images in it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ganlib.data.arrow import ArrowImages, read_manifest
from ganlib.files import atomic_folder, write_json
from ganlib.metrics import EXTRACTORS, interface, reference_store
from ganlib.metrics.fid import moments
from ganlib.metrics.settings import ReferenceConfig
from ganlib.rng import keyed_rng
from pipeline import cli, params

MAX_TRAIN_IMAGES = 100_000  # of the train split, for the search of nearest training images: 51 MB of features
MAX_HELD_OUT_IMAGES = 50_000


def choose(num_images: int, limit: int, *, seed: int, purpose: str) -> np.ndarray:
    """At most `limit` of 0..num_images-1, in order: [n] int64."""
    return np.sort(torch.randperm(num_images, generator=keyed_rng(seed, purpose))[:limit].numpy())


def reference(config: ReferenceConfig, *, root: Path) -> dict[str, Any]:
    """Train the extractor on the train split and describe every split by it; returns what reference.json holds.

    Raises:
        ValueError: the extractor cannot be trained on these data. OSError: a file is missing. Nothing is left behind.
    """
    prepared = root / "data" / "prepared"
    manifest = read_manifest(prepared)
    splits = {name: ArrowImages(prepared / f"{name}.arrow") for name in ("train", "val", "test")}
    train = splits["train"]
    extractor: interface.Extractor = EXTRACTORS.get(config.extractor, key="reference.extractor").fit(
        train, train.labels, seed=config.seed, epochs=config.epochs
    )
    tensors: dict[str, torch.Tensor] = {}
    with atomic_folder(root / "data" / "reference") as folder:
        digest = interface.save(extractor, folder)
        for name, images in splits.items():
            if len(images) < 2:  # a split may be switched off
                continue
            limit = MAX_TRAIN_IMAGES if name == "train" else MAX_HELD_OUT_IMAGES
            indices = choose(len(images), limit, seed=config.seed, purpose=f"reference {name}")
            features = interface.extract(extractor, images, indices)
            tensors |= {f"{name}.features": features, f"{name}.indices": torch.from_numpy(indices)}
            tensors[f"{name}.mean"], tensors[f"{name}.covariance"] = moments(features)
        held_out = [name for name in ("val", "test") if len(splits[name])]
        result = {
            "format": 1,
            "data_digest": manifest.data_digest,
            "extractor": extractor.name,
            "asked_for": config.extractor,
            "extractor_sha256": digest,
            "seed": config.seed,
            "epochs": config.epochs,
            "feature_dim": tensors["train.features"].shape[1],
            "images": {name: len(tensors[f"{name}.features"]) if f"{name}.features" in tensors else 0 for name in splits},
            "accuracy": {name: extractor.accuracy(splits[name]) for name in held_out},
        }
        save_file(
            tensors, folder / reference_store.FEATURES_FILE, metadata={"data_digest": manifest.data_digest, "extractor_sha256": digest}
        )
        write_json(folder / reference_store.SUMMARY_FILE, result)
    return result


def main() -> None:
    result = reference(params.section("reference", ReferenceConfig), root=params.ROOT)
    accuracy = ", ".join(f"{value:.3f} on {name}" for name, value in result["accuracy"].items()) or "not measured"
    counts = ", ".join(f"{name} {count:,}" for name, count in result["images"].items())
    if result["asked_for"] != result["extractor"]:
        print(f"reference.extractor={result['asked_for']}: {result['extractor']}, as the classes of the train split allow")
    print(f"extractor {result['extractor']} {result['extractor_sha256'][:12]}: accuracy {accuracy}; features of {counts}")


if __name__ == "__main__":
    cli.run_stage(main, is_prepared=True)
