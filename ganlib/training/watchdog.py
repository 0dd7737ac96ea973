"""A process that does nothing for too long ends itself, so that whoever watches it can start another."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

EXIT_CODE = 86  # of a process that its watchdog ended


class Watchdog:
    """Ends this process when `beat` was not called for `seconds`: the stacks of all threads go to stderr first.

    Args:
        seconds: None switches it off.
        on_hang: told before the end; gets a few seconds for it.
    """

    def __init__(self, seconds: float | None, *, on_hang: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_hang = on_hang
        self._last = time.monotonic()
        self._done = threading.Event()
        if seconds is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        self._last = time.monotonic()

    def close(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._done.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                print(f"no step has ended for {self._seconds:g} s; this process ends, so that it can be replaced", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                telling = threading.Thread(target=self._on_hang, daemon=True)
                telling.start()
                telling.join(timeout=5)
                os._exit(EXIT_CODE)
