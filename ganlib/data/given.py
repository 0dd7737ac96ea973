"""Splits by name: the words by which folders and files say which split they hold."""

import re
from collections.abc import Mapping

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FILE_WORDS = {**WORDS, "t10k": "test"}  # the official name of MNIST's and Fashion-MNIST's test files
LOOKED_FOR = (
    "image_folder takes splits from folders named train or training, val, valid, validation or dev, test or testing (above or below the class "
    "folders); idx, fashion-mnist and parquet from these words in file names, as train-images-idx3-ubyte (t10k is test); parquet from both"
)


def split_of_folder(name: str) -> str | None:
    """train, val or test, where this is the whole name of a folder, in any case."""
    return WORDS.get(name.lower())


def split_of_file(stem: str) -> str | None:
    """train, val or test, where exactly one of them is a word of a file's name: `emnist-letters-train-` is train."""
    found = {FILE_WORDS[word] for word in re.split(r"[^a-z0-9]+", stem.lower()) if word in FILE_WORDS}
    return found.pop() if len(found) == 1 else None


def check_given(counts: Mapping[str | None, int], *, where: str) -> None:
    """Raise ValueError where the given splits cannot be honoured; `counts` are images by given split, None for those without."""
    named = ", ".join(f"{split} {count:,}" for split, count in counts.items() if split is not None)
    if counts.get(None):
        raise ValueError(
            f"{where}: some images are given a split ({named}), {counts[None]:,} others are not; name them all alike, "
            "or set data.splits=content, which splits all of them by their pixels"
        )
    if not counts.get("train"):
        raise ValueError(
            f"{where}: the given splits ({named}) leave nothing to train on; add a train split, or set data.splits=content, "
            "which splits all of them by their pixels"
        )
