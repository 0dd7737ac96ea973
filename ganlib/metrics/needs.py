"""What a metric needs of the images it compares, declared beside it: what lacks is known before anything is trained."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ganlib.metrics.settings import EvaluateConfig

M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Numbers of images below which a metric cannot be computed, or is nothing to rely on.

    Attributes:
        real, fake: held-out and generated images at least.
        above_neighbours: more of both than `evaluate.neighbours`.
        classes: an extractor that knows the classes.
        reliable_real: held-out images below which the value is reported all the same, with a warning.
        above_features: the same for fewer images, on either side, than numbers in a feature: their covariance is singular.
        depth: of the extractor's layers whose features it compares; "last" where the extractor has no other.
        gives: the numbers that it returns, without their intervals; what `register.metric` can name.
        gives_conditional: those it returns beside them for a generator that is told the class.
    """

    real: int = 2
    fake: int = 2
    above_neighbours: bool = False
    classes: bool = False
    reliable_real: int = 2
    above_features: bool = False
    depth: Literal["middle", "last"] = "last"
    gives: tuple[str, ...] | None = None
    gives_conditional: tuple[str, ...] = ()


DEFAULT = Needs()
_DECLARED: dict[Any, Needs] = {}


def declares(needs: Needs) -> Callable[[M], M]:
    """Decorator: what the metric below needs."""

    def decorate(metric: M) -> M:
        _DECLARED[metric] = needs
        return metric

    return decorate


def of(metric: Callable[..., Any]) -> Needs:
    """What a registered metric declares; two images a side where it declares nothing."""
    return _DECLARED.get(metric, DEFAULT)


def lacking(metrics: Mapping[str, Callable[..., Any]], config: EvaluateConfig, *, num_fake: int) -> Iterator[str]:
    """What `sample.num_images` is too few for, a line a metric, with what to set."""
    for name, metric in metrics.items():
        least, why = _least(of(metric).fake, of(metric), config)
        if num_fake < least:
            yield f"sample.num_images={num_fake}, but {name}{why} needs at least {least}; set sample.num_images: {least} or more{_or_less(why)}"


def lacking_real(metrics: Mapping[str, Callable[..., Any]], config: EvaluateConfig, *, num_real: int) -> Iterator[str]:
    """What the held-out images are too few for, a line a metric, with what to set."""
    for name, metric in metrics.items():
        least, why = _least(of(metric).real, of(metric), config)
        if num_real < least:
            yield (
                f"the {config.split} split has {num_real} images to compare with, but {name}{why} needs at least {least}; "
                f"raise data.{config.split}_fraction, choose another evaluate.split, add images{_or_less(why)}, "
                f"or take {name} out of evaluate.metrics"
            )


def doubtful(metrics: Mapping[str, Callable[..., Any]], *, num_real: int, num_fake: int, feature_dim: int) -> Iterator[str]:
    """Warnings of metrics that can be computed and should not be relied on."""
    for name, metric in metrics.items():
        needs = of(metric)
        if needs.above_features and (n := min(num_real, num_fake)) <= feature_dim:
            yield (
                f"{name} of {num_real:,} held-out and {num_fake:,} generated images in {feature_dim} features: a covariance of {n:,} images has rank "
                f"{n - 1:,} of {feature_dim}, and a perfect generator would score about {frechet_bias(n, feature_dim):.2g} times the variance of the "
                f"features, not 0 (were all directions alike); compare with nothing but the same images; have well above {feature_dim}"
            )
        if num_real < needs.reliable_real:
            yield f"{name} looks at the tail of {num_real:,} held-out images; below {needs.reliable_real} one image decides it"


def frechet_bias(n: int, d: int) -> float:
    """Frechet distance, over the trace of the covariance, of N(0, 1) in d dimensions from n <= d of its own draws.

    |mean|^2 is d / n, and tr S^(1/2) = d sqrt(r) (1 - r / 8 - r^2 / 64 - ...) with r = (n - 1) / d: the mean root of the eigenvalues' distribution
    (Marchenko and Pastur, 1967).
    """
    r = (n - 1) / d
    return 1 / n + 2 - 2 * math.sqrt(r) * (1 - r / 8 - r**2 / 64)


def _least(images: int, needs: Needs, config: EvaluateConfig) -> tuple[int, str]:
    if needs.above_neighbours and config.neighbours + 1 > images:
        return config.neighbours + 1, f" with evaluate.neighbours={config.neighbours}"
    return images, ""


def _or_less(why: str) -> str:
    return " or lower evaluate.neighbours" if why else ""
