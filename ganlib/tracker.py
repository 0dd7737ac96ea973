"""What the training loop tells the outside world: a three-method protocol and its null object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Receives the history of a training as it happens; an implementation must never make the training wait or fail."""

    def scalars(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Losses and speeds at one point of the training; finite floats only."""

    def image(self, name: str, path: Path, *, images_seen: int) -> None:
        """A picture that was just written to `path`."""

    def event(self, text: str) -> None:
        """Something a person should know: a resume, a fallback, a checkpoint that was refused."""


class NullTracker:
    """Tells nobody."""

    def scalars(self, values: Mapping[str, float], *, images_seen: int) -> None:
        return

    def image(self, name: str, path: Path, *, images_seen: int) -> None:
        return

    def event(self, text: str) -> None:
        return
