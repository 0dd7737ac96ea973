"""A trained generator in forms that need no code of this project: a graph of torch (pt2) and one of ONNX, each held against the network itself.

Both are graphs of `Served`: one float32 array in, images out. `model.pt2` is a zip archive with the operators as JSON (torch.export), the weights,
the constants, and the inputs that it was traced with: no Python code. It refuses a class that the generator does not have. `model.onnx` holds
operators and weights as protobuf; it cannot refuse, so rows with such a class become NaN. Where the generator has styles, ONNX takes `truncation`
beside the array. It says in its metadata what it takes (`interface`), which `seeded.py` reads, the file that makes images of a seed from it.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganlib.products import Column
from ganlib.rng import keyed_rng
from ganlib.sampling import Inputs, Prior
from pipeline import seeded
from pipeline.generator import Served, TrainedGenerator, truncation_of

PT2, ONNX = "model.pt2", "model.onnx"
SEEDED = Path(seeded.__file__)  # lies beside ONNX
BATCHES = (1, 2, 5)  # of the comparison; the graph is traced with EXAMPLE rows
EXAMPLE = 4
SEED = 0
TOLERANCES = {PT2: 1e-5, ONNX: 1e-4}  # largest difference of a value in [-1, 1]; a level of grey is 8e-3
OF_ONNX = ("onnx", "onnxscript", "onnxruntime")
QUIET = ("torch.export", "torch._dynamo", "torch.fx", "torch.onnx", "mlflow", "onnxscript", "onnx_ir")


def example(trained: TrainedGenerator, count: int) -> Tensor:
    """`count` rows of the one array; of a network that is fed images, noise as its transform leaves it."""
    feed = trained.product.feed
    if isinstance(feed, Prior):
        return Served.array(feed.seeded(SEED, range(count)))
    own = trained.image.column(feed.field)
    drawn = [torch.rand((1, own.channels, *own.size), generator=keyed_rng(SEED, "export", row)) * 2 - 1 for row in range(count)]
    inputs = [feed.inputs(image, keyed_rng(SEED, "transform", row)).z for row, image in enumerate(drawn)]
    return Served.array(Inputs(torch.cat(inputs)))


def interface(trained: TrainedGenerator, truncation: float, *, strength: float | None = None) -> dict[str, Any]:
    """What its graphs take and give, as JSON; `pipeline.tracking.serving` reads it.

    Keys: `input` in words; `images` [C, H, W]; `latents` {dim, distribution} or null; `fed` [C, H, W] of a network that is fed images, or null;
    `class_names` and `class_counts` (training images), empty where it is told no class; `truncation`: built in, null of a generator without styles;
    `strength` of the mark in the pixels, of what marks by itself alone.
    """
    feed, served = trained.product.feed, trained.served(truncation)
    fed = feed.fed(trained.image) if isinstance(feed, Column) else None
    return {
        "input": served.words,
        "images": [trained.image.channels, *trained.image.size],
        "latents": {"dim": feed.latent_dim, "distribution": feed.distribution} if isinstance(feed, Prior) else None,
        "fed": None if fed is None else [fed.channels, *fed.size],
        "class_names": trained.class_names,
        "class_counts": list(feed.class_counts) if isinstance(feed, Prior) else [],
        "truncation": None if truncation_of(served) is None else truncation,
        **({} if strength is None else {"strength": strength}),
    }


class _Open(nn.Module):
    """`Served` without what ONNX lacks: a class it does not have gives NaN, truncation is an input."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served
        self._truncation = truncation_of(served)

    def forward(self, x: Tensor, truncation: Tensor | None = None) -> Tensor:
        served, given = self.served, {} if truncation is None else {str(self._truncation).removeprefix("network."): truncation}
        if not served.classes:
            images: Tensor = torch.func.functional_call(served.network, given, (x,))
            return images
        labels, is_class = served.labels(x)
        images = torch.func.functional_call(served.network, given, (x[:, :-1], labels))
        return torch.where(is_class[:, None, None, None], images, torch.nan)


def require_onnx(*, named: str) -> None:
    """Raise ValueError where a package that writes or checks ONNX is missing; `named` is what asked for it."""
    if lacking := [name for name in OF_ONNX if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{named} needs {', '.join(lacking)}: pip install '.[onnx]', or leave ONNX out")


def write_pt2(trained: TrainedGenerator, truncation: float, file: Path) -> None:
    """The graph of torch.export, checked.

    Raises:
        ValueError: it gives other images than the network.
    """
    with _quiet(), torch.no_grad():
        program = torch.export.export(trained.served(truncation), (example(trained, EXAMPLE),), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
        torch.export.save(program, file)
        graph = torch.export.load(file).module()
    require_parity(trained, truncation, lambda x: graph(x), PT2)


def write_onnx(trained: TrainedGenerator, truncation: float, file: Path) -> None:
    """The graph of ONNX, checked as onnxruntime runs it; of a generator that draws, on what `seeded` draws.

    Raises:
        ValueError: it gives other images than the network; or a package is missing.
    """
    require_onnx(named=ONNX)
    import onnxruntime

    served = trained.served(truncation)
    has_styles = truncation_of(served) is not None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Open(served),
            (example(trained, EXAMPLE), *([torch.tensor(truncation)] if has_styles else [])),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, *([None] if has_styles else [])),
            input_names=["x", *(["truncation"] if has_styles else [])],
            output_names=["images"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props["interface"] = json.dumps(interface(trained, truncation), ensure_ascii=False)
        program.save(file, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    draws = isinstance(trained.product.feed, Prior)

    def run(x: Tensor) -> Tensor:
        made = seeded.images(session, SEED, range(len(x))) if draws else session.run(None, {"x": x.numpy()})[0]
        return torch.from_numpy(made)

    require_parity(trained, truncation, run, ONNX)


@torch.no_grad()
def require_parity(trained: TrainedGenerator, truncation: float, run: Callable[[Tensor], Tensor], form: str) -> None:
    """Raise ValueError where `run` makes other images of the one array than the network does of its own inputs, for batches of BATCHES."""
    has_classes = isinstance(trained.product.feed, Prior) and bool(trained.product.feed.class_counts)
    for count in BATCHES:
        x = example(trained, count)
        inputs = (x[:, :-1], x[:, -1].long()) if has_classes else (x,)
        expected, got = trained.network(*inputs, **trained.options(truncation)), run(x)
        difference = float((expected - got).abs().max()) if got.shape == expected.shape else float("nan")
        if not difference <= TOLERANCES[form]:
            raise ValueError(
                f"{form} of {trained.model.name} differs from the network: {count} images of {list(got.shape)}, by {difference:.2g}; expected "
                f"{list(expected.shape)} and {TOLERANCES[form]:g} at most"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch's exporters say is no news."""
    levels = {name: logging.getLogger(name).level for name in QUIET}
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
