"""One image of any kind to uint8 [C, H, W] of the configured size; damaged bytes are told from whole ones (`ganlib.data.soundness`).

Rules: the first page of a file, or each; EXIF orientation applied; `data.value_range` mapped to 8 bits, without it 16 bits scaled to 8;
palette, CMYK and grey with alpha converted; where alpha is not wanted (1 or 3 channels) the image is composited on black, where it is (4)
colour under alpha 0 is zero; the padding of crop=pad is black, and transparent in 4 channels. An image of the right size is not resampled.
"""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from ganlib.data import soundness
from ganlib.data.settings import MAX_PIXELS, DataConfig
from ganlib.data.soundness import BrokenImage
from ganlib.data.values import Survey, to_8_bits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")  # none that starts another program, as EPS does
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PAGED = ("TIFF", "GIF", "WEBP", "PNG", "AVIF", "HEIF")  # whose further pictures are pages or frames; a camera's MPO holds previews
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
CONVERSION_KEYS = ("channels", "resize", "crop", "value_range", "pages", "jpeg_decode", "max_pixels")  # of the data section
RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}
DNG_VERSION, NEW_SUBFILE_TYPE, REDUCED = 50706, 254, 1  # TIFF tags; a page that is another one made smaller
OTHER_BYTE = {  # raw modes of Pillow that give the low bytes of 16-bit colours, where it reads the high ones
    f"{mode};16{order}": f"{mode};16{'L' if order == 'B' or (order == 'N' and sys.byteorder == 'big') else 'B'}"
    for mode in ("RGB", "RGBA")
    for order in "BLN"
}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What every image becomes, and what is taken of a file; the keys of the data section."""

    channels: int  # 1, 3 or 4
    height: int
    width: int
    resize: str  # a key of RESAMPLING
    crop: str  # center, pad or stretch
    value_range: tuple[float, float] | None = None  # mapped to 0..255
    pages: str = "first"  # or all
    jpeg_decode: str = "full"  # or shrink
    max_pixels: int = MAX_PIXELS
    dtype: ClassVar[str] = "uint8"
    keys: ClassVar[tuple[str, ...]] = CONVERSION_KEYS

    @classmethod
    def of(cls, config: DataConfig) -> "Conversion":
        height, width = config.image_size
        return cls(height=height, width=width, **{key: getattr(config, key) for key in CONVERSION_KEYS})

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def guarded(self) -> AbstractContextManager[None]:
        return strict_decoder(self.max_pixels)

    def decode(self, raw: bytes | np.ndarray, survey: Survey, *, name: str) -> "list[Fitted]":
        return convert_pages(raw, self, survey, name=name)


Fitted = tuple[np.ndarray, tuple[int, int]]  # uint8 [C, H, W], and the original (height, width) when upright


@contextmanager
def strict_decoder(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Inside, an image of more than `max_pixels` is broken instead of warned of, and other warnings of Pillow are silent."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def convert(image: bytes | np.ndarray, conversion: Conversion) -> Fitted:
    """The first page of `image`; see `convert_pages`."""
    return convert_pages(image, conversion, Survey())[0]


def convert_pages(image: bytes | np.ndarray, conversion: Conversion, survey: Survey, *, name: str = "") -> list[Fitted]:
    """Decode, turn upright, fit: the first page, or every one.

    Args:
        image: an encoded file, or numbers [H, W] or [H, W, C]. Call it inside `strict_decoder`.
        survey: is told what the values are, how many pages there are, and, under `name`, what follows a picture in its file.

    Raises:
        BrokenImage: not an image, damaged, truncated, too large, or of a kind that has no meaning in 8 bits.
    """
    if isinstance(image, np.ndarray):
        return [_convert_array(image, conversion, survey)]
    if not image:
        raise BrokenImage("empty file")
    try:
        return _convert_file(image, conversion, survey, name)
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImage(_unidentified(image)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImage(f"more than {conversion.max_pixels:,} pixels (data.max_pixels)") from None
    except Exception as error:  # a decoder raises anything on damaged bytes: the reason goes into the report
        raise BrokenImage(f"damaged or truncated: {str(error) or type(error).__name__}") from None


def _convert_file(image: bytes, conversion: Conversion, survey: Survey, name: str) -> list[Fitted]:
    jpeg: soundness.CheckedJpeg | None = None
    is_followed = False
    if image.startswith(b"\xff\xd8\xff"):
        jpeg = soundness.CheckedJpeg(image)
        is_followed = soundness.check_end(image, jpeg.end, has_more_pictures=jpeg.has_more_pictures)
    elif image.startswith(PNG_SIGNATURE):
        is_followed = soundness.check_end(image, soundness.check_png(image))
    elif image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        is_followed = soundness.check_end(image, soundness.check_webp(image))
    with _open(image, jpeg) as picture:
        scale = _draft(picture, conversion) if isinstance(picture, JpegImageFile) else 1
        if jpeg is not None:
            jpeg.watch(picture)
        if picture.format == "TIFF" and DNG_VERSION in picture.tag_v2:  # type: ignore[attr-defined]  # a TIFF has it
            raise BrokenImage("a camera raw file (DNG), which is not read")
        pages = _pages(picture)
        taken = pages if conversion.pages == "all" else pages[:1]
        converted = [_convert_page(picture, page, jpeg, image, scale, conversion, survey) for page in taken]
    if len(pages) > 1:
        survey.several_pages += 1
        survey.most_pages = max(survey.most_pages, len(pages))
        survey.pages_left_out += len(pages) - len(taken)
    if is_followed:
        survey.followed.append(name)
    return converted


def _open(image: bytes, jpeg: soundness.CheckedJpeg | None) -> Image.Image:
    """Its pixels are not read yet. A PNG with larger texts than Pillow takes is opened without them."""
    try:
        return Image.open(jpeg or io.BytesIO(image), formats=_formats())
    except ValueError as error:
        if not image.startswith(PNG_SIGNATURE) or "MAX_TEXT" not in str(error):
            raise
        return Image.open(io.BytesIO(soundness.without_texts(image)), formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this installation can decode."""
    missing = {"HEIF"} if not _reads_heic() else set()
    missing |= {"AVIF"} if not features.check("avif") else set()
    missing |= {"JPEG2000"} if not features.check("jpg_2000") else set()
    return tuple(name for name in FORMATS if name not in missing)


