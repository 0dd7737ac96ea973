"""What a training says while it runs: history lines, events, grids; written in the background, so that a slow disk or store holds up no step.

`history.jsonl` has one line a log tick and is the truth about the losses, `health.jsonl` one a measurement; `events.jsonl` only grows, over every
attempt at the training, and tells what happened to it: started, resumed, an alarm, rolled back, could not write, interrupted, finished.
"""

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ganlib import dist
from ganlib.storage import Storage

HISTORY = "history.jsonl"
HEALTH = "health.jsonl"
EVENTS = "events.jsonl"
GRIDS = "grids"


class Background:
    """One thread that does jobs in order, off the critical path; the first problem of a job waits for `raise_problem`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._waiting = 0
        self._count = threading.Lock()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="background writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        with self._count:
            self._waiting += 1
            self._idle.clear()
        self._jobs.put(job)

    def wait(self, *, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Return when every job is done."""
        while not self._idle.wait(1.0):
            while_waiting()

    def raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(timeout=60)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as problem:  # handed to the training's own thread
                self._problem = self._problem or problem
            with self._count:
                self._waiting -= 1
                if self._waiting == 0:
                    self._idle.set()


class _Live:
    """A JSON-lines file that grows with a training, and is written anew where that goes back. Belongs to the background thread."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._lines: list[str] = []
        self._num_written: int | None = None  # lines in the file; None: it must be written anew

    def restart(self, lines: list[str]) -> None:
        self._lines, self._num_written = lines, None

    def add(self, line: str) -> None:
        self._lines.append(line)

    def bring(self) -> None:
        """Write what is not written yet."""
        if self._num_written is None:
            self._storage.write(self._name, "".join(self._lines).encode())
        elif self._num_written < len(self._lines):
            written, self._num_written = self._num_written, None  # until it is there
            self._storage.append(self._name, "".join(self._lines[written:]))
        self._num_written = len(self._lines)


class Journal:
    """The live files of one training; silent on every process but the main one.

    A line that cannot be written (a full disk, a store that is away) is no reason to stop: the next one that can be brings it along.
    """

    def __init__(self, storage: Storage, background: Background) -> None:
        self.storage = storage
        self.background = background
        self.history: list[dict[str, Any]] = []
        self._queued: Counter[str] = Counter()  # jobs that will bring lines, or events
        self._count = threading.Lock()
        # what follows belongs to the background thread
        self._live = {name: _Live(storage, name) for name in (HISTORY, HEALTH)}
        self._events_owed = "\n" if self._is_torn(EVENTS) else ""  # a process died in the middle of a line

    def restart(self, history: list[dict[str, Any]], health: Sequence[dict[str, Any]] = ()) -> int:
        """Continue after `history` and `health`; what the live files have beyond them will be computed again.

        Returns:
            images computed before and to be computed again, as far as the log tells.
        """
        last = max((line["images_seen"] for line in parse_lines(self._read(HISTORY))), default=0) if dist.is_main() else 0
        self.history[:] = history
        kept = {name: [json.dumps(line) + "\n" for line in lines] for name, lines in ((HISTORY, history), (HEALTH, health))}

        def add() -> None:
            for name, live in self._live.items():
                live.restart(kept[name])

        self._owe("lines", add, self._bring_lines)
        return max(0, last - (history[-1]["images_seen"] if history else 0))

    def line(self, line: dict[str, Any]) -> None:
        """A line of the history."""
        self.history.append(line)
        self._add(HISTORY, line)

    def health(self, line: dict[str, Any]) -> None:
        """A measurement of the health, with the alarms so far."""
        self._add(HEALTH, line)

    def _add(self, name: str, line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        self._owe("lines", lambda: self._live[name].add(text), self._bring_lines)

    def event(self, kind: str, text: str, *, images_seen: int, **facts: Any) -> None:
        line = json.dumps({"time": time.time(), "kind": kind, "text": text, "images_seen": images_seen, **facts}) + "\n"

        def add() -> None:
            self._events_owed += line

        self._owe("events", add, self._bring_events)

    def picture(self, name: str, png: bytes) -> None:
        self._do(lambda: self.storage.write(f"{GRIDS}/{name}", png))

    def flush(self) -> None:
        """Wait for what is being written, and bring what could not be; raises OSError when it still cannot be."""
        if dist.is_main():
            self.background.wait()
            self._bring_lines()
            self._bring_events()

    def _bring_lines(self) -> None:
        for live in self._live.values():
            live.bring()

    def _bring_events(self) -> None:
        if self._events_owed:
            self.storage.append(EVENTS, self._events_owed)
            self._events_owed = ""

    def _is_torn(self, name: str) -> bool:
        text = self._read(name) if dist.is_main() else ""
        return text != "" and not text.endswith("\n")

    def _owe(self, what: str, add: Callable[[], None], bring: Callable[[], None]) -> None:
        """Add in the background, and bring, unless another job that brings the same waits behind it: where a store is away each try takes half a
        minute, and a checkpoint that fails, and then the end of the training, wait for all of them."""
        if not dist.is_main():
            return

        def write() -> None:
            add()
            with self._count:
                self._queued[what] -= 1
                is_last = self._queued[what] == 0
            if is_last:
                bring()

        with self._count:
            self._queued[what] += 1
        self._do(write)

    def _do(self, write: Callable[[], None]) -> None:
        if not dist.is_main():
            return

        def job() -> None:
            try:
                write()
            except OSError as problem:
                logging.getLogger(__name__).warning("%s", problem)

        self.background.submit(job)

    def _read(self, name: str) -> str:
        try:
            return self.storage.read(name).decode(errors="replace")
        except FileNotFoundError:
            return ""


def parse_lines(text: str) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file that may be growing, or whose writer may have died in the middle of one."""
    found = []
    for line in text[: text.rfind("\n") + 1].splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
