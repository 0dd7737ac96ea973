"""What happens between steps: log lines, sample grids, checkpoints. Each hook decides by images whether it is due."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from ganlib import dist, sampling
from ganlib.checks import require_finite
from ganlib.config import ModelConfig, TrainConfig
from ganlib.models.layers.norm import calibrate
from ganlib.pictures import save_grid
from ganlib.rng import generator
from ganlib.tracker import Tracker
from ganlib.training.state import BundleStore, TrainState

CALIBRATION_BATCHES = 50  # shards of generated images behind batch-norm statistics


class Hook(Protocol):
    """Called by every process after every step, and once at the end with `is_last`."""

    def __call__(self, state: TrainState, *, is_last: bool) -> None: ...


def is_due(interval_images: int, state: TrainState) -> bool:
    """Whether the step that just ended crossed a multiple of `interval_images`."""
    return state.images_seen // interval_images > (state.images_seen - state.images_per_step) // interval_images


class LogHook:
    """Losses to the history, the live file and the tracker; the clock beside them, never in them.

    A line is `{"step", "images_seen", "scalars": {...}, "time", "images_per_second"}`: the last two are the clock.
    """

    def __init__(self, config: TrainConfig, *, folder: Path, tracker: Tracker, history: list[dict[str, Any]]) -> None:
        self.config = config
        self.history = history
        self.tracker = tracker
        self._path = folder / "history.jsonl"
        self._last = (time.monotonic(), history[-1]["images_seen"] if history else 0)
        if dist.is_main():
            temporary = self._path.with_suffix(".tmp")  # lines after the checkpoint we resume from are computed again
            temporary.write_text("".join(json.dumps(line) + "\n" for line in history))
            os.replace(temporary, self._path)

    def restart_clock(self, images_seen: int) -> None:
        self._last = (time.monotonic(), images_seen)

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not (is_last or is_due(self.config.log_interval_images, state)):
            return
        scalars = state.scalars.take()
        if not scalars:  # the last step was logged already
            return
        require_finite(scalars, where=f"losses up to step {state.step} ({state.images_seen:,} images)")
        scalars["lr_factor"] = next(g["lr"] / g["base_lr"] for o in state.optimizers.values() for g in o.param_groups)
        now, (then, images_then) = time.monotonic(), self._last
        self._last = (now, state.images_seen)
        speed = (state.images_seen - images_then) / max(now - then, 1e-9)
        line = {
            "step": state.step,
            "images_seen": state.images_seen,
            "scalars": scalars,
            "time": time.time(),
            "images_per_second": speed,
        }
        self.history.append(line)
        if dist.is_main():
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.tracker.scalars({**scalars, "images_per_second": speed}, images_seen=state.images_seen)


@torch.no_grad()
def calibrate_generator(network: torch.nn.Module, model: ModelConfig, train: TrainConfig) -> None:
    """Measure batch-norm statistics of a generator on the latents every export of it uses."""
    device = next(network.parameters()).device

    def z(batch: int) -> torch.Tensor:
        return sampling.latents(
            train.shard_images, model.latent_dim, model.latent_distribution, generator(train.seed, "calibration", batch)
        ).to(device)

    calibrate(network, ((z(batch),) for batch in range(CALIBRATION_BATCHES)))


class GridHook:
    """A grid of the averaged generator's images from latents that stay the same, so that pictures over time can be compared."""

    ROWS, COLUMNS = 6, 10

    def __init__(self, model: ModelConfig, config: TrainConfig, *, folder: Path, tracker: Tracker) -> None:
        self.model = model
        self.config = config
        self.folder = folder / "grids"
        self.tracker = tracker
        if dist.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not dist.is_main() or not (is_last or is_due(self.config.grid_interval_images, state)):
            return
        network = state.ema.module
        calibrate_generator(network, self.model, self.config)
        z = sampling.seeded_latents(
            self.config.seed, range(self.ROWS * self.COLUMNS), self.model.latent_dim, self.model.latent_distribution
        )
        images = sampling.generate(network, z, batch_images=self.ROWS * self.COLUMNS)
        path = self.folder / f"images-{state.images_seen:012d}.png"
        save_grid(path, images, columns=self.COLUMNS, description={"images_seen": str(state.images_seen)})
        self.tracker.image("grid", path, images_seen=state.images_seen)


class CheckpointHook:
    """The state bundle at an interval, and at the end."""

    def __init__(self, config: TrainConfig, *, store: BundleStore, history: list[dict[str, Any]]) -> None:
        self.config = config
        self.store = store
        self.history = history

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not (is_last or is_due(self.config.checkpoint_interval_images, state)):
            return
        tensors, numbers = state.snapshot()
        if dist.is_main():
            self.store.save(tensors, numbers, self.history)


class StopHook:
    """Ask, every few steps, whether to stop early; every process agrees before one does."""

    INTERVAL_STEPS = 8  # agreeing costs a message

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.has_stopped = False

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if state.step % self.INTERVAL_STEPS == 0:
            self.has_stopped = dist.any_true(self.should_stop())
