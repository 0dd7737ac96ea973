"""The discriminator that a training leaves, read back, and its logits of whole sets of images."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib import modalities
from ganlib.fields import IMAGE
from ganlib.metrics.interface import Images, LogitComparison
from ganlib.models import ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng, layer_noise

ROLE = "discriminator"
BATCH_IMAGES = 32  # fixed: layers that look over a batch make it part of the numbers
MAX_IMAGES = 5_000  # of each kind
MAX_BYTES = 500_000_000  # of images in memory at once


@dataclass(frozen=True)
class Shown:
    """Images of one kind."""

    images: Images  # with labels where the networks are told classes
    indices: np.ndarray  # [n] int64: which of them


@dataclass(frozen=True)
class TrainedDiscriminator:
    """models/discriminator.safetensors ready to use: float32, on the CPU, in training mode, as a phase calls it."""

    network: nn.Module
    is_conditional: bool
    modality: str = IMAGE

    def comparison(self, sets: Mapping[str, Shown], *, seed: int) -> LogitComparison:
        """Logits of `train`, `real` and `fake`, equally many where there are enough, at most `MAX_IMAGES` and what memory holds."""
        size = math.prod(next(iter(sets.values())).images.shape)
        most = max(BATCH_IMAGES, min(MAX_IMAGES, MAX_BYTES // size, *(len(shown.indices) for shown in sets.values())))
        logits = {}
        for name, shown in sets.items():
            order = torch.randperm(len(shown.indices), generator=keyed_rng(seed, f"discriminator {name}")).numpy()[:most]
            logits[name] = self.logits(replace(shown, indices=np.sort(shown.indices[order])), seed=seed, purpose=f"logits {name}")
        return LogitComparison(**logits)

    @torch.inference_mode()
    def logits(self, shown: Shown, *, seed: int, purpose: str) -> Tensor:
        """In an order of their own and without augmentation: [n] float64.

        It is called as in a training, on batches of one kind alone, because batch statistics have no other source; the last batch is filled up.
        """
        images, indices, labels = shown.images, shown.indices, shown.images.labels
        order = torch.randperm(len(indices), generator=keyed_rng(seed, f"{purpose} order")).numpy()
        pixels = images.gather(indices)[order]
        told = None if labels is None or not self.is_conditional else torch.from_numpy(np.array(labels[indices][order], np.int64))
        found = []
        for batch, start in enumerate(range(0, len(indices), BATCH_IMAGES)):
            rows = np.arange(start, start + BATCH_IMAGES) % len(indices)
            x = modalities.of(self.modality).to_tensor(pixels[rows])
            with layer_noise(keyed_rng(seed, purpose, batch)):
                found.append(self.network(x, None if told is None else told[torch.from_numpy(rows)]).double())
        return torch.cat(found)[: len(indices)]


def load(folder: Path) -> TrainedDiscriminator | None:
    """The network of `folder` in the role of a discriminator; None where the task left none."""
    facts = json.loads((folder / "generator.json").read_text(encoding="utf-8"))
    name = next((name for name, role in facts.get("networks", {ROLE: ROLE}).items() if role == ROLE), None)
    if name is None or not (path := folder / f"{name}.safetensors").exists():
        return None
    model, image = ModelConfig.model_validate(facts["model"]), ImageSpec.model_validate(facts["image"])
    network = build_network(model, image, name, role=ROLE, seed=0)
    network.load_state_dict(load_file(path))
    return TrainedDiscriminator(network.train(), model.conditional, image.modality)


def judged(folder: Path, train: Shown, real: Shown, fake: Images, *, seed: int) -> LogitComparison | None:
    """The logits of training, held-out and all generated images; None where the task left no discriminator."""
    trained = load(folder)
    sets = {"train": train, "real": real, "fake": Shown(fake, np.arange(len(fake)))}
    return None if trained is None else trained.comparison(sets, seed=seed)
