"""What shrinking in the JPEG decoder does to resized pixels, and what a full decode costs. Prints one JSON object.

    python benchmarks/jpeg_shrink.py [--images 20] [--seed 0]

`data.jpeg_decode: shrink` lets libjpeg scale by 8, 4 or 2 in the frequency domain where at least twice the wanted size remains, and resizes the
rest; `full` resizes every decoded pixel, as arXiv:2104.11222 asks for (the antialiased resize of the full picture). Pictures: two photographs and
a portrait that scikit-learn and matplotlib carry, and noise with the spectrum of photographs (amplitude 1 / frequency) of 1024x1024, each saved
as JPEG of quality 90, 4:2:0. Differences are in grey levels of 0..255; beside them the difference between two antialiased filters, as a yardstick.
CPU seconds of this process, in turns.
"""

import argparse
import io
import json
import time
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from ganlib.data.decode import Conversion, convert, strict_decoder


def photographs() -> list[Image.Image]:
    places = [files("sklearn.datasets.images") / "china.jpg", files("sklearn.datasets.images") / "flower.jpg"]
    places.append(files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg")
    pictures = [Image.open(io.BytesIO(place.read_bytes())).convert("RGB") for place in places]
    return [picture.crop((0, 0, picture.width // 32 * 32, picture.height // 32 * 32)) for picture in pictures]


def natural_noise(size: int, rng: np.random.Generator) -> Image.Image:
    """RGB noise whose amplitude falls as 1 / frequency, channels correlated as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) / frequency) for _ in range(3)]
    colours = np.stack([plane / plane.std() for plane in planes], -1) @ np.array([[1, 1, 1], [0.2, 0, -0.2], [0.1, -0.2, 0.1]])
    return Image.fromarray((128 + 50 * colours).clip(0, 255).astype(np.uint8))


def compare(jpegs: list[bytes], size: int) -> dict[str, Any]:
    pixels: dict[str, list[np.ndarray]] = {"full": [], "shrink": [], "bicubic": []}
    seconds = dict.fromkeys(pixels, 0.0)
    with strict_decoder():
        for _ in range(3):
            for data in jpegs:
                for name, found in pixels.items():
                    options: dict[str, Any] = {"resize": "bicubic"} if name == "bicubic" else {"resize": "lanczos", "jpeg_decode": name}
                    start = time.process_time()
                    image, _ = convert(data, Conversion(channels=3, height=size, width=size, crop="center", **options))
                    seconds[name] += time.process_time() - start
                    found.append(image)
    full, shrink, bicubic = (np.stack(pixels[name]).astype(np.float64) for name in ("full", "shrink", "bicubic"))
    off = np.abs(shrink - full)
    return {
        "mean_difference": round(off.mean(), 2),
        "p99_difference": float(np.percentile(off, 99)),
        "largest_difference": int(off.max()),
        "psnr_db": round(10 * np.log10(255**2 / ((shrink - full) ** 2).mean()), 1),
        "contrast_ratio": round(float(np.mean([shrink[i].std() / full[i].std() for i in range(len(full))])), 4),
        "mean_difference_lanczos_bicubic": round(np.abs(bicubic - full).mean(), 2),
        "cost_ratio": round(seconds["full"] / seconds["shrink"], 2),
        "ms_full": round(seconds["full"] / len(full) * 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="noise pictures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    kinds = {"photographs": photographs(), "noise_1024": [natural_noise(1024, rng) for _ in range(arguments.images)]}
    result: dict[str, Any] = {}
    for name, pictures in kinds.items():
        jpegs = []
        for picture in pictures:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=90)
            jpegs.append(buffer.getvalue())
        for size in (256, 128, 64, 32):
            if min(min(picture.size) for picture in pictures) >= 4 * size:
                result[f"{name}_to_{size}"] = compare(jpegs, size)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
