"""What a metric and a feature extractor are: the protocols, what a metric is shown, and how an extractor is stored.

A metric is a function `(Comparison, EvaluateConfig) -> dict[str, float]`, or of a `PixelComparison`, `LogitComparison` or
`PathComparison` where it declares `pixels`, `discriminator` or `generator`; an extractor is a class with the methods of `Extractor`.
Images are uint8 here, as they are on disk: what is measured is what a reader of the files would get. Small steps of a generator,
which rounding would swallow, are seen as floats. Longer than other files, as it is where a new metric or extractor begins to read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.neighbours import nearest
from ganlib.metrics.settings import Depth, EvaluateConfig
from ganlib.rng import keyed_rng

EXTRACT_BATCH_IMAGES = 500  # fixed: which kernel multiplies a matrix depends on its height, so a batch size is part of the numerics
WEIGHTS_FILE = "extractor.safetensors"
DESCRIPTION_FILE = "extractor.json"


class Images(Protocol):
    """A set of uint8 images that may be larger than memory: the Arrow files of a prepared split, or `ArrayImages`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""

    @property
    def labels(self) -> np.ndarray | None:
        """[N] int64, or None for unlabelled data."""

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """[n] int64 -> [n, C, H, W] uint8, in that order."""


@dataclass(frozen=True)
class ArrayImages:
    """`Images` held in memory."""

    array: np.ndarray  # [N, C, H, W] uint8, or float32 of what is no picture
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images: got {self.array.shape} {self.array.dtype}, expected [N, C, H, W] uint8 or float32")

    @property
    def shape(self) -> tuple[int, int, int]:
        _, c, h, w = self.array.shape
        return c, h, w

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        gathered: np.ndarray = self.array[indices]
        return gathered


