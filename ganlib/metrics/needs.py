"""What a metric needs and what it gives, declared beside it: what lacks is known before anything is trained, and nobody keeps a list of names."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ganlib.metrics import METRICS
from ganlib.metrics.settings import EvaluateConfig

M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a metric: what it is called, what it means, and which way is better.

    Attributes:
        key: in reports/evaluation.json; `<key>_low` and `<key>_high` beside it are its 95 % interval.
        title: a few words for a person.
        meaning: one sentence.
        better: `target` means the nearer to `ideal` the better, on either side.
        ideal: where there is one; always for `target`.
        least: nothing is below it, so that no interval ends there; None: any number may come out.
        is_share: in [0, 1], shown in per cent.
        is_distance: between two sets of images; real images against each other are not at 0, so their null belongs beside it.
        is_conditional: given only for a generator that is told the class.
        is_of_styles: given only for a generator with styles.
        is_headline: worth a place of its own in a report.
        tells: what a report may say by it of the generated images, beside distances; None: nothing.
        must_see: faults (ganlib.metrics.faults) that it must tell from real images in their strongest form, or it decides nothing on these data.
    """

    key: str
    title: str
    meaning: str
    better: Literal["lower", "higher", "target"]
    ideal: float | None = None
    least: float | None = None
    is_share: bool = False
    is_distance: bool = False
    is_conditional: bool = False
    is_of_styles: bool = False
    is_headline: bool = True
    tells: Literal["fidelity", "variety", "copies"] | None = None
    must_see: tuple[str, ...] = ("noise", "phase_scrambling")

    def __post_init__(self) -> None:
        if self.better == "target" and self.ideal is None:
            raise ValueError(f"{self.key}: better='target' says that a value is best near `ideal`, which is None; give it")

    def is_better(self, one: float, other: float) -> bool:
        """Whether `one` is strictly better than `other`."""
        if self.better == "target":
            assert self.ideal is not None
            return abs(one - self.ideal) < abs(other - self.ideal)
        return one > other if self.better == "higher" else one < other

    def cut(self, low: float, high: float) -> tuple[float, float]:
        """The ends of an interval that is taken from a normal distribution, within what the number can be."""
        if self.is_share:
            return max(0.0, low), min(1.0, high)
        return (low if self.least is None else max(self.least, low)), high

    @property
    def hint(self) -> str:
        """Which way is better, in words."""
        ideal = "" if self.ideal is None else f"{100 * self.ideal:g} %" if self.is_share else f"{self.ideal:g}"
        if self.better == "target":
            return f"The nearer to {ideal} the better"
        return f"{self.better.capitalize()} is better{f', {ideal} is ideal' if ideal else ''}"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Numbers of images below which a metric cannot be computed, or is nothing to rely on.

    Attributes:
        real, fake: held-out and generated images at least.
        above_neighbours: more of both than `evaluate.neighbours`.
        classes: an extractor that knows the classes.
        pixels: the images themselves and no features: the metric is given a `PixelComparison`.
        discriminator: the logits of the trained discriminator: the metric is given a `LogitComparison`.
        generator: images along paths in its latent space, as the first extractor that `takes_float` sees them: the metric is given a
            `PathComparison`.
        pairs: images that were made of others, beside those they should be: the metric is given a `PairComparison` (ganlib.metrics.paired).
        training: the images that the generator was trained on: of a generator of other data it says nothing.
        conditional: samples of a generator that is told the class.
        has_null: it compares two sets, so that real images can stand in the place of the generated ones.
        is_costly: takes many seconds, so that its null is of one draw.
        reliable_real: held-out images below which the value is reported all the same, with a warning.
        above_features: the same for fewer images, on either side, than numbers in a feature: their covariance is singular.
        depth: of the extractor's layers whose features it compares; "last" where the extractor has no other.
        gives: the numbers that it returns, without their intervals; what `register.metric` can name.
        also_gives: keys of those that stand beside them and have no direction.
    """

    real: int = 2
    fake: int = 2
    above_neighbours: bool = False
    classes: bool = False
    pixels: bool = False
    discriminator: bool = False
    generator: bool = False
    pairs: bool = False
    training: bool = False
    conditional: bool = False
    has_null: bool = True
    is_costly: bool = False
    reliable_real: int = 2
    above_features: bool = False
    depth: Literal["middle", "last"] = "last"
    gives: tuple[Value, ...] = ()
    also_gives: tuple[str, ...] = ()

    @property
    def is_measured_once(self) -> bool:
        """However many extractors there are: it reads the features of one of them alone, or of none."""
        return self.classes or self.pixels or self.reads_networks

    @property
    def why_left_out(self) -> str:
        """What there is none of where an evaluation lacks its numbers."""
        if self.discriminator:
            return "models/ holds no discriminator"
        if self.generator:
            return "no extractor of reference.extractor sees steps smaller than a grey level, or there are no latents to walk through"
        if self.pairs:
            return "the task makes nothing that has a truth to be held against"
        return "the data have no classes (reference.extractor=auto), or too few images of each"

    @property
    def of_pictures(self) -> bool:
        """It reads levels of pixels, so that it says nothing of rows of another modality."""
        return self.pixels or self.generator or self.pairs

    @property
    def reads_networks(self) -> bool:
        """It asks the trained networks, so that it says nothing of images alone."""
        return self.discriminator or self.generator or self.pairs


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


def values(metrics: Mapping[str, Callable[..., Any]] | None = None) -> dict[str, Value]:
    """What these metrics give by key, in their order; None: what every registered metric gives."""
    chosen = [entry.value for entry in METRICS] if metrics is None else metrics.values()
    return {value.key: value for metric in chosen for value in of(metric).gives}


def value_of(key: str) -> Value | None:
    """The declaration behind a key of reports/evaluation.json: `fid`, one end of its interval, or `fid@rotation`, by a second extractor."""
    plain = key.partition("@")[0]
    return values().get(plain.removesuffix("_low").removesuffix("_high"))


def lacking(metrics: Mapping[str, Callable[..., Any]], config: EvaluateConfig, *, num_fake: int) -> Iterator[str]:
    """What `sample.num_images` is too few for, a line a metric, with what to set."""
    for name, metric in metrics.items():
        fewest, why = _least(of(metric).fake, of(metric), config)
        if num_fake < fewest:
            yield f"sample.num_images={num_fake}, but {name}{why} needs at least {fewest}; set sample.num_images: {fewest} or more{_or_less(why)}"


def lacking_real(metrics: Mapping[str, Callable[..., Any]], config: EvaluateConfig, *, num_real: int) -> Iterator[str]:
    """What the held-out images are too few for, a line a metric, with what to set."""
    for name, metric in metrics.items():
        fewest, why = _least(of(metric).real, of(metric), config)
        if num_real < fewest:
            yield (
                f"the {config.split} split has {num_real} images to compare with, but {name}{why} needs at least {fewest}; "
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
    few = [name for name, metric in metrics.items() if num_real < of(metric).reliable_real]
    if few:
        wanted = max(of(metrics[name]).reliable_real for name in few)
        yield f"of {num_real:,} held-out images, {', '.join(few)} are nothing to rely on: below {wanted} a single one may decide them"


def frechet_bias(n: int, d: int) -> float:
    """Frechet distance, over the trace of the covariance, of N(0, 1) in d dimensions from n <= d of its own draws.

    |mean|^2 is d / n, and tr S^(1/2) = d sqrt(r) (1 - r / 8 - r^2 / 64 - ...) with r = (n - 1) / d: the mean root of the eigenvalues' distribution
    (Marchenko and Pastur, 1967).
    """
    r = (n - 1) / d
    return 1 / n + 2 - 2 * math.sqrt(r) * (1 - r / 8 - r**2 / 64)


def least(needs: Needs, config: EvaluateConfig) -> int:
    """Images on each side below which it cannot be computed."""
    return _least(max(needs.real, needs.fake), needs, config)[0]


def _least(images: int, needs: Needs, config: EvaluateConfig) -> tuple[int, str]:
    if needs.above_neighbours and config.neighbours + 1 > images:
        return config.neighbours + 1, f" with evaluate.neighbours={config.neighbours}"
    return images, ""


def _or_less(why: str) -> str:
    return " or lower evaluate.neighbours" if why else ""