def _reads_heic() -> bool:
    """Whether the extra `heic` is installed; Pillow reads the format from then on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _unidentified(image: bytes) -> str:
    if image[4:8] == b"ftyp" and image[8:12] in HEIC_BRANDS and "HEIF" not in _formats():
        return "a HEIC file, which needs pillow-heif: pip install 'ganpipe[heic]'"
    if image[4:8] == b"ftyp" and image[8:12] in (b"avif", b"avis") and "AVIF" not in _formats():
        return "an AVIF file, which this Pillow cannot read"
    return f"not an image of a kind that is read here ({', '.join(_formats())})"


def _pages(picture: Image.Image) -> list[int]:
    """Numbers of the pages or frames; pages of a TIFF that are others made smaller do not count."""
    number = getattr(picture, "n_frames", 1) if picture.format in PAGED else 1
    if number == 1 or picture.format != "TIFF":
        return list(range(number))
    own = []
    for page in range(number):
        picture.seek(page)
        if not int(picture.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & REDUCED:  # type: ignore[attr-defined]  # a TIFF has it
            own.append(page)
    if not own or own[0] != 0:
        raise BrokenImage("its first page is a preview of another one, as in camera raw files, which are not read")
    return own


def _convert_page(
    picture: Image.Image, page: int, jpeg: soundness.CheckedJpeg | None, image: bytes, scale: int, conversion: Conversion, survey: Survey
) -> Fitted:
    if page != picture.tell():
        picture.seek(page)
    low_bytes = _low_bytes(picture, page, image)
    picture.load()
    if jpeg is not None:
        jpeg.check_loaded()
    upright = _upright(picture)
    original = (upright.height * scale, upright.width * scale)
    if low_bytes is not None:
        values = np.asarray(upright).astype(np.uint16) << 8 | np.asarray(_upright(low_bytes))
        return _fitted(_from_numbers(values, conversion, survey), conversion), original
    if upright.mode.startswith(("I", "F")):  # I;16 and its byte orders, 32-bit integers, floating point
        numbers = np.asarray(upright)
        if picture.format == "PPM" and upright.mode == "I":  # Pillow has scaled it to 16 bits
            numbers = numbers.astype(np.uint16)
        return _fitted(_from_numbers(numbers, conversion, survey), conversion), original
    return _fitted(_from_picture(upright, conversion, survey), conversion), original


def _upright(picture: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture


def _low_bytes(picture: Image.Image, page: int, image: bytes) -> Image.Image | None:
    """The low bytes of 16-bit colours, as a picture like the one that Pillow makes of the high bytes; None for any other picture."""
    tiles = picture.tile  # type: ignore[attr-defined]  # of every opened file
    if not tiles or tiles[0].codec_name not in ("zip", "raw", "libtiff"):
        return None
    is_tuple = isinstance(tiles[0].args, tuple)
    if (tiles[0].args[0] if is_tuple else tiles[0].args) not in OTHER_BYTE:
        return None
    low = Image.open(io.BytesIO(image), formats=_formats())
    low.seek(page)
    low.tile = [tile._replace(args=(OTHER_BYTE[tile.args[0]], *tile.args[1:]) if is_tuple else OTHER_BYTE[tile.args]) for tile in tiles]
    low.load()
    return low


def _convert_array(image: np.ndarray, conversion: Conversion, survey: Survey) -> Fitted:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    original = (image.shape[0], image.shape[1])
    is_wanted = original == (conversion.height, conversion.width) and (1 if image.ndim == 2 else image.shape[2]) == conversion.channels
    if image.dtype == np.uint8 and is_wanted and conversion.channels != 4 and conversion.value_range is None:
        survey.count("uint8", image, None)
        return (image[None] if image.ndim == 2 else image.transpose(2, 0, 1)), original
    return _fitted(_from_numbers(image, conversion, survey), conversion), original


def _from_numbers(values: np.ndarray, conversion: Conversion, survey: Survey) -> Image.Image:
    """L, RGB or RGBA of numbers of any kind, [H, W] or [H, W, C]: 3 colours, or alpha last (2, 4), in the full range of its type."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind, value_range = values.dtype, conversion.value_range
    if kind.kind == "f" and not np.isfinite(values).all():
        raise BrokenImage(f"{kind.name} values that are NaN or infinite")
    if values.ndim == 2 or values.shape[2] == 3:
        survey.count(kind.name, values, value_range)
        return _to_mode(Image.fromarray(np.ascontiguousarray(to_8_bits(values, value_range))), conversion.channels)
    opaque = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
    alpha = to_8_bits(values[..., -1], (0.0, opaque))
    survey.count(kind.name, values[..., :-1][alpha > 0], value_range)
    return _to_mode(Image.fromarray(np.dstack([to_8_bits(values[..., :-1], value_range), alpha])), conversion.channels)


