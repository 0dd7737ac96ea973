"""Scikit-learn's handwritten digits: tiny, and on every machine that has scikit-learn."""

from pathlib import Path

import numpy as np

from ganlib.data.idx import write_idx
from ganlib.data.raw import Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES


@SOURCES.register("digits")
class Digits:
    """1,797 grey digits of 8x8 from scikit-learn: needs no network, trains in seconds."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ValueError(f"data.source=digits needs scikit-learn, which cannot be imported: {error}") from None
        digits = load_digits()  # images [n, 8, 8] float64 with whole values 0..16
        write_idx(raw / "digits-images-idx3-ubyte", np.round(digits.images * (255 / 16)).astype(np.uint8))
        write_idx(raw / "digits-labels-idx1-ubyte", digits.target.astype(np.uint8))
        return Fetched(layout="idx", class_names=tuple(str(number) for number in range(10)))
