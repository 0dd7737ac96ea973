"""`ganpipe mark`: images and grids that are handed out say that they are synthetic: a mark in the pixels, signed metadata where there is a key."""

import argparse
import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ganlib.files import atomic_write
from ganlib.marks import detection, pixels
from ganlib.marks.settings import MarksConfig
from ganlib.pictures import NOTICE
from pipeline import cli, credentials, params

KEY = "GANPIPE_MARK_KEY"
OUT = "--out"


@dataclass(frozen=True, kw_only=True)
class PixelMark:
    """The mark of one key."""

    strength: float
    key: str = field(repr=False)

    @property
    def told(self) -> dict[str, float | str]:
        """What may be written: of the key four bytes of a hash."""
        return {"strength": self.strength, "key_hash": hashlib.blake2b(self.key.encode(), digest_size=4).hexdigest()}

    def on(self, images: np.ndarray) -> np.ndarray:
        """[N, C, H, W] uint8 -> marked."""
        return pixels.embed(images, key=self.key, strength=self.strength)


def settings() -> MarksConfig:
    """The section `marks` of this project; its defaults where there is no project, or no such section."""
    file = params.ROOT / "params.yaml"
    found = params.section("marks", MarksConfig) if file.is_file() and "marks" in params.read(file) else MarksConfig.model_validate({})
    return found.model_copy(update={"key": os.environ[KEY]}) if os.environ.get(KEY) else found


def pixel_mark(height: int, width: int) -> PixelMark | None:
    """What the settings ask for; None where they ask for none, and, which is said, where images of this size carry none."""
    config = settings()
    if not config.pixels:
        return None
    try:
        pixels.require_size(height, width)
    except ValueError as error:
        cli.say(f"not marked: {error}")
        return None
    return PixelMark(strength=config.strength, key=config.key)


def marked_png(file: Path, *, model: str, version: str, keys: credentials.Credentials | None) -> bytes:
    """An image file as PNG with its mark, its own text and the notice; signed where there are `keys`.

    Raises:
        ValueError: no image of 8 bits, or one that is too small.
    """
    with open_image(file) as image:
        text = PngImagePlugin.PngInfo()
        kept = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
        for name, value in ({"Notice": NOTICE} | kept).items():
            text.add_text(name, value)
        array = planes(image)
    mark = pixel_mark(*array.shape[1:])
    made = array if mark is None else mark.on(array[None])[0]
    if mark is not None and (p := detection.detect(made[None], key=mark.key, crops=False)[1].p_value) > detection.FOUND:
        cli.say(f"{file}: marked, and so small that the mark alone proves nothing (p = {p:.2g}); a larger marks.strength makes it surer")
    stream = io.BytesIO()
    Image.fromarray(made[0] if len(made) == 1 else made.transpose(1, 2, 0)).save(stream, "png", pnginfo=text)
    png = stream.getvalue()
    return png if keys is None else credentials.sign_png(keys, png, model=model, version=version, title=file.name)


def open_image(file: Path) -> Image.Image:
    """Raises ValueError where `file` is no image."""
    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no image that can be read"
        raise ValueError(f"{file}: {reason}") from None


def planes(image: Image.Image) -> np.ndarray:
    """[C, H, W] uint8 of 1, 3 or 4 channels."""
    mode = (
        image.mode
        if image.mode in ("L", "RGB", "RGBA")
        else "RGBA"
        if "transparency" in image.info or image.mode in ("LA", "PA")
        else "RGB"
    )
    array = np.asarray(image.convert("L" if image.mode in ("1", "I;16", "I", "F") else mode))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.mark", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images: samples/grid.png, for one")
    parser.add_argument(OUT, required=True, type=Path, help="a folder; files get their own name there, as PNG")
    parser.add_argument("--model", default="generator", help="name of the model that made them, for the signed metadata")
    parser.add_argument("--model-version", default="unknown")
    options = parser.parse_args()
    keys = credentials.from_environment()
    if keys is None:
        cli.say(
            f"without signed metadata: {credentials.CERTIFICATE} and {credentials.PRIVATE_KEY} are not set; the mark in the pixels alone"
        )
    else:
        credentials.require_package()
    names = [f"{file.stem}.png" for file in options.files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two files would become {options.out / twice[0]}; mark them one after another, with {OUT} of their own")
    options.out.mkdir(parents=True, exist_ok=True)
    for file, name in zip(options.files, names, strict=True):
        atomic_write(options.out / name, marked_png(file, model=options.model, version=options.model_version, keys=keys))
        print(options.out / name)


if __name__ == "__main__":
    cli.run(main)
