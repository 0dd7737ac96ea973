"""The pictures of an evaluation, as PNG files that read on a light and on a dark page: transparent, with mid-grey text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ganlib.pictures import grid
from pipeline.report.text import as_written, class_label

NUM_SIDE = 64  # images on each side of real_vs_fake
NUM_PAIRS = 20  # pairs in nearest_train
MAX_POINTS = 1500  # of each kind in feature_map
MAX_CLASSES = 40  # in classes
GREY, REAL, FAKE = "#808790", "#2f7fd1", "#e8833a"


def real_vs_fake(path: Path, real: np.ndarray, fake: np.ndarray) -> None:
    """Held-out real images left, fakes right, neither of them picked: [n, C, H, W] uint8 each."""
    figure = Figure(figsize=(10, 5.3 * min(2.0, max(0.5, real.shape[2] / real.shape[3]))))
    for i, (title, images) in enumerate((("real, held out", real), ("generated", fake))):
        axes = figure.add_subplot(1, 2, i + 1)
        show(axes, images, columns=8)
        axes.set_title(f"{title} (not selected)", color=(REAL, FAKE)[i], fontsize=12, fontweight="bold")
    save(figure, path)


def nearest_train(path: Path, fake: np.ndarray, train: np.ndarray, distances: np.ndarray) -> None:
    """The fakes [n, C, H, W] closest to a training image above those images; `distances` [n] in feature space."""
    columns = 10
    rows = -(-len(fake) // columns)
    figure = Figure(figsize=(10, 2.4 * rows * min(2.0, max(0.5, fake.shape[2] / fake.shape[3]))))
    for i in range(len(fake)):
        for j, (name, images, color) in enumerate((("generated", fake, FAKE), ("nearest train", train, REAL))):
            axes = figure.add_subplot(2 * rows, columns, (i // columns * 2 + j) * columns + i % columns + 1)
            show(axes, images[i : i + 1], columns=1)
            if j == 1:
                axes.set_xlabel(f"{distances[i]:.3g}", color=GREY, fontsize=9)
            if i % columns == 0:
                axes.set_ylabel(name, color=color, fontsize=9)
    save(figure, path)


@as_written()
def classes(path: Path, real: np.ndarray, fake: np.ndarray, names: Sequence[str] | None, known: np.ndarray) -> None:
    """Shares of the predicted classes, real beside fake: [n], [m] int64. Of more than 40 the 40 with the largest gap.

    Args:
        names: of all classes, by number.
        known: [k] numbers of the classes there are.
    """
    shares = [np.bincount(x, minlength=int(known[-1]) + 1) / len(x) for x in (real, fake)]
    shown = np.sort(known[np.argsort(-np.abs(shares[0] - shares[1])[known], kind="stable")[:MAX_CLASSES]])
    labels = [class_label(names[i], i) if names and i < len(names) else str(i) for i in shown]
    longest = max(map(len, labels))
    is_upright = len(labels) > 20 and longest * len(labels) > 90
    figure = Figure(figsize=(10, 3.4 + (0.06 * longest if is_upright else 0)))
    axes = figure.add_subplot()
    x = np.arange(len(shown))
    for offset, share, color, side in ((-0.2, shares[0], REAL, "real, held out"), (0.2, shares[1], FAKE, "generated")):
        axes.bar(x + offset, 100 * share[shown], width=0.38, color=color, label=side)
    slant = 90 if is_upright else 30 if longest * len(labels) > 90 else 0
    axes.set_xticks(x, labels, rotation=slant, ha="center" if is_upright or (len(labels) <= 12 and longest <= 16) else "right")
    if len(shown) < len(known):
        axes.set_title(f"{len(shown)} of {len(known)} classes, those that differ most", color=GREY, fontsize=9, loc="left")
    axes.set_ylabel("share of images, %", color=GREY)
    _plain(axes)
    save(figure, path)


def feature_map(path: Path, real: Tensor, fake: Tensor) -> None:
    """First two principal components of the real features [n, d], with the fakes [m, d] in the same plane."""
    real, fake = real[:MAX_POINTS].double(), fake[:MAX_POINTS].double()
    centre = real.mean(dim=0)
    values, vectors = torch.linalg.eigh((real - centre).T @ (real - centre))
    plane = vectors[:, -2:].flip(1)
    plane = plane * torch.sign(plane.gather(0, plane.abs().argmax(dim=0, keepdim=True)))  # an eigenvector's sign is arbitrary: fix it
    explained = (values.flip(0)[:2] / values.sum().clamp(min=1e-12)).tolist()
    figure = Figure(figsize=(6.4, 4.4))  # narrow, so that its letters are read on a phone
    axes = figure.add_subplot()
    for features, color, label in ((real, REAL, "real, held out"), (fake, FAKE, "generated")):
        points = ((features - centre) @ plane).numpy()
        axes.scatter(points[:, 0], points[:, 1], s=7, alpha=0.45, color=color, linewidths=0, label=f"{label} ({len(points):,})")
    axes.set_xlabel(f"component 1 ({explained[0]:.0%} of the variance)", color=GREY)
    axes.set_ylabel(f"component 2 ({explained[1]:.0%})", color=GREY)
    _plain(axes)
    save(figure, path)


def show(axes: Axes, images: np.ndarray, *, columns: int) -> None:
    """A grid of images [n, C, H, W] uint8 in axes without a frame."""
    pixels = grid(images, columns=columns, gap=1 if columns > 1 else 0)
    axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _plain(axes: Axes) -> None:
    """No box, faint horizontal lines, mid-grey text."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=9)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), markerscale=2)


def save(figure: Figure, path: Path, *, bottom_inches: float = 0.0) -> None:
    """Write a transparent PNG; `bottom_inches` are left free for what stands below all axes."""
    figure.tight_layout(rect=(0, bottom_inches / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=130, transparent=True, metadata={"Software": ""})  # no version in the file: same data, same bytes
