"""Words that come from data or from a user, as a picture shows them."""

from collections.abc import Iterator
from contextlib import contextmanager

SHOWN_CHARACTERS = 24


@contextmanager
def as_written() -> Iterator[None]:
    """Inside, matplotlib draws text as it is written: a `$` begins no formula. For whole drawings: some text is made only when it is drawn."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}):
        yield


def class_label(name: str, number: int) -> str:
    """`name` on one line; numbered and cut in the middle where it is long, its number alone where the font of the pictures lacks its letters."""
    from matplotlib import font_manager

    line = " ".join(name.split())
    letters = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    if not line or any(ord(letter) not in letters for letter in line):
        return f"class {number}"
    if len(line) <= SHOWN_CHARACTERS:
        return line
    numbered = f"{number} {line}"  # names that differ in their middle stay different
    return f"{numbered[: SHOWN_CHARACTERS - SHOWN_CHARACTERS // 2 - 1]}…{numbered[-(SHOWN_CHARACTERS // 2) :]}"
