"""A set of fakes against real images in every extractor of a protocol: which comparison each metric is shown, and what its numbers are called."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from ganlib.metrics import METRICS, interface, needs
from ganlib.metrics.interface import Comparison, Images, LogitComparison, PathComparison, PixelComparison
from ganlib.metrics.null import null
from ganlib.metrics.paired import PairComparison
from ganlib.metrics.reference_store import Described, Reference
from ganlib.metrics.settings import Depth, EvaluateConfig

V = TypeVar("V")
ENDS = ("_low", "_high")  # of a number's interval
Features = Mapping[str, Mapping[str, Tensor]]  # an extractor's label -> depth -> [n, d] float32


def extract(reference: Reference, images: Images) -> dict[str, dict[str, Tensor]]:
    """`images` as every extractor of the reference sees them."""
    return {each.label: interface.extract(each.extractor, images) for each in reference.described}


def stored(reference: Reference, split: str, rows: Tensor | None = None) -> dict[str, dict[str, Tensor]]:
    """Real images of `split` (those rows of them: [n] bool or int64).

    Raises:
        ValueError: the split has fewer than 2 images.
    """
    return {
        each.label: {
            depth: each.features(split, depth) if rows is None else each.features(split, depth)[rows] for depth in each.extractor.depths
        }
        for each in reference.described
    }


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """One set of fakes, the real images it is compared with and the training images, in every extractor and depth.

    Args:
        real, fake, train: features, of each of the reference's extractors.
        fake_labels: [m] int64, the classes a conditional generator was asked for.
        class_counts: training images of each class, None where the data have none.
    """

    reference: Reference
    real: Features
    fake: Features
    train: Features
    fake_labels: np.ndarray | None = None
    class_counts: Sequence[int] | None = None
    _made: dict[tuple[str, str], Comparison] = field(default_factory=dict, repr=False)  # each once: nearest neighbours are kept in it

    def of(self, described: Described, depth: Depth = "last") -> Comparison:
        """What a metric that reads `depth` is shown; of depth "last" where the extractor has no other."""
        label, depth = described.label, interface.depth_of(described.extractor, depth)
        if (label, depth) not in self._made:
            classes = interface.predicted_classes(
                described.extractor, self.real[label]["last"], self.fake[label]["last"], self.class_counts
            )
            self._made[label, depth] = Comparison(
                real=self.real[label][depth],
                fake=self.fake[label][depth],
                train=self.train[label][depth],
                fake_labels=self.fake_labels,
                **classes,
            )
        return self._made[label, depth]

    def shown(
        self,
        metrics: Mapping[str, Any],
        *,
        pixels: PixelComparison | None,
        judged: LogitComparison | None = None,
        paths: PathComparison | None = None,
        paired: PairComparison | None = None,
    ) -> Iterator[tuple[Any, Comparison | PixelComparison | LogitComparison | PathComparison | PairComparison, str, str]]:
        """Every metric, what it is shown, what is put behind the names of its numbers, and where they are read from.

        Behind names stands `@label` of all extractors but the main one; numbers are read from "label/depth", "pixels", "discriminator" or "pairs".

        What needs classes is measured once, in the first extractor that knows them; what needs no features of sets of images once, in `pixels`,
        `judged`, `paths` (which are of the reference's `of_paths`) or `paired`, and not at all without.
        """
        for i, described in enumerate(self.reference.described):
            for metric in metrics.values():
                need = needs.of(metric)
                if need.pixels:
                    if i == 0 and pixels is not None:
                        yield metric, pixels, "", "pixels"
                elif need.discriminator:
                    if i == 0 and judged is not None:
                        yield metric, judged, "", "discriminator"
                elif need.generator:
                    if i == 0 and paths is not None:
                        by = self.reference.of_paths
                        assert by is not None
                        yield metric, paths, "", f"{by.label}/{interface.depth_of(by.extractor, need.depth)}"
                elif need.pairs:
                    if i == 0 and paired is not None:
                        yield metric, paired, "", "pairs"
                elif not need.classes or i == 0:
                    by = (self.reference.knows_classes or described) if need.classes else described
                    suffix = f"@{described.label}" if i > 0 else ""
                    yield metric, self.of(by, need.depth), suffix, f"{by.label}/{interface.depth_of(by.extractor, need.depth)}"

    def measure(self, metrics: Mapping[str, Any], config: EvaluateConfig, *, pixels: PixelComparison | None = None) -> dict[str, float]:
        """The numbers of every metric.

        Raises:
            ValueError: a metric needs classes and no extractor knows them.
        """
        return {key: value for _, found in self.measured_from(metrics, config, pixels=pixels) for key, value in found.items()}

    def measured_from(
        self,
        metrics: Mapping[str, Any],
        config: EvaluateConfig,
        *,
        pixels: PixelComparison | None = None,
        judged: LogitComparison | None = None,
        paths: PathComparison | None = None,
        paired: PairComparison | None = None,
    ) -> list[tuple[str, dict[str, float]]]:
        """The same a metric at a time, each with where it was read from."""
        return [
            (place, renamed(metric(data, config), suffix))
            for metric, data, suffix, place in self.shown(metrics, pixels=pixels, judged=judged, paths=paths, paired=paired)
        ]

    def resampled(self, metrics: Mapping[str, Any]) -> dict[str, list[float]]:
        """Key -> the value of each bootstrap resample, of the metrics that were `measured_from` and keep theirs.

        Resample i of two evaluations with one `seed` draws the same places among equally many fakes (for recall and coverage: among the real
        images), which pairs them.
        """
        found: dict[str, list[float]] = {}
        for metric, data, suffix, _ in self.shown(metrics, pixels=None):
            assert isinstance(data, Comparison)
            given = {value.key for value in needs.of(metric).gives}
            found |= renamed({key: values.tolist() for key, values in data.resampled.items() if key in given}, suffix)
        return found

    def nulls(
        self, metrics: Mapping[str, Any], config: EvaluateConfig, *, pixels: PixelComparison | None = None
    ) -> dict[str, dict[str, Any]]:
        """What each number is for real images against real ones (`ganlib.metrics.null`)."""
        found: dict[str, dict[str, Any]] = {}
        for metric, data, suffix, _ in self.shown(metrics, pixels=pixels):
            assert not isinstance(data, LogitComparison | PathComparison | PairComparison)
            found |= renamed(null(metric, data, config), suffix)
        return found


def read_from(measured: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, list[str]]:
    """ "label/depth" -> the numbers read from it, without their intervals."""
    places: dict[str, list[str]] = {}
    for place, found in measured:
        places.setdefault(place, []).extend(key for key in found if not key.endswith(ENDS))
    return places


COMPARED = ("data_digest", "split", "classes", "n_real", "n_fake", "n_train")  # with what `compared` adds, all that must be equal


def compared(key: str, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What two evaluations must agree in for their numbers `key` to be of one scale; None where this one does not say.

    The data and the images of them that were looked at, how many were generated, where the number is read from, by which weights, and the neighbours
    of metrics that count them. Not: resamples behind an interval, seeds of subsets, other metrics and extractors beside it.
    """
    protocol, plain = evaluation.get("protocol", {}), next((key.removesuffix(end) for end in ENDS if key.endswith(end)), key)
    read = sorted(place for place, keys in protocol.get("read_from", {}).items() if plain in keys)
    sha256 = {entry["label"]: entry["sha256"] for entry in protocol.get("extractors", ())}
    labels = [place.rpartition("/")[0] for place in read]
    counts = any(
        plain.partition("@")[0] in {value.key for value in need.gives} and need.above_neighbours
        for need in (needs.of(entry.value) for entry in METRICS)
    )
    return {
        **{name: protocol.get(name) for name in COMPARED},
        "read_from": read,
        **{f"extractor {label}": sha256[label] for label in labels if label in sha256},
        **({"neighbours": protocol.get("neighbours"), "prdc_images": evaluation.get("prdc_images")} if counts else {}),
    }


def differing(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """In what two evaluations were measured otherwise, as far as the number `key` goes, with both values; {} where they can be compared.

    One that has no such number differs in it.
    """
    if key not in one or key not in other:
        return {key: (one.get(key), other.get(key))}
    ours, theirs = compared(key, one), compared(key, other)
    return {name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)}


def renamed(values: Mapping[str, V], suffix: str) -> dict[str, V]:
    """`fid` -> `fid@label`, and `fid_low` -> `fid@label_low`: intervals are found by a number's name with an ending."""
    return {_with(key, suffix): value for key, value in values.items()}


def _with(key: str, suffix: str) -> str:
    end = next((end for end in ENDS if key.endswith(end)), "")
    return f"{key.removesuffix(end)}{suffix}{end}" if end else f"{key}{suffix}"


def keys(names: Iterable[str], labels: Sequence[str]) -> list[str]:
    """The names of numbers for extractors `labels`, the main one first."""
    return [f"{name}{'' if i == 0 else f'@{label}'}" for i, label in enumerate(labels) for name in names]
