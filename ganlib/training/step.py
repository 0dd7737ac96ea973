"""The step: the algorithm box of every task."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ganlib import optim, rng
from ganlib.alarms import Action
from ganlib.checks import norm
from ganlib.data.stream import BatchStream
from ganlib.optim import OptimConfig, Plan
from ganlib.schedule import Schedule
from ganlib.tasks import Phase
from ganlib.train_settings import TrainConfig
from ganlib.training.state import TrainState


class DivergenceError(RuntimeError):
    """A loss or gradient stopped being finite; nothing was updated with it.

    Attributes:
        action: stop or rollback; None: what train.on_divergence says.
    """

    action: Action | None = None


class AlarmError(DivergenceError):
    """An alarm of the training's health that does not only warn; the text is all that a person needs.

    Args:
        action: has a default because exceptions travel between processes as their text, with their attributes set afterwards.
    """

    def __init__(self, text: str, action: Action = "stop") -> None:
        super().__init__(text)
        self.action = action


def train_step(state: TrainState, batches: BatchStream, phases: Sequence[Phase]) -> None:
    """One iteration: each phase that is due, in order; then the moving average of the generator."""
    for phase in (p for p in phases if state.step % p.interval_steps == 0):
        replica = state.networks.replica(phase.trains)
        with state.networks.training(phase.trains) as nets:
            for repeat in range(phase.repeats):  # n_critic
                replica.start()
                state.networks.before_update()
                shards = batches.shards(phase.name, step=state.step, repeat=repeat, images_seen=state.images_seen)
                for index, shard in enumerate(shards):  # this worker's logical workers
                    with replica.synchronised(is_last_shard=index == len(shards) - 1), rng.layer_noise(shard.rng("layers")):
                        replica.before_backward(index)
                        losses = phase.loss(nets, shard, state.scalars.shard(index))  # [n] per sample
                        descend(losses.sum() / batches.batch_images)
                replica.finish()
                gradient_norm = check_finite(phase, state, replica.accumulator.parameters)
                if phase.interval_steps == 1:
                    state.gradient_norms[phase.trains] = gradient_norm
                if phase.max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(replica.accumulator.parameters, phase.max_gradient_norm)
                phase.optimizer.step()
                if phase.constrain is not None:
                    phase.constrain(state.networks[phase.trains])  # weight clipping
    state.step += 1
    state.images_seen += state.images_per_step
    state.steering.adapt(state.scalars, images=state.images_per_step)
    state.ema.update(batch_images=state.images_per_step, images_seen=state.images_seen)


def follow_schedules(state: TrainState, plans: Mapping[str, Plan], train: TrainConfig) -> None:
    """Every scheduled number as it is for a step that begins at this many images; before the factor on the learning rates."""
    now = {"images_seen": state.images_seen, "total_images": train.total_images}
    state.scheduled = state.steering.follow(**now)
    for name, optimizer in state.optimizers.items():
        state.scheduled |= {f"{name}_{number}": value for number, value in plans[name].follow(optimizer, **now).items()}
    if isinstance(train.ema_halflife_images, Schedule):
        state.scheduled["ema_halflife_images"] = state.ema.halflife_images = train.ema_halflife_images.value(**now)


def set_learning_rates(state: TrainState, config: OptimConfig, train: TrainConfig) -> None:
    """The factor of warm-up and decay at this many images, for every optimizer; lower after each rollback."""
    factor = optim.lr_factor(config, images_seen=state.images_seen, total_images=train.total_images)
    factor *= train.rollback_lr_factor ** len(state.rollbacks)
    for optimizer in state.optimizers.values():
        optim.set_lr(optimizer, factor)


def descend(loss: Tensor) -> None:
    """Backward from a scalar `loss`; where it is not finite, the gradient of every weight is NaN.

    A loss can be infinite with a finite gradient (a hinge), and only one process may have seen it: through the gradient sum all get to know.
    """
    loss.backward(loss.detach() * 0 + 1)  # 1, or NaN; fewer operations than asking whether it is finite


def check_finite(phase: Phase, state: TrainState, parameters: Sequence[torch.nn.Parameter]) -> float:
    """The norm of the gradient; raises DivergenceError before the update when a loss or a gradient is NaN or infinite.

    Gradients are the same on every process by now, so every process stops at the same place.
    """
    gradient_norm = norm(p.grad for p in parameters if p.grad is not None)
    if math.isfinite(gradient_norm):
        return gradient_norm
    means = state.scalars.take()
    listed = ", ".join(f"{name}={value:.4g}" for name, value in means.items())
    raise DivergenceError(
        f"a loss or the gradient of {phase.trains} stopped being finite in phase {phase.name!r}, step {state.step}, after "
        f"{state.images_seen:,} images; nothing was updated. Means since the last log line: {listed or 'none'}. Likely cause: {likely_cause(means)}"
    )


def likely_cause(means: dict[str, float]) -> str:
    """What a person would look at first, from the means since the last log line."""
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    penalties = [name.removeprefix("penalty_") for name in broken if name.startswith("penalty_")]
    largest = max((abs(value) for name, value in means.items() if name.startswith("logit_") and math.isfinite(value)), default=0.0)
    if penalties and not any(name.startswith("logit_") for name in broken):
        return f"the penalty {penalties[0]} alone; lower its weight (task.regularizers), or the learning rates (optim.*.lr)"
    if largest > 1e3 or any(name.startswith("logit_") for name in broken):
        return "logits that grow without bound; add task.regularizers or task.weight_clip, or lower optim.discriminator.lr"
    return "a learning rate that is too high (optim.*.lr), or train.precision=bf16"
