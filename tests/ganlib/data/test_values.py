"""What values mean: ranges that are reported and mapped, pages, hidden colours, kinds of files, and classes that vanish.

Long because every kind of file is made here byte by byte.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from ganlib.data.arrow import SPLITS, ArrowImages, read_manifest
from ganlib.data.decode import BrokenImage, Conversion, convert, convert_pages, strict_decoder
from ganlib.data.prepare import prepare_images
from ganlib.data.settings import DataConfig
from ganlib.data.sources import fetch_raw
from ganlib.data.values import Survey, to_8_bits
from tests.packs import pack

SIZE = 8
Files = list[tuple[str, int | None, bytes | None]]


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def numbers(seed: int, low: int, high: int, size: tuple[int, ...] = (SIZE, SIZE), dtype: Any = np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, size).astype(dtype)


def decoded(image: bytes | np.ndarray, **options: Any) -> np.ndarray:
    with strict_decoder():
        return convert(
            image, Conversion(**{"channels": 1, "height": SIZE, "width": SIZE, "resize": "lanczos", "crop": "center"} | options)
        )[0]


def png_16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, by the specification: Pillow writes none. [H, W, 3 or 4] uint16."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if bands == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def prepared(raw: Path, folder: Path, *, processes: int | None = 1, **options: Any) -> dict[str, Any]:
    folder.mkdir()
    values = {"source": "image_folder", "image_size": (SIZE, SIZE), "val_fraction": 0.2, "test_fraction": 0.3, **options}
    return prepare_images(DataConfig.model_validate(values), raw, folder, processes=processes)


def pixels(folder: Path) -> set[bytes]:
    return {image.tobytes() for split in SPLITS for image in ArrowImages(folder / f"{split}.arrow").slice(0, 9999)}


# Ranges


def test_twelve_bits_in_sixteen_are_reported_warned_of_and_mapped(tmp_path: Path) -> None:
    """Kills: a contract that does not look at values (17 grey levels without a word), or counts them after the conversion."""
    images = [numbers(seed, 0, 4096) for seed in range(40)]
    files: Files = [(f"{k}.png", None, encode(Image.fromarray(image))) for k, image in enumerate(images)]
    raw = pack(tmp_path / "raw", files)
    report = prepared(raw, tmp_path / "out")
    everything = np.stack(images)
    assert report["values"] == {
        "uint16": {"images": 40, "minimum": everything.min(), "maximum": everything.max(), "levels": len(np.unique(everything))}
    }
    [warning] = [line for line in report["warnings"] if "uint16" in line]
    assert "become 17 of 256 grey levels" in warning
    assert "data.value_range: [0, 4095]" in warning
    mapped = prepared(raw, tmp_path / "mapped", value_range=[0, 4095])
    assert not [line for line in mapped["warnings"] if "value" in line]
    expected = np.floor(everything * (255 / 4095) + 0.5).astype(np.uint8)
    assert pixels(tmp_path / "mapped") == {image.tobytes() for image in expected}
    cut = prepared(raw, tmp_path / "cut", value_range=[100, 2000])
    assert any("40 of 40 uint16 images have values outside data.value_range [100, 2000]" in line for line in cut["warnings"])


def test_a_set_of_few_eight_bit_values_is_warned_of(tmp_path: Path) -> None:
    files: Files = [(f"{k}.png", None, encode(Image.fromarray(numbers(k, 0, 16, dtype=np.uint8)))) for k in range(40)]
    report = prepared(pack(tmp_path / "raw", files), tmp_path / "out")
    assert report["values"] == {"uint8": {"images": 40, "minimum": 0, "maximum": 15, "levels": 16}}
    assert any("5.9% of [0, 255]" in line and "data.value_range: [0, 15]" in line for line in report["warnings"])


@pytest.mark.parametrize("kind", ["grey", "colour", "alpha"])
def test_the_numbers_do_not_depend_on_processes_or_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Kills: a survey that is kept in one process, or whose shortcut for full ranges loses a level."""
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 8 << 10)
    shape = {"grey": (20, 20), "colour": (300, 300, 3), "alpha": (20, 20, 4)}[kind]
    count = 12 if kind == "colour" else 40
    images = [numbers(seed, seed, 30 + 2 * seed, shape, np.uint8) for seed in range(count)]
    files: Files = [(f"{k}.png", None, encode(Image.fromarray(image), compress_level=1)) for k, image in enumerate(images)]
    raw = pack(tmp_path / "raw", files)
    options: dict[str, Any] = {"channels": 4 if kind == "alpha" else 3, "val_fraction": 0.45, "test_fraction": 0.35}
    reports = [prepared(raw, tmp_path / str(n), processes=n, **options) for n in (1, 2)]
    monkeypatch.setattr("ganlib.data.prepare.TASK_BYTES", 8 << 20)
    reports.append(prepared(raw, tmp_path / "large", **options))
    assert reports[0] == reports[1] == reports[2]
    seen = np.unique(np.concatenate([image[image[..., 3] > 0][:, :3].ravel() if kind == "alpha" else image.ravel() for image in images]))
    assert reports[0]["values"]["uint8"] == {"images": count, "minimum": seen[0], "maximum": seen[-1], "levels": len(seen)}


