"""The ladder: each known fault in each strength, measured as generated images are, beside real images against real images.

Half of the held-out images (at most `MAX_SIDE` a side) are the real side; the other half is given the faults.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ganlib.checks import require_finite
from ganlib.metrics import interface, measure, needs
from ganlib.metrics.calibration import Calibration, Null, Rungs, judge
from ganlib.metrics.faults import FAULTS, Altered, Fault, Held, Picked, in_order
from ganlib.metrics.needs import Value
from ganlib.metrics.reference_store import Described, Reference
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

MAX_SIDE = 1_500  # images on a side
MAX_PIXEL_SIDE = 500  # of them for metrics that look at the images themselves
MIN_SIDE = 50  # of fewer a calibration says nothing
ENOUGH = 2_000  # images of the validation split, which no evaluation of the test split has looked at
MAX_VALUES = 1 << 28  # numbers in the images of a side: large images are fewer
NULL_DRAWS = 10
BOOTSTRAP = 2  # resamples: no interval of a value is looked at here


def choose_split(sizes: Mapping[str, int]) -> str:
    """The validation split where it is large enough, else the larger one."""
    return "val" if sizes["val"] >= ENOUGH or sizes["val"] > sizes["test"] else "test"


def side_images(num_images: int, shape: tuple[int, int, int]) -> int:
    """Images on each side, of so many held-out ones; 0 where they are too few."""
    n = min(MAX_SIDE, num_images // 2, MAX_VALUES // math.prod(shape))
    return n if n >= MIN_SIDE else 0


def halves(rows: np.ndarray, n: int, *, seed: int, draw: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n rows, n others, and the rest, drawn."""
    order = rows[torch.randperm(len(rows), generator=keyed_rng(seed, "calibration halves", draw)).numpy()]
    return order[:n], order[n : 2 * n], order[2 * n :]


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """What measures: the metrics of a protocol in the features of its extractors.

    Attributes:
        images, train: the held-out split `split`, and the training images.
        rows: [N] int64, sorted: of which images of the split there are features.
        train_rows: [t] int64, sorted: to which training images distances are measured; as many as there are images on a side.
        metrics: what compares two sets of images: nothing costly or of the discriminator, nor what no extractor serves.
    """

    reference: Reference
    split: str
    images: interface.Images
    train: interface.Images
    rows: np.ndarray
    train_rows: np.ndarray
    held_features: measure.Features
    train_features: measure.Features
    class_counts: Sequence[int] | None
    metrics: Mapping[str, Any]
    config: EvaluateConfig

    @classmethod
    def of(
        cls,
        reference: Reference,
        splits: Mapping[str, interface.Images],
        *,
        metrics: Mapping[str, Any],
        config: EvaluateConfig,
        class_counts: Sequence[int] | None,
    ) -> "Ruler":
        """On the split that is large enough, and without the work for intervals, which nobody reads here."""
        split = choose_split({name: len(images) for name, images in splits.items()})
        rows = reference.indices[split].numpy() if split in reference.indices else np.empty(0, np.int64)
        known = reference.indices["train"].numpy()
        count = max(2, side_images(len(rows), splits[split].shape))  # so that all of them can be copied
        drawn = torch.randperm(len(known), generator=keyed_rng(config.seed, "calibration train"))[:count].sort().values
        declared = {name: needs.of(metric) for name, metric in metrics.items()}
        fitting = {
            name: metric
            for name, metric in metrics.items()
            if not (declared[name].is_costly or declared[name].conditional or declared[name].reads_networks)
            and declared[name].has_null
            and (reference.knows_classes is not None or not declared[name].classes)
        }
        return cls(
            reference=reference,
            split=split,
            images=splits[split],
            train=splits["train"],
            rows=rows,
            train_rows=known[drawn.numpy()],
            held_features=measure.stored(reference, split) if split in reference.indices else {},
            train_features=measure.stored(reference, "train", drawn),
            class_counts=class_counts,
            metrics=fitting,
            config=config.model_copy(update={"bootstrap": BOOTSTRAP}),
        )

    @property
    def values(self) -> dict[str, tuple[Value, Described | None]]:
        """Key -> what the number is, and which extractor it is of; None where it needs none."""
        found: dict[str, tuple[Value, Described | None]] = {}
        for i, described in enumerate(self.reference.described):
            for metric in self.metrics.values():
                need = needs.of(metric)
                if i and (need.classes or need.pixels):
                    continue
                seen_by = None if need.pixels else self.reference.knows_classes if need.classes else described
                found |= {value.key + (f"@{described.label}" if i else ""): (value, seen_by) for value in need.gives}
        return found

    def numbers(self, real: np.ndarray, made: Altered | Picked) -> dict[str, float]:
        """Every number of the metrics, of images `made` against the real ones at `real`."""
        if isinstance(made, Altered):
            images: interface.Images = interface.ArrayImages(made.gather(np.arange(len(made))), made.labels)  # faults are made once
            fake: measure.Features = measure.extract(self.reference, images)
        else:
            images, fake = made, self._known(made.rows, made.train_rows)
        return self._measured(real, images, fake, np.arange(len(images)))

    def generated(self, images: interface.Images, features: measure.Features, n: int) -> dict[str, float]:
        """The same of generated images, as the ladder has it of its faults: n of them, drawn, against the real images that those stand against.

        Only so they can be set beside each other: FID falls with the number of images on a side.

        Args:
            features: of all `images`, of each extractor.
            n: `Calibration.n`; {} where it is 0, or there are fewer generated images.
        """
        if not 0 < n <= len(images):
            return {}
        real, _, _ = halves(self.rows, n, seed=self.config.seed, draw=0)
        drawn = torch.randperm(len(images), generator=keyed_rng(self.config.seed, "calibration generated"))[:n].sort().values
        chosen = {label: {depth: tensor[drawn] for depth, tensor in depths.items()} for label, depths in features.items()}
        return self._measured(real, images, chosen, drawn.numpy())

    def _measured(self, real: np.ndarray, images: interface.Images, fake: measure.Features, rows: np.ndarray) -> dict[str, float]:
        """Every number of `images[rows]`, whose features are `fake`."""
        compared = measure.Comparisons(
            reference=self.reference,
            real=self._known(real),
            fake=fake,
            train=self.train_features,
            fake_labels=None if images.labels is None else images.labels[rows],
            class_counts=self.class_counts,
        )
        pixels = interface.PixelComparison(
            real=self.images, fake=images, real_indices=np.sort(real[:MAX_PIXEL_SIDE]), fake_indices=rows[self._some(len(rows))]
        )
        values = compared.measure(self.metrics, self.config, pixels=pixels)
        require_finite(values, where="calibration")
        return values

    def _some(self, n: int) -> np.ndarray:
        """At most `MAX_PIXEL_SIDE` of 0..n-1, drawn: a fault that picks images puts them in an order."""
        return torch.randperm(n, generator=keyed_rng(self.config.seed, "calibration pixels"))[:MAX_PIXEL_SIDE].sort().values.numpy()

    def _known(self, rows: np.ndarray, train_rows: np.ndarray | None = None) -> measure.Features:
        """Features of images that the reference has seen already."""
        held_out = torch.from_numpy(np.searchsorted(self.rows, rows))
        train = torch.from_numpy(np.searchsorted(self.train_rows, np.empty(0, np.int64) if train_rows is None else train_rows))
        return {
            label: {depth: torch.cat([tensor[held_out], self.train_features[label][depth][train]]) for depth, tensor in depths.items()}
            for label, depths in self.held_features.items()
        }

    def doubts(self) -> dict[str, str]:
        """Label of an extractor -> why nothing that it shows is to be trusted; only those of which that is so."""
        found = {described.label: described.doubt(self.split, self.images) for described in self.reference.described}
        return {label: doubt for label, doubt in found.items() if doubt}

    def null_draw(self, n: int, draw: int) -> dict[str, float]:
        real, fake, _ = halves(self.rows, n, seed=self.config.seed, draw=draw)
        return self.numbers(real, Picked(images=self.images, rows=fake, train=self.train, train_rows=np.empty(0, np.int64)))

    def rungs(self, fault: Fault, held: Held, *, real: np.ndarray, keys: list[str]) -> Rungs:
        """A fault in all its strengths, and what the values `keys` come to."""
        why_not = fault.why_not(held) if fault.picks or held.are_pictures else "it is in the pixels of pictures, and these are none"
        strengths = list(fault.strengths(held)) if why_not is None else []
        if strengths and not fault.picks and changes_nothing(fault, held, strengths[-1]):
            why_not, strengths = "it leaves these images unchanged", []
        found = [self.numbers(real, fault.make(held, strength)) for strength in strengths]
        values = {
            key: [each[key] for each in found] for key in keys if found and all(key in each for each in found)
        }  # some need images of each class
        return Rungs(title=fault.title, unit=fault.unit, applies=bool(strengths), why_not=why_not, strengths=strengths, values=values)


