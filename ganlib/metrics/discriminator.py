"""What the trained discriminator makes of images it learnt from, of real ones it never saw, and of generated ones."""

import math

import torch
from torch import Tensor

from ganlib.metrics import METRICS
from ganlib.metrics.auc import auc
from ganlib.metrics.interface import LogitComparison
from ganlib.metrics.intervals import Z95, wilson
from ganlib.metrics.needs import Needs, Value, declares
from ganlib.metrics.settings import EvaluateConfig


def of_discriminator(key: str, title: str, meaning: str, *, ideal: float = 0.5, is_share: bool = True, is_headline: bool = False) -> Value:
    return Value(key=key, title=title, meaning=meaning, better="target", ideal=ideal, is_share=is_share, is_headline=is_headline)


ON = {"": ("unseen", "held-out"), "_train": ("learnt", "training")}  # which real images the generated ones are told from
GIVES = (
    of_discriminator(
        "discriminator_accuracy",
        "Discriminator accuracy",
        "Unseen real and generated images that the discriminator of the training takes for what they are; 50 % is guessing.",
        is_headline=True,
    ),
    of_discriminator("discriminator_precision", "Discriminator precision", "Of what it calls real, the share of unseen real images."),
    of_discriminator("discriminator_recall", "Discriminator recall", "Unseen real images that it calls real."),
    of_discriminator(
        "discriminator_accuracy_train", "Discriminator accuracy, training images", "The accuracy with training images as the real ones."
    ),
    of_discriminator(
        "discriminator_precision_train", "Discriminator precision, training images", "Of what it calls real, the share of training images."
    ),
    of_discriminator("discriminator_recall_train", "Discriminator recall, training images", "Training images that it calls real."),
    of_discriminator(
        "discriminator_fooled", "Discriminator fooled", "Generated images that it calls real; half of them where it can only guess."
    ),
    of_discriminator(
        "discriminator_auc",
        "Discriminator AUC",
        "Probability that an unseen real image has a higher logit than a generated one, which no threshold moves.",
        is_share=False,
    ),
    of_discriminator(
        "overfitting_gap",
        "Overfitting of the discriminator",
        "Mean logit of training images less that of unseen real ones, in standard deviations: above 0 it knows its training images by heart.",
        ideal=0.0,
        is_share=False,
        is_headline=True,
    ),
    of_discriminator(
        "membership_white_box",
        "Membership by the discriminator",
        "AUC of telling training from unseen images by the discriminator's logit; 0.5 betrays nothing.",
        is_share=False,
    ),
)


def share(inside: Tensor, key: str) -> dict[str, float]:
    """The share of `inside` [n] bool, with its interval."""
    value = float(inside.double().mean()) if len(inside) else 0.5  # of nothing that is called real nothing is known
    low, high = wilson(value, len(inside)) if len(inside) else (0.0, 1.0)
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def standardised_gap(x: Tensor, y: Tensor) -> tuple[float, float]:
    """(mean x - mean y) over the pooled standard deviation, and its standard error: Hedges and Olkin 1985, eq. 5.8 and 5.14; [n], [m] float64."""
    n, m = len(x), len(y)
    pooled = math.sqrt(((n - 1) * float(x.var()) + (m - 1) * float(y.var())) / (n + m - 2))
    gap = float(x.mean() - y.mean()) / pooled if pooled > 0 else 0.0
    return gap, math.sqrt((n + m) / (n * m) + gap**2 / (2 * (n + m)))


@METRICS.register("discriminator", paper="arXiv:1406.2661, section 4: D(x) = sigmoid(logit), 1/2 at the optimum")
@declares(Needs(discriminator=True, training=True, reliable_real=100, gives=GIVES))
def discriminator(data: LogitComparison, config: EvaluateConfig) -> dict[str, float]:
    """The discriminator as a classifier with sigmoid(logit) above 1/2 as "real", how far it has overfitted, and what its logit betrays of membership.

    Shares belong to a loss whose logit is a log-odds (non-saturating, minimax); of a critic (Wasserstein, relativistic, BEGAN) the threshold at 0
    means nothing, and the AUC, the gap and the membership stand. The membership attack is that of arXiv:1705.07663 (white box).
    Intervals take images as independent; a layer that looks over a batch makes them somewhat too narrow.
    """
    fake = data.fake > 0
    values: dict[str, float] = {}
    for suffix, real in (("", data.real), ("_train", data.train)):
        said = real > 0
        n = min(len(real), len(fake))  # as many of both, else precision depends on how many there are
        called_real = torch.cat([torch.ones(int(said[:n].sum())), torch.zeros(int(fake[:n].sum()))]).bool()
        values |= share(torch.cat([said[:n], ~fake[:n]]), f"discriminator_accuracy{suffix}")
        values |= share(called_real, f"discriminator_precision{suffix}")
        values |= share(said, f"discriminator_recall{suffix}")
    values |= share(fake, "discriminator_fooled")
    for key, positive, negative in (
        ("discriminator_auc", data.real, data.fake),
        ("overfitting_gap", data.train, data.real),
        ("membership_white_box", data.train, data.real),
    ):
        if key == "overfitting_gap":
            gap, error = standardised_gap(positive, negative)
            found = gap, gap - Z95 * error, gap + Z95 * error
        else:
            found = auc(positive.numpy(), negative.numpy())
        values |= dict(zip((key, f"{key}_low", f"{key}_high"), found, strict=True))
    return values
