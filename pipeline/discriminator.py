"""The trained discriminator, read back: what it makes of images, for the report."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib import saliency
from ganlib.metrics.interface import Images
from ganlib.models import ImageSpec, build_discriminator
from ganlib.models.settings import ModelConfig
from ganlib.sampling import to_float
from pipeline.report import seen

MOST_IMAGES = 2048  # that are ranked
SHOWN = 5  # images of each kind that its view is shown of
MOST_LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class TrainedDiscriminator:
    """models/discriminator.safetensors ready to judge: float32, CPU, its last weights (not averaged: D never is)."""

    network: nn.Module
    image: ImageSpec
    is_conditional: bool

    def extremes(self, images: Images) -> list[seen.Strip]:
        """Strips of the generated images that it takes for real most, and least."""
        chosen = np.arange(min(len(images), MOST_IMAGES))
        scores = [
            saliency.logits(self.network, to_float(np.array(images.gather(part))), self._told(images.labels, part))
            for part in np.split(chosen, range(saliency.BATCH_IMAGES, len(chosen), saliency.BATCH_IMAGES))
        ]
        return seen.by_logit(torch.cat(scores), images)

    def views(
        self, fake: np.ndarray, fake_labels: np.ndarray | None, real: np.ndarray, real_labels: np.ndarray | None
    ) -> tuple[seen.Strip, ...]:
        """The first images of both kinds ([n, C, H, W] uint8), its activity at each level, and the saliency of its logit, a strip each."""
        kinds = [(images[: saliency.BATCH_IMAGES], labels) for images, labels in ((fake, fake_labels), (real, real_labels))]
        inputs = [(to_float(images), self._told(labels, np.arange(len(images)))) for images, labels in kinds]
        shown = np.concatenate([images[:SHOWN] for images, _ in kinds])
        levels = [saliency.activity(self.network, *batch) for batch in inputs]
        gradients = torch.cat([saliency.saliency(self.network, *batch)[:SHOWN] for batch in inputs])
        strips = [seen.Strip(png=seen.tiles_png(shown, columns=2 * SHOWN), title="Images", caption=f"{SHOWN} generated, {SHOWN} real")]
        for size in list(levels[0])[:MOST_LEVELS]:
            maps = torch.cat([found[size][:SHOWN] for found in levels])
            png = seen.tiles_png(seen.heat(shown, maps), columns=2 * SHOWN)
            strips.append(seen.Strip(png=png, title=f"Level of {size[0]} x {size[1]}", caption="mean absolute activation"))
        png = seen.tiles_png(seen.heat(shown, gradients), columns=2 * SHOWN)
        return (*strips, seen.Strip(png=png, title="Saliency", caption="gradient of the logit by the pixel"))

    def _told(self, labels: np.ndarray | None, chosen: np.ndarray) -> Tensor | None:
        return torch.from_numpy(labels[chosen]) if self.is_conditional and labels is not None else None


def load(folder: Path) -> TrainedDiscriminator | None:
    """Read `folder`/discriminator.safetensors; None where the task left none, or there are no class labels for one that needs them.

    Raises:
        ValueError: the weights are not those of the network that generator.json describes.
    """
    weights = folder / "discriminator.safetensors"
    if not weights.exists():
        return None
    facts = json.loads((folder / "generator.json").read_text(encoding="utf-8"))
    model, image = ModelConfig.model_validate(facts["model"]), ImageSpec.model_validate(facts["image"])
    network = build_discriminator(model, image, seed=0)
    try:
        network.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {folder / 'generator.json'}: {error}; run `dvc repro train`") from None
    return TrainedDiscriminator(network=network.eval(), image=image, is_conditional=model.conditional)