def _from_picture(picture: Image.Image, conversion: Conversion, survey: Survey) -> Image.Image:
    """L, RGB or RGBA of an 8-bit picture of any mode."""
    if picture.mode == "1":
        return _to_mode(picture, conversion.channels)
    value_range = conversion.value_range
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        survey.count_picture(rgba.convert("RGB"), alpha, value_range)
        if value_range is not None:
            rgba = Image.merge("RGBA", (*_mapped(rgba.convert("RGB"), value_range).split(), alpha))
        return _to_mode(rgba, conversion.channels)
    if picture.mode not in ("L", "RGB") and value_range is not None:
        picture = picture.convert("RGB")
    survey.count_picture(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), None, value_range)
    return _to_mode(picture if value_range is None else _mapped(picture, value_range), conversion.channels)


def _mapped(picture: Image.Image, value_range: tuple[float, float]) -> Image.Image:
    table = to_8_bits(np.arange(256, dtype=np.uint8), value_range).tolist()
    return picture.point(table * len(picture.getbands()))


def _draft(picture: JpegImageFile, conversion: Conversion) -> int:
    """Let the JPEG decoder shrink by 8, 4 or 2 where at least twice the wanted size remains for the antialiasing filter; the factor."""
    width, height = picture.size
    if conversion.jpeg_decode == "full" or conversion.resize == "nearest":
        return 1
    shrink = min(width, height) / max(conversion.width, conversion.height)
    for scale in (8, 4, 2):
        if shrink >= 2 * scale and width % scale == 0 and height % scale == 0:  # whole, so that nothing shifts by a part of a pixel
            picture.draft(None, (width // scale, height // scale))
            return width // picture.size[0]
    return 1


def _to_mode(picture: Image.Image, channels: int) -> Image.Image:
    """L, RGB or RGBA."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if picture.mode == mode and "transparency" not in picture.info:  # `convert` would copy it
        return picture
    if channels != 4 and picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return picture.convert(mode)


def _fitted(picture: Image.Image, conversion: Conversion) -> np.ndarray:
    """uint8 [C, H, W]. Pillow resizes RGBA with its colours multiplied by alpha, so hidden colours reach no edge."""
    values = _to_array(_fit(picture, conversion))
    if conversion.channels == 4 and not values[3].all():
        values = np.where(values[3] > 0, values, np.uint8(0))
    return values


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
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)  # a view: who gathers images copies them anyway
