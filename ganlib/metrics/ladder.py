"""The ladder: each known fault in each strength, measured as generated images are, beside real images against real images.

Half of the held-out images (at most `MAX_SIDE` a side) are the real side; the other half is given the faults.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ganlib.checks import require_finite
from ganlib.metrics import interface, needs
from ganlib.metrics.calibration import Calibration, Null, Rungs, judge
from ganlib.metrics.faults import FAULTS, Altered, Fault, Held, Picked, in_order
from ganlib.metrics.intervals import wilson
from ganlib.metrics.rotation import NUM_TURNS, Rotation
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

MAX_SIDE = 2_500  # images on a side
MIN_SIDE = 50  # of fewer a calibration says nothing
ENOUGH = 2_000  # images of the validation split, which no evaluation of the test split has looked at
MAX_VALUES = 1 << 28  # numbers in the images of a side: large images are fewer
NULL_DRAWS = 10
MAX_TRAIN = 10_000  # training images that distances are measured to
BOOTSTRAP = 2  # resamples: no interval of a value is looked at here


@dataclass(frozen=True, kw_only=True)
class View:
    """What one extractor made of the real images.

    Attributes:
        held_out: [N, d] float32, of the rows `rows` [N] int64, sorted, of the split.
        train: [T, d] float32, of the rows `train_rows` [T] int64, sorted.
        class_counts: training images of each class; None where there are none.
        accuracy: on that split; None where it learnt nothing from these data.
    """

    extractor: interface.Extractor
    sha256: str
    held_out: Tensor
    rows: np.ndarray
    train: Tensor
    train_rows: np.ndarray
    class_counts: Sequence[int] | None
    accuracy: float | None

    def of(self, images: Altered | Picked) -> Tensor:
        """[n, d] float32; of images as they are without looking at them again."""
        if isinstance(images, Altered):
            return interface.extract(self.extractor, images)
        held_out = self.held_out[torch.from_numpy(np.searchsorted(self.rows, images.rows))]
        return torch.cat([held_out, self.train[torch.from_numpy(np.searchsorted(self.train_rows, images.train_rows))]])


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


def chance_share(view: View, images: interface.Images) -> float | None:
    """How often whoever always gives the commonest answer is right at what the extractor learnt; None where it learnt nothing."""
    if isinstance(view.extractor, Rotation):
        return 1 / NUM_TURNS
    if images.labels is None or view.extractor.class_logits(view.train[:1]) is None:
        return None
    return float(np.unique(images.labels, return_counts=True)[1].max() / len(images))


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """What measures: the metrics of a protocol in the features of one extractor.

    Attributes:
        images, train: the held-out split, and the training images.
        metrics: those that need classes only where the extractor knows some.
    """

    view: View
    images: interface.Images
    train: interface.Images
    metrics: Mapping[str, interface.Metric]
    config: EvaluateConfig

    @classmethod
    def of(
        cls,
        view: View,
        *,
        images: interface.Images,
        train: interface.Images,
        metrics: Mapping[str, interface.Metric],
        config: EvaluateConfig,
    ) -> "Ruler":
        """Without what the extractor cannot serve, and without the work for intervals, which nobody reads here."""
        knows_classes = view.extractor.class_logits(view.train[:1]) is not None
        fitting = {name: metric for name, metric in metrics.items() if knows_classes or not needs.of(metric).classes}
        return cls(view=view, images=images, train=train, metrics=fitting, config=config.model_copy(update={"bootstrap": BOOTSTRAP}))

    @property
    def seed(self) -> int:
        return self.config.seed

    def measure(self, real: np.ndarray, made: Altered | Picked) -> dict[str, float]:
        """Every number of the metrics, of images `made` against the real ones at `real`."""
        view, labels = self.view, made.labels
        held_out, fake = view.held_out[torch.from_numpy(np.searchsorted(view.rows, real))], view.of(made)
        classes = interface.predicted_classes(view.extractor, held_out, fake, view.class_counts)
        data = interface.Comparison(real=held_out, fake=fake, train=view.train, fake_labels=labels if classes else None, **classes)
        values = {key: value for metric in self.metrics.values() for key, value in metric(data, self.config).items()}
        require_finite(values, where="calibration")
        return values

    def null_draw(self, n: int, draw: int) -> dict[str, float]:
        real, fake, _ = halves(self.view.rows, n, seed=self.seed, draw=draw)
        return self.measure(real, Picked(images=self.images, rows=fake, train=self.train, train_rows=np.empty(0, np.int64)))

    def rungs(self, fault: Fault, held: Held, *, real: np.ndarray, keys: list[str]) -> Rungs:
        """A fault in all its strengths, and what the values `keys` come to."""
        why_not = fault.why_not(held)
        strengths = list(fault.strengths(held)) if why_not is None else []
        if strengths and not fault.picks and changes_nothing(fault, held, strengths[-1]):
            why_not, strengths = "it leaves these images unchanged", []
        found = [self.measure(real, fault.make(held, strength)) for strength in strengths]
        values = {key: [each[key] for each in found] for key in keys} if found else {}
        return Rungs(title=fault.title, unit=fault.unit, applies=bool(strengths), why_not=why_not, strengths=strengths, values=values)


def changes_nothing(fault: Fault, held: Held, strength: float) -> bool:
    made, indices = fault.make(held, strength), np.arange(len(held.fake))
    batches = np.array_split(indices, -(-len(indices) // 100))
    return all(np.array_equal(made.gather(batch), held.images.gather(held.fake[batch])) for batch in batches)


def climb(ruler: Ruler, *, split: str, data_digest: str) -> tuple[Calibration, Held | None]:
    """Measure the ladder.

    Returns:
        what calibration.json holds, and what the faults were made from: None where there are too few held-out images.
    """
    view, images = ruler.view, ruler.images
    n, chance = side_images(len(view.rows), images.shape), chance_share(view, images)
    doubt, warnings = "", []
    if view.accuracy is not None and chance is not None and wilson(view.accuracy, len(images))[0] <= chance:
        doubt = (
            f"the extractor {view.extractor.name} has learnt nothing: it is right on {view.accuracy:.3f} of the {split} split, "
            f"and whoever always says the commonest answer on {chance:.3f}"
        )
        warnings.append(f"{doubt}; do the labels mean anything? Another extractor: params.yaml, reference.extractor")
    result = Calibration(
        data_digest=data_digest,
        extractor_sha256=view.sha256,
        split=split,
        n=n,
        null={},
        faults={},
        metrics={},
        extractor_accuracy=view.accuracy,
        majority_share=chance,
        warnings=warnings,
    )
    if not n:
        warnings.append(
            f"not calibrated: {len(view.rows)} held-out images, and at least {2 * MIN_SIDE} are needed; nothing says what these metrics can see. "
            "Raise data.val_fraction or data.test_fraction"
        )
        return result, None
    drawn = [ruler.null_draw(n, draw) for draw in range(NULL_DRAWS)]
    values = {key: value for key, value in needs.values(ruler.metrics).items() if key in drawn[0]}
    null = {key: Null.of([each[key] for each in drawn]) for key in values}
    real, fake, spare = halves(view.rows, n, seed=ruler.seed, draw=0)
    held = Held(images=images, fake=fake, spare=spare, train=ruler.train, train_rows=view.train_rows, seed=ruler.seed)
    faults = {name: ruler.rungs(FAULTS.get(name)(), held, real=real, keys=list(values)) for name in in_order()}
    verdicts = {key: judge(value, null[key], faults, doubt=doubt) for key, value in values.items()}
    if not doubt:
        warnings += [f"{key} is not to be trusted on these data: it {each.why}" for key, each in verdicts.items() if not each.is_trusted]
    unseen = [rungs.title for name, rungs in faults.items() if rungs.applies and all(each.sees[name] is None for each in verdicts.values())]
    warnings += [f"no metric of evaluate.metrics sees this fault: {title}" for title in unseen]
    return replace(result, null=null, faults=faults, metrics=verdicts), held
