"""One image of any kind to uint8 [C, H, W] of the configured size; damaged bytes are told from whole ones.

Rules: the first frame of an animation; EXIF orientation applied; 16-bit grey scaled to 8 bits; palette, CMYK and grey with alpha
converted; where alpha is not wanted (1 or 3 channels) the image is composited on black; the padding of crop=pad is black, and
transparent in 4 channels. An image of the right size is not resampled.
"""

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no format that starts another program, as EPS does
RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


class BrokenImage(ValueError):
    """This image cannot be used; the message is the reason, without its name."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What every image becomes."""

    channels: int  # 1, 3 or 4
    height: int
    width: int
    resize: str  # a key of RESAMPLING
    crop: str  # center, pad or stretch

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


@contextmanager
def strict_decoder() -> Iterator[None]:
    """Inside, an image of more pixels than Pillow's limit is broken instead of warned of, and other warnings of Pillow are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def convert(image: bytes | np.ndarray, conversion: Conversion) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode, turn upright, fit.

    Args:
        image: an encoded file, or uint8/uint16 [H, W] or [H, W, C]. Call it inside `strict_decoder`.

    Returns:
        uint8 [C, H, W], and the original (height, width) when upright.

    Raises:
        BrokenImage: not an image, damaged, truncated, too large, or of a kind that has no meaning in 8 bits.
    """
    if isinstance(image, np.ndarray):
        return _convert_array(image, conversion)
    if not image:
        raise BrokenImage("empty file")
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            scale = 1
            if picture.format == "PNG":
                _check_png(image)
            elif isinstance(picture, JpegImageFile):
                scale = _draft(picture, conversion)
            picture.load()
            upright = ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture
            original = (upright.height * scale, upright.width * scale)
            return _to_array(_fit(_to_mode(upright, conversion.channels), conversion)), original
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(f"not an image ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # a decoder raises anything on damaged bytes: the reason goes into the report
        raise BrokenImage(f"damaged or truncated: {str(error) or type(error).__name__}") from None


def _convert_array(image: np.ndarray, conversion: Conversion) -> tuple[np.ndarray, tuple[int, int]]:
    original = (image.shape[0], image.shape[1])
    if image.dtype == np.uint16 and image.ndim == 2:
        image = _to_8_bits(image)
    if image.dtype != np.uint8:
        raise BrokenImage(f"{image.dtype} values, expected uint8")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if original == (conversion.height, conversion.width) and (1 if image.ndim == 2 else image.shape[2]) == conversion.channels:
        return (image[None] if image.ndim == 2 else image.transpose(2, 0, 1)), original
    picture = Image.fromarray(np.ascontiguousarray(image))
    return _to_array(_fit(_to_mode(picture, conversion.channels), conversion)), original


def _check_png(data: bytes) -> None:
    """Walk the chunks and their checksums: Pillow skips those of the pixel data."""
    view = memoryview(data)
    position = 8  # after the signature
    while True:
        if position + 12 > len(data):
            raise BrokenImage("truncated: the end of the PNG is missing")
        end = position + 8 + int.from_bytes(view[position : position + 4])
        if end + 4 > len(data):
            raise BrokenImage("truncated: the end of the PNG is missing")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise BrokenImage("damaged: wrong checksum in the PNG")
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end + 4


def _draft(picture: JpegImageFile, conversion: Conversion) -> int:
    """Let the JPEG decoder shrink by 8, 4 or 2 where at least twice the wanted size remains for the antialiasing filter; the factor."""
    width, height = picture.size
    if conversion.resize == "nearest":
        return 1
    shrink = min(width, height) / max(conversion.width, conversion.height)
    for scale in (8, 4, 2):
        if shrink >= 2 * scale and width % scale == 0 and height % scale == 0:  # whole, so that nothing shifts by a part of a pixel
            picture.draft(None, (width // scale, height // scale))
            return width // picture.size[0]
    return 1


def _to_mode(picture: Image.Image, channels: int) -> Image.Image:
    """L, RGB or RGBA."""
    if picture.mode.startswith("I"):  # I;16 and its byte orders, or 32-bit integers
        picture = Image.fromarray(_to_8_bits(np.asarray(picture)))
    if picture.mode == "F":
        raise BrokenImage("floating-point pixels, whose range is unknown; expected 8 or 16 bits")
    if channels == 4:
        return picture.convert("RGBA")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """[H, W] integers in 0..65535 to uint8: v * 255 / 65535, rounded."""
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BrokenImage(f"32-bit pixels from {values.min()} to {values.max()}; expected 8 or 16 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _fit(picture: Image.Image, conversion: Conversion) -> Image.Image:
    height, width = conversion.height, conversion.width
    if picture.size == (width, height):
        return picture
    resample = RESAMPLING[conversion.resize]
    if conversion.crop == "stretch":
        return picture.resize((width, height), resample)
    if conversion.crop == "pad":
        scale = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        padded = Image.new(picture.mode, (width, height))  # zeros: black, in RGBA transparent
        padded.paste(picture.resize(size, resample), ((width - size[0]) // 2, (height - size[1]) // 2))
        return padded
    scale = min(picture.width / width, picture.height / height)  # center: the largest box of the wanted shape
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + width * scale, picture.width), min(top + height * scale, picture.height))
    return picture.resize((width, height), resample, box=box)


def _to_array(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture)  # [H, W] or [H, W, C]
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