def changes_nothing(fault: Fault, held: Held, strength: float) -> bool:
    made, indices = fault.make(held, strength), np.arange(len(held.fake))
    batches = np.array_split(indices, -(-len(indices) // 100))
    return all(np.array_equal(made.gather(batch), held.images.gather(held.fake[batch])) for batch in batches)


def climb(ruler: Ruler, *, data_digest: str) -> tuple[Calibration, Held | None]:
    """Measure the ladder.

    Returns:
        what calibration.json holds, and what the faults were made from: None where there are too few held-out images.
    """
    main, images, doubts, seed = ruler.reference.main, ruler.images, ruler.doubts(), ruler.config.seed
    n = side_images(len(ruler.rows), images.shape)
    warnings = [f"{doubt}; do the labels mean anything? Another extractor: params.yaml, reference.extractor" for doubt in doubts.values()]
    result = Calibration(
        data_digest=data_digest,
        extractor_sha256=main.facts["sha256"],
        split=ruler.split,
        n=n,
        null={},
        faults={},
        metrics={},
        extractor_accuracy=main.facts["accuracy"].get(ruler.split),
        majority_share=main.extractor.chance(images),
        warnings=warnings,
    )
    if not n:
        warnings.append(
            f"not calibrated: {len(ruler.rows)} held-out images, and at least {2 * MIN_SIDE} are needed; nothing says what these metrics can see. "
            "Raise data.val_fraction or data.test_fraction"
        )
        return result, None
    drawn = [ruler.null_draw(n, draw) for draw in range(NULL_DRAWS)]
    values = {key: value for key, value in ruler.values.items() if key in drawn[0]}
    null = {key: Null.of([each[key] for each in drawn]) for key in values}
    real, fake, spare = halves(ruler.rows, n, seed=seed, draw=0)
    held = Held(images=images, fake=fake, spare=spare, train=ruler.train, train_rows=ruler.train_rows, seed=seed)
    faults = {name: ruler.rungs(FAULTS.get(name)(), held, real=real, keys=list(values)) for name in in_order()}
    verdicts = {
        key: judge(key, value, null[key], faults, doubt=doubts.get(described.label, "") if described else "")
        for key, (value, described) in values.items()
    }
    warnings += [
        f"{key} is not to be trusted on these data: it {verdict.why}"
        for key, verdict in verdicts.items()
        if not verdict.is_trusted and verdict.why not in doubts.values()
    ]
    unseen = [
        rungs.title for name, rungs in faults.items() if rungs.applies and all(each.sees.get(name) is None for each in verdicts.values())
    ]
    warnings += [f"no metric of evaluate.metrics sees this fault: {title}" for title in unseen]
    return replace(result, null=null, faults=faults, metrics=verdicts), held
