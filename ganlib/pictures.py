"""PNG grids that say what they are."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, PngImagePlugin

NOTICE = "synthetic image, made by a generative adversarial network"


def grid(images: np.ndarray, *, columns: int, gap: int = 2) -> np.ndarray:
    """[N, C, H, W] uint8 -> [rows * (H + gap) + gap, columns * (W + gap) + gap, C] uint8 on white; the last row may be short."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        canvas[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return canvas


def grid_png(images: np.ndarray, *, columns: int, description: Mapping[str, str]) -> bytes:
    """A grid of generated images as PNG, enlarged by whole factors so that small ones can be seen.

    Args:
        images: [N, C, H, W] uint8.
        description: written as PNG text beside the notice that the images are synthetic: model, commit, seed.
    """
    scale = max(1, 64 // max(images.shape[2:]))
    pixels = grid(images.repeat(scale, 2).repeat(scale, 3), columns=columns, gap=max(2, scale // 2))
    text = PngImagePlugin.PngInfo()
    for key, value in {"Notice": NOTICE, **description}.items():
        text.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "png", pnginfo=text)
    return stream.getvalue()
