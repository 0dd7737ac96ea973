"""The pictures of an evaluation: what the plots show, and what the page takes of the images, their features and the discriminator."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganlib import modalities, saliency
from ganlib.fields import IMAGE
from ganlib.files import atomic_folder
from ganlib.metrics.interface import Comparison, Images
from ganlib.metrics.memorization import nearest_pairs
from ganlib.modalities import Modality
from ganlib.rng import keyed_rng
from ganlib.sampling import to_float
from pipeline import discriminator
from pipeline.discriminator import Shown, TrainedDiscriminator
from pipeline.report import plots, seen

MOST_RANKED = 2048  # images that the discriminator ranks
JUDGED = 5  # images of each kind that its view is shown of
MOST_LEVELS = 5


def take(
    data: Comparison,
    sets: Mapping[str, Shown],
    *,
    class_names: Sequence[str] | None,
    root: Path,
    classes: Comparison | None = None,
    modality: str = IMAGE,
) -> seen.Seen:
    """Draw reports/plots of the project at `root`, and take the pictures of the page.

    Args:
        data: features of the images in `sets`: `fake`, `real` and `train`, image by image.
        classes: a comparison that tells the classes, where `data` does not.
        modality: of what is no picture, previews of both sides alone are taken, and no rows one by one.
    """
    fake, real, train = (sets[name] for name in ("fake", "real", "train"))
    classes = data if classes is None else classes
    if modality != IMAGE:
        return _previewed(data, fake, real, modalities.of(modality), root)
    fakes, nearest, distances = (tensor.numpy() for tensor in nearest_pairs(data, plots.NUM_PAIRS))
    near, near_train = _gather(fake, fakes), _gather(train, nearest)
    first = np.arange(min(plots.NUM_SIDE, len(fake.indices)))
    drawn = torch.randperm(len(real.indices), generator=keyed_rng(0, "real images shown"))  # the first ones may be of one class
    first_real = drawn[: plots.NUM_SIDE].numpy()
    beside, real_beside = _gather(fake, first), _gather(real, first_real)
    with atomic_folder(root / "reports" / "plots") as folder:
        plots.real_vs_fake(folder / "real_vs_fake.png", real_beside, beside)
        plots.nearest_train(folder / "nearest_train.png", near, near_train, distances)
        plots.feature_map(folder / "features.png", data.real, data.fake)
        if classes.real_classes is not None and classes.fake_classes is not None:
            plots.classes(folder / "classes.png", classes.real_classes, classes.fake_classes, class_names, classes.known_classes)
    judge = discriminator.load(root / "models")
    return seen.Seen(
        real=seen.tiles_png(real_beside, columns=8),
        fake=seen.synthetic(beside, columns=8),
        pairs=seen.pairs(near, near_train, distances),
        extremes=(*seen.by_distance(data, fake.images), *(ranked(judge, fake.images) if judge is not None else ())),
        judged=views(judge, (beside, _told(judge, fake, first)), (real_beside, _told(judge, real, first_real)))
        if judge is not None
        else (),
        **seen.class_rows(classes, fake.images, class_names),
    )


def _previewed(data: Comparison, fake: Shown, real: Shown, modality: Modality, root: Path) -> seen.Seen:
    count = min(max(plots.NUM_SIDE, modality.least_shown), len(fake.indices), len(real.indices))
    drawn = torch.randperm(len(real.indices), generator=keyed_rng(0, "real images shown"))[:count].numpy()
    with atomic_folder(root / "reports" / "plots") as folder:
        plots.feature_map(folder / "features.png", data.real, data.fake)
    of_real, of_fake = _gather(real, drawn), _gather(fake, np.arange(count))
    return seen.Seen(
        real=seen.without_text(modality.preview(of_real, columns=8, description={})),  # which would say that these are synthetic
        fake=modality.preview(of_fake, columns=8, description={}),
    )


def ranked(judge: TrainedDiscriminator, images: Images) -> list[seen.Strip]:
    """The images that a discriminator takes for real most, and least, of the first `MOST_RANKED`; without dropout, so that an image has one rank."""
    shown = Shown(images, np.arange(min(len(images), MOST_RANKED)))
    parts = np.split(shown.indices, range(saliency.BATCH_IMAGES, len(shown.indices), saliency.BATCH_IMAGES))
    scores = [saliency.logits(judge.network, to_float(_gather(shown, part)), _told(judge, shown, part)) for part in parts]
    return seen.by_logit(torch.cat(scores), images)


def views(judge: TrainedDiscriminator, *kinds: tuple[np.ndarray, Tensor | None]) -> tuple[seen.Strip, ...]:
    """The first images of generated and of real ones, D's activity on them at each level, and the saliency of its logit: a strip each.

    Args:
        kinds: generated, then real: images [n, C, H, W] uint8, of which one batch is judged, and their labels.
    """
    batch = slice(saliency.BATCH_IMAGES)
    inputs = [(to_float(images[batch]), None if labels is None else labels[batch]) for images, labels in kinds]
    shown = np.concatenate([images[:JUDGED] for images, _ in kinds])
    columns = len(shown)
    levels = [saliency.activity(judge.network, *given) for given in inputs]
    gradients = torch.cat([saliency.saliency(judge.network, *given)[:JUDGED] for given in inputs])
    counts = [min(JUDGED, len(images)) for images, _ in kinds]
    strips = [seen.Strip(png=seen.tiles_png(shown, columns=columns), title="Images", caption=f"{counts[0]} generated, {counts[1]} real")]
    for size in list(levels[0])[:MOST_LEVELS]:
        maps = torch.cat([found[size][:JUDGED] for found in levels])
        png = seen.tiles_png(seen.heat(shown, maps), columns=columns)
        strips.append(seen.Strip(png=png, title=f"Level of {size[0]} x {size[1]}", caption="mean absolute activation"))
    png = seen.tiles_png(seen.heat(shown, gradients), columns=columns)
    return (*strips, seen.Strip(png=png, title="Saliency", caption="gradient of the logit by the pixel"))


def _gather(shown: Shown, rows: np.ndarray) -> np.ndarray:
    return shown.images.gather(shown.indices[rows])


def _told(judge: TrainedDiscriminator, shown: Shown, rows: np.ndarray) -> Tensor | None:
    """[n] int64: the labels of these rows, for a discriminator that is told them."""
    labels = shown.images.labels
    return None if labels is None or not judge.is_conditional else torch.from_numpy(np.array(labels[shown.indices[rows]], np.int64))
