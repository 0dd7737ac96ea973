"""A table with a column of every kind, and rows of it."""

import numpy as np

from ganlib.data.ipc import image_field
from ganlib.fields import Field, class_field

DEPTH = Field(name="depth", kind="points", shape=(1, 2, 3), dtype="float32", value_range=(0.0, 12.5))
CAPTION = Field(name="caption", kind="tokens", shape=(7,), dtype="int32")
KIND, WEATHER = class_field("label", ("cat", "dog")), class_field("weather", ("sun", "rain", "fog"))
FIELDS = (image_field("image", (3, 2, 2)), DEPTH, KIND, CAPTION, WEATHER)


def columns(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, 3, 2, 2), np.uint8),
        "depth": rng.normal(size=(count, 1, 2, 3)).astype(np.float32),
        "label": rng.integers(0, 2, count),
        "caption": rng.integers(-5, 1000, (count, 7), np.int32),
        "weather": rng.integers(0, 3, count),
    }
