"""The rim of every stage: a user's mistake becomes one message and an exit code, a programmer's mistake stays a traceback, a signal is obeyed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ganlib.redact import redacted
from pipeline import processes

WATCH_SECONDS = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_stage(main: Callable[[], None], *, is_prepared: bool = False) -> None:
    """`run` of a stage: in a clone, with the whole of params.yaml checked before any of its work.

    Args:
        is_prepared: the stage comes after `prepare`: whether the images are enough for it and for all that follow is checked too.
    """
    from pipeline import params, preflight

    def checked() -> None:
        params.clone()
        settings = preflight.load()
        for warning in preflight.check_data(settings, params.project()) if is_prepared else []:
            say(f"warning: {warning}")
        main()

    run(checked)


def run(main: Callable[[], None]) -> None:
    """Call `main`. ValueError and OSError are printed to stderr without a traceback and exit with 1, Ctrl-C exits with 130.

    A termination signal unwinds the stack (exit code 143), so that half-written outputs are removed. A stage whose `dvc` has died ends the same
    way: nobody would collect what it makes.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        if processes.is_below_dvc():
            _watch_dvc()
    try:
        main()
    except KeyboardInterrupt:
        say("interrupted")
        processes.leave(130)
    except (ValueError, OSError) as error:
        say(f"error: {redacted(_told(error))}")
        processes.leave(1)
    except SystemExit as end:
        if isinstance(end.code, int):
            processes.leave(end.code)
        raise


def _told(error: ValueError | OSError) -> str:
    """What a person is told of it: of what the system says, more than its name."""
    if not isinstance(error, OSError) or not error.strerror or error.filename is not None:
        return str(error)
    if isinstance(error, ConnectionError):
        return (
            f"the connection to a server was lost ({error.strerror}): it stopped, or was started again, while this command spoke to it; "
            "see that it answers, then run the same command again"
        )
    return error.strerror


def say(text: str) -> None:
    """A line on stderr; a terminal that is gone is no reason to stop."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class StopRequest:
    """SIGINT or SIGTERM, remembered.

    Attributes:
        number: of the first signal; 0 without one.
        asked: set soon after it.
    """

    def __init__(self) -> None:
        self.number = 0
        self.asked = threading.Event()

    def interruption(self) -> BaseException:
        """What the signal would have raised at once."""
        return SystemExit(128 + signal.SIGTERM) if self.number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def stopping_softly(on_ask: Callable[[], None]) -> Iterator[StopRequest]:
    """While the block runs, the first SIGINT or SIGTERM only asks it to end; a second SIGINT raises KeyboardInterrupt.

    Args:
        on_ask: called once, from a thread: a handler runs in the middle of the main thread, where it must take no lock and print nothing.
    """
    request, is_over = StopRequest(), threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        if request.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = request.number or number

    def watch() -> None:
        while not is_over.wait(0.1):
            if request.number:
                say("stopping: a checkpoint is written first")
                request.asked.set()
                on_ask()
                return

    before = {number: signal.signal(number, remember) for number in SIGNALS}
    watcher = threading.Thread(target=watch, name="stop request", daemon=True)
    watcher.start()
    try:
        yield request
    finally:
        is_over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _watch_dvc() -> None:
    """SIGTERM to ourselves once the `dvc` that started this stage is gone: it does not end what it started when it is killed."""
    dvc = processes.dvc_above()

    def watch() -> None:
        while dvc is not None and dvc.is_alive():
            time.sleep(WATCH_SECONDS)
        say(f"dvc{f' (process {dvc.pid})' if dvc else ''} has died: this stage ends too")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch dvc", daemon=True).start()
