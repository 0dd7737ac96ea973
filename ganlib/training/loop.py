"""A whole training from a specification: build, resume, step until the budget is spent. The same under Ray, under torchrun and alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field

from ganlib import augment, dist
from ganlib.config import ModelConfig, OptimConfig, Section, TaskConfig, TrainConfig
from ganlib.data.arrow import ArrowImages
from ganlib.data.stream import BatchStream
from ganlib.ema import Ema
from ganlib.models import ImageSpec
from ganlib.scalars import Scalars
from ganlib.tasks import TASKS, Play
from ganlib.tracker import NullTracker, Tracker
from ganlib.training.hooks import CheckpointHook, GridHook, Hook, LogHook, StopHook
from ganlib.training.state import BundleStore, TrainState
from ganlib.training.step import set_learning_rates, train_step


class TrainingSpec(Section):
    """All that a worker must be told; plain JSON."""

    data: str = Field(description="absolute path of train.arrow")
    folder: str = Field(description="absolute path of this training's state")
    model: ModelConfig
    task: TaskConfig
    optim: OptimConfig
    train: TrainConfig
    threads: int = Field(1, ge=1, description="compute threads of each process; part of the numerics")


class Interrupted(RuntimeError):
    """The training was asked to stop; its state is saved."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A training that is set up and can be stepped."""

    spec: TrainingSpec
    play: Play
    state: TrainState
    batches: BatchStream

    @classmethod
    def start(cls, spec: TrainingSpec) -> "Running":
        """Networks, optimizers and data of `spec`, at step 0.

        Raises:
            ValueError: settings that do not fit the data or the number of processes.
        """
        torch.set_num_threads(spec.threads)
        images = ArrowImages(Path(spec.data))
        channels, height, width = images.shape
        task = TASKS.get(spec.task.name, key="task.name")()
        image = ImageSpec(channels=channels, size=(height, width))
        play: Play = task.build(model=spec.model, task=spec.task, optim=spec.optim, train=spec.train, image=image)
        state = TrainState(
            networks=play.networks,
            ema=Ema(play.networks[play.sampled], halflife_images=spec.train.ema_halflife_images),
            optimizers=play.optimizers,
            scalars=Scalars(logical_workers=spec.train.logical_workers),
            images_per_step=play.batches_per_step * spec.train.batch_images,
        )
        batches = BatchStream(
            images,
            model=spec.model,
            train=spec.train,
            here=dist.logical_workers_here(spec.train.logical_workers),
            augmentations=augment.build(spec.train.augment),
            device=play.networks.device,
        )
        return cls(spec=spec, play=play, state=state, batches=batches)

    def step(self) -> None:
        """The schedule, then one iteration."""
        set_learning_rates(self.state, self.spec.optim, self.spec.train)
        train_step(self.state, self.batches, self.play.phases)


def train(spec: TrainingSpec, *, tracker: Tracker | None = None, should_stop: Callable[[], bool] = lambda: False) -> TrainState:
    """Train from the newest checkpoint below `spec.folder`, or from the start, until `train.total_images`.

    Returns:
        the final state; its bundle is on disk.

    Raises:
        DivergenceError: a gradient stopped being finite.
        Interrupted: `should_stop` said so; the bundle of the last finished step is on disk.
        ValueError: settings that do not fit the data, or every checkpoint damaged.
    """
    tracker = tracker or NullTracker()
    running = Running.start(spec)
    state = running.state
    store = BundleStore(Path(spec.folder) / "checkpoints", keep=spec.train.keep_checkpoints)
    bundle, problems = store.newest()
    dist.barrier()  # nobody writes before everybody has read
    for problem in problems:
        tracker.event(f"checkpoint refused, the one before is used: {problem}")
    if bundle is not None:
        state.restore(bundle.tensors, bundle.numbers)
        tracker.event(f"resumed from {bundle.folder.name}, {state.images_seen:,} of {spec.train.total_images:,} images done")
    history = bundle.history if bundle is not None else []
    log = LogHook(spec.train, folder=Path(spec.folder), tracker=tracker, history=history)
    checkpoint = CheckpointHook(spec.train, store=store, history=history)
    stop = StopHook(should_stop)
    hooks: list[Hook] = [log, GridHook(spec.model, spec.train, folder=Path(spec.folder), tracker=tracker), checkpoint, stop]
    log.restart_clock(state.images_seen)
    while state.images_seen < spec.train.total_images:
        running.step()
        is_last = state.images_seen >= spec.train.total_images
        for hook in hooks:
            hook(state, is_last=is_last)
        if stop.has_stopped and not is_last:
            checkpoint(state, is_last=True)
            raise Interrupted(f"stopped after {state.images_seen:,} images; run the same command again to continue")
    dist.barrier()
    return state
