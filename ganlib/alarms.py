"""Alarms of a training: settings, and when the numbers of its health raise one. A function of those numbers alone: no clock, no state of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from ganlib.config import Section

Action = Literal["warn", "stop", "rollback"]
AVERAGED = "{averaged}"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What one number of the health must not pass.

    Attributes:
        column: of the health's numbers; AVERAGED in it stands for the network that makes the products.
        key: of the alarm's settings, that has the threshold.
        is_low: the threshold is a lower bound.
    """

    column: str
    key: str = "threshold"
    is_low: bool = False

    def of(self, averaged: str) -> "Bound":
        return replace(self, column=self.column.replace(AVERAGED, averaged))


class Alarm(Section):
    """One alarm: raised when a bound was passed in so many measurements in a row, and again only after it was not.

    Attributes:
        bounds: passing one is enough.
        meaning: what is wrong, in one sentence.
        remedy: what to try, with keys of params.yaml.
    """

    bounds: ClassVar[tuple[Bound, ...]]
    meaning: ClassVar[str]
    remedy: ClassVar[str]
    action: Action | None = Field(
        default="warn", description="warn goes on; stop and rollback are what a divergence does (train.on_divergence)"
    )
    threshold: float
    measurements: int = Field(default=3, ge=1, description="in a row, each train.health_interval_images after the other")

    def passed(self, values: Mapping[str, float], averaged: str) -> Bound | None:
        """The bound that one measurement passes; a number it lacks (no held-out images, no discriminator) passes none."""
        for bound in (each.of(averaged) for each in self.bounds):
            value, threshold = values.get(bound.column), getattr(self, bound.key)
            if value is not None and (value < threshold if bound.is_low else value > threshold):
                return bound
        return None

    def holds(self, lines: Sequence[Mapping[str, Any]], averaged: str) -> bool:
        newest = [line for line in lines[-self.measurements :] if line["images_seen"] > 0]  # an untrained network is no alarm
        return len(newest) == self.measurements and all(self.passed(line["values"], averaged) is not None for line in newest)

    def is_new(self, lines: Sequence[Mapping[str, Any]], averaged: str) -> bool:
        """Whether the last line raises it."""
        return self.holds(lines, averaged) and not self.holds(lines[:-1], averaged)


class Divergence(Alarm):
    """Growth without bound; what is not finite any more is found before an update, every step."""

    bounds = (Bound(column="largest_logit"), Bound(column="weight_growth", key="weight_growth"))
    meaning = "logits or weights grow without bound, though they are still finite"
    remedy = "lower optim.*.lr, or bound the discriminator: task.regularizers {r1: {}}, task.weight_clip, spectral normalisation"
    action: Action | None = Field(default=None, description="null: what train.on_divergence says")
    threshold: float = Field(default=1e4, description="of the largest logit, whatever its sign")
    weight_growth: float = Field(default=10.0, description="times the norm of a network's weights at the measurement before")
    measurements: int = Field(default=1, ge=1)


class ModeCollapse(Alarm):
    """The generator makes one image, or a few, whatever its latents are."""

    bounds = (Bound(column="diversity", is_low=True),)
    meaning = "the generator makes one image, or a few of them again and again"
    remedy = (
        "lower optim.generator.lr, try model.discriminator.minibatch_stddev: true, task.regularizers {r1: {}} or {feature_matching: {}}, "
        "or task.loss: relativistic"
    )
    threshold: float = 0.2


class Stalled(Alarm):
    """The network that makes the images stays as it is."""

    bounds = (Bound(column=f"update_norm_{AVERAGED}", is_low=True),)
    meaning = "a step changes the weights of the network that makes the images by less than this share of them: it learns nothing any more"
    remedy = f"raise optim.{AVERAGED}.lr, see what optim.decay leaves of it and what train.freeze holds; with task.loss: minimax, take another loss"
    threshold: float = 1e-8


class Overfitting(Alarm):
    """D knows its training images by heart."""

    bounds = (Bound(column="overfitting_gap"),)
    meaning = "the discriminator tells training images from held-out ones: it has learnt them by heart, and teaches the generator to copy"
    remedy = "more images, task.augment {ada: {}} or {diffaugment: {}}, a narrower model.discriminator, or fewer train.total_images"
    threshold: float = 1.0
    measurements: int = Field(default=2, ge=1)