def test_floating_point_and_32_bits_need_a_range(tmp_path: Path) -> None:
    """Kills: refusing them always, scaling each picture by its own extremes, or telling one picture's range instead of the set's."""
    rng = np.random.default_rng(0)
    images = [rng.uniform(-1, 3, (SIZE, SIZE)).astype(np.float32) for _ in range(40)]
    raw = pack(tmp_path / "raw", [(f"{k}.tif", None, encode(Image.fromarray(image), "TIFF")) for k, image in enumerate(images)])
    low, high = np.stack(images).min(), np.stack(images).max()
    for on_error in ("fail", "skip"):
        with pytest.raises(ValueError, match=r"40 images hold float32 values from .*set data\.value_range: \[") as caught:
            prepared(raw, tmp_path / on_error, on_error=on_error)
        assert f"from {low:.6g} to {high:.6g}" in str(caught.value)
    report = prepared(raw, tmp_path / "out", value_range=[-1, 3])
    assert report["values"]["float32"] == {"images": 40, "minimum": float(f"{low:.6g}"), "maximum": float(f"{high:.6g}"), "levels": None}
    expected = np.rint((np.stack(images).astype(np.float64) + 1) * (255 / 4)).astype(np.uint8)
    assert pixels(tmp_path / "out") == {image.tobytes() for image in expected}
    whole = numbers(0, -2000, 100_000, dtype=np.int32)
    data = encode(Image.fromarray(whole), "TIFF")
    with pytest.raises(BrokenImage, match=rf"int32 values from {whole.min()} to {whole.max()}"):
        decoded(data)
    np.testing.assert_array_equal(decoded(data, value_range=(-2000, 100_000))[0], np.rint((whole + 2000.0) * (255 / 102_000)))
    images[0][0, 0] = np.nan
    with pytest.raises(BrokenImage, match="NaN"):
        decoded(encode(Image.fromarray(images[0]), "TIFF"), value_range=(0, 1))


@pytest.mark.parametrize(("dtype", "code", "name"), [(np.int16, 0x0B, "short"), (np.int32, 0x0C, "int"), (np.float32, 0x0D, "float")])
def test_arrays_of_other_kinds_come_with_a_range(tmp_path: Path, dtype: Any, code: int, name: str) -> None:
    """IDX files as their description has them; kills: unsigned bytes alone."""
    values = numbers(0, -1000, 3000, (40, SIZE, SIZE), dtype)
    (tmp_path / "in").mkdir()
    header = bytes([0, 0, code, 3]) + struct.pack(">3I", *values.shape)
    (tmp_path / "in" / f"x-images-idx3-{name}").write_bytes(header + values.astype(values.dtype.newbyteorder(">")).tobytes())
    raw = tmp_path / "raw"
    raw.mkdir()
    fetch_raw(DataConfig(source="idx", path=str(tmp_path / "in")), raw)
    with pytest.raises(ValueError, match=rf"40 images hold {np.dtype(dtype).name} values from -[\d,]+ to [\d,]+.*set data\.value_range"):
        prepared(raw, tmp_path / "refused")
    prepared(raw, tmp_path / "out", value_range=[-1000, 3000])
    expected = np.rint((values.astype(np.float64) + 1000) * (255 / 4000)).astype(np.uint8)
    assert pixels(tmp_path / "out") == {image.tobytes() for image in expected}


