"""What happens between steps: log lines, sample grids, checkpoints, agreeing to stop. Each hook decides by images whether it is due."""

import copy
import time
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from ganlib import dist, modalities, sampling
from ganlib.checks import require_finite
from ganlib.data.arrow import ArrowImages
from ganlib.models.layers.norm import calibrate
from ganlib.pictures import in_turn
from ganlib.products import Rows, Source, beside
from ganlib.rng import keyed_rng
from ganlib.sampling import Inputs, Prior
from ganlib.sliced_wasserstein import sliced_wasserstein
from ganlib.tasks import Play
from ganlib.train_settings import TrainConfig
from ganlib.training.journal import Background, Journal
from ganlib.training.state import BundleStore, TrainState

CALIBRATION_BATCHES = 50  # shards of generated images behind batch-norm statistics


class Hook(Protocol):
    """Called by every process after every step, with `is_last` after the last one."""

    def __call__(self, state: TrainState, *, is_last: bool) -> None: ...


def is_due(interval_images: int, state: TrainState) -> bool:
    """Whether the step that just ended crossed a multiple of `interval_images`."""
    return state.images_seen // interval_images > (state.images_seen - state.images_per_step) // interval_images


class LogHook:
    """Losses to the history, every `train.history_interval_images`; the clock beside them, never in them.

    A line is `{"step", "images_seen", "scalars": {...}, "time", "images_per_second"}`: the last two are the clock.
    """

    def __init__(self, config: TrainConfig, *, journal: Journal) -> None:
        self.config = config
        self.journal = journal
        self._last = (time.monotonic(), 0)

    def restart_clock(self, images_seen: int) -> None:
        self._last = (time.monotonic(), images_seen)

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not (is_last or is_due(self.config.history_interval_images, state)):
            return
        scalars = state.scalars.take()
        if not scalars:  # the last step was logged already
            return
        require_finite(scalars, where=f"losses up to step {state.step} ({state.images_seen:,} images)")
        scalars |= {f"{part}_{name}": value for part, numbers in state.steering.numbers().items() for name, value in numbers.items()}
        scalars |= state.scheduled
        factors = [g["lr"] / g["base_lr"] for o in state.optimizers.values() for g in o.param_groups if g["base_lr"]]  # all the same
        scalars |= {"lr_factor": factors[0]} if factors else {}  # none: schedules have all of them at 0
        now, (then, images_then) = time.monotonic(), self._last
        self._last = (now, state.images_seen)
        speed = (state.images_seen - images_then) / max(now - then, 1e-9)
        self.journal.line(
            {"step": state.step, "images_seen": state.images_seen, "scalars": scalars, "time": time.time(), "images_per_second": speed}
        )


@torch.no_grad()
def calibrate_generator(network: torch.nn.Module, source: Source, train: TrainConfig) -> None:
    """Measure the evaluation statistics of a generator on the inputs every export of it uses."""
    device = next(network.parameters()).device

    def inputs(batch: int) -> Inputs:
        return source.draw(train.shard_images, keyed_rng(train.seed, "calibration", batch)).to(device)

    calibrate(network, (inputs(batch) for batch in range(CALIBRATION_BATCHES)))


