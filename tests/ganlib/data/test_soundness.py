"""Damage that a decoder patches up: what is found of it, how much, and that no sound file is refused for it."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.data.decode import BrokenImage, Conversion, convert, convert_pages, strict_decoder
from ganlib.data.soundness import CheckedJpeg
from ganlib.data.values import Survey

Rng = np.random.Generator
WHOLE = Conversion(channels=3, height=128, width=128, resize="lanczos", crop="stretch")
TRIALS = 200


def photograph(seed: int, size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Smooth colours of several scales, and grain."""
    rng = np.random.default_rng(seed)
    values = np.full((*size, 3), 128.0)
    for cells, weight in ((3, 60), (12, 30), (48, 15)):
        grid = Image.fromarray(rng.normal(128, weight, (cells, cells, 3)).clip(0, 255).astype(np.uint8))
        values += np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC), np.float64) - 128
    return Image.fromarray((values + rng.normal(0, 4, values.shape)).clip(0, 255).astype(np.uint8))


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def is_refused(data: bytes) -> bool:
    try:
        with strict_decoder():
            convert(data, WHOLE)
    except BrokenImage:
        return True
    return False


def flip(data: bytes, rng: Rng) -> bytes:
    changed, bit = bytearray(data), int(rng.integers(8 * len(data)))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(data: bytes, rng: Rng) -> bytes:
    """As repair tools and cameras do: the end marker follows at once."""
    return data[: int(rng.integers(700, len(data) - 10))] + b"\xff\xd9"


def blank(data: bytes, rng: Rng) -> bytes:
    """A lost sector."""
    start = int(rng.integers(700, len(data) - 600))
    return data[:start] + bytes(512) + data[start + 512 :]


def page(data: bytes, rng: Rng) -> bytes:
    return data + b"\r\n<!DOCTYPE html><html><body>502 Bad Gateway</body></html>\n"


def cut_webp(data: bytes, rng: Rng) -> bytes:
    """Cut, with the sizes of the file set right again."""
    end = int(rng.integers(100, len(data) - 10)) // 2 * 2
    return data[:4] + (end - 8).to_bytes(4, "little") + data[8:16] + (end - 20).to_bytes(4, "little") + data[20:end]


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("JPEG", {"quality": 90}),
    "optimised": ("JPEG", {"quality": 90, "optimize": True}),
    "restarts": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "webp": ("WEBP", {"quality": 90}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "png": ("PNG", {}),
}
# Shares found of TRIALS damages of each kind, as docs/data.md promises them: at least so many. Before, of cut, blank and page: none in JPEG.
PROMISED: dict[tuple[str, Callable[[bytes, Rng], bytes]], float] = {
    ("baseline", cut): 0.99,
    ("optimised", cut): 0.99,
    ("restarts", cut): 0.99,
    ("progressive", cut): 0.5,
    ("webp", cut_webp): 0.99,
    ("baseline", blank): 0.3,  # fewer where zeros happen to code as many blocks as the lost bytes did
    ("optimised", blank): 0.9,
    **{(kind, page): 1.0 for kind in KINDS},
    ("baseline", flip): 0.1,
    ("png", flip): 1.0,
}