class GeneratorWins(Alarm):
    """D takes generated images for real ones, and real ones for generated."""

    bounds = (Bound(column="separation", is_low=True),)
    meaning = "the discriminator finds generated images more real than real ones: the generator learns from verdicts that are wrong"
    remedy = "raise optim.discriminator.lr or task.discriminator_repeats, widen model.discriminator, or lower optim.generator.lr"
    threshold: float = -8.0
    measurements: int = Field(default=5, ge=1)  # a critic may be wrong for a while at first (dragan)


class DiscriminatorWins(Alarm):
    """D is right about everything."""

    bounds = (Bound(column="separation"),)
    meaning = "the discriminator tells every generated image from every real one, again and again: the generator does not catch up"
    remedy = (
        "lower optim.discriminator.lr or task.discriminator_repeats, raise optim.generator.lr, or take a loss or penalty that bounds it"
    )
    threshold: float = 15.0  # healthy trainings begin with an accuracy of 1 and up to 10 deviations (dcgan 7, improved_gan 10)


class AlarmsConfig(Section):
    """`train.alarms`; of several on one line the first here comes first: a cause before what follows from it."""

    divergence: Divergence = Field(default_factory=Divergence)
    mode_collapse: ModeCollapse = Field(default_factory=ModeCollapse)
    stalled: Stalled = Field(default_factory=Stalled)
    overfitting: Overfitting = Field(default_factory=Overfitting)
    generator_wins: GeneratorWins = Field(default_factory=GeneratorWins)
    discriminator_wins: DiscriminatorWins = Field(default_factory=DiscriminatorWins)

    def by_name(self) -> dict[str, Alarm]:
        return {name: getattr(self, name) for name in type(self).model_fields}


@dataclass(frozen=True, kw_only=True)
class Raised:
    """An alarm that a line of the health has raised."""

    name: str
    images_seen: int
    bound: Bound
    value: float
    action: Action
    alarm: Alarm
    averaged: str

    @property
    def threshold(self) -> float:
        return float(getattr(self.alarm, self.bound.key))

    def record(self) -> dict[str, Any]:
        """As alarms.json has it."""
        return {
            "name": self.name,
            "images_seen": self.images_seen,
            "column": self.bound.column,
            "value": self.value,
            "threshold": self.threshold,
            "action": self.action,
            "meaning": self.alarm.meaning,
        }

    def in_words(self) -> str:
        often = f" in {self.alarm.measurements} measurements in a row" if self.alarm.measurements > 1 else ""
        return (
            f"alarm {self.name} after {self.images_seen:,} images: {self.bound.column} is {self.value:.4g}, "
            f"{'below' if self.bound.is_low else 'above'} {self.threshold:g}{often}; {self.alarm.meaning}. "
            f"Try: {self.alarm.remedy.replace(AVERAGED, self.averaged)} (train.alarms.{self.name})"
        )


LOGITS = frozenset({"largest_logit", "separation", "overfitting_gap"})  # columns that a task without a discriminator does not have


def of_logits(config: AlarmsConfig) -> list[str]:
    """The alarms that look at nothing but logits."""
    return [name for name, alarm in config.by_name().items() if {bound.column for bound in alarm.bounds} <= LOGITS]


def raised(config: AlarmsConfig, lines: Sequence[Mapping[str, Any]], *, on_divergence: Action, averaged: str) -> list[Raised]:
    """What the last of `lines` raises, causes first.

    Args:
        lines: `{"images_seen", "values": {column: number}}`, oldest first.
        on_divergence: the action of an alarm that names none.
        averaged: the network that makes the products.
    """
    last, found = lines[-1], []
    for name, alarm in config.by_name().items():
        if alarm.is_new(lines, averaged) and (bound := alarm.passed(last["values"], averaged)) is not None:
            action = alarm.action or on_divergence
            value = last["values"][bound.column]
            found.append(
                Raised(name=name, images_seen=last["images_seen"], bound=bound, value=value, action=action, alarm=alarm, averaged=averaged)
            )
    return found
