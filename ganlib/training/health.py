"""How a training fares while it trains, in numbers that any process would measure alike, and the alarms they raise.

The main process measures, on shards that are the same every time, what the networks as they are being trained make of them: through the augmentations
and the presentation of the task, in the precision, the mode and with the batch statistics of training. All that is drawn (latents, augmentations,
dropout) is drawn anew from the same keys, and nothing of the training is advanced.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganlib import alarms, dist
from ganlib.checks import norm
from ganlib.data.stream import BatchStream, Shard
from ganlib.moment import Moment
from ganlib.networks import View
from ganlib.rng import layer_noise
from ganlib.sampling import Prior
from ganlib.tasks import MomentOf, Play
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import is_due
from ganlib.training.journal import Journal
from ganlib.training.state import TrainState
from ganlib.training.step import AlarmError

IMAGES = 256  # of each kind, in as many shards as hold them, so that batch statistics are those of training
MOST_SHARDS = 16


class HealthHook:
    """A line of health before the first step, every `train.health_interval_images` and at the end, on every process alike; raises its alarms.

    The columns are told in docs/undisturbed.md; weights are those of layers, without biases and gains.

    Args:
        play: the task as it is now; of one without a discriminator there are no logits, and no alarms about them.
        train: the stream of training images; its order is another one than the training's, so it may be the training's own.
        held_out: images that are not trained on; None: there are none.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        play: Callable[[], Play],
        train: BatchStream,
        held_out: BatchStream | None,
        journal: Journal,
    ) -> None:
        self.config = config
        self.play = play
        self.train = train
        self.held_out = held_out
        self.journal = journal
        self._before: dict[str, list[Tensor]] = {}  # the weights before the step that will be measured
        self._clock = (time.monotonic(), 0)

    def restart_clock(self, images_seen: int) -> None:
        self._clock = (time.monotonic(), images_seen)

    def before_step(self, state: TrainState) -> None:
        """Keep the weights where the step that begins will be measured."""
        after = state.images_seen + state.images_per_step
        interval = self.config.health_interval_images
        if not interval or not dist.is_main():
            return
        if after // interval > state.images_seen // interval or after >= self.config.total_images:
            self._before = {name: [p.detach().clone() for p in state.networks.trainable(name)] for name in state.networks}

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        """All processes must call it together.

        Raises:
            AlarmError: an alarm that stops the training or rolls it back; everything is told before.
        """
        interval = self.config.health_interval_images
        if interval and (is_last or is_due(interval, state)):
            self._look(state, is_end=not is_due(interval, state))

    def begin(self, state: TrainState) -> None:
        """The measurement that others are compared with, before the first step. All processes must call it together."""
        if not self.config.health_interval_images:
            return
        if self.play().moment is None:
            silent = ", ".join(alarms.of_logits(self.config.alarms))
            text = f"the task has no discriminator: its health has no logits, and these alarms are never raised: {silent}"
            self.journal.event("left out", text, images_seen=state.images_seen)
        if state.images_seen == 0 and not state.health:
            self._look(state)

    def _look(self, state: TrainState, *, is_end: bool = False) -> None:
        values = dist.from_main(self.measure(state) if dist.is_main() else {})
        now, (then, images_then) = time.monotonic(), self._clock
        self.restart_clock(state.images_seen)
        line = {
            "step": state.step,
            "images_seen": state.images_seen,
            "values": values,
            "time": time.time(),
            "images_per_second": (state.images_seen - images_then) / max(now - then, 1e-9),
            "memory_bytes": memory_bytes(state.networks.device),
            **({"is_end": True} if is_end else {}),  # none is due: a training that goes on from here has not measured it
        }
        state.health.append(line)
        found = alarms.raised(self.config.alarms, state.health, on_divergence=self.config.on_divergence, averaged=state.averaged)
        state.alarms += [each.record() for each in found]
        self.journal.health({**line, "alarms": [f"{each['name']} ({each['images_seen']:,} images)" for each in state.alarms]})
        for each in found:
            self.journal.event("alarm", each.in_words(), alarm=each.record(), images_seen=state.images_seen)
        acting = next((each for each in found if each.action != "warn"), None)
        if acting is not None:
            raise AlarmError(acting.in_words(), acting.action)

    @torch.no_grad()
    def measure(self, state: TrainState) -> dict[str, float]:
        """The numbers of this moment, by column; on the main process alone. Those that are not finite are left out."""
        play, nets = self.play(), View(state.networks, trains="")
        shards = [self.train.fixed("health", index) for index in range(self._count(self.train))]
        others = [self.held_out.fixed("health", index) for index in range(self._count(self.held_out))] if self.held_out is not None else []

        if play.moment is not None:
            values = self._judged(play.moment, nets, shards, others, state)
        else:
            values = self._sampled(play, nets, shards)
        values = {
            **values,
            **{f"gradient_norm_{name}": value for name, value in state.gradient_norms.items()},
        }
        for name, before in self._before.items():
            now = state.networks.trainable(name)
            values[f"update_norm_{name}"] = norm(p.detach() - b for p, b in zip(now, before, strict=True)) / max(norm(before), 1e-30)
        self._before = {}
        earlier, growth = state.health[-1]["values"] if state.health else {}, []
        for name in state.networks:
            key = f"weight_norm_{name}"
            values[key] = norm(p.detach() for p in state.networks[name].parameters() if p.ndim > 1)
            growth += [values[key] / earlier[key]] if earlier.get(key) else []
        return finite(values | ({"weight_growth": max(growth)} if growth else {}))

    def _judged(
        self, moment_of: MomentOf, nets: View, shards: Sequence[Shard], others: Sequence[Shard], state: TrainState
    ) -> dict[str, float]:
        """What the discriminator makes of training, held-out and generated images, and how these differ from each other."""
        real, held_out, fake, real_images, fake_images = [], [], [], [], []

        def look(shard: Shard) -> Moment:
            return moment_of(nets, shard, state.scalars.shard(0))

        for shard in shards:
            with layer_noise(shard.rng("layers")):
                moment = look(shard)
                real_images.append(moment.real)
                fake_images.append(moment.fake)
                real.append(moment.judge(moment.real, moment.labels).logits)
                fake.append(moment.judge(moment.fake, moment.fake_labels).logits)
        for shard in others:
            with layer_noise(shard.rng("layers")):
                moment = look(shard)
                held_out.append(moment.judge(moment.real, moment.labels).logits)
        return {
            **logit_numbers(joined(real), joined(held_out) if held_out else None, joined(fake)),
            "diversity": diversity(joined(fake_images), joined(real_images)),
        }

    def _sampled(self, play: Play, nets: View, shards: Sequence[Shard]) -> dict[str, float]:
        """How the images that are drawn differ from each other, where nobody judges them."""
        product = play.products[0]
        real_images, fake_images = [], []
        for shard in shards:
            with layer_noise(shard.rng("layers")):
                real_images.append(shard.real)
                inputs = shard.inputs() if isinstance(product.feed, Prior) else product.feed.inputs(shard.real, shard.rng("transform"))
                fake_images.append(nets.part(product.of(nets.bare(product.network)), *inputs))
        return {"diversity": diversity(joined(fake_images), joined(real_images))}

    @staticmethod
    def _count(stream: BatchStream) -> int:
        """Shards of `IMAGES` images, no more than there are."""
        return min(MOST_SHARDS, max(1, min(IMAGES, len(stream.images)) // stream.shard_images))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """[N, ...] float64 on the CPU."""
    return torch.cat([part.detach().cpu().double() for part in parts])


def logit_numbers(real: Tensor, held_out: Tensor | None, fake: Tensor) -> dict[str, float]:
    """What D makes of real, held-out and generated images, each [N] logits.

    discriminator_accuracy: the share of pairs of a real and a generated image that it ranks rightly, ties as half: the area under the ROC curve. It
    means the same for every loss, also for those whose logits have no zero. separation: mean on training images minus mean on generated ones, in
    standard deviations (Cohen's d); it still grows where the accuracy is 1. overfitting_gap: likewise of training images and held-out ones.
    """
    pairs = real[:, None] - fake[None, :]
    numbers = {
        "real_logits": float(real.mean()),
        "fake_logits": float(fake.mean()),
        "largest_logit": float(torch.cat([real, fake] if held_out is None else [real, held_out, fake]).abs().max()),
        "separation": float((real.mean() - fake.mean()) / spread(real, fake)),
        "discriminator_accuracy": float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()),
    }
    if held_out is not None:
        numbers |= {
            "held_out_logits": float(held_out.mean()),
            "overfitting_gap": float((real.mean() - held_out.mean()) / spread(real, held_out)),
        }
    return numbers


def spread(one: Tensor, two: Tensor) -> Tensor:
    """The standard deviation within two groups; never 0."""
    return ((variance(one) + variance(two)) / 2).sqrt().clamp(min=1e-12)


def diversity(fake: Tensor, real: Tensor) -> float:
    """Mean distance in pixels from an image [N, C, H, W] to the nearest other one, of generated images over that of as many real ones.

    0 where all are one image, and where they are a few again and again, which a variance would not see; about 1 of images like the real ones.
    """
    return nearest_distance(fake) / max(nearest_distance(real), 1e-30)


def nearest_distance(images: Tensor) -> float:
    """Of each image to its nearest other one, the mean; 0 of a single one."""
    if len(images) < 2:
        return 0.0
    x = images.flatten(1)
    x = x - x.mean(0)  # nearer to 0 the squares lose fewer digits
    distances = torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(float("inf"))
    return float(distances.amin(1).mean())


def variance(values: Tensor) -> Tensor:
    """Over the first dimension; 0 of a single one."""
    return values.var(0, unbiased=True) if len(values) > 1 else torch.zeros_like(values[0])


def finite(values: dict[str, float]) -> dict[str, float]:
    """Without what is not finite; the largest logit is then the largest number there is, so that its alarm is raised."""
    kept = {name: value for name, value in values.items() if abs(value) <= sys.float_info.max}
    return kept if len(kept) == len(values) else kept | {"largest_logit": sys.float_info.max}


def memory_bytes(device: torch.device) -> int:
    """The most this process had so far: of the GPU's memory where it trains on one, else resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux, bytes on macOS
    return peak if sys.platform == "darwin" else peak * 1024
