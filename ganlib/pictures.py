"""PNG grids that say what they are."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

Font = ImageFont.FreeTypeFont
NOTICE = "synthetic image, made by a generative model"


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


def in_turn(*kinds: np.ndarray, columns: int) -> np.ndarray:
    """Kinds of one image each [N, C, H, W], a row of `columns` of the first kind, the same row of the second, and so on; a short last row is
    filled up in white. Where kinds differ, all are shown with the channels and the size of the largest."""
    c, h, w = (max(kind.shape[axis] for kind in kinds) for axis in (1, 2, 3))
    kinds = tuple(_of_shape(kind, c, h, w) for kind in kinds)
    missing = -len(kinds[0]) % columns
    filled = [np.concatenate([kind, np.full((missing, *kind.shape[1:]), 255, kind.dtype)]) for kind in kinds]
    return np.stack([kind.reshape(-1, columns, *kind.shape[1:]) for kind in filled], axis=1).reshape(-1, *kinds[0].shape[1:])


def _of_shape(images: np.ndarray, channels: int, height: int, width: int) -> np.ndarray:
    """[N, C, H, W] enlarged to the nearest pixel; grey as colours, and opaque where there is an alpha."""
    if images.shape[1:] == (channels, height, width):
        return images
    rows, columns = (np.arange(size) * old // size for size, old in ((height, images.shape[2]), (width, images.shape[3])))
    sized: np.ndarray = images[:, :, rows][:, :, :, columns]
    if sized.shape[1] == 1:
        sized = sized.repeat(min(3, channels), axis=1)
    if sized.shape[1] < channels:
        sized = np.concatenate([sized, np.full_like(sized[:, :1], 255)], axis=1)
    return sized


def class_sheet(images: np.ndarray, *, headings: Sequence[str], numbers: Sequence[int], columns: int, note: str = "") -> np.ndarray:
    """A grid with the name of a class above each column -> [C, height, width] uint8 on white, small images enlarged by whole factors.

    Args:
        images: [bands * rows * columns, C, H, W] uint8: the columns of a band, one row below another, then the next band.
        headings: [bands * columns] names; one that the font has no letters for stands as its number.
        numbers: [bands * columns] numbers of the classes.
        note: a line above all.
    """
    channels = images.shape[1]
    scale = max(1, 64 // max(images.shape[2:]))
    images, gap = images.repeat(scale, 2).repeat(scale, 3), max(2, scale // 2)
    step = images.shape[3] + gap
    font = ImageFont.load_default(max(10, min(24, step // 6)))
    assert isinstance(font, Font), "Pillow without FreeType"
    bands = len(headings) // columns
    parts = [_line([note], step * columns, font, gap)] if note else []
    for band, pixels in enumerate(np.split(images, bands)):
        chosen = slice(band * columns, (band + 1) * columns)
        names = [
            name if _can_write(name, font) else f"class {number}" for name, number in zip(headings[chosen], numbers[chosen], strict=True)
        ]
        parts += [_line(names, step, font, gap), grid(pixels, columns=columns, gap=gap)]
    return np.concatenate([_of_channels(part, channels) for part in parts]).transpose(2, 0, 1)


def _of_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """[h, w, 1] -> [h, w, channels], opaque; what has the channels stays."""
    wide = np.broadcast_to(pixels, (*pixels.shape[:2], channels)).copy()
    if channels == 4 and pixels.shape[2] == 1:
        wide[:, :, 3] = 255
    return wide


def _line(texts: Sequence[str], step: int, font: Font, gap: int) -> np.ndarray:
    """Texts side by side, `step` pixels each, in two lines where one is too short -> [h, len(texts) * step + gap, 1] uint8, black on white."""
    broken = [_broken(text, step - gap, font) for text in texts]
    height = round(1.25 * font.size)
    image = Image.new("L", (len(texts) * step + gap, height * max(map(len, broken)) + gap), 255)
    draw = ImageDraw.Draw(image)
    for i, lines in enumerate(broken):
        for j, line in enumerate(lines):
            draw.text((gap + i * step, gap + j * height), line, fill=0, font=font)
    return np.asarray(image)[:, :, None]


def _broken(text: str, width: int, font: Font) -> list[str]:
    """A text in at most two lines of `width` pixels, cut where that is too little."""
    lines = [""]
    for word in re.findall(r"[^\s/_-]+[/_-]*\s*|.", text):
        if lines[-1] and len(lines) == 1 and font.getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [_cut(line.rstrip(), width, font) for line in lines]


def _cut(line: str, width: int, font: Font) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "\u2026") > width:
        line = line[:-1]
    return line + "\u2026"


def _can_write(text: str, font: Font) -> bool:
    """Whether the font has every letter; it draws one box for all others."""
    box = bytes(font.getmask("\uffff"))
    return all(letter.isspace() or bytes(font.getmask(letter)) != box for letter in text)
