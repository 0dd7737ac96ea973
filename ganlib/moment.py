"""One shard of one update as losses, regularizers and augmentations see it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganlib.augment import Augmentation
from ganlib.data.stream import Shard
from ganlib.models import Judgement, Synthesis
from ganlib.networks import View
from ganlib.sampling import Inputs
from ganlib.scalars import ShardScalars


def drawn(shard: Shard) -> Inputs:
    """What a generator is fed where nothing else is said: latents, and classes."""
    return shard.inputs()


class Moment:
    """Real and generated images of a shard, and what D makes of them. Everything is computed when it is first asked for, and once.

    Args:
        scalars: where `note` goes.
        trains_generator: whether generated images carry a gradient.
        inputs: what the generator is fed of a shard.
        remembered: what is shown in the place of generated images (a history of them).
        augmentations: between every image and D.
        present: changes real images before anything else sees them (progressive growing shows them at the size of its level).
        is_normalized: D's logits are divided by their input gradient (`normalize_gradient`).
    """

    def __init__(
        self,
        nets: View,
        shard: Shard,
        scalars: ShardScalars,
        *,
        trains_generator: bool,
        inputs: Callable[[Shard], Inputs] = drawn,
        remembered: Callable[[Shard, Tensor], Tensor] | None = None,
        augmentations: Sequence[Augmentation] = (),
        present: Callable[[Tensor], Tensor] = lambda images: images,
        is_normalized: bool = False,
    ) -> None:
        self._nets = nets
        self._shard = shard
        self._scalars = scalars
        self._trains_generator = trains_generator
        self._feed = inputs
        self._remembered = remembered
        self._augmentations = augmentations
        self._present = present
        self._is_normalized = is_normalized
        self._calls = 0
        self._call_of: dict[str, int] = {}  # "real" or "fake" -> the number of the call whose draws its augmentations had

    def rng(self, purpose: str) -> torch.Generator:
        """A generator for one purpose in this shard alone."""
        return self._shard.rng(purpose)

    def note(self, name: str, values: Tensor) -> None:
        """Note the mean of `values` [n] for the log, and for whatever watches that name (`ganlib.steering`)."""
        self._scalars.add(name, values)

    @property
    def count(self) -> int:
        """Images in the shard, n."""
        return self._shard.count

    @cached_property
    def real(self) -> Tensor:
        """[n, C, H, W] in [-1, 1]."""
        return self._present(self._shard.real)

    @property
    def labels(self) -> Tensor | None:
        """[n] int64 of the real images; None where the networks know no classes."""
        return self._shard.labels if self._inputs.labels is not None else None

    @cached_property
    def _inputs(self) -> Inputs:
        return self._feed(self._shard)

    @property
    def fake_labels(self) -> Tensor | None:
        """[n] int64 that the generated images were asked for; None where the networks know no classes."""
        return self._inputs.labels

    @cached_property
    def fake(self) -> Tensor:
        """[n, C, H, W] generated images."""
        with torch.set_grad_enabled(self._trains_generator):
            images: Tensor = self._nets("generator", *self._inputs)
        return images if self._remembered is None else self._remembered(self._shard, images)

    @cached_property
    def real_judgement(self) -> Judgement:
        """D at the real images; without a gradient where the generator is trained, which has no part in it."""
        self._call_of["real"] = self._calls
        with torch.set_grad_enabled(not self._trains_generator):
            return self.judge(self.real, self.labels)

    @cached_property
    def fake_judgement(self) -> Judgement:
        """D at the generated images: a call of its own, so that batch statistics never mix the two."""
        self._call_of["fake"] = self._calls
        return self.judge(self.fake, self.fake_labels)

    def judge(self, images: Tensor, labels: Tensor | None, *, is_precise: bool = False, call: int | None = None) -> Judgement:
        """D at augmented images, with the labels it is told; under autocast unless `is_precise`.

        Args:
            call: augmented by the draws of an earlier call; None: by draws of its own.
        """
        if self._is_normalized:
            return normalize_gradient(lambda x: self._judge(x, labels, is_precise=True, call=call), images)
        return self._judge(images, labels, is_precise=is_precise, call=call)

    def _judge(self, images: Tensor, labels: Tensor | None, *, is_precise: bool, call: int | None) -> Judgement:
        if call is None:
            call, self._calls = self._calls, self._calls + 1
        for index, augmentation in enumerate(self._augmentations):
            images = augmentation(images, self.rng(f"augment {index} of call {call}"))
        judgement: Judgement = self._nets("discriminator", images, labels, full=True, is_precise=is_precise)
        return judgement

    def critic(self, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
        """D as images [n, C, H, W] -> logits [n], in float32, for terms that differentiate with respect to the images."""
        return lambda images: self.judge(images, labels, is_precise=True).logits

    def change(self, of: Literal["real", "fake"], step: Tensor) -> Tensor:
        """[n] D(x + step) - D(x) at real or generated images x, [n, C, H, W], in float32 and under the augmentations' draws of D(x).

        One more call of D. Two where it is called under autocast: the rounding of bfloat16 would be most of a small difference.
        """
        images, labels = (self.real, self.labels) if of == "real" else (self.fake, self.fake_labels)
        judgement = self.real_judgement if of == "real" else self.fake_judgement
        call = self._call_of[of]
        if self._nets.is_bf16 and not self._is_normalized:  # which is in float32 already
            judgement = self.judge(images, labels, is_precise=True, call=call)
        return self.judge(images + step, labels, is_precise=True, call=call).logits - judgement.logits

    def synthesise(self, count: int | None = None) -> Synthesis:
        """Images and the styles they were made from, in float32, of latents of their own; at most `count` of them."""
        inputs = self._shard.inputs("styles").split(count or self._shard.count)[0]
        synthesis: Synthesis = self._nets("generator", *inputs, full=True, is_precise=True)
        return synthesis

    def seen(self, by: nn.Module, images: Tensor) -> Any:
        """What a module of a term's own, which is not trained, makes of images; under autocast as the networks."""
        return self._nets.part(by, images)

    def network(self, name: str) -> nn.Module:
        """The bare network, for terms that look at its weights."""
        return self._nets.bare(name)


def normalize_gradient(judge: Callable[[Tensor], Judgement], images: Tensor) -> Judgement:
    """f / (|df/dx| + |f|): a discriminator with a Lipschitz constant of 1 (GN-GAN, arXiv:2109.02235, eq. 10)."""
    with torch.enable_grad():
        if not images.requires_grad:
            images = images.detach().requires_grad_(True)
        judgement = judge(images)
        (gradient,) = torch.autograd.grad(judgement.logits.sum(), images, create_graph=True)
        norm = (gradient.square().sum((1, 2, 3)) + 1e-12).sqrt()
        logits = judgement.logits / (norm + judgement.logits.abs())
    return Judgement(logits=logits, features=judgement.features, class_logits=judgement.class_logits)  # of an image, not of its patches
