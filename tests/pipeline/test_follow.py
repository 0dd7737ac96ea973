"""Which lines of a history a person is shown, and how long the end of a training waits for a listener."""

import threading
import time

import pytest

from ganlib.storage import open_storage
from pipeline.tracking.console import Console
from pipeline.tracking.follow import following, lines_due


def shown(images, interval, *, is_whole=False):
    return [line["images_seen"] for line in lines_due([{"images_seen": n} for n in images], interval, is_whole=is_whole)]


@pytest.mark.parametrize(
    ("images", "interval", "expected"),
    [
        ([64, 128, 192, 256], 1, [64, 128, 192, 256]),  # finer than the history: each of its lines
        ([64, 128, 192, 256], 64, [64, 128, 192, 256]),
        ([64, 128, 192, 256], 128, [128, 256]),
        ([96, 192, 288, 384], 128, [192, 288, 384]),  # the line that crosses the multiple, as the history itself is due
        ([64, 128], 1000, []),
        ([], 10, []),
    ],
)
def test_one_line_each_interval(images, interval, expected):
    """Kills: `>=` for `>`, a count of lines in place of images."""
    assert shown(images, interval) == expected


def test_the_end_of_a_training_is_shown_once():
    """Kills: a last line that is left out or doubled; an empty history that ends."""
    assert shown([64, 128, 192], 128, is_whole=True) == [128, 192]
    assert shown([64, 128], 128, is_whole=True) == [128]
    assert shown([], 128, is_whole=True) == []


def test_an_interruption_moves_no_line():
    """Kills: counting from where the follower began, after a resume."""
    whole = shown([64 * n for n in range(1, 20)], 320)
    assert [*shown([64 * n for n in range(1, 8)], 320), *[n for n in whole if n > 448]] == whole


class Slow(Console):
    """Is prepared when the test lets it, and takes the end after `end_seconds`."""

    def __init__(self, *, end_seconds: float = 0.0) -> None:
        super().__init__(100, 1)
        self.may_begin, self.ended, self.end_seconds = threading.Event(), [], end_seconds

    def prepare(self) -> None:
        self.may_begin.wait(30)

    def end(self, status: str) -> None:
        time.sleep(self.end_seconds)
        self.ended.append(status)


def told(tmp_path, listener, *, patience_seconds, prepared_after=None):
    """(what was not delivered, seconds that the end took) of a training that ends at once."""
    if prepared_after is not None:
        threading.Timer(prepared_after, listener.may_begin.set).start()
    with following(open_storage(tmp_path), [listener], patience_seconds=patience_seconds) as followers:
        began = time.monotonic()
    seconds = time.monotonic() - began
    listener.may_begin.set()
    return followers.problems(), seconds


def test_a_listener_that_is_still_being_prepared_has_its_time_from_then_on(tmp_path):
    """Prepared 2.5 s after the end, and done 1.5 s later: within 3 s of it, not of the end. Kills patience that an import uses up."""
    listener = Slow(end_seconds=1.5)
    problems, seconds = told(tmp_path, listener, patience_seconds=3.0, prepared_after=2.5)
    assert problems == []
    assert listener.ended == ["FAILED"]  # as nobody said that it has finished
    assert 3.5 < seconds < 6.0


def test_what_is_never_prepared_holds_up_nobody_for_longer(tmp_path):
    listener = Slow()
    ((problem,), seconds) = told(tmp_path, listener, patience_seconds=0.5)
    assert "not done 0.5 s after the training" in problem
    assert 0.4 < seconds < 5.0
    assert listener.ended == []


def test_a_listener_that_was_prepared_in_time_has_no_more_than_it_is_said(tmp_path):
    listener = Slow(end_seconds=8.0)
    listener.may_begin.set()
    ((problem,), seconds) = told(tmp_path, listener, patience_seconds=0.5)
    assert "not done 0.5 s after the training" in problem
    assert seconds < 5.0