@pytest.mark.parametrize("bands", [3, 4])
def test_sixteen_bit_colours_keep_their_low_bytes(bands: int) -> None:
    """Kills: Pillow's own reading, the high byte alone: 12-bit colours in 16 bits would be 16 levels whatever the range."""
    values = numbers(0, 0, 4096, (SIZE, SIZE, bands))
    if bands == 4:
        values[..., 3] = 65535
    data = png_16(values)
    np.testing.assert_array_equal(decoded(data, channels=3), np.rint(values[..., :3].transpose(2, 0, 1) / 257.0))
    mapped = decoded(data, channels=3, value_range=(0, 4095))
    np.testing.assert_array_equal(mapped, np.rint(values[..., :3].transpose(2, 0, 1) * (255 / 4095)))


@pytest.mark.parametrize("compression", [1, 8])  # none, and deflate, which libtiff decodes
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colours_of_a_tiff(order: str, compression: int) -> None:
    """A baseline TIFF by hand (TIFF 6.0, section 6), and the same compressed (tag 259)."""
    values = numbers(0, 0, 65536, (SIZE, SIZE, 3))
    data = values.astype(f"{order}u2").tobytes()
    data = data if compression == 1 else zlib.compress(data)
    data += bytes(len(data) % 2)  # the directory begins at a word
    entries = [
        (256, 3, 1, SIZE),
        (257, 3, 1, SIZE),
        (258, 3, 3, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 2),
        (273, 4, 1, 14),
        (277, 3, 1, 3),
    ]
    entries += [(278, 3, 1, SIZE), (279, 4, 1, len(data))]
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 14 + len(data)) + struct.pack(order + "3H", 16, 16, 16) + data
    tiff += struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        tiff += struct.pack(order + "HHI", tag, kind, count)
        tiff += struct.pack(order + "I", value) if kind == 4 or count > 1 else struct.pack(order + "HH", value, 0)
    tiff += bytes(4)
    np.testing.assert_array_equal(decoded(tiff, channels=3), np.rint(values.transpose(2, 0, 1) / 257.0))


def test_a_range_maps_colours_and_grey_of_eight_bits_but_not_alpha() -> None:
    rgba = numbers(0, 0, 16, (SIZE, SIZE, 4), np.uint8)
    rgba[..., 3] = 200
    expected = rgba[..., :3] * 17
    mapped = decoded(encode(Image.fromarray(rgba)), channels=4, value_range=(0, 15))
    np.testing.assert_array_equal(mapped, np.dstack([expected, rgba[..., 3:]]).transpose(2, 0, 1))
    np.testing.assert_array_equal(decoded(rgba, channels=4, value_range=(0, 15)), mapped)
    grey = encode(Image.fromarray(rgba[..., 0]))
    np.testing.assert_array_equal(decoded(grey, value_range=(0, 15))[0], expected[..., 0])
    np.testing.assert_array_equal(decoded(rgba[..., 0], value_range=(0, 15))[0], expected[..., 0])


def test_a_pgm_says_its_range_itself() -> None:
    values = numbers(0, 0, 1001)
    data = b"P5 8 8 1000\n" + values.astype(">u2").tobytes()
    assert np.abs(decoded(data)[0] - values * (255 / 1000)).max() <= 1


def test_to_8_bits_rounds_and_cuts() -> None:
    np.testing.assert_array_equal(to_8_bits(np.array([-5, 0, 1, 2, 509, 510, 900]), (0, 510)), [0, 0, 0, 1, 254, 255, 255])
    np.testing.assert_array_equal(to_8_bits(np.array([0, 128, 129, 65535], np.uint16), None), [0, 0, 1, 255])


@pytest.mark.parametrize("value_range", [[3, 3], [4, 1], [0, float("nan")], [float("-inf"), 1]])
def test_a_range_is_one(value_range: list[float]) -> None:
    with pytest.raises(ValueError, match="low below high"):
        DataConfig.model_validate({"source": "digits", "value_range": value_range})


