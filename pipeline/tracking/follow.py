"""Follows a training through its state: new history lines, events and grids, handed to listeners in order.

The files are the truth. Each listener has its own thread and its own place in the files, so a slow or dead one holds up neither the training
nor the others, and gets everything once it is back.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from ganlib.storage import Storage
from pipeline.cli import say

MAX_PAUSE_SECONDS = 30.0  # between tries of a listener that fails
EVENTS = ("events.jsonl", "driver.jsonl", "scores.jsonl")  # one writer each


class Listener(Protocol):
    """Told of a training.

    `begin` and `note_end` are called by the thread that runs the training, and only write down; all else is called by the follower's own thread,
    may take its time, may raise, and is then offered the same again.

    Attributes:
        name: what a message calls it.
        remedy: what a person does about what it did not take.
        interval_images: `lines` gets one of the history's lines each so many images, and the last one of a training that is finished.
    """

    name: str
    remedy: str
    interval_images: int

    def begin(self) -> None:
        """The training is about to begin."""

    def prepare(self) -> None:
        """What takes its time and needs nobody's answer; before anything else that the follower's own thread calls."""

    def lines(self, lines: list[dict[str, Any]]) -> None:
        """New history lines, oldest first. After a rollback, a step comes again with other numbers."""

    def health(self, lines: list[dict[str, Any]]) -> None:
        """New measurements of the health, oldest first, each with all `alarms` so far, where no resume has written it anew since."""

    def grid(self, path: Path) -> None:
        """A new sample grid."""

    def event(self, text: str) -> None:
        """A new event."""

    def beat(self) -> None:
        """The training goes on."""

    def note_end(self, status: str) -> None:
        """The training has ended: FINISHED, FAILED or KILLED. What is left is delivered after this, or never."""

    def end(self, status: str) -> None:
        """Everything was delivered."""


def lines_due(history: Sequence[dict[str, Any]], interval_images: int, *, is_whole: bool) -> list[dict[str, Any]]:
    """The lines of a history that cross a multiple of `interval_images`, and the last one where `is_whole`; the same however often it stopped."""
    ends = [line["images_seen"] // interval_images for line in history]
    due = [line for line, end, before in zip(history, ends, [0, *ends], strict=False) if end > before]
    return due if not is_whole or due[-1:] == history[-1:] else [*due, history[-1]]


class Follower(threading.Thread):
    """Feeds one listener until told to finish.

    Attributes:
        prepared: when the listener was prepared, in seconds of `time.monotonic`; None while it is not.
    """

    def __init__(self, storage: Storage, listener: Listener, *, num_events: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__(daemon=True, name=f"follow {type(listener).__name__}")
        self.storage = storage
        self.listener = listener
        self.problem: Exception | None = None
        self.prepared: float | None = None
        self._is_prepared = threading.Event()
        self._finish = threading.Event()
        self._status = ""
        self._history = _Lines(storage, "history.jsonl")
        self._health = _Lines(storage, "health.jsonl")
        self._measured: dict[int, dict[str, float]] = {}  # images_seen -> values
        self._events = {name: _Lines(storage, name) for name in EVENTS}
        self._num_events = {name: num_events.get(name, 0) for name in EVENTS}
        self._delivered: dict[int, dict[str, float]] = {}  # images_seen -> scalars
        self._grids: set[str] = set()
        self._rolled_back = False

    def run(self) -> None:
        self._try(self.listener.prepare)
        self.prepared = time.monotonic()
        self._is_prepared.set()
        failures = 0
        while not self._finish.wait(min(MAX_PAUSE_SECONDS, self.storage.poll_seconds * 2**failures)):
            failures = 0 if self._try(self._look) else min(failures + 1, 16)
        self._try(lambda: self.deliver_all(self._status))

    def finish(self, status: str) -> None:
        """Ask for what is left to be delivered; `wait` waits for it."""
        self._status = status
        self._finish.set()

    def wait(self, ended: float, patience_seconds: float) -> float | None:
        """Wait for what is left, so long from `ended` (`time.monotonic`) on, or from when the listener is prepared, if that is within it.

        Returns:
            None where all was done; else the seconds after `ended` that were waited.
        """
        self._is_prepared.wait(max(0.0, ended + patience_seconds - time.monotonic()))
        deadline = (ended if self.prepared is None else max(ended, self.prepared)) + patience_seconds
        self.join(max(0.0, deadline - time.monotonic()))
        return deadline - ended if self.is_alive() else None

    def deliver_all(self, status: str) -> None:
        """Deliver everything that is not delivered yet, and the end; raises at the first failure."""
        if self._rolled_back:  # grids of one name may have been drawn twice
            self._grids.clear()
        self._deliver(is_whole=status == "FINISHED")
        self._deliver_grids()
        self.listener.end(status)

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
            self.problem = None
        except Exception as problem:  # a listener's failure is kept for the end; the training goes on
            self.problem = problem
        return self.problem is None

    def _look(self) -> None:
        if self._deliver():
            self._deliver_grids()
        self.listener.beat()

    def _deliver(self, *, is_whole: bool = False) -> bool:
        """Events, lines and measurements; whether there was anything new."""
        is_new = False
        for name, log in self._events.items():
            for event in log.read()[self._num_events[name] :]:
                self.listener.event(str(event.get("text", "")))
                self._num_events[name] += 1
                self._rolled_back |= event.get("kind") == "rollback"
                is_new = True
        # what was computed again after a resume has the same numbers, and is no news
        due = lines_due(self._history.read(), self.listener.interval_images, is_whole=is_whole)
        fresh = [line for line in due if self._delivered.get(line["images_seen"]) != line["scalars"]]
        if fresh:
            self.listener.lines(fresh)
            self._delivered |= {line["images_seen"]: line["scalars"] for line in fresh}
        measured = [line for line in self._health.read() if self._measured.get(line["images_seen"]) != line["values"]]
        if measured:
            self.listener.health(measured)
            self._measured |= {line["images_seen"]: line["values"] for line in measured}
        return is_new or bool(fresh) or bool(measured)

    def _deliver_grids(self) -> None:
        for name in self.storage.names("grids"):
            if name.endswith(".png") and name not in self._grids:
                with self.storage.local(f"grids/{name}") as path:
                    self.listener.grid(path)
                self._grids.add(name)


class Followers:
    """Those who follow one training.

    Attributes:
        status: how the training ended; set inside the block of `following`.
    """

    def __init__(self, storage: Storage, listeners: Sequence[Listener], *, patience_seconds: float) -> None:
        num_events = {name: len(_Lines(storage, name).read()) for name in EVENTS}  # earlier attempts' are no news
        self.status = "FAILED"
        self._patience_seconds = patience_seconds
        self._threads = [Follower(storage, listener, num_events=num_events) for listener in listeners]
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        """What was not delivered, and why; one text a listener. Asked after the block."""
        return self._problems

    def _begin(self) -> None:
        for thread in self._threads:
            thread.listener.begin()
        for thread in self._threads:
            thread.start()

    def _end(self) -> None:
        ended = time.monotonic()
        for thread in self._threads:
            try:
                thread.listener.note_end(self.status)
            except OSError as problem:
                self._problems.append(f"{thread.listener.name}: how the training ended could not be noted: {problem}")
            thread.finish(self.status)
        for thread in self._threads:
            waited = thread.wait(ended, self._patience_seconds)
            late = "" if waited is None else f"not done {waited:.3g} s after the training"
            why = "; ".join(str(reason) for reason in (thread.problem, late) if reason)
            if why:
                self._problems.append(f"{thread.listener.name} has not taken everything: {why}. {thread.listener.remedy}")


@contextmanager
def following(storage: Storage, listeners: Sequence[Listener], *, patience_seconds: float) -> Iterator[Followers]:
    """Tell every listener of the training in `storage` while the block runs.

    At the end of the block what is left is delivered, for `patience_seconds` in total at most, twice as long where a listener was still
    being prepared; `Followers.problems` says what was not.
    """
    followers = Followers(storage, listeners, patience_seconds=patience_seconds)
    followers._begin()
    try:
        yield followers
    finally:
        followers._end()


@contextmanager
def telling(storage: Storage, listeners: Sequence[Listener], *, patience_seconds: float) -> Iterator[None]:
    """`following` a block that is a training: how it ends is how the block does, and a warning says what a listener did not take."""
    followers = None
    try:
        with following(storage, listeners, patience_seconds=patience_seconds) as followers:
            try:
                yield
                followers.status = "FINISHED"
            except (KeyboardInterrupt, SystemExit):
                followers.status = "KILLED"
                raise
    finally:
        for problem in followers.problems() if followers is not None else []:
            say(f"warning: {problem}")


class _Lines:
    """The whole lines of a JSON-lines file that grows, and may be replaced by another one."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._data = b""
        self._lines: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        try:
            data = self._storage.read(self._name)
        except FileNotFoundError:
            data = b""
        data = data[: data.rfind(b"\n") + 1]
        if not data.startswith(self._data):
            self._data, self._lines = b"", []
        for text in data[len(self._data) :].splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # a writer died in the middle of it
                continue
            if isinstance(line, dict):
                self._lines.append(line)
        self._data = data
        return self._lines
