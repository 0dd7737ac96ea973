"""Inception score, with the extractor's classes in the place of ImageNet's."""

import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.interface import Comparison
from ganlib.metrics.intervals import jackknife_error, normal
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig

GROUPS = 10  # of the jackknife; the paper's ten splits

SCORE = Value(
    key="inception_score",
    title="Inception score",
    meaning="How sure the extractor is of each image's class, and how evenly these are spread: from 1 to the number of classes.",
    better="higher",
    is_headline=False,
)


def score(probabilities: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))) of class probabilities [n, k] float64, arXiv:1606.03498, section 4; p(y) is their mean."""
    marginal = probabilities.mean(dim=0)
    return float((torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, marginal)).sum(dim=1).mean().exp())


@METRICS.register("inception_score", paper="arXiv:1606.03498, section 4")
@declares(Needs(classes=True, fake=10, gives=(SCORE,)))
def inception_score(data: Comparison, config: EvaluateConfig) -> dict[str, float]:
    """exp of the mutual information of image and predicted class, over all fakes at once; the interval is a delete-a-group jackknife over them.

    Not a number to compare with published ones, which are of ImageNet's classes; noise that an extractor is sure of scores well.

    Raises:
        ValueError: the extractor knows no classes.
    """
    if data.fake_probabilities is None:
        raise ValueError(
            "the metric inception_score needs an extractor that knows the classes: "
            "set reference.extractor=classifier, or leave the metric out (params.yaml: evaluate.metrics)"
        )
    p = data.fake_probabilities
    value, number = score(p), torch.arange(len(p)) % GROUPS
    low, high = normal(value, jackknife_error([score(p[number != group]) for group in range(GROUPS)]), low=1.0)
    return {"inception_score": value, "inception_score_low": low, "inception_score_high": high}
