"""Names as people read them: sorted by their numbers, and told apart where they only look alike."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def natural_key(name: str) -> tuple[tuple[int | str, ...], str]:
    """Sorts "2" before "10" and "img9" before "img10"; names without digits as strings sort."""
    parts = re.split(r"([0-9]+)", name)  # text and numbers in turn
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts)), name


def composed(name: str) -> str:
    """In Unicode's composed form (NFC): "é" is one character on Linux and two on a Mac's disk, and looks the same."""
    return unicodedata.normalize("NFC", name)


def twins(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that look the same: equal once composed."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[composed(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]
