"""The live files of a training where their store is away for a while."""

import json
import threading
from pathlib import Path

from ganlib.storage import FolderStorage, StorageError
from ganlib.training.journal import EVENTS, HISTORY, Background, Journal


class Away(FolderStorage):
    """A folder that takes nothing while it is away, and counts the tries."""

    is_away, tries = True, 0

    def write(self, name: str, data: bytes) -> None:
        self._ask()
        super().write(name, data)

    def append(self, name: str, text: str) -> None:
        self._ask()
        super().append(name, text)

    def _ask(self) -> None:
        self.tries += self.is_away
        if self.is_away:
            raise StorageError("away")


def test_a_store_that_is_away_is_asked_once_for_all_that_waits(tmp_path: Path) -> None:
    """Each try takes half a minute there, and the end of a training waits for all of them.

    Kills: a try for every line, a line or an event that is lost, two that change places.
    """
    storage, background, go = Away(tmp_path), Background(), threading.Event()
    journal = Journal(storage, background)

    def hold() -> None:  # as a checkpoint that is on its way
        go.wait(60)

    background.submit(hold)
    journal.restart([{"images_seen": 0}])
    for number in range(1, 100):
        journal.line({"images_seen": number})
        journal.event("alarm", "text", images_seen=number)
    go.set()
    background.wait()
    assert storage.tries == 2
    assert storage.names("") == []
    storage.is_away = False
    journal.line({"images_seen": 100})
    journal.event("alarm", "text", images_seen=100)
    background.wait()
    for name, first in ((HISTORY, 0), (EVENTS, 1)):
        lines = storage.read(name).decode().splitlines()
        assert [json.loads(line)["images_seen"] for line in lines] == list(range(first, 101))
    background.close()
