"""Numbers that follow a training: ADA's p, the mean path length, LeCam's averages, BEGAN's k.

Whatever has such numbers is a frozen dataclass that names them in `steered` and says in `adapt` how they move with the means it `watches`.
The means are over all logical workers, summed in one order, so the numbers are the same on any number of processes. They are state: checkpoints
hold them. An option of params.yaml sets where they start.

Numbers that follow images seen instead (`ganlib.schedule`) are written over before every step. They are no state, and a schedule of a steered number
takes the place of its steering.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from ganlib.scalars import Scalars
from ganlib.schedule import Schedule, replaced, spoken


@runtime_checkable
class Steered(Protocol):
    """A loss, regularizer or augmentation with numbers that change.

    Attributes:
        steered: the fields, floats, that `adapt` replaces.
        watches: scalars noted by the phases (`scalars.add(name, ...)`) whose means `adapt` needs.
    """

    steered: ClassVar[tuple[str, ...]]
    watches: ClassVar[tuple[str, ...]]

    def adapt(self, means: Mapping[str, float], images: int) -> Self:
        """A copy with the numbers moved. Called after every step in which all that it watches was noted.

        Args:
            means: of the step, by name.
            images: the step's.
        """


class Steering:
    """The current copy of everything that may be steered, by key.

    Args:
        parts: key -> loss, regularizer, augmentation; those that are not `Steered` change by a schedule alone.
        schedules: key -> name of a number of the part (`Scheduled.schedules`) -> its schedule.
    """

    def __init__(self, parts: Mapping[str, Any], schedules: Mapping[str, Mapping[str, Schedule]] | None = None) -> None:
        self._parts = dict(parts)
        self._schedules = {key: dict(of_part) for key, of_part in (schedules or {}).items() if of_part}
        self._steered = [key for key, part in self._parts.items() if isinstance(part, Steered)]

    def __getitem__(self, key: str) -> Any:
        return self._parts[key]

    @property
    def watched(self) -> frozenset[str]:
        return frozenset(name for key in self._steered for name in self._parts[key].watches)

    def follow(self, *, images_seen: int, total_images: int) -> dict[str, float]:
        """Before a step: the scheduled numbers of this many images, by KEY_NAME."""
        found: dict[str, float] = {}
        for key, schedules in self._schedules.items():
            numbers = {name: one.value(images_seen=images_seen, total_images=total_images) for name, one in schedules.items()}
            self._parts[key] = replaced(self._parts[key], numbers)
            found |= {f"{key}_{spoken(name)}": number for name, number in numbers.items()}
        return found

    def adapt(self, scalars: Scalars, *, images: int) -> None:
        """After a step: move what has seen all it watches. All processes must call it together."""
        if not self._steered:
            return
        means = scalars.take_watched()
        for key in self._steered:
            part = self._parts[key]
            if all(name in means for name in part.watches):
                self._parts[key] = part.adapt(means, images)

    def numbers(self) -> dict[str, dict[str, float]]:
        """Key -> field -> value of every steered number that no schedule holds."""
        return {
            key: {name: getattr(self._parts[key], name) for name in self._parts[key].steered if name not in self._schedules.get(key, {})}
            for key in self._steered
        }

    def shared(self, numbers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """Those of `numbers` that are steered here too: what goes over from a training with other terms."""
        mine = self.numbers()
        return {key: {name: value for name, value in numbers.get(key, {}).items() if name in mine[key]} for key in mine}

    def load(self, numbers: Mapping[str, Mapping[str, float]]) -> None:
        """Take up where `numbers` was taken."""
        for key, values in numbers.items():
            self._parts[key] = dataclasses.replace(self._parts[key], **values)
