"""The training's view of the data: shards that are a pure function of (seed, counters), so a resume needs no loader state.

Position p of the stream is image `order(p // N)[p % N]` of a split of N images: every epoch is a fresh permutation keyed by its number.
Update r of a step that began at `images_seen` reads positions images_seen + r * batch onward; logical worker v takes the v-th part.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ganlib import modalities
from ganlib.augment import Augmentation
from ganlib.data.arrow import ArrowImages
from ganlib.fields import CLASS
from ganlib.rng import keyed_rng
from ganlib.sampling import Inputs, Prior
from ganlib.train_settings import TrainConfig

UPDATES_AHEAD = 2  # whose real images are brought here meanwhile, where they are not


class Shard:
    """One logical worker's part of one update. Real images are read only when asked for.

    Attributes:
        count: images in it, n.
        logical_worker: its number among `train.logical_workers`.
    """

    def __init__(self, stream: "BatchStream", *, phase: str, step: int, repeat: int, position: int, logical_worker: int) -> None:
        self._stream = stream
        self._phase = phase
        self._counters = (step, repeat, logical_worker)
        self._position = position
        self.logical_worker = logical_worker
        self.count = stream.shard_images

    def rng(self, purpose: str) -> torch.Generator:
        """A generator for one purpose of this shard alone."""
        return keyed_rng(self._stream.seed, f"{self._phase}/{purpose}", *self._counters)

    def inputs(self, purpose: str = "latents") -> Inputs:
        """n inputs of the generator on the training device; labels follow the data's distribution."""
        return self._stream.prior.draw(self.count, self.rng(purpose)).to(self._stream.device)

    @cached_property
    def real(self) -> Tensor:
        """[n, C, H, W] float32 in [-1, 1] on the training device, augmented."""
        images = self._stream.modality.to_tensor(self._stream.images.gather(self._indices))
        for augmentation in self._stream.augmentations:
            images = augmentation(images, self.rng("augment"))
        return images.to(self._stream.device, non_blocking=True)

    @cached_property
    def labels(self) -> Tensor | None:
        """[n] int64, or None for unlabelled data."""
        if self._stream.images.labels is None:
            return None
        return torch.from_numpy(self._stream.images.labels[self._indices]).to(self._stream.device)

    def column(self, name: str) -> Tensor:
        """The rows of another column beside `real`, on the training device: classes [n] int64, all else float32 in [-1, 1].

        Raises:
            ValueError: the data have no such column.
        """
        images = self._stream.images
        values, kind = images.read(name, self._indices), images.field(name).kind
        return (torch.from_numpy(values) if kind == CLASS else modalities.of(kind).to_tensor(values)).to(self._stream.device)

    @cached_property
    def _indices(self) -> np.ndarray:
        return self._stream.order(self._position, self.count)


class BatchStream:
    """Shards of a split for the logical workers of this process.

    Args:
        images: the train split.
        here: the logical workers this process computes.
    """

    def __init__(
        self,
        images: ArrowImages,
        *,
        prior: Prior,
        train: TrainConfig,
        here: range,
        augmentations: Sequence[Augmentation],
        device: torch.device,
    ) -> None:
        self.images = images
        self.modality = modalities.of(images.made.kind)
        self.prior = prior
        self.train = train
        self.seed = train.seed
        self.batch_images = train.batch_images
        self.shard_images = train.shard_images
        self.here = here
        self.augmentations = augmentations
        self.device = device
        self._permutations: dict[int, np.ndarray] = {}
        self._asked = 0  # up to this position rows were asked for ahead

    def of(self, images: ArrowImages) -> "BatchStream":
        """Other images in the same way."""
        return BatchStream(images, prior=self.prior, train=self.train, here=self.here, augmentations=self.augmentations, device=self.device)

    def shards(self, phase: str, *, step: int, repeat: int, images_seen: int) -> list[Shard]:
        """This process's shards of one update, in logical order."""
        start = images_seen + repeat * self.batch_images
        if self.images.is_far:
            self._read_ahead(start + self.batch_images)
        return [
            Shard(self, phase=phase, step=step, repeat=repeat, position=start + v * self.shard_images, logical_worker=v) for v in self.here
        ]

    def _read_ahead(self, start: int) -> None:
        """Ask for the updates that begin at `start` and one later, as whoever takes them will; updates lie side by side in the stream."""
        for position in range(max(start, self._asked), start + UPDATES_AHEAD * self.batch_images, self.batch_images):
            for v in self.here:
                self.images.ahead(self.order(position + v * self.shard_images, self.shard_images))
        self._asked = start + UPDATES_AHEAD * self.batch_images

    def fixed(self, purpose: str, index: int) -> Shard:
        """The index-th of a row of shards that are the same at every time of asking: images, latents and all that is drawn."""
        return Shard(self, phase=purpose, step=0, repeat=0, position=index * self.shard_images, logical_worker=index)

    def order(self, position: int, count: int) -> np.ndarray:
        """Row numbers [count] int64 of stream positions position .. position + count."""
        parts = []
        while count:
            epoch, offset = divmod(position, len(self.images))
            taken = self._permutation(epoch)[offset : offset + count]
            parts.append(taken)
            position, count = position + len(taken), count - len(taken)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            for old in [e for e in self._permutations if e < epoch - 1]:
                del self._permutations[old]
            self._permutations[epoch] = torch.randperm(len(self.images), generator=keyed_rng(self.seed, "order", epoch)).numpy()
        return self._permutations[epoch]
