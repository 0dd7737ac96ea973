"""The exported generator, read back; and as the one-array model that the registry keeps."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib import tasks
from ganlib.config import options
from ganlib.fields import IMAGE
from ganlib.metrics.interface import ArrayImages, Extractor, Images, PixelComparison, extract
from ganlib.metrics.paired import PairComparison
from ganlib.models import MODELS, Family, ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from ganlib.products import Column, Product, made, sampled
from ganlib.sampling import Inputs, Prior
from ganlib.tasks.settings import TaskConfig

BATCH_IMAGES = 100  # of what is made of images; part of the numerics
MAX_BYTES = 500_000_000  # of images in memory at once
DESCRIPTION = "generator.json"  # of models/, whatever its networks are called


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """What models/ holds, ready to use: float32, CPU, evaluation mode.

    Attributes:
        network: what draws images from latents: of the averaged network the part that makes the sampled product.
        facts: the whole of generator.json.
        others: further products, each with what makes it.
    """

    network: nn.Module
    model: ModelConfig
    image: ImageSpec
    facts: dict[str, Any]
    others: Mapping[str, tuple[Product, nn.Module]] = field(default_factory=dict)

    @property
    def prior(self) -> Prior:
        """What it is fed."""
        return Prior.of(self.model, self.image)

    @property
    def of_images(self) -> dict[str, tuple[Column, nn.Module]]:
        """The products that have a truth: name -> what they are fed, what makes them."""
        return {
            name: (product.feed, part)
            for name, (product, part) in self.others.items()
            if product.has_truth and isinstance(product.feed, Column)
        }

    @property
    def class_names(self) -> list[str]:
        """Of the classes it is told; empty for an unconditional generator."""
        return [str(name) for name in self.facts.get("class_names") or range(len(self.prior.class_counts))]

    def made(self, name: str, images: np.ndarray) -> np.ndarray:
        """What the product of that name makes of images: [n, C, H, W] uint8 -> the same."""
        column, part = self.of_images[name]
        return made(part, column, images, batch_images=BATCH_IMAGES)

    def pairs(self, name: str, images: Images, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(made, truth) of a product, [n, C, H, W] uint8 each, for those `images`; as many as memory holds."""
        most = max(BATCH_IMAGES, MAX_BYTES // math.prod(images.shape))
        truth = np.concatenate(
            [images.gather(part) for part in np.split(indices[:most], range(BATCH_IMAGES, len(indices[:most]), BATCH_IMAGES))]
        )
        return torch.from_numpy(self.made(name, truth)), torch.from_numpy(truth)

    def inputs(self, seed: int, indices: range) -> Inputs:
        """Of images `indices` of `seed`; input i depends on (seed, i) alone."""
        return self.prior.seeded(seed, indices)

    def options(self, truncation: float) -> dict[str, Any]:
        """Arguments of its `forward` beside the inputs.

        Raises:
            ValueError: truncation of a generator without styles.
        """
        if truncation == 1.0:
            return {}
        check_truncation(self.model, self.image, truncation)
        return {"truncation": truncation}

    def served(self, truncation: float) -> "Served":
        """As it is registered."""
        return Served(self.network, prior=self.prior, options=self.options(truncation), class_names=self.class_names)


class Served(nn.Module):
    """A generator whose inputs are one array, which is what a registered model can take.

    Attributes:
        words: what the array and the images are, for whoever loads the model.
    """

    is_known: Tensor  # [classes] bool: it has training images

    def __init__(self, network: nn.Module, *, prior: Prior, options: dict[str, Any], class_names: list[str]) -> None:
        super().__init__()
        self.network = network
        self.classes = len(prior.class_counts)
        if self.classes:
            self.register_buffer("is_known", torch.tensor(prior.class_counts) > 0, persistent=False)
        self.options = options
        drawn = {"normal": "N(0, 1)", "uniform": "U(-1, 1)"}[prior.distribution]
        columns = f"{prior.latent_dim} columns drawn from {drawn}"
        is_full = len(prior.classes) == self.classes
        if self.classes:
            columns += f" and a last column with the class, {f'0 to {self.classes - 1}' if is_full else 'one of the numbers below'}"
        self.words = f"Input: float32, a row an image: {columns}. Output: float32 images [N, C, H, W] in [-1, 1], synthetic."
        if self.classes:
            self.words += f" Classes: {numbered(class_names, prior.classes)}."
        if options:
            self.words += f" Truncation {options['truncation']:g} is built in."
        unknown = "" if is_full else " that has training images"
        self._refusal = f"the last column is no class from 0 to {self.classes - 1}{unknown}; it takes whole numbers"
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # [N, latent_dim], or [N, latent_dim + 1] with the class -> [N, C, H, W]
        images: Tensor
        if not self.classes:
            images = self.network(x, **self.options)
            return images
        asked = x[:, -1]
        labels = asked.clamp(0, self.classes - 1).nan_to_num().long()
        torch._assert_async(((labels == asked) & self.is_known[labels]).all(), self._refusal)
        images = self.network(x[:, :-1], labels, **self.options)
        return images

    @staticmethod
    def array(inputs: Inputs) -> Tensor:
        """Inputs as the one array."""
        return inputs.z if inputs.labels is None else torch.cat([inputs.z, inputs.labels[:, None].to(inputs.z.dtype)], 1)


def numbered(class_names: Sequence[str], classes: Iterable[int]) -> str:
    """`0 cat, 1 dog` of those `classes`, on one line whatever the names hold."""
    return ", ".join(f"{number} {' '.join(class_names[number].split())}" for number in classes)


def check_truncation(model: ModelConfig, image: ImageSpec, truncation: float) -> None:
    """Raise ValueError where the generator of `model` has no styles to pull towards their mean."""
    if truncation == 1.0 or MODELS.get(model.name, key="model.name").has_styles:
        return
    have = [entry.name for entry in MODELS if entry.value.has_styles and _can_make(entry.value, image)]
    raise ValueError(
        f"sample.truncation={truncation:g}, but the generator of model.name={model.name!r} has no styles to truncate; "
        f"set sample.truncation: 1.0, or take a style-based family: {', '.join(have) or 'none makes this image size'}"
    )


def _can_make(family: Family, image: ImageSpec) -> bool:
    try:
        family.check(image)
    except ValueError:
        return False
    return True


def load(folder: Path) -> TrainedGenerator:
    """Read `folder`/generator.json and .safetensors.

    Raises:
        ValueError: the files are missing or do not belong together, and says which stage makes them; or it makes no images.
    """
    try:
        facts = json.loads((folder / DESCRIPTION).read_text())
        tensors = load_file(folder / weights_file(facts))
    except (OSError, ValueError) as error:
        raise ValueError(f"no trained generator in {folder}: {error}; run `dvc repro train`") from None
    model, image = ModelConfig.model_validate(facts["model"]), ImageSpec.model_validate(facts["image"])
    if image.modality != IMAGE:
        raise ValueError(
            f"{folder} makes {image.modality}; sampling, and what follows it, is for images alone. Its pictures: reports/training/grids"
        )
    task = task_of(facts)
    chosen = tasks.of(task)
    delivered = chosen.products(model, task, image)
    averaged = delivered[0].network
    network = build_network(model, image, averaged, role=chosen.networks(task)[averaged], seed=0)
    network.load_state_dict(tensors)
    network.eval()
    main, _ = sampled(delivered)
    others = {product.name: (product, product.part(network)) for product in delivered if product is not main}
    return TrainedGenerator(network=main.part(network), model=model, image=image, facts=facts, others=others)


def paired(folder: Path, extractor: Extractor, held_out: PixelComparison, *, features: Tensor) -> PairComparison | None:
    """What the first product with a truth makes of the held-out images that are compared with; None where the task has no such product.

    Args:
        features: [n, d] of these images, of the extractor's depth "last".
    """
    trained = load(folder)
    if (name := next(iter(trained.of_images), None)) is None:
        return None
    indices = np.arange(len(held_out.real)) if held_out.real_indices is None else held_out.real_indices
    made, truth = trained.pairs(name, held_out.real, indices)
    found = extract(extractor, ArrayImages(made.numpy()))["last"]
    return PairComparison(made=made, truth=truth, made_features=found, truth_features=features[: len(made)])


def weights_file(facts: Mapping[str, Any]) -> str:
    """Of the averaged network, in models/; older descriptions do not name it, and are of a generator."""
    return f"{facts.get('network', 'generator')}.safetensors"


def task_of(facts: Mapping[str, Any]) -> TaskConfig:
    """The section `task` of the training; older descriptions do not have it, and are of a generator against a discriminator."""
    values = facts.get("task", {})
    task: TaskConfig = options(tasks.options_of(values), values, key="task")
    return task
