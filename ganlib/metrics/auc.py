"""Area under the ROC curve of a score that should tell two kinds of images apart, with its interval."""

import numpy as np
from scipy.stats import rankdata

from ganlib.metrics.intervals import normal, wilson


def auc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float, float]:
    """Pr(a positive scores above a negative) + Pr(equal) / 2 of scores [n] and [m], and its 95 % interval.

    The variance is that of DeLong et al. 1988, "Comparing the areas under two or more correlated ROC curves", eq. 2-5: of the mean share of the other
    side below each score. Where it is 0, as at perfect separation, the interval is Wilson's of as many images as the smaller side has.
    """
    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:n] - rankdata(positive)) / m  # of each positive: the share of negatives below it
    below = 1 - (ranks[n:] - rankdata(negative)) / n  # of each negative: the share of positives above it
    area = float(above.mean())
    variance = above.var(ddof=1) / n + below.var(ddof=1) / m
    low, high = normal(area, float(np.sqrt(variance)), low=0.0, high=1.0) if variance > 0 else wilson(area, min(n, m))
    return area, low, high
