"""A tiny data set and specifications that train in a second or two."""

import json
from pathlib import Path

import numpy as np
import pytest

from ganlib.data.arrow import ArrowWriter
from ganlib.training.loop import TrainingSpec


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """train.arrow: 200 grey 8x8 images, bright on one side; beside it val.arrow with others."""
    folder = tmp_path_factory.mktemp("data")
    for seed, split in enumerate(("train", "val")):
        draw = np.random.default_rng(seed)
        images = draw.integers(0, 60, (200, 1, 8, 8), dtype=np.uint8)
        images[:100, :, :, :4] += 150
        images[100:, :, :4] += 150
        with ArrowWriter(folder / f"{split}.arrow", shape=(1, 8, 8), class_names=["left", "top"]) as writer:
            writer.append(images, np.repeat(np.arange(2), 100))
    return folder / "train.arrow"


@pytest.fixture
def make_spec(tiny_data, tmp_path):
    """make_spec(folder name, **overrides by dotted key) -> TrainingSpec, its state folder made."""

    def make(name: str, **overrides) -> TrainingSpec:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        adam = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.99]}}
        values = {
            "data": str(tiny_data),
            "held_out": str(tiny_data.with_name("val.arrow")),
            "folder": str(folder),
            "model": {"name": "dcgan", "latent_dim": 8, "generator": {"width": 8}, "discriminator": {"width": 8}},
            "task": {},
            "optim": {"generator": adam, "discriminator": adam},
            "train": {
                "total_images": 640,
                "batch_images": 32,
                "logical_workers": 4,
                "history_interval_images": 128,
                "health_interval_images": 320,
                "grid_interval_images": 320,
                "checkpoint_interval_images": 160,
                "augment": {"hflip": {}},
                "ema_halflife_images": 200,
            },
        }
        for key, value in overrides.items():
            *path, last = key.split("__")
            section = values
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return TrainingSpec.model_validate_json(json.dumps(values))

    return make
