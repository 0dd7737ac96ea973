"""Candidates for export: the networks at multiples of `train.select.interval_images`, each generator as its moving average.

They lie in the state of the training, one sealed folder each, whichever of them is chosen later (`ganlib.selection`), so that another judge needs no
other training. A training that is resumed or rolled back writes those it reaches again, over the old ones.
"""

from collections.abc import Callable

from torch import Tensor

from ganlib import dist
from ganlib.storage import Storage
from ganlib.tasks import Play
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import is_due
from ganlib.training.journal import Background, Journal
from ganlib.training.parent import packed
from ganlib.training.state import SEAL, TrainState, sealed

FOLDER = "candidates"


def name(images_seen: int) -> str:
    """Folder of the candidate after so many images."""
    return f"{FOLDER}/images-{images_seen:012d}"


def present(storage: Storage) -> list[int]:
    """Images seen of every whole candidate, ascending."""
    found = [int(entry[7:]) for entry in storage.names(FOLDER) if entry.startswith("images-") and entry[7:].isdigit()]
    return sorted(images_seen for images_seen in found if SEAL in storage.names(name(images_seen)))


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
        select = self.config.select
        if select is None or not dist.is_main() or not (is_last or is_due(select.interval_images, state)):
            return
        play = self.play()
        if play.ends_at_images is not None:
            return
        weights, images_seen = state.weights(averaged=play.sampled), state.images_seen

        def write() -> None:
            self._waiting[images_seen] = weights
            try:
                self.fence()
                self.bring()
            except OSError as problem:
                text = f"{problem}; the training goes on, and this candidate for export is written with the next checkpoint"
                self.journal.event("failed_write", text, images_seen=images_seen)

        self.background.submit(write)

    def bring(self) -> None:
        """Write what waits; called by the background thread. Raises OSError where it still cannot be written."""
        for images_seen in sorted(self._waiting):
            self.storage.write_folder(name(images_seen), sealed(packed(self._waiting[images_seen])))
            del self._waiting[images_seen]