class GridHook:
    """A grid of each product of the average, from latents and images that stay the same, so that pictures over time can be compared.

    Args:
        trained_on: images behind batch-norm statistics, of products that are fed with images.
        looked_at: of which what is made of images is shown: rows of inputs, of what is made of them, and of the images themselves.
    """

    ROWS, COLUMNS = 6, 10

    def __init__(
        self, play: Callable[[], Play], config: TrainConfig, *, trained_on: ArrowImages, looked_at: ArrowImages, journal: Journal
    ) -> None:
        self.play = play
        self.config = config
        self.trained_on = trained_on
        self.looked_at = looked_at
        self.modality = modalities.of(looked_at.made.kind)
        self.journal = journal

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not dist.is_main() or not (is_last or is_due(self.config.grid_interval_images, state)):
            return
        products = self.play().products
        for product in products:
            network, name = product.of(state.ema.module), "images" if product is products[0] else product.name
            calibrate_generator(network, product.source(self.trained_on), self.config)
            if isinstance(product.feed, Prior):
                count = max(self.ROWS * self.COLUMNS, self.modality.least_shown)
                inputs = product.feed.seeded_of_classes(self.config.seed, range(count), columns=self.COLUMNS)
                kind = self.looked_at.made.kind
                images = sampling.generate(network, inputs, batch_images=self.ROWS * self.COLUMNS, modality=kind)
            else:
                shown = range(min(self.ROWS // 2 * self.COLUMNS, len(self.looked_at)))
                rows = Rows(column=product.feed, images=self.looked_at)
                kinds = beside(rows, network, self.config.seed, shown, batch_images=len(shown))
                images = in_turn(*kinds.values(), columns=self.COLUMNS)
            png = self.modality.preview(images, columns=self.COLUMNS, description={"images_seen": str(state.images_seen)})
            self.journal.picture(f"{name}-{state.images_seen:012d}.png", png)


class Score:
    """How near the averaged generator is to the data: steers which checkpoints are kept, and nothing else."""

    IMAGES, BATCH_IMAGES = 512, 64

    def __init__(self, play: Callable[[], Play], train: TrainConfig, images: ArrowImages) -> None:
        self.play = play
        self.train = train
        self.images = images
        self.modality = modalities.of(images.made.kind)

    @cached_property
    def _real(self) -> torch.Tensor:
        count = min(self.IMAGES, len(self.images))
        chosen = torch.randperm(len(self.images), generator=keyed_rng(self.train.seed, "score"))[:count]
        return self.modality.to_tensor(self.images.gather(np.sort(chosen.numpy())))

    def __call__(self, state: TrainState) -> float:
        """Sliced Wasserstein distance to real images; lower is better."""
        product = self.play().products[0]
        network = product.of(
            copy.deepcopy(state.ema.module)
        )  # its batch-norm statistics are measured here, on fewer images than for an export
        key = keyed_rng(self.train.seed, "score latents")
        inputs = product.source(self.images).draw(len(self._real), key).to(next(network.parameters()).device)
        calibrate(network, inputs.split(self.BATCH_IMAGES))
        made = sampling.generate(network, inputs, batch_images=self.BATCH_IMAGES, modality=self.images.made.kind)
        fake = self.modality.to_tensor(made)
        return sliced_wasserstein(self._real, fake, rng=keyed_rng(self.train.seed, "score directions"))


class CheckpointHook:
    """The state bundle at an interval and at the end, copied between two steps and written in the background.

    A write that fails is told and tried again soon, while the training goes on: only the last one must succeed. A write that takes longer than the
    interval makes the next checkpoint later, not the training slower.
    """

    RETRY_SECONDS = 30.0

    def __init__(
        self,
        config: TrainConfig,
        *,
        store: BundleStore,
        journal: Journal,
        background: Background,
        score: Callable[[TrainState], float],
        fence: Callable[[], None],
        while_waiting: Callable[[], None],
    ) -> None:
        self.config = config
        self.store = store
        self.journal = journal
        self.background = background
        self.score = score
        self.fence = fence
        self.while_waiting = while_waiting
        self._is_writing = False
        self._is_late = False  # one was due while another was being written
        self._failed: tuple[float, OSError] | None = None  # when, and why, the newest bundle could not be written

    def is_owed(self) -> bool:
        """Whether a bundle was left out or could not be written, and it is time to try again. Asked on the main process."""
        if self._is_writing:
            return False
        return self._is_late or (self._failed is not None and time.monotonic() - self._failed[0] > self.RETRY_SECONDS)

    def is_boundary(self, state: TrainState) -> bool:
        """Whether a rollback may come back here: at places that depend on no interruption."""
        return self.config.may_roll_back and (state.images_seen == 0 or is_due(self.config.grid_interval_images, state))

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if is_last or is_due(self.config.checkpoint_interval_images, state) or self.is_boundary(state):
            self.save(state, is_needed=is_last or self.is_boundary(state))
        if is_last:
            self.finish()

    def save(self, state: TrainState, *, scored: bool = True, is_needed: bool = False) -> None:
        """Copy the state and hand it to the background. All processes must call it together.

        Args:
            scored: measure its generator too.
            is_needed: wait for an earlier bundle that is still being written; else this one is left for later.
        """
        tensors, numbers = state.snapshot()
        if not dist.is_main():
            return
        self.background.raise_problem()
        self._is_late = self._is_writing and not is_needed
        if self._is_late:
            return
        if is_needed:
            self.background.wait(while_waiting=self.while_waiting)
        numbers |= {"score": self.score(state) if scored else None, "is_boundary": self.is_boundary(state)}
        history = list(self.journal.history)

        def write() -> None:
            try:
                self.fence()
                self.store.save(tensors, numbers, history)
                self._failed = None
            except OSError as problem:
                self._failed = time.monotonic(), problem
                self.journal.event("failed_write", f"{problem}; the training goes on and tries again", images_seen=numbers["images_seen"])
            finally:
                self._is_writing = False

        self._is_writing = True
        self.background.submit(write)

    def finish(self) -> None:
        """Wait for the last bundle; raises what kept it from being written."""
        if dist.is_main():
            self.background.wait(while_waiting=self.while_waiting)
            self.background.raise_problem()
            if self._failed is not None:
                raise self._failed[1]


class AgreeHook:
    """A few times a second all processes agree on what none may do alone: to stop, or to write a checkpoint that failed before."""

    SECONDS = 0.5
    FIRST_STEPS, MOST_STEPS = 8, 64

    def __init__(self, *, should_stop: Callable[[], bool], is_owed: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.is_owed = is_owed
        self.has_stopped = False
        self.owes_checkpoint = False
        self._due: int | None = None
        self._last = (time.monotonic(), 0)

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        self.owes_checkpoint = False
        if self._due is None or state.step < self._last[1]:  # the first step, or the first after a rollback
            self._due, self._last = state.step - 1 + self.FIRST_STEPS, (time.monotonic(), state.step - 1)
        if state.step < self._due:
            return
        now, (then, step_then) = time.monotonic(), self._last
        self._last = (now, state.step)
        pace = int((state.step - step_then) / max(now - then, 1e-6) * self.SECONDS)  # steps until the next time
        stop, owed, pace = dist.maximum([self.should_stop(), dist.is_main() and self.is_owed(), pace])
        self.has_stopped, self.owes_checkpoint = bool(stop), bool(owed)
        self._due = state.step + min(max(pace, 1), self.MOST_STEPS)
