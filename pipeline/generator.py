"""The exported generator, read back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from ganlib.config import ModelConfig
from ganlib.models import ImageSpec, build_generator
from ganlib.sampling import Inputs, Prior


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """models/generator.* ready to use: float32, CPU, evaluation mode."""

    network: nn.Module
    model: ModelConfig
    image: ImageSpec
    facts: dict[str, Any]  # the whole of generator.json

    @property
    def prior(self) -> Prior:
        """What it is fed."""
        return Prior.of(self.model, self.image)

    def inputs(self, seed: int, indices: range) -> Inputs:
        """Of images `indices` of `seed`; input i depends on (seed, i) alone."""
        return self.prior.seeded(seed, indices)


def load(folder: Path) -> TrainedGenerator:
    """Read `folder`/generator.json and .safetensors.

    Raises:
        ValueError: the files are missing or do not belong together; says which stage makes them.
    """
    try:
        facts = json.loads((folder / "generator.json").read_text())
        tensors = load_file(folder / "generator.safetensors")
    except (OSError, ValueError) as error:
        raise ValueError(f"no trained generator in {folder}: {error}; run `dvc repro train`") from None
    model, image = ModelConfig.model_validate(facts["model"]), ImageSpec.model_validate(facts["image"])
    network = build_generator(model, image, seed=0)
    network.load_state_dict(tensors)
    return TrainedGenerator(network=network.eval(), model=model, image=image, facts=facts)