@pytest.mark.parametrize(("kind", "damage"), PROMISED, ids=lambda value: getattr(value, "__name__", value))
def test_the_share_that_is_found(kind: str, damage: Callable[[bytes, Rng], bytes]) -> None:
    """Kills: decoding alone, which fills up with grey and says nothing."""
    fmt, options = KINDS[kind]
    whole = [encode(photograph(seed), fmt, **options) for seed in range(5)]
    found = sum(is_refused(damage(whole[trial % 5], np.random.default_rng(trial))) for trial in range(TRIALS))
    assert found / TRIALS >= PROMISED[kind, damage], found / TRIALS


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("jpeg_decode", ["full", "shrink"])
def test_no_sound_jpeg_is_refused_and_none_is_changed(mode: str, jpeg_decode: str) -> None:
    """Sizes that fill no block, flat pictures, every process Pillow writes; the pixels are those of a plain decode."""
    rng = np.random.default_rng(0)
    for trial in range(40):
        height, width = (int(side) for side in rng.integers(1, 100, 2))
        picture = photograph(trial, (height, width)) if trial % 3 else Image.new("RGB", (width, height), (int(rng.integers(256)), 9, 200))
        for options in ({}, {"subsampling": 0}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}):
            data = encode(picture.convert(mode), "JPEG", quality=int(rng.integers(20, 100)), **options)
            conversion = Conversion(
                channels=3, height=max(height // 4, 1), width=max(width // 4, 1), resize="box", crop="stretch", jpeg_decode=jpeg_decode
            )
            with strict_decoder():
                image, original = convert(data, conversion)
            assert original == (height, width)
            if jpeg_decode == "full":
                with Image.open(io.BytesIO(data)) as plain:
                    plain.load()
                    expected = plain.convert("RGB").resize((conversion.width, conversion.height), Image.Resampling.BOX)
                np.testing.assert_array_equal(image, np.asarray(expected).transpose(2, 0, 1))


def test_a_few_bytes_too_few_or_too_many() -> None:
    """The narrow edge of a baseline JPEG: 16 bytes less than its decoder needs, or 16 more; kills: looking for missing rows alone."""
    for seed in range(10):
        data = encode(photograph(seed), "JPEG", quality=90)
        end = data.index(b"\xff\xd9", 700)
        assert not is_refused(data)
        assert is_refused(data[: end - 16] + data[end:])
        assert is_refused(data[:end] + bytes(range(1, 17)) + data[end:])
        assert not is_refused(data[:end] + bytes(40) + data[end:])  # cameras fill up with zeros


def test_what_cameras_append_is_no_damage() -> None:
    """Previews of a multi-picture file, a motion picture, a trailer, padding: accepted in silence; anything else is told of."""
    whole, preview = encode(photograph(0), "JPEG"), encode(photograph(1, (32, 32)), "JPEG")
    mpo = encode(photograph(0), "MPO", save_all=True, append_images=[photograph(1)])
    silent = [
        mpo,
        whole + preview,
        whole + bytes(5000),
        whole + b"\0\0\0\x18ftypmp42" + bytes(50),
        whole + b"\0\x01data" + bytes(9) + b"SEFT",
    ]
    for data in silent:
        survey = Survey()
        with strict_decoder():
            convert_pages(data, WHOLE, survey, name="x.jpg")
        assert survey.followed == []
        assert survey.several_pages == 0
    survey = Survey()
    with strict_decoder():
        for name, data in (("a.jpg", whole), ("b.png", encode(photograph(0), "PNG")), ("c.webp", encode(photograph(0), "WEBP"))):
            convert_pages(data + b"\x05\x06 who knows", WHOLE, survey, name=name)
    assert survey.followed == ["a.jpg", "b.png", "c.webp"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-2], "end of the JPEG is missing"),
        (lambda data: data.replace(b"\xff\xda", b"\xff\xd9\xff\xda", 1), "scans of the JPEG are missing"),
        (lambda data: data.replace(b"\xff\xd3", b"\xff\xd4", 1), "restart markers"),
        (lambda data: data.replace(b"\xff\xd3", b"\xff\xc3", 1), "marker ff c3 amid"),
        (lambda data: data.replace(b"\xff\xdb\x00\x43", b"\xff\xdb\x00\x42", 1), "no marker at byte"),
    ],
)
def test_segments(change: Callable[[bytes], bytes], reason: str) -> None:
    data = encode(photograph(0), "JPEG", restart_marker_rows=1)
    CheckedJpeg(data)
    assert change(data) != data
    with pytest.raises(BrokenImage, match=reason):
        CheckedJpeg(change(data))


def test_a_webp_shorter_than_its_header_says() -> None:
    data = encode(photograph(0), "WEBP")
    longer = data[:4] + (len(data) + 100).to_bytes(4, "little") + data[8:]
    with strict_decoder(), pytest.raises(BrokenImage, match=r"truncated: .* bytes of the .* that its RIFF header promises"):
        convert(longer, WHOLE)
    wrong_chunk = data[:16] + (len(data) - 60).to_bytes(4, "little") + data[20:]
    with strict_decoder(), pytest.raises(BrokenImage, match="chunks do not fill"):
        convert(wrong_chunk, WHOLE)
