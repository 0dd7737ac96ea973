"""What the mark in the pixels costs and what it lives through. Prints a JSON object for each kind of images.

    python benchmarks/marks.py [--strength 2] [--images 512] [--prepared data/prepared FOLDER] [--sizes 28 64 256]
    python benchmarks/marks.py --sizes --project . --samples samples        # what the mark costs in FID
    python benchmarks/marks.py --sizes --project . --samples train          # what it would, were the samples as good as that split's real images

Images: prepared ones where a folder is given (their own size), else drawn textures with the spectrum of photographs (amplitude 1/f: Field 1987,
JOSA A 4(12)). `found`: share at a p-value below 0.001, of images alone and of batches of 64, with the search for crops where that is the attack;
`false_alarms` the same of unmarked images under many keys; `quiet` is the largest of them. The speed is of one thread, CPU seconds.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganlib.data.arrow import ArrowImages
from ganlib.marks import detection, embedding, pixels
from ganlib.metrics import measure
from ganlib.metrics.fid import frechet_distance, moments
from ganlib.metrics.interface import Images
from ganlib.metrics.reference_store import Reference
from ganlib.rng import keyed_rng
from ganlib.samples import Samples, encode_png

ALARM = 1e-3
BATCH = 64
KEY = "benchmark"


def textures(count: int, size: int) -> np.ndarray:
    rng, k, waves = keyed_rng(0, "textures", size), torch.arange(size, dtype=torch.float32), embedding.basis(size, size)
    drawn = waves.T @ (torch.randn(count, size, size, generator=rng) / torch.hypot(k[:, None], k[None]).clamp(min=1)) @ waves
    return (drawn / drawn.std() * 40 + 128).round().clamp(0, 255).to(torch.uint8)[:, None].numpy()


def prepared(folder: Path, count: int) -> np.ndarray:
    table = ArrowImages(folder / "test.arrow")
    chosen = torch.randperm(len(table), generator=keyed_rng(0, "marks benchmark"))[:count].sort().values
    return table.gather(chosen.numpy())


def changed(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    made = [np.asarray(change(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))) for image in images]
    return np.stack([image[None] if image.ndim == 2 else image.transpose(2, 0, 1) for image in made])


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=75)
    return Image.open(stream)


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def crop(image: Image.Image) -> Image.Image:
    left, top = round(image.width * 0.03), round(image.height * 0.06)
    return image.crop((left, top, left + round(image.width * 0.9), top + round(image.height * 0.9)))


ATTACKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "jpeg 75": jpeg,
    "half size": half,
    "10 % crop": crop,
}


def shares(images: np.ndarray, key: str, *, crops: bool) -> dict[str, float]:
    alone, together = [], []
    for start in range(0, len(images) - BATCH + 1, BATCH):
        each, both = detection.detect(images[start : start + BATCH], key=key, crops=crops)
        alone += [found.p_value for found in each]
        together.append(both.p_value)
    return {"alone": float(np.mean(np.array(alone) < ALARM)), "batch": float(np.mean(np.array(together) < ALARM)), "quiet": min(alone)}


def measured(images: np.ndarray, strength: float, keys: int) -> dict[str, object]:
    start = time.process_time()
    marked = pixels.embed(images, key=KEY, strength=strength)
    embedding = time.process_time() - start
    start = time.process_time()
    for image in images:
        encode_png(image)
    encoding = time.process_time() - start
    found = {}
    for name, attack in ATTACKS.items():
        got = shares(changed(marked, attack), KEY, crops=name == "10 % crop")
        found[name] = {"alone": round(got["alone"], 4), "batches of 64": round(got["batch"], 4)}
    alarms = [shares(images[: 4 * BATCH], f"key {number}", crops=False) for number in range(keys)]
    difference = marked.astype(np.float32) - images
    return {
        "images": len(images),
        "rms": round(float(np.sqrt((difference**2).mean())), 3),
        "embedding_images_per_second": round(len(images) / embedding),
        "png_images_per_second": round(len(images) / encoding),
        "found": found,
        "false_alarms": {
            "alone": float(np.mean([each["alone"] for each in alarms])),
            "batches of 64": float(np.mean([each["batch"] for each in alarms])),
            "tried_alone": keys * min(len(images), 4 * BATCH),
        },
    }


@dataclass(frozen=True)
class Marked:
    """Samples as they would be handed out."""

    samples: Images
    strength: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.samples.shape

    @property
    def labels(self) -> np.ndarray | None:
        return self.samples.labels

    def __len__(self) -> int:
        return len(self.samples)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return pixels.embed(self.samples.gather(indices), key=KEY, strength=self.strength)


def fids(project: Path, of: str, strength: float) -> dict[str, dict[str, float]]:
    """FID of samples (a folder, or a split) against the test split of `project`, as they are and marked, in each extractor of its reference."""
    digest = json.loads((project / "data" / "prepared" / "manifest.json").read_text())["data_digest"]
    reference = Reference.read(project / "data" / "reference", data_digest=digest)
    samples: Images = ArrowImages(project / "data" / "prepared" / f"{of}.arrow") if of in ("train", "val") else Samples(Path(of))
    told = {}
    sets: tuple[Images, ...] = (samples, Marked(samples, strength))
    features = [measure.extract(reference, images) for images in sets]
    for each in reference.described:
        real = moments(each.features("test"))
        bare, marked = (frechet_distance(real, moments(of[each.label]["last"])) for of in features)
        told[each.label] = {"unmarked": round(bare, 4), "marked": round(marked, 4), "cost": round(marked / bare - 1, 5)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strength", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--prepared", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--sizes", type=int, nargs="*", default=[28, 64, 256])
    parser.add_argument("--project", type=Path)
    parser.add_argument("--samples", help="a folder, or train or val: real images in their place")
    parser.add_argument("--keys", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.project is not None:
        print(json.dumps({"fid": fids(options.project, options.samples, options.strength)}), flush=True)
    kinds = {f"textures {size}": textures(options.images if size < 200 else min(options.images, 2 * BATCH), size) for size in options.sizes}
    kinds |= {str(folder): prepared(folder, options.images) for folder in options.prepared}
    for name, images in kinds.items():
        keys = max(1, options.keys * BATCH // len(images)) if images.shape[2] > 200 else options.keys
        print(json.dumps({name: {"strength": options.strength, **measured(images, options.strength, keys)}}), flush=True)


if __name__ == "__main__":
    main()
