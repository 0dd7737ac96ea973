"""Whether images carry the mark of a key, and how often images without it would look as if they did.

The score of an image is the largest of its correlations with the key's patterns. Patterns are drawn from N(0, 1), so given any image, marked by
another key or not at all, each correlation is N(0, 1) exactly, and the p-value needs no model of images: the probability is over keys. Images of a
batch share the key, so alike ones score alike: what they share is taken out first, and the variance of their mean score counts what is left pair by
pair.

What an image went through is not known, so places are tried: frequencies of the size it has, of twice and of half of it (resized images), and
windows of images of usual sizes (`_wholes`) with up to CROPPED of a side cut away. The p-value is that of the best place times the number of places
(Bonferroni).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from ganlib.marks.embedding import OWN, PATTERNS, SMALLEST, band, basis, frequencies, luma, spread
from ganlib.marks.pixels import patterns

SHARES = (OWN, 2 * OWN, OWN / 2)  # frequencies of the image as it was, of one that was halved, of one that was doubled
FEWEST = 5  # frequencies of which anything can be told
CROPPED = 0.1
RIDGE = 0.3  # of the least squares in a window, where the waves are no longer orthogonal
ENOUGH = 1e-6  # a p-value for which no window is tried
SHARED = 3.0  # what images have in common is taken out where it weighs more than this
MEAN, VARIANCE, SKEWNESS = 2.343734, 0.203486, 0.619075  # of the largest of PATTERNS = 64 values of N(0, 1), by quadrature
# Cov(largest of a, largest of b) for vectors a, b of N(0, 1) with correlation r, as a series in r (Hermite expansion: no coefficient is negative, the
# first is 1/PATTERNS); the others fitted to 320,000 draws at 13 values of r.
COVARIANCE = {1: 1 / PATTERNS, 2: 0.044624, 3: 0.076319, 4: 0.029737, 10: 0.035109, 20: 0.002073}


FOUND = 1e-3  # of a p-value: below it a mark is said to be found


@dataclass(frozen=True, kw_only=True)
class Detection:
    """
    Attributes:
        p_value: of the image, or of all of them together: corrected for all places that were tried.
        place: "as it is", "half size", "double size", or the sides of a crop, where the mark is likeliest.
    """

    p_value: float
    place: str


@dataclass(frozen=True)
class _Places:
    """Things that may have happened, all of one [K, W] matrix; the coefficients of each are rows @ pixels @ columns.T, rows [K, H]."""

    columns: Tensor
    rows: tuple[tuple[str, Tensor], ...]


def p_value(scores: Tensor, likeness: Tensor) -> float:
    """Of the mean of scores [N]: the probability of at least this much under a key that marked none of the images.

    One image: exact for independent N(0, 1). More: a gamma distribution with the mean's first three moments (Pearson's type III).

    Args:
        likeness: [N, N] correlations of the images' whitened coefficients.
    """
    if len(scores) == 1:
        return float(-np.expm1(PATTERNS * stats.norm.logcdf(float(scores[0]))))
    r = likeness.double().clamp(0, 1).fill_diagonal_(1)  # an image without any contrast is no more certain than others
    variance = float(torch.stack([weight * r**power for power, weight in COVARIANCE.items()]).sum(dim=0).mean())
    skewness = SKEWNESS * (variance / VARIANCE) ** 0.5  # as of the mean of VARIANCE / variance independent scores
    return float(stats.pearson3.sf((float(scores.double().mean()) - MEAN) / variance**0.5, skewness))


def detect(images: np.ndarray, *, key: str, crops: bool = True) -> tuple[list[Detection], Detection]:
    """Each of images [N, C, H, W] uint8 alone, and all together, which are taken to have gone through the same.

    Args:
        crops: look for cropped images too, where no mark is found without; up to a hundred times the work.

    Raises:
        ValueError: images that are too small.
    """
    height, width = images.shape[2:]
    if frequencies(height, width, 2 * OWN) < FEWEST:
        raise ValueError(f"images of {width}x{height} are too small to look for a mark; expected {SMALLEST // 2} pixels a side at least")
    pixels, drawn = luma(images), patterns(key)
    resized = list(_resized(height, width))
    alone, together = _best(pixels, resized, drawn)
    windows = list(_windows(height, width)) if crops else []
    if not windows:
        return alone, together
    open_ = [i for i, found in enumerate(alone) if 2 * found.p_value > ENOUGH]
    if open_ or 2 * together.p_value > ENOUGH:
        cropped, cropped_together = _best(pixels, windows, drawn)
        alone = [_better(one, other) for one, other in zip(alone, cropped, strict=True)]
        return alone, _better(together, cropped_together)
    return [_better(one, one) for one in alone], _better(together, together)


def _better(one: Detection, other: Detection) -> Detection:
    best = min(one, other, key=lambda found: found.p_value)
    return Detection(p_value=min(1.0, 2 * best.p_value), place=best.place)


def _best(pixels: Tensor, places: list[_Places], drawn: Tensor) -> tuple[list[Detection], Detection]:
    """Each image at its likeliest place, all of them at theirs; corrected for the number of places."""
    assert places
    best, names = torch.full((len(pixels),), -torch.inf), [""] * len(pixels)
    most, residual, name_of_all = Tensor([-torch.inf]), torch.ones(1, 1), ""
    for each in places:
        flat = drawn[:, : len(each.columns), : len(each.columns)].flatten(1).T
        folded = pixels @ each.columns.T
        for name, rows in each.rows:
            whitened = _whitened(rows @ folded)
            scores = (whitened @ flat).amax(dim=1)
            for i in (scores > best).nonzero()[:, 0].tolist():
                names[i] = name
            best = torch.maximum(best, scores)
            unlike = _unlike(whitened)
            together = (unlike @ flat).amax(dim=1)
            if together.mean() > most.mean():
                most, residual, name_of_all = together, unlike, name
    number = sum(len(each.rows) for each in places)
    one = torch.ones(1, 1)
    alone = [Detection(p_value=min(1.0, number * p_value(score[None], one)), place=name) for score, name in zip(best, names, strict=True)]
    return alone, Detection(p_value=min(1.0, number * p_value(most, residual @ residual.T)), place=name_of_all)


def _whitened(coefficients: Tensor) -> Tensor:
    """[N, K, K] -> [N, K * K] of length 1."""
    ring = band(coefficients.shape[1])
    return F.normalize((coefficients * ring / spread(coefficients, ring).sqrt()).flatten(1), dim=1)


def _unlike(whitened: Tensor) -> Tensor:
    """[N, d] of length 1: what the other images do not foretell of each (the rows of the inverse of the Gram matrix are such regressions)."""
    return F.normalize(torch.linalg.solve(whitened @ whitened.T + SHARED * torch.eye(len(whitened)), whitened), dim=1)


def _resized(height: int, width: int) -> Iterator[_Places]:
    known = set()
    for share, name in zip(SHARES, ("as it is", "half size", "double size"), strict=True):
        count = frequencies(height, width, share)
        if count >= FEWEST and count not in known:
            known.add(count)
            yield _Places(basis(width, count), ((name, basis(height, count)),))


def _windows(height: int, width: int) -> Iterator[_Places]:
    """Every crop of up to CROPPED of a side, in steps that the finest frequency does not notice."""
    for whole_height in _wholes(height):
        for whole_width in _wholes(width):
            if (whole_height, whole_width) == (height, width):
                continue
            count = frequencies(whole_height, whole_width)
            rows = [(top, _inverse(height, count, top, whole_height)) for top in _offsets(height, whole_height, count)]
            for left in _offsets(width, whole_width, count):
                named = tuple((f"cropped: from {left}, {top} of {whole_width}x{whole_height} pixels", matrix) for top, matrix in rows)
                yield _Places(_inverse(width, count, left, whole_width), named)


def _wholes(size: int) -> list[int]:
    """Sides that images have, of which `size` may be what is left: itself, and multiples of 32, or of 4 below 128."""
    return [
        size,
        *(whole for whole in range(size + 1, size + round(size * CROPPED / (1 - CROPPED)) + 1) if whole % (32 if whole >= 128 else 4) == 0),
    ]


def _offsets(size: int, whole: int, count: int) -> range:
    return range(0, whole - size + 1, max(1, round(whole * 0.45 / count)))


def _inverse(size: int, count: int, before: int, whole: int) -> Tensor:
    """[count, size]: the coefficients of the whole image that explain the window best (ridge regression)."""
    waves = basis(size, count, before / whole, (before + size) / whole).double()
    inverse: Tensor = torch.linalg.solve(waves @ waves.T + RIDGE * torch.eye(count, dtype=torch.float64), waves)
    return inverse.float()
