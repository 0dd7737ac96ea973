"""The exported generator, read back; and as the one-array model that the registry keeps."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganlib.data.arrow import ArrowImages
from ganlib.fields import IMAGE
from ganlib.models import MODELS, Family, ImageSpec, build_network, known_to
from ganlib.models.layers.norm import MeanLatent
from ganlib.models.settings import ModelConfig
from ganlib.products import Column, Feed, Product, Rows, Table
from ganlib.sampling import Inputs, Prior

DESCRIPTION = "generator.json"  # of models/, whatever its networks are called
EXAMPLE_SEED = 0
NO_HELD_OUT = "images are made of held-out ones, and there are none; set data.test_fraction above 0"
SAMPLE = {"name": "sample", "network": "generator", "feed": {"kind": "latents"}}  # what older descriptions are of


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """What models/ holds, ready to use: float32, CPU, evaluation mode.

    Attributes:
        product: the first that its task delivers.
        network: what makes it: a part of the averaged network.
        facts: the whole of generator.json.
        others: further products, each with what makes it.
    """

    product: Product
    network: nn.Module
    model: ModelConfig
    image: ImageSpec
    facts: dict[str, Any]
    others: tuple[tuple[Product, nn.Module], ...] = ()

    @property
    def prior(self) -> Prior:
        """What it is fed.

        Raises:
            ValueError: it is fed with images.
        """
        if not isinstance(self.product.feed, Prior):
            raise ValueError(f"the {self.product.network} of {self.model.name} makes images of images, and draws none from latents")
        return self.product.feed

    @property
    def of_images(self) -> Iterator[tuple[Product, Column, nn.Module]]:
        """The products that are fed with images: what they are fed, what makes them."""
        for product, part in ((self.product, self.network), *self.others):
            if isinstance(product.feed, Column):
                yield product, product.feed, part

    @property
    def class_names(self) -> list[str]:
        """Of the classes it is told; empty for an unconditional generator."""
        return [str(name) for name in self.facts.get("class_names") or range(known_to(self.model, self.image).classes)]

    def options(self, truncation: float) -> dict[str, Any]:
        """Arguments of its `forward` beside the inputs.

        Raises:
            ValueError: truncation of a generator without styles.
        """
        if truncation == 1.0:
            return {}
        check_truncation(self.model, self.image, truncation)
        return {"truncation": truncation}

    def example(self, images: Callable[[], Table], count: int = 4) -> Tensor:
        """`count` rows of what it is served with.

        Args:
            images: asked for where it is fed with images: some of the size that it makes.
        """
        feed = self.product.feed
        source = feed if isinstance(feed, Prior) else Rows(column=feed, images=images())
        return Served.array(source.seeded(EXAMPLE_SEED, range(count)))

    def served(self, truncation: float) -> "Served":
        """As it is registered."""
        has_styles = MODELS.get(self.model.name).has_styles
        return Served(
            truncatable(self.network, truncation) if has_styles else self.network,
            feed=self.product.feed,
            image=self.image,
            options=self.options(truncation),
            class_names=self.class_names,
        )


class Truncated(nn.Module):
    """A generator's `MeanLatent` whose truncation is a tensor, so that an exported graph can be given another: w -> lerp(mean, w, truncation)."""

    mean: Tensor
    truncation: Tensor  # [] float32

    def __init__(self, layer: MeanLatent, truncation: float) -> None:
        super().__init__()
        self.register_buffer("mean", layer.mean)
        self.register_buffer("truncation", torch.tensor(truncation))

    def forward(self, w: Tensor, truncation: float = 1.0) -> Tensor:  # [N, D], what its network hands on -> [N, D]
        return torch.lerp(self.mean, w, self.truncation)


def truncatable(network: nn.Module, truncation: float) -> nn.Module:
    """A style-based generator with `truncation` built in as a tensor; its parameters are those of `network`."""
    placed = copy.copy(network)
    placed._modules = dict(network._modules)
    for name, layer in network.named_children():
        if isinstance(layer, MeanLatent):
            placed._modules[name] = Truncated(layer, truncation)
    return placed


