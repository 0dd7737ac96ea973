"""A whole training from a specification: build, resume, step until the budget is spent. The same under Ray, under torchrun and alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field, model_validator

from ganlib import augment, dist, optim, sampling, tasks
from ganlib.config import Section
from ganlib.data.arrow import ArrowImages
from ganlib.data.stream import BatchStream
from ganlib.ema import Ema
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.networks import Networks
from ganlib.optim import OptimConfig
from ganlib.scalars import Scalars
from ganlib.schedule import first
from ganlib.storage import open_storage
from ganlib.tasks import Play, TaskSettings, check_networks
from ganlib.train_settings import TrainConfig
from ganlib.training import parent as parents
from ganlib.training.candidates import CandidateHook, StopHook
from ganlib.training.health import HealthHook
from ganlib.training.hooks import AgreeHook, CheckpointHook, GridHook, Hook, LogHook, Score
from ganlib.training.journal import Background, Journal
from ganlib.training.parent import Parent
from ganlib.training.state import Bundle, BundleStore, TrainState, health_of
from ganlib.training.step import DivergenceError, follow_schedules, set_learning_rates, train_step
from ganlib.training.watchdog import Watchdog


class TrainingSpec(Section):
    """All that a worker must be told; plain JSON."""

    data: str = Field(description="absolute path of train.arrow")
    held_out: str | None = None  # absolute path of val.arrow, which is only looked at; None: there are no such images
    folder: str = Field(description="absolute path or object-store address of this training's state")
    model: ModelConfig
    task: TaskSettings
    optim: OptimConfig
    train: TrainConfig
    threads: int = Field(1, ge=1, description="compute threads of each process; part of the numerics")
    parent: Parent | None = None  # what another training left for this one

    @model_validator(mode="after")
    def _networks_are_the_tasks(self) -> "TrainingSpec":
        check_networks(self.task, self.model, self.optim)
        return self


class Interrupted(RuntimeError):
    """The training was asked to stop; its state is saved."""


def image_of(images: ArrowImages) -> ImageSpec:
    """What the networks are told of a data set."""
    channels, height, width = images.shape
    return ImageSpec(channels=channels, size=(height, width), class_counts=images.class_counts, modality=images.made.kind)


@dataclass(kw_only=True)
class Running:
    """A training that is set up and can be stepped. `play` is replaced, and `state` changed in place, where a stage of the task ends."""

    spec: TrainingSpec
    image: ImageSpec
    play: Play
    state: TrainState
    batches: BatchStream

    @classmethod
    def start(cls, spec: TrainingSpec) -> "Running":
        """Networks, optimizers and data of `spec`, at step 0 of stage 0.

        Raises:
            ValueError: settings that do not fit the data or the number of processes.
        """
        torch.set_num_threads(spec.threads)
        images = ArrowImages(Path(spec.data))
        image = image_of(images)
        play = _play(spec, image, stage=0)
        state = TrainState(
            networks=play.networks,
            ema=Ema(play.networks[play.averaged], halflife_images=first(spec.train.ema_halflife_images)),
            averaged=play.averaged,
            pools=play.pools,
            optimizers=play.optimizers,
            scalars=Scalars(logical_workers=spec.train.logical_workers, watched=play.steering.watched),
            steering=play.steering,
            images_per_step=play.batches_per_step * spec.train.batch_images,
        )
        batches = BatchStream(
            images,
            prior=sampling.Prior.of(spec.model, image),
            train=spec.train,
            here=dist.logical_workers_here(spec.train.logical_workers),
            augmentations=augment.build(spec.train.augment),
            device=play.networks.device,
        )
        return cls(spec=spec, image=image, play=play, state=state, batches=batches)

    def restore(self, bundle: Bundle) -> None:
        """Continue where the bundle was taken: one of this training, or its `origin`."""
        if bundle.numbers["stage"] != self.state.stage:
            self._enter(bundle.numbers["stage"])
        if self.spec.parent is not None and bundle.folder == self.spec.parent.folder:
            parents.go_on(self.state, bundle)
        else:
            self.state.restore(bundle.tensors, bundle.numbers)

    def held_out(self) -> BatchStream | None:
        """The held-out images, cut and drawn as those that are trained on; None where there are none."""
        if self.spec.held_out is None:
            return None
        images = ArrowImages(Path(self.spec.held_out))
        return self.batches.of(images) if len(images) else None

    def looked_at(self) -> ArrowImages:
        """Images to show beside what is made of them: held-out ones, where there are any."""
        held_out = self.held_out()
        return self.batches.images if held_out is None else held_out.images

    def step(self, before: Callable[[TrainState], None] = lambda state: None) -> None:
        """The next stage where it is time, the schedules, then one iteration.

        Args:
            before: shown the state right before the iteration.
        """
        if self.play.ends_at_images is not None and self.state.images_seen >= self.play.ends_at_images:
            left = self.state.networks, self.state.ema, self.state.steering.numbers()
            self._enter(self.state.stage + 1)
            self._inherit(*left)
        self.play.before_step(self.state.images_seen)
        follow_schedules(self.state, self._plans, self.spec.train)
        set_learning_rates(self.state, self.spec.optim, self.spec.train)
        before(self.state)
        train_step(self.state, self.batches, self.play.phases)

    @cached_property
    def _plans(self) -> dict[str, optim.Plan]:
        return {name: optim.plan(self.spec.optim[name], key=f"optim.{name}") for name in self.state.optimizers}

    def _enter(self, stage: int) -> None:
        """Fresh networks, wrappers, optimizers and phases of a stage."""
        state, self.play = self.state, _play(self.spec, self.image, stage=stage)
        state.networks, state.optimizers, state.steering = self.play.networks, self.play.optimizers, self.play.steering
        state.ema = Ema(state.networks[self.play.averaged], halflife_images=first(self.spec.train.ema_halflife_images))
        state.images_per_step = self.play.batches_per_step * self.spec.train.batch_images
        state.averaged, state.stage, state.pools = self.play.averaged, stage, self.play.pools

    def _inherit(self, networks: Networks, ema: Ema, steering: dict[str, dict[str, float]]) -> None:
        """What the stage before has learnt, by the names of its weights; optimizers start anew."""
        for name in networks:
            self.state.networks[name].load_state_dict(networks[name].state_dict(), strict=False)
        self.state.ema.module.load_state_dict(self.state.networks[self.play.averaged].state_dict())
        self.state.ema.module.load_state_dict(ema.module.state_dict(), strict=False)
        self.state.steering.load(steering)


def _play(spec: TrainingSpec, image: ImageSpec, *, stage: int) -> Play:
    return tasks.of(spec.task).build(model=spec.model, task=spec.task, optim=spec.optim, train=spec.train, image=image, stage=stage)


def train(
    spec: TrainingSpec,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    fence: Callable[[], None] = lambda: None,
    hang_timeout_seconds: float | None = None,
    is_judged: bool = False,
) -> TrainState:
    """Train from the newest checkpoint at `spec.folder`, or from its parent, or from the start, until `train.total_images` or `train.stop`.

    Args:
        should_stop: asked a few times a second on every process; when one says yes, all save and stop.
        fence: called by the main process before it writes a checkpoint; raises where another attempt owns the state.
        hang_timeout_seconds: the process ends itself when no step does for so long; None: never.
        is_judged: somebody gives the verdicts that `train.stop` waits for.

    Returns:
        the final state; its bundle is written.

    Raises:
        DivergenceError: a loss or gradient stopped being finite, or an alarm says to stop (AlarmError), and no rollback is left.
        Interrupted: `should_stop` said so; the bundle of the last finished step is written.
        ValueError: settings that do not fit the data, or every checkpoint damaged.
        OSError: the last checkpoint cannot be written.
    """
    if spec.train.stop is not None and not is_judged:
        raise ValueError(
            "train.stop waits for verdicts on candidates, which the train stage gives and nobody here does; set train.stop: null"
        )
    running = Running.start(spec)
    state = running.state
    storage = open_storage(spec.folder)
    store = BundleStore(storage, keep=spec.train.keep_checkpoints, keep_best=spec.train.keep_best)
    background = Background()
    journal = Journal(storage, background)
    bundle, problems = store.newest()
    is_new = bundle is None
    bundle = bundle or parents.origin(storage, spec.parent)
    computed_again = journal.restart(*((bundle.history, health_of(bundle.numbers)) if bundle is not None else ([],)))
    dist.barrier()  # nobody writes before everybody has read
    for problem in problems:
        journal.event("refused", f"checkpoint refused, the one before is used: {problem}", images_seen=0)
    if bundle is not None:
        running.restore(bundle)
    elif spec.parent is not None:
        parents.start(state, parents.read_weights(storage, spec.parent.folder))
    images = f"{state.images_seen:,} of {spec.train.total_images:,} images done"
    if computed_again or (state.images_seen and not is_new):
        where = bundle.folder.rpartition("/")[2] if bundle is not None and not is_new else "the start"
        journal.event("resumed", f"resumed from {where}, {images}", images_seen=state.images_seen, computed_again=computed_again)
    else:
        text = f"started on {dist.world_size()} processes, {spec.threads} threads each"
        if spec.parent is not None:
            text += f", going on from another training, {images}" if spec.parent.kind == "continue" else ", from trained weights"
        journal.event("start", text, images_seen=state.images_seen)

    def tell_hang() -> None:
        journal.event("hang", "a process did nothing for too long and ended itself", images_seen=state.images_seen)
        background.wait()

    watchdog = Watchdog(hang_timeout_seconds, on_hang=tell_hang)
    log = LogHook(spec.train, journal=journal)
    candidates = CandidateHook(spec.train, play=lambda: running.play, storage=storage, journal=journal, background=background, fence=fence)

    def may_save() -> None:
        fence()
        candidates.bring()

    checkpoint = CheckpointHook(
        spec.train,
        store=store,
        journal=journal,
        background=background,
        score=Score(lambda: running.play, spec.train, running.batches.images),
        fence=may_save,
        while_waiting=watchdog.beat,
    )
    agree = AgreeHook(should_stop=should_stop, is_owed=checkpoint.is_owed)
    health = HealthHook(
        spec.train,
        play=lambda: running.play,
        train=running.batches.of(running.batches.images),
        held_out=running.held_out(),
        journal=journal,
    )
    stop = StopHook(spec.train, candidates=candidates, background=background, should_stop=should_stop, while_waiting=watchdog.beat)
    grids = GridHook(lambda: running.play, spec.train, trained_on=running.batches.images, looked_at=running.looked_at(), journal=journal)
    hooks: list[Hook] = [log, grids, checkpoint, agree]
    for clocked in (log, health):
        clocked.restart_clock(state.images_seen)
    try:
        health.begin(state)
        if state.images_seen == 0 and checkpoint.is_boundary(state):
            checkpoint.save(state, scored=False, is_needed=True)
        # a training that was interrupted while it waited for a verdict asks again, before it makes another step
        is_asking = bundle is not None and not is_new and spec.train.stop is not None and candidates.is_made(state)
        while not state.is_over and state.images_seen < spec.train.total_images:
            is_last = False
            if not is_asking:
                try:
                    running.step(before=health.before_step)
                    watchdog.beat()
                    is_last = state.images_seen >= spec.train.total_images
                    health(state, is_last=is_last)
                except DivergenceError as divergence:
                    _roll_back(divergence, running=running, checkpoint=checkpoint, journal=journal)
                    for clocked in (log, health):
                        clocked.restart_clock(state.images_seen)
                    continue
                candidates(state, is_last=is_last)
            is_asking = False
            state.is_over = not is_last and stop(state)
            is_last = is_last or state.is_over
            if not stop.was_interrupted:
                for hook in hooks:
                    hook(state, is_last=is_last)
            watchdog.beat()
            if (agree.has_stopped or stop.was_interrupted) and not is_last:
                checkpoint.save(state, scored=False, is_needed=True)
                checkpoint.finish()
                text = f"saved and stopped after {state.images_seen:,} images"
                journal.event("interrupted", text, images_seen=state.images_seen)
                raise Interrupted(text)
            if agree.owes_checkpoint:
                checkpoint.save(state)
        why = ", no nearer to the validation images for too long (train.stop)" if state.is_over else ""
        journal.event("finished", f"finished: {images_done(state)}{why}", images_seen=state.images_seen)
        journal.flush()
        dist.barrier()
        return state
    finally:
        watchdog.close()
        background.close()


def images_done(state: TrainState) -> str:
    return f"{state.images_seen:,} images, step {state.step}"


def _roll_back(divergence: DivergenceError, *, running: Running, checkpoint: CheckpointHook, journal: Journal) -> None:
    """Back to the newest boundary with lower learning rates, or raise `divergence`. Every process is here at the same step.

    Boundaries are multiples of `grid_interval_images`, so where a training goes back to depends on no interruption and no checkpoint interval.
    """
    state, config = running.state, running.spec.train
    if (divergence.action or config.on_divergence) != "rollback":
        raise divergence
    if len(state.rollbacks) >= config.max_rollbacks:
        raise DivergenceError(f"{divergence}. {len(state.rollbacks)} rollbacks did not help (train.max_rollbacks)") from divergence
    checkpoint.finish()
    dist.barrier()
    bundle, _ = checkpoint.store.newest(boundary=True)
    bundle = bundle or parents.origin(checkpoint.store.storage, running.spec.parent)
    if bundle is None:
        raise DivergenceError(f"{divergence}. No checkpoint to go back to could be read") from divergence
    record = {"from_images": state.images_seen, "to_images": bundle.images_seen, "reason": str(divergence)}
    rollbacks, alarms = [*state.rollbacks, record], state.alarms
    journal.restart(bundle.history, health_of(bundle.numbers))
    dist.barrier()  # everybody has read
    running.restore(bundle)
    state.rollbacks, state.alarms = rollbacks, alarms
    text = (
        f"{divergence}. Rolled back to {bundle.images_seen:,} images, learning rates times {config.rollback_lr_factor ** len(rollbacks):g} "
        f"(rollback {len(rollbacks)} of {config.max_rollbacks})"
    )
    journal.event("rollback", text, images_seen=state.images_seen, rollback=len(rollbacks))
    if dist.is_main():
        checkpoint.store.drop_after(state.step)
    checkpoint.save(state, scored=False, is_needed=True)
    checkpoint.finish()