# Pages


def stack(count: int, kind: str, base: int = 0) -> bytes:
    pages = [Image.fromarray(np.full((SIZE, SIZE), base + 10 * page, np.uint8)) for page in range(count)]
    return encode(pages[0], kind, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_one_page_of_ten_is_said_and_all_are_taken_when_asked(tmp_path: Path, kind: str) -> None:
    """Kills: the first page alone without a word; pages whose names or order depend on the tasks."""
    options = {"lossless": True} if kind == "WEBP" else {}
    pages = [Image.fromarray(np.full((SIZE, SIZE, 3), 3 + 20 * page, np.uint8)) for page in range(10)]
    several = encode(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    files: Files = [
        ("stack.x", 0, several),
        *((f"{k}.png", 1, encode(Image.fromarray(numbers(k, 0, 256, dtype=np.uint8)))) for k in range(30)),
    ]
    files.append(("copy.png", 0, encode(pages[4])))
    raw = pack(tmp_path / "raw", files, ("a", "b"))
    first = prepared(raw, tmp_path / "first", channels=3)
    assert first["pages"] == {"files_with_several": 1, "most_in_a_file": 10, "left_out": 9}
    assert any("1 files hold several pages" in line and "data.pages=all" in line for line in first["warnings"])
    assert first["images"]["total"] == 32
    reports = [prepared(raw, tmp_path / f"all{n}", channels=3, pages="all", processes=n) for n in (1, 2)]
    assert reports[0] == reports[1]
    assert reports[0]["images"]["total"] == 41
    assert reports[0]["pages"]["left_out"] == 0
    assert reports[0]["duplicates"]["first"] == [["stack.x[4]", "copy.png"]]
    assert {np.full((3, SIZE, SIZE), 3 + 20 * page, np.uint8).tobytes() for page in range(10)} <= pixels(tmp_path / "all1")
    assert [read_manifest(tmp_path / name).data_digest for name in ("all1", "all2")] == [read_manifest(tmp_path / "all1").data_digest] * 2


def test_a_damaged_page_damages_its_file(tmp_path: Path) -> None:
    data = bytearray(stack(5, "PNG"))
    data[data.rindex(b"fdAT") + 10] ^= 1
    with strict_decoder(), pytest.raises(BrokenImage, match="damaged"):
        convert_pages(bytes(data), conversion_of(pages="all"), Survey())


def conversion_of(**options: Any) -> Conversion:
    return Conversion(**{"channels": 1, "height": SIZE, "width": SIZE, "resize": "lanczos", "crop": "center"} | options)


def test_previews_are_no_pages() -> None:
    """Reduced pages of a TIFF (TIFF 6.0, tag 254) are left out; a file that begins with one is a camera's raw file."""
    small = Image.fromarray(np.zeros((4, 4), np.uint8))
    whole = Image.fromarray(np.full((SIZE, SIZE), 99, np.uint8))
    tags = {254: 1}
    survey = Survey()
    with strict_decoder():
        data = tiff_pages([(whole, {}), (small, tags)])
        assert len(convert_pages(data, conversion_of(pages="all"), survey)) == 1
        assert survey.several_pages == 0
        with pytest.raises(BrokenImage, match="preview"):
            convert(tiff_pages([(small, tags), (whole, {})]), conversion_of())
        with pytest.raises(BrokenImage, match="camera raw"):
            convert(encode(whole, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), conversion_of())


def tiff_pages(pages: list[tuple[Image.Image, dict[int, int]]]) -> bytes:
    buffer = io.BytesIO()
    from PIL.TiffImagePlugin import AppendingTiffWriter

    with AppendingTiffWriter(buffer, True) as writer:
        for picture, tags in pages:
            picture.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    return buffer.getvalue()


# Alpha


def test_hidden_colour_is_no_content(tmp_path: Path) -> None:
    """Twins that differ under alpha 0 alone are one image; kills: hashing what nobody sees."""
    files: Files = []
    for seed in range(40):
        image = numbers(seed, 0, 256, (SIZE, SIZE, 4), np.uint8)
        image[:4, :, 3] = 0
        twin = image.copy()
        twin[:4, :, :3] = 77
        files += [(f"a{seed}", None, encode(Image.fromarray(image))), (f"b{seed}", None, encode(Image.fromarray(twin)))]
    report = prepared(pack(tmp_path / "raw", files), tmp_path / "out", channels=4)
    assert report["duplicates"]["groups"] == report["duplicates"]["extra_copies"] == 40
    stored = np.concatenate([ArrowImages(tmp_path / "out" / f"{split}.arrow").slice(0, 99) for split in SPLITS])
    assert not stored[:, :3][np.broadcast_to(stored[:, 3:] == 0, (80, 3, SIZE, SIZE))].any()


@pytest.mark.parametrize("resize", ["lanczos", "bicubic", "box", "nearest"])
@pytest.mark.parametrize("as_array", [True, False])
def test_hidden_colour_reaches_no_edge(resize: str, as_array: bool) -> None:
    """A white disc on transparent red, and on transparent blue, resized: the same pixels, and all that is seen is white."""
    y, x = np.indices((64, 64))
    disc = (x - 31.5) ** 2 + (y - 31.5) ** 2 < 20**2
    made = []
    for hidden in ((255, 0, 0), (0, 0, 255)):
        image = np.zeros((64, 64, 4), np.uint8)
        image[..., :3] = hidden
        image[disc] = 255
        made.append(decoded(image if as_array else encode(Image.fromarray(image)), channels=4, resize=resize, height=16, width=16))
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0][:3, made[0][3] > 8] >= 250).all()
    assert made[0][3].max() == 255