class Extractor(Protocol):
    """Turns images into the features they are compared in. Its weights are part of a metric's protocol, hence `sha256`."""

    name: ClassVar[str]
    depths: ClassVar[tuple[Depth, ...]]  # "last" is always one of them
    feature_dims: ClassVar[dict[str, int]]  # by depth, where the data or a file do not decide it
    knows_classes: ClassVar[bool]  # it tells the data's classes, where they have two at least
    needs_classes: ClassVar[bool]  # it cannot be fitted without them
    takes_float: ClassVar[
        bool
    ]  # it sees grey levels in between too: float32 in [0, 255], and what it makes of them is a smooth function of them

    @classmethod
    def fit(cls, images: Images, labels: np.ndarray | None, *, seed: int, epochs: float) -> Self:
        """Learn from the train split; the same arguments and thread count give the same weights.

        Raises:
            ValueError: these data cannot train it.
        """

    @classmethod
    def restore(cls, description: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        """The inverse of `description` and `weights`."""

    def description(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""

    def weights(self) -> dict[str, Tensor]:
        """Every tensor the features depend on."""

    def protocol(self) -> dict[str, Any]:
        """What a reader of the numbers should know beside name and hash, as JSON values; {} where there is nothing."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """[n, C, H, W] uint8, or float32 in [0, 255] where it `takes_float` -> by each of `depths` [n, d] float32."""

    def class_logits(self, features: Tensor) -> Tensor | None:
        """[n, d] float32 of depth "last" -> [n, k] logits of the data's classes, or None where it knows no classes."""

    def accuracy(self, images: Images) -> float | None:
        """Share of held-out images on which it is right at what it was trained for here; None where it was not trained here."""

    def chance(self, images: Images) -> float | None:
        """What `accuracy` is of whoever always gives the commonest answer; None where it was not trained here, or of no images."""


def checked_images(images: Tensor, image_shape: tuple[int, int, int] | list[int], *, takes_float: bool = False) -> Tensor:
    """The images, if they are [n, *image_shape] uint8, or float32 where `takes_float`.

    Raises:
        ValueError: they are not.
    """
    dtypes = (torch.uint8, torch.float32) if takes_float else (torch.uint8,)
    if images.dtype not in dtypes or tuple(images.shape[1:]) != tuple(image_shape):
        c, h, w = image_shape
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"extractor: got images {tuple(images.shape)} {images.dtype}, expected [n, {c}, {h}, {w}] {expected}")
    return images


def depth_of(extractor: Extractor | type[Extractor], wanted: Depth) -> Depth:
    """The depth that stands for `wanted`: "last" where the extractor does not have it."""
    return wanted if wanted in extractor.depths else "last"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything a metric may look at: features, of one extractor and depth, of a set of fakes and of the real images they are compared with."""

    real: Tensor  # [n, d] float32: held-out images
    fake: Tensor  # [m, d] float32
    train: Tensor  # [t, d] float32: images the generator was trained on
    real_classes: np.ndarray | None = None  # [n] int64, as the extractor sees them
    fake_classes: np.ndarray | None = None  # [m] int64
    real_probabilities: Tensor | None = None  # [n, k] float64 of the classes that count, as the extractor sees them
    fake_probabilities: Tensor | None = None  # [m, k] float64
    fake_labels: np.ndarray | None = None  # [m] int64: the classes a conditional generator was asked for
    num_classes: int = 0
    classes: np.ndarray | None = None  # [k] int64, the numbers below num_classes that have training images; None: all
    # key of a value -> [resamples] of it, left here by a metric whose bootstrap is keyed: of another set of as many fakes, resample i draws the same
    resampled: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def known_classes(self) -> np.ndarray:
        """[k] int64, sorted: the classes that count."""
        return np.arange(self.num_classes) if self.classes is None else self.classes

    def __post_init__(self) -> None:
        for name in ("real", "fake", "train"):
            tensor = getattr(self, name)
            if tensor.ndim != 2 or tensor.shape[1] != self.real.shape[1] or len(tensor) < 2:
                raise ValueError(
                    f"{name} features: got {tuple(tensor.shape)}, expected [2 images or more, {self.real.shape[-1]}] like the other sets"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} features hold NaN or infinity; check the images, then the extractor (params.yaml: reference)")

    @property
    def num_real(self) -> int:
        return len(self.real)

    def parts(self, first: np.ndarray, second: np.ndarray) -> "Comparison":
        """Some of the real images, and others of them in the place of the fakes; which class was asked for is not known of these."""
        classes, probabilities = self.real_classes, self.real_probabilities
        chosen = replace(
            self,
            real=self.real[torch.from_numpy(first)],
            fake=self.real[torch.from_numpy(second)],
            real_classes=None if classes is None else classes[first],
            fake_classes=None if classes is None else classes[second],
            real_probabilities=None if probabilities is None else probabilities[torch.from_numpy(first)],
            fake_probabilities=None if probabilities is None else probabilities[torch.from_numpy(second)],
            fake_labels=None,
        )
        if "real_to_train" in self.__dict__:  # searched already, and the search is the costliest part
            for name, indices in (("real_to_train", first), ("fake_to_train", second)):
                distance, index = self.real_to_train
                chosen.__dict__[name] = distance[torch.from_numpy(indices)], index[torch.from_numpy(indices)]
        return chosen

    @cached_property
    def fake_to_train(self) -> tuple[Tensor, Tensor]:
        """Distance [m] float64 to, and index [m] int64 of, the training image nearest to each fake."""
        return nearest(self.fake, self.train)

    @cached_property
    def real_to_train(self) -> tuple[Tensor, Tensor]:
        """Distance [n] float64 to, and index [n] int64 of, the training image nearest to each held-out real image."""
        return nearest(self.real, self.train)


@dataclass(frozen=True, kw_only=True)
class PixelComparison:
    """What a metric without features looks at: the images themselves."""

    real: Images  # held out
    fake: Images
    real_indices: np.ndarray | None = None  # [n] int64: those of `real` that are compared; None: all
    fake_indices: np.ndarray | None = None  # [m] int64, of `fake`
    train: Images | None = None  # what the generator was trained on
    SIDES: ClassVar[tuple[Literal["real", "fake"], ...]] = ("real", "fake")

    def __post_init__(self) -> None:
        if self.real.shape != self.fake.shape:
            raise ValueError(f"generated images are {self.fake.shape}, the real ones {self.real.shape}; expected (C, H, W) of both alike")
        if min(self.num_real, self.num_fake) < 2:
            raise ValueError(f"got {self.num_real} real and {self.num_fake} generated images, expected 2 or more of both")

    @property
    def num_real(self) -> int:
        return len(self.real) if self.real_indices is None else len(self.real_indices)

    @property
    def num_fake(self) -> int:
        return len(self.fake) if self.fake_indices is None else len(self.fake_indices)

    def parts(self, first: np.ndarray, second: np.ndarray) -> "PixelComparison":
        """Some of the real images, and others of them in the place of the fakes."""
        indices = np.arange(len(self.real)) if self.real_indices is None else self.real_indices
        return replace(self, fake=self.real, real_indices=indices[first], fake_indices=indices[second])

    def drawn(self, side: Literal["real", "fake"], count: int, *, seed: int) -> np.ndarray:
        """`count` images of a side without replacement, in their order in the file: [count, C, H, W] uint8."""
        images, chosen = self._chosen(side, count, seed=seed)
        return _gathered(images, chosen)

    def drawn_labelled(
        self, side: Literal["real", "fake", "train"], count: int, *, seed: int, counter: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """`drawn`, at most as many as there are, and their labels [count] int64; another `counter` draws others."""
        images, chosen = self._chosen(side, count, seed=seed, counter=counter)
        assert images.labels is not None
        return _gathered(images, chosen), np.array(images.labels[chosen], np.int64)

    def _chosen(self, side: str, count: int, *, seed: int, counter: int = 0) -> tuple[Images, np.ndarray]:
        images = {"real": self.real, "fake": self.fake, "train": self.train}[side]
        indices = {"real": self.real_indices, "fake": self.fake_indices, "train": None}[side]
        assert images is not None
        indices = np.arange(len(images)) if indices is None else indices
        key = (counter,) if counter else ()
        return images, indices[np.sort(torch.randperm(len(indices), generator=keyed_rng(seed, f"pixels {side}", *key))[:count].numpy())]


def _gathered(images: Images, indices: np.ndarray) -> np.ndarray:
    """A part at a time: a reader may hold more than it returns."""
    return np.concatenate(
        [images.gather(indices[start : start + EXTRACT_BATCH_IMAGES]) for start in range(0, len(indices), EXTRACT_BATCH_IMAGES)]
    )


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """What a metric of the discriminator looks at: its logits, [n] float64 each."""

    train: Tensor  # images it was trained on
    real: Tensor  # held out
    fake: Tensor

    def __post_init__(self) -> None:
        for name in ("train", "real", "fake"):
            logits = getattr(self, name)
            if logits.ndim != 1 or len(logits) < 2 or logits.dtype != torch.float64:
                raise ValueError(f"{name} logits: got {tuple(logits.shape)} {logits.dtype}, expected [2 images or more] float64")
            if not bool(torch.isfinite(logits).all()):
                raise ValueError(f"the discriminator's logits of {name} images hold NaN or infinity: the training has diverged")


@dataclass(frozen=True, kw_only=True)
class PathComparison:
    """What a metric of the generator's latent space looks at: features of images a small step apart on paths between two latents.

    Attributes:
        steps: where the paths run -> features [n, d] float32 at the start of each step, and at its end: "z", and of a generator with styles
            "w" and "w_end", the first step of a path in w.
        epsilon: a step's share of its path.
    """

    steps: Mapping[str, tuple[Tensor, Tensor]]
    epsilon: float

    def __post_init__(self) -> None:
        for name, (start, end) in self.steps.items():
            if start.shape != end.shape or start.ndim != 2 or len(start) < 2:
                raise ValueError(
                    f"steps in {name}: got features {tuple(start.shape)} and {tuple(end.shape)}, expected [2 steps or more, d] twice"
                )
            if not bool(torch.isfinite(start).all() and torch.isfinite(end).all()):
                raise ValueError(f"features along paths in {name} hold NaN or infinity; check the images, then the extractor")


Metric = Callable[[Comparison, EvaluateConfig], dict[str, float]]
PixelMetric = Callable[[PixelComparison, EvaluateConfig], dict[str, float]]
LogitMetric = Callable[[LogitComparison, EvaluateConfig], dict[str, float]]
PathMetric = Callable[[PathComparison, EvaluateConfig], dict[str, float]]


def extract(extractor: Extractor, images: Images, indices: np.ndarray | None = None) -> dict[str, Tensor]:
    """Features, by depth [n, d] float32, of `images` (of those at `indices`), in batches of one size: the last is filled up and cut.

    Raises:
        ValueError: no images.
    """
    indices = np.arange(len(images)) if indices is None else indices
    if len(indices) == 0:
        raise ValueError("there are no images to extract features of; check the split's fraction (params.yaml: data)")
    parts: dict[str, list[Tensor]] = {depth: [] for depth in extractor.depths}
    for start in range(0, len(indices), EXTRACT_BATCH_IMAGES):
        chosen = indices[start : start + EXTRACT_BATCH_IMAGES]
        filled = np.concatenate([chosen, np.full(EXTRACT_BATCH_IMAGES - len(chosen), chosen[-1])])
        found = extractor.features(torch.from_numpy(np.array(images.gather(filled))))
        for depth in extractor.depths:
            parts[depth].append(found[depth][: len(chosen)])
    return {depth: torch.cat(tensors) for depth, tensors in parts.items()}


def sha256(extractor: Extractor) -> str:
    """Hash of the name, the description and every weight: two extractors with one hash give the same features."""
    digest = hashlib.sha256(json.dumps([extractor.name, extractor.description()], sort_keys=True).encode())
    for name, tensor in sorted(extractor.weights().items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(extractor: Extractor, folder: Path) -> str:
    """Write `extractor.safetensors` and `extractor.json` to an existing folder; returns the hash."""
    digest = sha256(extractor)
    save_file({name: tensor.detach().contiguous() for name, tensor in extractor.weights().items()}, folder / WEIGHTS_FILE)
    text = json.dumps({"format": 1, "name": extractor.name, "sha256": digest, **extractor.description()}, indent=2)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    return digest


def load(folder: Path) -> Extractor:
    """The extractor that `save` wrote.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged, or the weights are not the ones that were saved.
    """
    redo = "run `dvc repro -f reference`"
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        name, digest = description.pop("name"), description.pop("sha256")
        if description.pop("format") != 1:
            raise ValueError("unknown format")
        weights = load_file(folder / WEIGHTS_FILE)
        extractor: Extractor = EXTRACTORS.get(name).restore(description, weights)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the extractor in {folder} cannot be read ({error}); {redo}") from None
    if (found := sha256(extractor)) != digest:
        raise ValueError(f"the extractor in {folder} has hash {found[:12]}, its description says {digest[:12]}; {redo}")
    return extractor


def predicted_classes(extractor: Extractor, real: Tensor, fake: Tensor, class_counts: Sequence[int] | None) -> dict[str, Any]:
    """The class fields of a `Comparison`; empty where the extractor knows no classes.

    Args:
        real, fake: features of depth "last".
        class_counts: training images of each class, None where the data have none: what the extractor never saw is never predicted.
    """
    real_logits, fake_logits = extractor.class_logits(real), extractor.class_logits(fake)
    if real_logits is None or fake_logits is None:
        return {}
    num_classes = real_logits.shape[1]
    classes = np.flatnonzero(class_counts[:num_classes]) if class_counts is not None else np.arange(num_classes)
    return {
        "real_classes": classes[real_logits[:, classes].argmax(dim=1).numpy()],
        "fake_classes": classes[fake_logits[:, classes].argmax(dim=1).numpy()],
        "real_probabilities": real_logits[:, classes].double().softmax(dim=1),
        "fake_probabilities": fake_logits[:, classes].double().softmax(dim=1),
        "num_classes": num_classes,
        "classes": classes,
    }