def truncation_of(served: nn.Module) -> str | None:
    """The buffer of a `Served` that is its truncation; None where it has no styles."""
    return next((name for name, _ in served.named_buffers() if name.rpartition(".")[2] == "truncation"), None)


class Served(nn.Module):
    """A generator whose inputs are one array, which is what a registered model can take.

    Attributes:
        words: what the array and the images are, for whoever loads the model.
        options: arguments of the network's `forward` that are built in.
    """

    is_known: Tensor  # [classes] bool: it has training images

    def __init__(self, network: nn.Module, *, feed: Feed, image: ImageSpec, options: dict[str, Any], class_names: list[str]) -> None:
        super().__init__()
        self.network = network
        counts = feed.class_counts if isinstance(feed, Prior) else ()
        self.classes = len(counts)
        if self.classes:
            self.register_buffer("is_known", torch.tensor(counts) > 0, persistent=False)
        self.options = options
        self.words = told(feed, image, options, class_names)
        unknown = "" if all(counts) else " that has training images"
        self._refusal = f"the last column is no class from 0 to {self.classes - 1}{unknown}; it takes whole numbers"
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # [N, latent_dim], or [N, latent_dim + 1] with the class, or images -> [N, C, H, W]
        images: Tensor
        if not self.classes:
            images = self.network(x, **self.options)
            return images
        labels, is_class = self.labels(x)
        torch._assert_async(is_class.all(), self._refusal)
        images = self.network(x[:, :-1], labels, **self.options)
        return images

    def labels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N] int64 of the last column, and [N] bool: it is a class that has training images."""
        asked = x[:, -1]
        labels = asked.clamp(0, self.classes - 1).nan_to_num().long()
        return labels, (labels == asked) & self.is_known[labels]

    @staticmethod
    def array(inputs: Inputs) -> Tensor:
        """Inputs as the one array."""
        return inputs.z if inputs.labels is None else torch.cat([inputs.z, inputs.labels[:, None].to(inputs.z.dtype)], 1)


def told(feed: Feed, image: ImageSpec, options: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """What the one array of a registered model holds, and what it gives."""
    output = "Output: float32 images [N, C, H, W] in [-1, 1], synthetic."
    if isinstance(feed, Column):
        fed = feed.fed(image)
        made = "the images themselves" if feed.transform is None else feed.transform.words
        return f"Input: float32 images [N, {fed.channels}, {fed.size[0]}, {fed.size[1]}] in [-1, 1]: {made}. {output}"
    drawn = {"normal": "N(0, 1)", "uniform": "U(-1, 1)"}[feed.distribution]
    columns = f"{feed.latent_dim} columns drawn from {drawn}"
    classes = len(feed.class_counts)
    is_full = len(feed.classes) == classes
    if classes:
        columns += f" and a last column with the class, {f'0 to {classes - 1}' if is_full else 'one of the numbers below'}"
    words = f"Input: float32, a row an image: {columns}. {output}"
    if classes:
        words += f" Classes: {numbered(class_names, feed.classes)}."
    return words + (f" Truncation {options['truncation']:g} is built in." if options else "")


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
    first, *others = (Product.read(product, model, image) for product in facts.get("products", [SAMPLE]))
    role = facts.get("networks", {}).get(first.network)
    network = build_network(model, image, first.network, role=role, seed=0, fed=first.fed(image))
    network.load_state_dict(tensors)
    network.eval()
    return TrainedGenerator(
        product=first,
        network=first.of(network),
        model=model,
        image=image,
        facts=facts,
        others=tuple((product, product.of(network)) for product in others),
    )


def held_out(root: Path) -> tuple[str, ArrowImages]:
    """The prepared images that products are made of for people to see: the test split, or else the validation split.

    Raises:
        ValueError: both are empty.
    """
    for split in ("test", "val"):
        images = ArrowImages(root / "data" / "prepared" / f"{split}.arrow")
        if len(images):
            return split, images
    raise ValueError(NO_HELD_OUT)


def weights_file(facts: Mapping[str, Any]) -> str:
    """Of the averaged network, in models/; older descriptions do not name it, and are of a generator."""
    return f"{facts.get('network', 'generator')}.safetensors"
