"""The pictures of an evaluation: what the plots show, and what the page takes of the images, their features and the discriminator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganlib.files import atomic_folder
from ganlib.metrics.interface import Comparison, Images
from ganlib.metrics.memorization import nearest_pairs
from pipeline import discriminator
from pipeline.report import plots, seen


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The images that some features are of: feature i is of image `indices[i]`."""

    images: Images
    indices: np.ndarray  # [n] int64

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """[m] int64 -> [m, C, H, W] uint8."""
        return self.images.gather(self.indices[rows])

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        return None if self.images.labels is None else self.images.labels[self.indices[rows]]


def take(
    data: Comparison, *, fake: Images, real: Rows, train: Rows, class_names: Sequence[str] | None, models: Path, plots_folder: Path
) -> seen.Seen:
    """Draw the plots into `plots_folder`, and take the pictures of the page.

    Args:
        models: with discriminator.safetensors; without it nothing is said of it.
    """
    pairs = nearest_pairs(data, plots.NUM_PAIRS)
    fakes, nearest, distances = (tensor.numpy() for tensor in pairs)
    near, near_train = fake.gather(fakes), train.gather(nearest)
    shown = np.arange(min(plots.NUM_SIDE, len(real.indices)))
    beside, real_beside = fake.gather(np.arange(min(plots.NUM_SIDE, len(fake)))), real.gather(shown)
    with atomic_folder(plots_folder) as folder:
        plots.real_vs_fake(folder / "real_vs_fake.png", real_beside, beside)
        plots.nearest_train(folder / "nearest_train.png", near, near_train, distances)
        plots.feature_map(folder / "features.png", data.real, data.fake)
        if data.real_classes is not None and data.fake_classes is not None:
            plots.classes(folder / "classes.png", data.real_classes, data.fake_classes, class_names, data.known_classes)
    judge = discriminator.load(models)
    return seen.Seen(
        real=seen.tiles_png(real_beside, columns=8),
        fake=seen.synthetic(beside, columns=8),
        pairs=seen.pairs(near, near_train, distances),
        extremes=(*seen.by_distance(data, fake), *(judge.extremes(fake) if judge is not None else ())),
        judged=() if judge is None else judge.views(beside, fake.labels, real_beside, real.labels(shown)),
        **seen.class_rows(data, fake, class_names),
    )
