"""Every kind of image becomes the pixels a person would expect; every kind of damage is noticed."""

import contextlib
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.data import decode
from ganlib.data.decode import BrokenImage, Conversion, convert, strict_decoder

SIZE = 8


def conversion(**changes: Any) -> Conversion:
    return Conversion(**{"channels": 3, "height": SIZE, "width": SIZE, "resize": "lanczos", "crop": "center"} | changes)


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image: bytes | np.ndarray, **options: Any) -> np.ndarray:
    with strict_decoder():
        return convert(image, conversion(**options))[0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smooth(height: int, width: int) -> Image.Image:
    return Image.fromarray(noise(5, 5, 3)).resize((width, height), Image.Resampling.BICUBIC)


RGB = noise(SIZE, SIZE, 3)
GREY = noise(SIZE, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_rgb_is_exact(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(RGB), kind, **options)), RGB.transpose(2, 0, 1))


def test_grey_and_rgb_in_every_number_of_channels() -> None:
    grey = encode(Image.fromarray(GREY))
    np.testing.assert_array_equal(decoded(grey, channels=1), GREY[None])
    np.testing.assert_array_equal(decoded(grey, channels=3), np.stack([GREY] * 3))
    np.testing.assert_array_equal(decoded(grey, channels=4), np.stack([GREY] * 3 + [np.full_like(GREY, 255)]))
    luminance = (RGB @ np.array([0.299, 0.587, 0.114])).round()  # ITU-R BT.601
    assert np.abs(decoded(encode(Image.fromarray(RGB)), channels=1)[0] - luminance).max() <= 1


def test_alpha_is_kept_in_four_channels_and_composited_on_black_else() -> None:
    rgba = noise(SIZE, SIZE, 4) | np.array([0, 0, 0, 1], np.uint8)  # nothing is hidden
    data = encode(Image.fromarray(rgba))
    np.testing.assert_array_equal(decoded(data, channels=4), rgba.transpose(2, 0, 1))
    on_black = rgba[..., :3] * (rgba[..., 3:] / 255.0)
    assert np.abs(decoded(data, channels=3) - on_black.transpose(2, 0, 1)).max() <= 1


def test_grey_with_alpha() -> None:
    values = noise(SIZE, SIZE, 2)
    data = encode(Image.merge("LA", [Image.fromarray(values[..., band]) for band in range(2)]))
    assert np.abs(decoded(data, channels=1)[0] - values[..., 0] * (values[..., 1] / 255.0)).max() <= 1
    np.testing.assert_array_equal(decoded(data, channels=4)[3], values[..., 1])


def test_palette_with_and_without_transparency() -> None:
    indices = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 4
    picture = Image.fromarray(indices)
    picture = picture.convert("P") if picture.mode != "P" else picture
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]])
    picture.putdata(indices.ravel().tolist())
    np.testing.assert_array_equal(decoded(encode(picture)), colours[indices].transpose(2, 0, 1))
    transparent = decoded(encode(picture, transparency=2))
    expected = np.where((indices == 2)[..., None], 0, colours[indices])
    np.testing.assert_array_equal(transparent, expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(decoded(encode(picture, transparency=2), channels=4)[3], np.where(indices == 2, 0, 255))
    np.testing.assert_array_equal(decoded(encode(picture, "GIF")), colours[indices].transpose(2, 0, 1))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    expected = np.round(values / 257.0)
    for data in (encode(Image.fromarray(values)), encode(Image.fromarray(values), "TIFF"), values):
        np.testing.assert_array_equal(decoded(data, channels=1)[0], expected)
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(values)), channels=3)[2], expected)