def test_hidden_values_are_not_measured() -> None:
    survey = Survey()
    image = np.full((SIZE, SIZE, 4), 9, np.uint8)
    image[0, :, :3], image[0, :, 3] = 250, 0
    for data in (image, encode(Image.fromarray(image)), encode(Image.fromarray(np.tile(image, (40, 40, 1))))):
        with strict_decoder():
            convert_pages(data, conversion_of(channels=4), survey)
    assert survey.report() == {"uint8": {"images": 3, "minimum": 9, "maximum": 9, "levels": 1}}


# Kinds of files


@pytest.mark.parametrize(("kind", "feature", "suffix"), [("AVIF", "avif", ".avif"), ("JPEG2000", "jpg_2000", ".jp2")])
def test_avif_and_jpeg_2000_are_images(tmp_path: Path, kind: str, feature: str, suffix: str) -> None:
    """Kills: a list of suffixes or of formats without them, so that they were other files."""
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {feature}")
    for label in ("a", "b"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for seed in range(20):
            values = np.asarray(Image.fromarray(numbers(seed + 50 * (label == "b"), 0, 256, (3, 3), np.uint8)).resize((SIZE, SIZE)))
            options = {"quality": 100} if kind == "AVIF" else {}
            (tmp_path / "in" / label / f"{seed}{suffix}").write_bytes(encode(Image.fromarray(values), kind, **options))
    raw = tmp_path / "raw"
    raw.mkdir()
    info = fetch_raw(DataConfig(source="image_folder", path=str(tmp_path / "in")), raw)
    assert info.ignored_count == 0
    report = prepared(raw, tmp_path / "out")
    assert report["images"]["total"] == 40
    expected = np.asarray(Image.fromarray(numbers(0, 0, 256, (3, 3), np.uint8)).resize((SIZE, SIZE)))
    assert np.abs(decoded((tmp_path / "in" / "a" / f"0{suffix}").read_bytes())[0].astype(int) - expected).max() <= 3


@pytest.mark.parametrize("name", ["x.svg", "x.PSD", "x.nef", "x.CR2", "x.heic", "x.jxl", "x.exr"])
def test_images_that_are_not_read_are_broken_not_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(30):
        (tmp_path / "in" / f"{seed}.png").write_bytes(encode(Image.fromarray(numbers(seed, 0, 256, dtype=np.uint8))))
    preview = encode(Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)), "TIFF")  # camera raw files open as their preview
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    (tmp_path / "in" / name).write_bytes(heic if name.endswith("heic") else preview)
    raw = tmp_path / "raw"
    raw.mkdir()
    assert fetch_raw(DataConfig(source="image_folder", path=str(tmp_path / "in")), raw).ignored_count == 0
    with pytest.raises(ValueError, match=rf"1 of 31 images cannot be used:\n  {name}: "):
        prepared(raw, tmp_path / "out")
    report = prepared(raw, tmp_path / "skipped", on_error="skip")
    assert (report["broken"]["count"], report["images"]["total"]) == (1, 30)


