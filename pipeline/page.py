"""`ganpipe page`: a generator as one HTML file that makes images where it is opened, without a network: sliders, classes, labelled downloads.

The file holds the generator as ONNX and onnxruntime-web (npm, pinned) with its WebAssembly. Image i of a seed is that of (seed, i), as everywhere.
When it opens it compares the first images of seed 0 with those of the trained network, and says so. Downloads say in their metadata that they
are synthetic; a page can hold no private key, so nothing is signed.
"""

import argparse
import base64
import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganlib import directions, sampling
from ganlib.files import atomic_write
from ganlib.pictures import NOTICE
from ganlib.sampling import Inputs
from pipeline import cli, forms
from pipeline.compare import find
from pipeline.credentials import SYNTHETIC
from pipeline.generator import TrainedGenerator
from pipeline.params import ROOT
from pipeline.report.templates import environment

RUNTIME = "1.30.0"
PACKAGE = "onnxruntime-web"
CODE, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
COUNT = 6  # directions
REACH = 3.0  # standard deviations of the latents along a direction, to each side
SAMPLES = 512  # images that directions are measured on
PIXELS = 32  # a side of the images they are measured on
COMPARED = 4  # images
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{}"/></rdf:RDF></x:xmpmeta>'
)


def runtime(named: Path | None) -> Path:
    """The folder of onnxruntime-web: `named`, or that of a node_modules from here upwards.

    Raises:
        ValueError: it is not at hand, or has another version.
    """
    looked = [named] if named is not None else [folder / "node_modules" / PACKAGE for folder in (Path.cwd(), *Path.cwd().parents)]
    found = next((folder for folder in looked if (folder / WASM).is_file() and (folder / CODE).is_file()), None)
    if found is None:
        where = f"{named} holds no {PACKAGE}" if named is not None else f"{PACKAGE} is not at hand"
        raise ValueError(f"{where}: run `npm install {PACKAGE}@{RUNTIME}` here, or give its folder to --runtime")
    version = json.loads((found / "package.json").read_text(encoding="utf-8"))["version"]
    if version != RUNTIME:
        raise ValueError(f"{found} is {PACKAGE} {version}, expected {RUNTIME}: run `npm install {PACKAGE}@{RUNTIME}`")
    return found


def measured_directions(trained: TrainedGenerator, truncation: float) -> tuple[Tensor, list[float]]:
    """[count, latent_dim] steps of one standard deviation along the directions that change images most, and by how many grey levels of 255 they do.

    The levels are the mean over pixels and eight images of the difference between REACH to one side and to the other.
    """
    prior, options = trained.prior, trained.options(truncation)
    drawn = prior.seeded(0, range(SAMPLES))
    images = sampling.to_float(sampling.generate(trained.network, drawn, batch_images=64, **options))
    height, width = (min(side, PIXELS) for side in images.shape[2:])
    small = adaptive_avg_pool2d(images, (height, width))
    found = directions.principal(small, drawn.z, min(COUNT, prior.latent_dim))
    steps = found * ((drawn.z - drawn.z.mean(dim=0)) @ found.T).std(dim=0)[:, None]
    levels = []
    for step in steps:
        ends = [
            sampling.generate(trained.network, _moved(trained, drawn, side * step), batch_images=8, **options) for side in (-REACH, REACH)
        ]
        levels.append(float(np.abs(ends[1].astype(float) - ends[0]).mean()))
    return steps, levels


def _moved(trained: TrainedGenerator, drawn: Inputs, step: Tensor) -> Inputs:
    z = drawn.z[:8] + step
    return Inputs(z.clamp(-1, 1) if trained.prior.distribution == "uniform" else z, None if drawn.labels is None else drawn.labels[:8])


@torch.no_grad()
def render(trained: TrainedGenerator, *, name: str, folder: Path, truncation: float = 1.0) -> str:
    """The page.

    Args:
        name: of the model, its title.
        folder: of onnxruntime-web.

    Raises:
        ValueError: a generator that is fed images, one of other than 1, 3 or 4 channels, truncation without styles, or a package is missing.
    """
    prior = trained.prior
    channels, (height, width) = trained.image.channels, trained.image.size
    if channels not in (1, 3, 4):
        raise ValueError(f"a page shows images of 1, 3 or 4 channels; {name} makes {channels}")
    forms.require_onnx(named="ganpipe page")
    steps, levels = measured_directions(trained, truncation)
    with tempfile.TemporaryDirectory(prefix="page-") as scratch:
        forms.write_onnx(trained, truncation, Path(scratch) / forms.ONNX)
        model = (Path(scratch) / forms.ONNX).read_bytes()
    inputs = prior.seeded(0, range(COMPARED))
    expected = trained.network(*inputs, **trained.options(truncation))
    interface = forms.interface(trained, truncation)
    data: dict[str, Any] = {
        "shape": [channels, height, width],
        "dim": prior.latent_dim,
        "uniform": prior.distribution == "uniform",
        "counts": list(prior.class_counts),
        "truncation": interface["truncation"],
        "directions": steps.flatten().tolist(),
        "expected": _text(expected.numpy().tobytes()),
        "count": COMPARED,
        "tolerance": forms.TOLERANCES[forms.ONNX],
        "notice": NOTICE,
        "xmp": XMP.format(SYNTHETIC),
    }
    told = {
        "title": name,
        "width": width,
        "height": height,
        "classes": [(number, trained.class_names[number]) for number in prior.classes],
        "directions": [{"levels": f"{level:.0f}"} for level in levels],
        "reach": REACH,
        "samples": SAMPLES,
        "words": interface["input"],
        "sha256": trained.facts.get("sha256", "unknown"),
        "runtime": RUNTIME,
        "data": data,
    }
    parts = {"code": (folder / CODE).read_bytes(), "wasm": (folder / WASM).read_bytes(), "model": model}
    packed = {key: _text(gzip.compress(value, 9, mtime=0)) for key, value in parts.items()}
    return environment().get_template("generator.html").render(title=name, told=told, parts=packed)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.page", description=__doc__)
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/")
    parser.add_argument("--out", type=Path, default=Path("generator.html"))
    parser.add_argument("--truncation", type=float, default=1.0, help="style-based generators only")
    parser.add_argument("--runtime", type=Path, help=f"folder of {PACKAGE}; else node_modules, from here upwards")
    options = parser.parse_args(arguments)
    folder = runtime(options.runtime)
    with tempfile.TemporaryDirectory(prefix="page-") as scratch:
        trained = find(options.model, Path(scratch) / "model", ROOT).trained
    text = render(trained, name=options.model, folder=folder, truncation=options.truncation)
    atomic_write(options.out, text.encode())
    print(f"{options.out}: {len(text) / 1e6:.1f} MB, works without a network")


if __name__ == "__main__":
    cli.run(main)
