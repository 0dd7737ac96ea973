"""The pictures that an evaluation takes for the page: both sides, classes, best and worst, near copies, what the discriminator looks at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ganlib.metrics.interface import Comparison, Images
from ganlib.metrics.neighbours import nearest
from ganlib.pictures import NOTICE

THUMBNAIL = 96  # pixels: larger images are shrunk, so that the page stays one that can be sent
NUM_SIDE = 64  # images on each side
NUM_EXTREMES = 16
MAX_CLASSES = 24
IN_CLASS = 10  # images of each class
HOT = np.array([240, 110, 30])  # the colour of much


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Some images of one class, and how often it occurs; None where nobody knows."""

    name: str
    png: bytes
    real_share: float | None
    fake_share: float | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generated image above the training image nearest to it."""

    png: bytes
    distance: float


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Some images and what they are."""

    png: bytes
    title: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Every picture that needs the images and their features.

    Attributes:
        classes_by: who says which class an image is of: it was asked for, or the extractor sees it.
        judged: rows of the discriminator's view, the images first.
    """

    real: bytes
    fake: bytes
    classes: tuple[ClassRow, ...] = ()
    num_classes: int = 0
    classes_by: str = ""
    extremes: tuple[Strip, ...] = ()
    pairs: tuple[Pair, ...] = ()
    judged: tuple[Strip, ...] = ()


def tiles_png(images: np.ndarray, *, columns: int, description: dict[str, str] | None = None) -> bytes:
    """[N, C, H, W] uint8 as a PNG grid with clear gaps, small images enlarged by whole factors and large ones shrunk."""
    n, c, h, w = images.shape
    scale = max(1, 48 // max(h, w))
    size = (
        (max(1, round(w * THUMBNAIL / max(h, w))), max(1, round(h * THUMBNAIL / max(h, w))))
        if max(h, w) > THUMBNAIL
        else (w * scale, h * scale)
    )
    gap = max(2, max(size) // 24)
    rows = -(-n // columns)
    sheet = Image.new("RGBA", (columns * (size[0] + gap) - gap, rows * (size[1] + gap) - gap), (0, 0, 0, 0))
    for i, image in enumerate(images):
        pixels = image[0] if c == 1 else image.transpose(1, 2, 0)
        tile = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")
        tile = tile.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS) if tile.size != size else tile
        sheet.paste(tile, (i % columns * (size[0] + gap), i // columns * (size[1] + gap)))
    text = PngImagePlugin.PngInfo()
    for key, value in (description or {}).items():
        text.add_text(key, value)
    stream = io.BytesIO()
    sheet.save(stream, "png", pnginfo=text)
    return stream.getvalue()


def synthetic(images: np.ndarray, *, columns: int) -> bytes:
    """`tiles_png` of generated images, which says so."""
    return tiles_png(images, columns=columns, description={"Notice": NOTICE})


def without_text(png: bytes) -> bytes:
    """The same pixels, and nothing said of them."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.info.clear()
        image.save(stream, "png")
    return stream.getvalue()


def class_rows(data: Comparison, fake: Images, names: Sequence[str] | None) -> dict[str, Any]:
    """The class fields of `Seen`: first images of each class, by the class that was asked for, else by that which the extractor sees.

    Of more than `MAX_CLASSES` classes, those whose shares differ most; nothing where nobody knows classes.
    """
    by = data.fake_labels if data.fake_labels is not None else data.fake_classes
    if by is None:
        return {}
    top = 1 + max(int(by.max()), int(data.known_classes.max()) if data.num_classes else 0)
    known = data.known_classes if data.num_classes else np.unique(by)
    shares: list[np.ndarray | None] = [
        None if numbers is None else np.bincount(numbers, minlength=top) / len(numbers)
        for numbers in (data.real_classes, data.fake_classes)
    ]
    real, seen = shares
    gap = np.zeros(top) if real is None or seen is None else np.abs(real - seen)
    chosen = np.sort(known[np.argsort(-gap[known], kind="stable")[:MAX_CLASSES]])
    rows = []
    for number in chosen.tolist():
        first = np.flatnonzero(by == number)[:IN_CLASS]
        rows.append(
            ClassRow(
                name=names[number] if names and number < len(names) else str(number),
                png=synthetic(fake.gather(first), columns=IN_CLASS) if len(first) else b"",
                real_share=None if real is None else float(real[number]),
                fake_share=None if seen is None else float(seen[number]),
            )
        )
    told = "as they were asked for" if data.fake_labels is not None else "as the extractor sees them"
    return {"classes": tuple(rows), "num_classes": len(known), "classes_by": told}


def by_distance(data: Comparison, fake: Images) -> list[Strip]:
    """The generated images nearest to, and farthest from, a held-out real image, in feature space."""
    distance = nearest(data.fake, data.real)[0]
    order = distance.argsort(stable=True).numpy()
    near, far = order[:NUM_EXTREMES], order[::-1][:NUM_EXTREMES]
    return [
        Strip(
            png=synthetic(fake.gather(near), columns=8),
            title="Most like a real image",
            caption="Of all generated images those nearest to a held-out real one, nearest first.",
        ),
        Strip(
            png=synthetic(fake.gather(far), columns=8),
            title="Least like any real image",
            caption="Those farthest from every held-out real image, farthest first: what goes wrong when it goes wrong.",
        ),
    ]


def by_logit(scores: Tensor, fake: Images) -> list[Strip]:
    """The first len(scores) generated images that the discriminator takes for real most, and least: scores [n] are its logits."""
    order = scores.argsort(descending=True, stable=True).numpy()
    best, worst = order[:NUM_EXTREMES], order[::-1][:NUM_EXTREMES]
    return [
        Strip(
            png=synthetic(fake.gather(best), columns=8),
            title="The discriminator's best",
            caption=f"Of {len(scores):,} images those it takes for real most (logit {scores[best[0]]:.2f} and below).",
        ),
        Strip(
            png=synthetic(fake.gather(worst), columns=8),
            title="The discriminator's worst",
            caption=f"Those it is surest are generated (logit {scores[worst[0]]:.2f} and above).",
        ),
    ]


def heat(images: np.ndarray, maps: Tensor) -> np.ndarray:
    """[N, C, H, W] uint8 dimmed to grey under maps [N, h, w] >= 0, each scaled to its own largest -> [N, 3, H, W] uint8."""
    grey = images[:, :3].astype(np.float32).mean(axis=1) * 0.45 + 20
    sized = torch.nn.functional.interpolate(maps[:, None].float(), size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = sized.amin(dim=(1, 2), keepdim=True), sized.amax(dim=(1, 2), keepdim=True)
    amount = ((sized - low) / (high - low).clamp(min=1e-12)).numpy()[:, None] * 0.85
    mixed = grey[:, None] * (1 - amount) + HOT[None, :, None, None] * amount
    hot: np.ndarray = mixed.clip(0, 255).astype(np.uint8)
    return hot


def pairs(fake: np.ndarray, train: np.ndarray, distances: np.ndarray) -> tuple[Pair, ...]:
    """Generated images [n, C, H, W] over the training images nearest to them."""
    return tuple(
        Pair(png=tiles_png(np.stack([one, other]), columns=1), distance=float(distance))
        for one, other, distance in zip(fake, train, distances, strict=True)
    )