def test_one_bit_and_cmyk() -> None:
    bits = noise(SIZE, SIZE) > 127
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(bits)), channels=1)[0], np.where(bits, 255, 0))
    cmyk = Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0))  # magenta and yellow ink: red
    for kind in ("JPEG", "TIFF"):
        red = decoded(encode(cmyk, kind)).astype(int)
        assert np.abs(red - np.array([255, 0, 0])[:, None, None]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Saved turned with the orientation that turns it back: must come out as the original. EXIF 2.32, tag 0x0112."""
    size = (64, 32)
    upright = np.zeros((*size, 3), np.uint8)
    upright[:16, :16] = (255, 255, 255)  # top left
    upright[:16, 16:] = (200, 0, 0)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture = Image.fromarray(upright)
    if orientation != 1:
        picture = picture.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"exif": exif, "quality": 95} if kind == "JPEG" else {"exif": exif}
    if kind == "WEBP":
        options["lossless"] = True
    with strict_decoder():
        image, original = convert(encode(picture, kind, **options), conversion(height=64, width=32))
    assert original == size
    assert np.abs(image.astype(int) - upright.transpose(2, 0, 1)).mean() < 2


def test_right_size_is_not_resampled_and_others_are_antialiased() -> None:
    checkers = ((np.indices((64, 64)).sum(axis=0) % 2) * 255).astype(np.uint8)
    data = encode(Image.fromarray(checkers))
    np.testing.assert_array_equal(decoded(data, channels=1, height=64, width=64)[0], checkers)
    for resize in ("lanczos", "bicubic", "bilinear", "hamming", "box"):
        assert np.abs(decoded(data, channels=1, resize=resize)[0, 2:-2, 2:-2].astype(int) - 127).max() <= 2  # grey, not stripes
    assert set(np.unique(decoded(data, channels=1, resize="nearest"))) <= {0, 255}


def test_crops() -> None:
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, :4] = (255, 0, 0)
    values[:, 4:12] = (0, 255, 0)
    values[:, 12:] = (0, 0, 255)
    data = encode(Image.fromarray(values))
    centre = decoded(data, crop="center")
    np.testing.assert_array_equal(centre, np.broadcast_to(np.array([0, 255, 0])[:, None, None], (3, 8, 8)))
    padded = decoded(data, crop="pad", resize="box")
    assert padded[:, :2].max() == 0
    assert padded[:, 6:].max() == 0
    np.testing.assert_array_equal(padded[:, 3, [0, 4, 7]].T, [[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    assert decoded(data, crop="pad", channels=4)[3, 0].max() == 0
    stretched = decoded(data, crop="stretch", resize="box")
    np.testing.assert_array_equal(stretched[:, :, :2], np.broadcast_to(np.array([255, 0, 0])[:, None, None], (3, 8, 2)))
    assert decoded(encode(smooth(1, 300)), crop="pad").shape == (3, 8, 8)


@pytest.mark.parametrize("crop", ["center", "pad", "stretch"])
@pytest.mark.parametrize("size", [(512, 512), (256, 640), (520, 250)])
def test_drafted_jpeg_agrees_with_the_full_decode(size: tuple[int, int], crop: str) -> None:
    data = encode(smooth(*size), "JPEG", quality=90)
    with strict_decoder():
        fast, original = convert(data, conversion(height=16, width=16, crop=crop, jpeg_decode="shrink"))
        assert original == size
        slow, original = convert(data, conversion(height=16, width=16, crop=crop))
    assert original == size
    assert not np.array_equal(fast, slow)
    difference = np.abs(fast.astype(int) - slow)
    assert difference.max() <= 8
    assert difference.mean() < 1.5


@pytest.mark.parametrize(
    ("size", "scale"),
    [((512, 512), 8), ((256, 256), 8), ((255, 256), 1), ((248, 640), 4), ((250, 520), 2), ((64, 64), 2), ((62, 62), 1), ((16, 16), 1)],
)
def test_a_draft_leaves_twice_the_wanted_size_and_whole_pixels(size: tuple[int, int], scale: int) -> None:
    data = encode(smooth(*size), "JPEG")
    with Image.open(io.BytesIO(data)) as picture:
        assert decode._draft(picture, conversion(height=16, width=16, jpeg_decode="shrink")) == scale
        assert (picture.height * scale, picture.width * scale) == size
    with Image.open(io.BytesIO(data)) as picture:
        assert decode._draft(picture, conversion(height=16, width=16, resize="nearest", jpeg_decode="shrink")) == 1
    with Image.open(io.BytesIO(data)) as picture:
        assert decode._draft(picture, conversion(height=16, width=16)) == 1


def test_arrays() -> None:
    np.testing.assert_array_equal(decoded(RGB), RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(decoded(GREY, channels=1)[0], GREY)
    np.testing.assert_array_equal(decoded(GREY[:, :, None], channels=1)[0], GREY)
    reference = decoded(encode(Image.fromarray(noise(20, 12, 3))))
    np.testing.assert_array_equal(decoded(noise(20, 12, 3)), reference)
    with pytest.raises(BrokenImage, match=r"float32 values.*data\.value_range"):
        decoded(RGB.astype(np.float32))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_noticed(kind: str) -> None:
    data = encode(smooth(64, 64), kind)
    decoded(data)
    for share in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(BrokenImage):
            decoded(data[: int(len(data) * share)])


def test_a_png_cut_by_one_byte_or_with_a_flipped_bit_is_noticed() -> None:
    data = bytearray(encode(Image.fromarray(noise(64, 64, 3))))
    with pytest.raises(BrokenImage, match="truncated"):
        decoded(bytes(data[:-1]))
    data[len(data) // 2] ^= 1
    with pytest.raises(BrokenImage, match="damaged"):
        decoded(bytes(data))


def test_what_is_no_image() -> None:
    for data, reason in ((b"", "empty file"), (b"not an image", "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image")):
        with pytest.raises(BrokenImage, match=reason) as caught:
            decoded(data)
        assert "0x" not in str(caught.value)  # an address would make the report differ between runs
    floats = Image.fromarray(np.zeros((SIZE, SIZE), np.float32))
    with pytest.raises(BrokenImage, match="float32 values from 0 to 0"):
        decoded(encode(floats, "TIFF"))
    large = Image.fromarray(np.full((SIZE, SIZE), 1 << 20, np.int32))
    with pytest.raises(BrokenImage, match="int32 values from 1048576 to 1048576"):
        decoded(encode(large, "TIFF"))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns of the first and refuses the second
def test_decompression_bombs_are_offenders(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BrokenImage, match="more than 89,478,485 pixels"):
            decoded(png_header(side, side))


def test_random_bytes_after_a_signature_never_crash() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = encode(smooth(32, 32), kind)
        for _ in range(30):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 10):
                data[position] = rng.integers(256)
            with contextlib.suppress(BrokenImage):
                assert decoded(bytes(data)).shape == (3, SIZE, SIZE)