def test_heic_without_the_extra_says_what_to_install() -> None:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        with pytest.raises(BrokenImage, match=r"pip install 'ganpipe\[heic\]'"):
            decoded(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_a_class_that_vanishes_stops_the_run(tmp_path: Path) -> None:
    """Kills: on_error=skip leaving out a whole class as if it were a few broken files."""
    files: Files = [(f"cat/{k}.png", 0, encode(Image.fromarray(numbers(k, 0, 256, dtype=np.uint8)))) for k in range(40)]
    files += [(f"dog/{k}.heic", 1, b"\0\0\0\x18ftypheic" + bytes(50)) for k in range(12)]
    raw = pack(tmp_path / "raw", files, ("cat", "dog", "empty"))
    with pytest.raises(ValueError, match=r"1 of 3 classes have no image that can be used:\n  dog: 12 images, the first dog/0\.heic: "):
        prepared(raw, tmp_path / "out", on_error="skip")
    files.append(("dog/good.png", 1, encode(Image.fromarray(numbers(99, 0, 256, dtype=np.uint8)))))
    assert prepared(pack(tmp_path / "raw2", files, ("cat", "dog", "empty")), tmp_path / "out2", on_error="skip")["broken"]["count"] == 12


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    files: Files = [(f"{k}.png", None, encode(Image.fromarray(numbers(k, 0, 256, dtype=np.uint8)))) for k in range(30)]
    prepared(pack(tmp_path / "raw", files), tmp_path / "out", resize="box", value_range=[0, 255])
    assert read_manifest(tmp_path / "out").preparation == {
        "source": "image_folder",
        "image_size": [SIZE, SIZE],
        "channels": 1,
        "resize": "box",
        "crop": "center",
        "value_range": [0, 255],
        "pages": "first",
        "jpeg_decode": "full",
        "max_pixels": 89_478_485,
    }


# Large files


@pytest.mark.parametrize("kind", ["text", "profile", "many"])
def test_a_sound_png_with_large_texts_is_accepted(kind: str) -> None:
    """Kills: Pillow's limits of what a text or profile may unpack to, which say nothing about the picture; its orientation stays."""
    values = numbers(0, 0, 256, (16, SIZE), np.uint8)
    large = np.random.default_rng(0).integers(1, 256, 2_000_000, np.uint8).tobytes()
    texts = PngImagePlugin.PngInfo()
    if kind == "text":
        texts.add_text("Comment", large.decode("latin-1"), zip=True)
    if kind == "many":
        for k in range(5):
            texts.add_text(f"k{k}", "x" * (14 << 20), zip=False)
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF tiff:Orientation="3"></rdf:RDF></x:xmpmeta>'
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    data = encode(Image.fromarray(values), pnginfo=texts, icc_profile=large if kind == "profile" else None)
    with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(io.BytesIO(data)) as picture:
        picture.load()
    np.testing.assert_array_equal(decoded(data, height=16)[0], values[::-1, ::-1])


def test_the_limit_of_pixels_can_be_raised_and_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: a limit that cannot be set, or that stays set for the rest of the process."""
    data = encode(Image.fromarray(np.zeros((40, 50), np.uint8)))
    limit = Image.MAX_IMAGE_PIXELS
    with strict_decoder(1999), pytest.raises(BrokenImage, match=r"more than 1,999 pixels \(data\.max_pixels\)"):
        convert(data, conversion_of(max_pixels=1999))
    with strict_decoder(2000):
        assert convert(data, conversion_of(max_pixels=2000))[1] == (40, 50)
    assert limit == Image.MAX_IMAGE_PIXELS
