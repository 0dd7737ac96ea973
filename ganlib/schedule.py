"""Numbers of the settings that follow images seen: a learning rate with a floor, beta2, a penalty's weight, an augmentation's p, a half-life.

Wherever params.yaml takes a number that can move, it takes a schedule in its place:

    lr: {schedule: cosine, from: 2.0e-4, to: 5.0e-5, end_share: 0.8}

Its value is a function of images seen and train.total_images alone, so it is no state: a resume, a rollback and any number of processes find the same
number. Every number is that of the images seen before the step.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Discriminator, Field, Tag, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from ganlib.config import NUMBER, SCHEDULE, Section, construct, options

D = TypeVar("D")
Shape = Literal["none", "linear", "cosine"]


def fall(shape: Shape, progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1: a line, or half a cosine (arXiv:1608.03983, eq. 5); `none` stays at 1."""
    if shape == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if shape == "cosine" else 1.0


class Schedule(Section):
    """A number that stays at `from`, then moves to `to`, and stays there."""

    schedule: Literal["constant", "linear", "cosine"] = Field(description="the way; constant: it stays at `from`")
    start: float = Field(alias="from")
    end: float | None = Field(None, alias="to", description="not for constant")
    begin_images: int | None = Field(None, ge=0, description="images seen when it begins to move; 0 where begin_share is not there either")
    begin_share: float | None = Field(None, ge=0, le=1, description="the same as a share of train.total_images")
    end_images: int | None = Field(
        None, ge=1, description="images seen when it is at `to`; total_images where end_share is not there either"
    )
    end_share: float | None = Field(None, gt=0, le=1, description="the same as a share of train.total_images")

    @model_validator(mode="after")
    def _means_something(self) -> "Schedule":
        for name in ("begin", "end"):
            if getattr(self, f"{name}_images") is not None and getattr(self, f"{name}_share") is not None:
                raise _problem(f"{name}_images and {name}_share exclude each other; leave one out")
        if (self.schedule == "constant") != (self.end is None):
            raise _problem("constant stays at `from`; leave `to` out" if self.schedule == "constant" else f"{self.schedule} needs `to`")
        if not all(math.isfinite(number) for number in self.ends):
            raise _problem("expected finite numbers")
        return self

    @model_serializer
    def written(self) -> dict[str, Any]:
        """As params.yaml has it."""
        values = {(field.alias or name): getattr(self, name) for name, field in type(self).model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def ends(self) -> tuple[float, float]:
        """The number at the start and at the end; all others lie between them."""
        return self.start, self.start if self.end is None else self.end

    def span(self, total_images: int) -> tuple[float, float]:
        """Images seen when it begins to move and when it is at `to`."""
        begin = self.begin_images if self.begin_images is not None else (self.begin_share or 0.0) * total_images
        end = self.end_images if self.end_images is not None else (1.0 if self.end_share is None else self.end_share) * total_images
        return begin, end

    def check(self, total_images: int, *, key: str) -> None:
        """Raise ValueError where it would end before it begins."""
        begin, end = self.span(total_images)
        if self.end is not None and begin >= end:
            raise ValueError(
                f"{key}: begins to move at {begin:,.0f} images and is at `to` at {end:,.0f} (train.total_images={total_images:,}); "
                "expected an end after the beginning (begin_images | begin_share, end_images | end_share)"
            )

    def value(self, *, images_seen: int, total_images: int) -> float:
        """The number for a step that begins at `images_seen`."""
        first, last = self.ends
        begin, end = self.span(total_images)
        if images_seen <= begin or self.schedule == "constant":
            return first
        if images_seen >= end:
            return last
        return last + (first - last) * fall(self.schedule, (images_seen - begin) / (end - begin))


def _problem(text: str) -> PydanticCustomError:
    """An error whose place is known to whoever explains it."""
    return PydanticCustomError("schedule", "{text}", {"text": text})


def _kind(value: Any) -> str:
    return SCHEDULE if isinstance(value, Mapping | Schedule) else NUMBER


# Of a field of a section: `Field` bounds the number; what bounds both ends of a schedule is a validator's business.
_OrSchedule = Annotated[Schedule, Tag(SCHEDULE)]
Rate = Annotated[Annotated[float, Field(gt=0), Tag(NUMBER)] | _OrSchedule, Discriminator(_kind)]
Weight = Annotated[Annotated[float, Field(ge=0), Tag(NUMBER)] | _OrSchedule, Discriminator(_kind)]
Images = Annotated[Annotated[int, Field(ge=0), Tag(NUMBER)] | _OrSchedule, Discriminator(_kind)]


def not_negative(number: float | Schedule, *, key: str) -> None:
    """Raise ValueError for a schedule of what cannot be below 0."""
    if isinstance(number, Schedule) and min(number.ends) < 0:
        raise ValueError(f"{key}={number.written()}: expected at least 0 at both ends")


def first(number: float | Schedule) -> float:
    """The number at the start."""
    return number.start if isinstance(number, Schedule) else number


@dataclass(frozen=True, kw_only=True)
class Scheduled(Generic[D]):
    """An object of options (a loss, a penalty, an augmentation, an optimizer) of which some numbers may follow a schedule.

    Attributes:
        start, end: with all schedules at their first and at their last number.
        schedules: name -> schedule: a field, or FIELD.INDEX of one that is a tuple.
    """

    start: D
    end: D
    schedules: Mapping[str, Schedule]

    @classmethod
    def of(cls, kind: type[D], values: Mapping[str, Any], *, key: str) -> "Scheduled[D]":
        """From the mapping at `key` of params.yaml. A float can be scheduled, unless the class names it in `fixed`: it is read only once.

        Raises:
            ValueError: as `construct`, for either end; a schedule of what is no such number.
        """
        schedules = {}
        for name, value in values.items():
            for place, part in [
                (name, value),
                *((f"{name}.{index}", part) for index, part in enumerate(value if isinstance(value, list) else ())),
            ]:
                if isinstance(part, Mapping) and place in _numbers(kind):
                    schedules[place] = options(Schedule, dict(part), key=f"{key}.{place}")
                elif isinstance(part, Mapping) and "schedule" in part:
                    legal = ", ".join(_numbers(kind)) or "none"
                    raise ValueError(
                        f"{key}.{place}={dict(part)} is a schedule, and this setting cannot follow one; those that can: {legal}"
                    )
        first, last = (construct(kind, _at_end(values, schedules, index), key=key) for index in (0, 1))
        return cls(start=first, end=last, schedules=schedules)

    def at(self, *, images_seen: int, total_images: int) -> dict[str, float]:
        """Name -> number of all that is scheduled."""
        return {name: one.value(images_seen=images_seen, total_images=total_images) for name, one in self.schedules.items()}


def replaced(part: D, numbers: Mapping[str, float]) -> D:
    """A copy with the numbers of `Scheduled.at` in their places."""
    changes: dict[str, Any] = {}
    for name, number in numbers.items():
        field, dot, index = name.partition(".")
        if dot:
            values = list(changes.get(field, getattr(part, field)))
            values[int(index)] = number
            changes[field] = tuple(values)
        else:
            changes[field] = number
    return dataclasses.replace(part, **changes) if changes else part  # type: ignore[type-var]  # D is a dataclass


def spoken(name: str) -> str:
    """A name of `Scheduled.at` as the log has it: gamma, and beta2 for betas.1."""
    field, dot, index = name.partition(".")
    return f"{field.removesuffix('s')}{int(index) + 1}" if dot else field


def written_in(values: Any, key: str) -> Iterator[tuple[str, Schedule]]:
    """(key, schedule) of every schedule below `values`, plain values of params.yaml or sections of it; raises ValueError for one that is none."""
    if isinstance(values, Schedule):
        yield key, values
    elif isinstance(values, Section):
        for name, value in values:  # networks among them, which are no fields
            yield from written_in(value, f"{key}.{name}")
    elif isinstance(values, Mapping) and "schedule" in values:
        yield key, options(Schedule, dict(values), key=key)
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from written_in(value, f"{key}.{name}")
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from written_in(value, f"{key}.{index}")


def _numbers(kind: type[Any]) -> list[str]:
    """The places in a class of options that may follow a schedule."""
    places: list[str] = []
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is ClassVar or name in getattr(kind, "fixed", ()):
            continue
        if hint is float:
            places.append(name)
        elif get_origin(hint) is tuple and set(get_args(hint)) == {float}:
            places += [f"{name}.{index}" for index in range(len(get_args(hint)))]
    return places


def _at_end(values: Mapping[str, Any], schedules: Mapping[str, Schedule], index: int) -> dict[str, Any]:
    """`values` with each schedule at one of its ends."""

    def number(place: str, value: Any) -> Any:
        return schedules[place].ends[index] if place in schedules else value

    return {
        name: [number(f"{name}.{i}", part) for i, part in enumerate(value)] if isinstance(value, list) else number(name, value)
        for name, value in values.items()
    }
