"""Points of the plane: [1, 1, 2] float32, x and y in [-1, 1]."""

import io
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from ganlib.modalities import MODALITIES, Numbers
from ganlib.pictures import NOTICE

SIDE, MARGIN = 512, 16  # pixels of the picture, and of the frame around [-1, 1]
RADIUS = 2.0
INK, AXIS = (31, 119, 180), (200, 200, 200)


@MODALITIES.register("points")
class Points(Numbers):
    """Points of the plane, shown as a scatter plot."""

    least_shown: ClassVar[int] = 1_000

    def preview(self, values: np.ndarray, *, columns: int, description: Mapping[str, str]) -> bytes:
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((MARGIN, MARGIN, SIDE - MARGIN, SIDE - MARGIN), outline=AXIS)
        draw.line((SIDE / 2, MARGIN, SIDE / 2, SIDE - MARGIN), fill=AXIS)
        draw.line((MARGIN, SIDE / 2, SIDE - MARGIN, SIDE / 2), fill=AXIS)
        x, y = ((values.reshape(-1, 2) * [1, -1] + 1) * (SIDE / 2 - MARGIN) + MARGIN).T  # y points up
        for place in np.stack([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], 1).tolist():
            draw.ellipse(place, fill=INK)
        text = PngImagePlugin.PngInfo()
        for key, value in {"Notice": NOTICE, **description}.items():
            text.add_text(key, value)
        stream = io.BytesIO()
        picture.save(stream, "png", pnginfo=text)
        return stream.getvalue()
