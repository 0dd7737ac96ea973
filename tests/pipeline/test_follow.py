"""Which lines of a history a person is shown."""

import pytest

from pipeline.tracking.follow import lines_due


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
