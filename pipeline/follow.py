"""Follows a training through its state folder: new history lines, grids and events, handed to trackers in order.

The files are the truth. Each tracker has its own thread and its own place in the files, so a slow or dead one holds up neither the training
nor the others, and gets everything once it is back.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

POLL_SECONDS = 0.5


class Listener(Protocol):
    """Gets the lines of a training; may raise, and is then offered the same again."""

    def lines(self, lines: list[dict[str, Any]]) -> None:
        """New history lines, oldest first."""

    def grid(self, path: Path) -> None:
        """A new sample grid."""

    def event(self, text: str) -> None:
        """A new event."""


class Follower(threading.Thread):
    """Feeds one listener until told to finish."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        super().__init__(daemon=True, name=f"follow {type(listener).__name__}")
        self.folder = folder
        self.listener = listener
        self.problem: Exception | None = None
        self._finish = threading.Event()
        self._images_seen = -1
        self._grids: set[str] = set()
        self._num_events = _count_lines(folder / "events.jsonl")

    def run(self) -> None:
        while not self._finish.wait(POLL_SECONDS):
            self._try()
        self._try()

    def finish(self, *, timeout_seconds: float) -> None:
        """Deliver what is left; gives up after the time, or at the first failure."""
        self._finish.set()
        self.join(timeout_seconds)

    def _try(self) -> None:
        try:
            self._deliver()
            self.problem = None
        except Exception as problem:  # a listener's failure is kept for the end; the training goes on
            self.problem = problem

    def _deliver(self) -> None:
        events = _read_lines(self.folder / "events.jsonl")
        for event in events[self._num_events :]:
            self.listener.event(event["text"])
            self._num_events += 1
        fresh = [line for line in _read_lines(self.folder / "history.jsonl") if line["images_seen"] > self._images_seen]
        if fresh:
            self.listener.lines(fresh)
            self._images_seen = fresh[-1]["images_seen"]
        for path in sorted((self.folder / "grids").glob("images-*.png")):
            if path.name not in self._grids:
                self.listener.grid(path)
                self._grids.add(path.name)


@contextmanager
def following(folder: Path, listeners: list[Listener], *, timeout_seconds: float = 60.0) -> Iterator[list[Follower]]:
    """Follow `folder` with every listener while the block runs; what is left is delivered at its end."""
    followers = [Follower(folder, listener) for listener in listeners]
    for follower in followers:
        follower.start()
    try:
        yield followers
    finally:
        for follower in followers:
            follower.finish(timeout_seconds=timeout_seconds)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a JSON-lines file that may be growing."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _count_lines(path: Path) -> int:
    return len(_read_lines(path))


class Console:
    """Progress a person can follow: one line a log tick."""

    def __init__(self, total_images: int) -> None:
        self.total_images = total_images

    def lines(self, lines: list[dict[str, Any]]) -> None:
        for line in lines[-3:]:  # a resume replays the history; the last few lines are enough
            done, speed = line["images_seen"], line["images_per_second"]
            left = max(0, self.total_images - done) / speed
            losses = "  ".join(
                f"{name.removeprefix('loss_')} {value:.3f}"
                for name, value in line["scalars"].items()
                if name.startswith(("loss_", "penalty_"))
            )
            print(
                f"{done:>11,} / {self.total_images:,} images  {100 * done / self.total_images:5.1f} %  {speed:8,.0f} images/s  "
                f"{losses}  {int(left) // 60}:{int(left) % 60:02d} left",
                flush=True,
            )

    def grid(self, path: Path) -> None:
        return

    def event(self, text: str) -> None:
        print(text, flush=True)
