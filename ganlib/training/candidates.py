"""Candidates for export, and the end of a training whose candidates no longer gain.

Candidates are the networks at multiples of `train.select.interval_images`, the one that makes the products as its moving average.

They lie in the state of the training, one sealed folder each, whichever of them is chosen later (`ganlib.selection`), so that another judge needs no
other training. A training that is resumed or rolled back writes those it reaches again, over the old ones.

With `train.stop` the training waits at each candidate for the verdict of whoever judges it (the driver, `pipeline.selection`), so where it ends
depends on no timing.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress

from torch import Tensor

from ganlib import dist
from ganlib.storage import Storage
from ganlib.tasks import Play
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import is_due
from ganlib.training.journal import Background, Journal
from ganlib.training.parent import WEIGHTS, packed
from ganlib.training.state import SEAL, TrainState, sealed

FOLDER = "candidates"
VERDICTS = "verdicts"  # on candidates, where `train.stop` asks for them
POLL_SECONDS = 0.2  # at most, between two looks for a verdict


def name(images_seen: int) -> str:
    """Folder of the candidate after so many images."""
    return f"{FOLDER}/images-{images_seen:012d}"


def present(storage: Storage) -> list[int]:
    """Images seen of every whole candidate, ascending."""
    found = [int(entry[7:]) for entry in storage.names(FOLDER) if entry.startswith("images-") and entry[7:].isdigit()]
    return sorted(images_seen for images_seen in found if SEAL in storage.names(name(images_seen)))


def sha256(storage: Storage, images_seen: int) -> str:
    """Of the weights of a whole candidate, as its seal has it."""
    return str(json.loads(storage.read(f"{name(images_seen)}/{SEAL}"))[WEIGHTS])


def write_verdict(storage: Storage, images_seen: int, *, candidate: str, stop: bool) -> None:
    """Say whether the training ends at a candidate; `candidate` is the sha256 of what was judged."""
    storage.write(f"{VERDICTS}/images-{images_seen:012d}.json", json.dumps({"candidate": candidate, "stop": stop}).encode())


def read_verdict(storage: Storage, images_seen: int) -> bool | None:
    """Whether the training ends at the candidate that is there; None: nobody has judged this one."""
    try:
        said = json.loads(storage.read(f"{VERDICTS}/images-{images_seen:012d}.json"))
        return bool(said["stop"]) if said["candidate"] == sha256(storage, images_seen) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class CandidateHook:
    """Copies the weights between two steps and writes them in the background.

    None is made while a task has stages before it: their networks make images of another size. One that cannot be written waits, and no checkpoint is
    written without it (`bring`): what is chosen in the end depends on no full disk.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        play: Callable[[], Play],
        storage: Storage,
        journal: Journal,
        background: Background,
        fence: Callable[[], None],
    ) -> None:
        self.config = config
        self.play = play
        self.storage = storage
        self.journal = journal
        self.background = background
        self.fence = fence
        self._waiting: dict[int, dict[str, Tensor]] = {}  # images seen -> weights that are not written yet; the background thread's

    def __call__(self, state: TrainState, *, is_last: bool) -> None:
        if not dist.is_main() or not self.is_made(state, is_last=is_last):
            return
        weights, images_seen = state.weights(), state.images_seen

        def write() -> None:
            self._waiting[images_seen] = weights
            try:
                self.fence()
                self.bring()
            except OSError as problem:
                text = f"{problem}; the training goes on, and this candidate for export is written with the next checkpoint"
                self.journal.event("failed_write", text, images_seen=images_seen)

        self.background.submit(write)

    def is_made(self, state: TrainState, *, is_last: bool = False) -> bool:
        """Whether the step that just ended makes a candidate; the same on every process."""
        select = self.config.select
        return select is not None and (is_last or is_due(select.interval_images, state)) and self.play().ends_at_images is None

    def retry(self) -> None:
        """Try again to write what waits."""

        def write() -> None:
            with suppress(OSError):  # told when it was tried first
                self.fence()
                self.bring()

        self.background.submit(write)

    def bring(self) -> None:
        """Write what waits; called by the background thread. Raises OSError where it still cannot be written."""
        for images_seen in sorted(self._waiting):
            files = sealed(packed(self._waiting[images_seen]))
            try:
                self.storage.write_folder(name(images_seen), files)
            except OSError as error:
                size_bytes = sum(len(data) for data in files.values())
                reason = f"{name(images_seen)}: {error.strerror or error}; this candidate needs {size_bytes:,} bytes, earlier checkpoints are whole"
                raise type(error)(error.errno, reason) from error
            del self._waiting[images_seen]


class StopHook:
    """Whether a training ends at the candidate it has just made. All processes ask together, after each step and where they resume."""

    GO_ON, STOP, INTERRUPTED = range(3)

    def __init__(
        self,
        config: TrainConfig,
        *,
        candidates: CandidateHook,
        background: Background,
        should_stop: Callable[[], bool],
        while_waiting: Callable[[], None],
    ) -> None:
        self.config = config
        self.candidates = candidates
        self.background = background
        self.should_stop = should_stop
        self.while_waiting = while_waiting
        self.was_interrupted = False  # somebody asked the training to stop while it waited; the same on every process

    def __call__(self, state: TrainState) -> bool:
        if not self.candidates.is_made(state) or self.config.stop is None:
            return False
        (found,) = dist.maximum([self._verdict(state.images_seen) if dist.is_main() else self.GO_ON])
        self.was_interrupted = found == self.INTERRUPTED
        return found == self.STOP

    def _verdict(self, images_seen: int) -> int:
        storage = self.candidates.storage
        while True:
            self.background.wait(while_waiting=self.while_waiting)
            self.background.raise_problem()
            verdict = read_verdict(storage, images_seen)
            if verdict is not None:
                return self.STOP if verdict else self.GO_ON
            if self.should_stop():
                return self.INTERRUPTED
            self.candidates.retry()
            self.while_waiting()
            time.sleep(min(POLL_SECONDS, storage.poll_seconds))
