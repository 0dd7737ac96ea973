"""Faults in which images there are, not in any one of them."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ganlib.metrics.faults import CHUNK_VALUES, FAULTS, Altered, Fault, Held, Picked, short
from ganlib.metrics.interface import Images
from ganlib.rng import keyed_rng

CLUSTER_SHARE = 0.1  # of the images
THUMBNAIL = 8  # pixels a side, to find a cluster in


def picked(held: Held, rows: np.ndarray, train_rows: np.ndarray | None = None) -> Picked:
    none = np.empty(0, np.int64)
    return Picked(images=held.images, rows=rows, train=held.train, train_rows=none if train_rows is None else train_rows)


def filled(rows: np.ndarray, n: int) -> np.ndarray:
    """The first n of `rows`, from the beginning again where there are fewer."""
    return np.resize(rows, n)


@FAULTS.register("dropped_class")
class DroppedClass(Fault):
    """Classes that are never generated, the commonest first: how many of them. Others take their place, several times where there are too few."""

    title: ClassVar[str] = "classes dropped"
    unit: ClassVar[str] = "classes"
    picks: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    shares: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.5)  # of the classes; one at least

    def strengths(self, held: Held) -> tuple[float, ...]:
        k = len(self._commonest_first(held))
        return tuple(sorted({float(max(1, round(share * k))) for share in self.shares}))

    def why_not(self, held: Held) -> str | None:
        if held.images.labels is None:
            return "the images have no classes"
        k = len(self._commonest_first(held))
        return f"the held-out images have {k} class{'es' if k != 1 else ''}" if k < 2 else None

    def make(self, held: Held, strength: float) -> Altered | Picked:
        labels = held.images.labels
        assert labels is not None
        dropped = self._commonest_first(held)[: round(strength)]
        return picked(held, filled(held.pool[~np.isin(labels[held.pool], dropped)], len(held.fake)))

    def words(self, strength: float) -> str:
        return f"{short(strength)} dropped class{'es' if strength != 1 else ''}"

    def _commonest_first(self, held: Held) -> np.ndarray:
        """The classes of the images that stand for generated ones, [k] int64."""
        labels = held.images.labels
        assert labels is not None
        classes, counts = np.unique(labels[held.fake], return_counts=True)
        return classes[np.argsort(-counts, kind="stable")]


@FAULTS.register("one_mode")
class OneMode(Fault):
    """A share of the images from the commonest class alone; without classes from one cluster, the tenth of the images that lie closest together."""

    title: ClassVar[str] = "one mode"
    unit: ClassVar[str] = "share of images"
    picks: ClassVar[bool] = True
    steps: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def why_not(self, held: Held) -> str | None:
        return None if len(np.unique(self._is_mode(held))) == 2 else "all held-out images are of one class"

    def make(self, held: Held, strength: float) -> Altered | Picked:
        n = round(strength * len(held.fake))
        mode = filled(held.pool[self._is_mode(held)], n)
        return picked(held, np.concatenate([held.fake[n:], mode]))

    def words(self, strength: float) -> str:
        return "one mode alone" if strength == 1 else f"{short(100 * strength)} % of the images from one mode"

    def _is_mode(self, held: Held) -> np.ndarray:
        """[n + m] bool over `held.pool`."""
        labels = held.images.labels
        if labels is not None and len(np.unique(labels)) > 1:
            classes, counts = np.unique(labels[held.pool], return_counts=True)
            is_mode: np.ndarray = labels[held.pool] == classes[counts.argmax()]
            return is_mode
        return tightest(held.images, held.pool)


def tightest(images: Images, rows: np.ndarray) -> np.ndarray:
    """[n] bool: a tenth of these images, the nearest to one another by their pixels at a size of 8: nearest to the one whose tenth is closest."""
    step = max(1, CHUNK_VALUES // int(np.prod(images.shape)))
    height, width = (min(THUMBNAIL, side) for side in images.shape[1:])
    parts = (torch.from_numpy(images.gather(rows[i : i + step])).float() for i in range(0, len(rows), step))
    small = [F.adaptive_avg_pool2d(part, (height, width)).flatten(1) for part in parts]
    distance = torch.cdist(torch.cat(small).double(), torch.cat(small).double(), compute_mode="donot_use_mm_for_euclid_dist")
    count = max(2, round(CLUSTER_SHARE * len(rows)))
    near = distance.sort(dim=1, stable=True)
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[near.indices[near.values[:, count - 1].argmin(), :count].numpy()] = True
    return chosen


@FAULTS.register("train_duplicates")
class TrainDuplicates(Fault):
    """A share of the images are copies of training images."""

    title: ClassVar[str] = "training images copied"
    unit: ClassVar[str] = "share of images"
    picks: ClassVar[bool] = True
    steps: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1.0)

    def make(self, held: Held, strength: float) -> Altered | Picked:
        n = round(strength * len(held.fake))
        order = torch.randperm(len(held.train_rows), generator=keyed_rng(held.seed, "fault train duplicates")).numpy()
        return picked(held, held.fake[n:], filled(held.train_rows[order], n))

    def words(self, strength: float) -> str:
        return f"{short(100 * strength)} % copies of training images"
