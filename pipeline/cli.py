"""The rim of every stage: a user's mistake becomes one message and an exit code, a programmer's mistake stays a traceback."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType


def run(main: Callable[[], None]) -> None:
    """Call `main`. ValueError and OSError are printed to stderr without a traceback and exit with 1, Ctrl-C exits with 130.

    A termination signal unwinds the stack (exit code 143), so that half-written outputs are removed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror and error.filename is None else str(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
