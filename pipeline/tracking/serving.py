"""What a registered version runs where it is loaded: latents, images or a request in words -> images. It needs mlflow, torch and numpy alone.

MLflow copies this file into the version and runs it there (models from code), so it imports nothing of this project. Beside it lie the graph (pt2),
`interface.json` (`pipeline.forms.interface`) and what marks images (`ganlib/marks/embedding.py`): those of 8 bits are marked where the environment
has GANPIPE_MARK_KEY when the version is loaded; those of float32, for computing with, are not. Without latents the parameters say what to make:
image i is that of (seed, i), as everywhere in this project; tests hold that draw against `ganlib.sampling.Prior`.
"""

import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 250  # images of a forward pass
MAX_VALUES = 1 << 26  # of the images of one request: 85,598 of 28x28
FORMATS = ("float32", "uint8", "bytes", "png")
MARK_KEY = "GANPIPE_MARK_KEY"  # of the environment, as `pipeline.mark` has it
NOTICE = b"synthetic image, made by a generative model"  # as `ganlib.pictures` has it


class Generator:
    """The served generator. What is wrong with a request is an MlflowException of INVALID_PARAMETER_VALUE: 400 over HTTP, as JSON."""

    mark: Callable[[np.ndarray], np.ndarray] | None = None  # what is put into the pixels of images of 8 bits

    def load_context(self, context: Any) -> None:
        told = json.loads(Path(context.artifacts["interface"]).read_text(encoding="utf-8"))
        self.begin(told, torch.export.load(context.artifacts["graph"]).module())
        if key := os.environ.get(MARK_KEY):
            self.mark = marking(Path(context.artifacts["embedding"]), key, told["images"], told.get("strength"))

    def begin(self, told: dict[str, Any], graph: torch.nn.Module) -> None:
        """Answer with what `graph` makes of the one array; `told` says what that is."""
        self.told, self.graph = told, graph
        self.truncation = next((tensor for name, tensor in graph.named_buffers() if name.rpartition(".")[2] == "truncation"), None)
        self.turn = threading.Lock()  # truncation is a number of the graph

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """Images of rows that are given, or of what `params` ask for.

        Args:
            model_input: latents (the class in a last column, or in `classes`), or images where the generator is fed images: numbers in [-1, 1], uint8
                levels, or PNG files in base64. None or empty: `count` images are drawn.
            params: `count`, `seed`, `first` (number of the first image), `classes` (names or numbers, in turn; none: as often as the training data
                have them), `truncation`, `format`: float32 in [-1, 1] | uint8 | bytes ({shape, dtype, data in base64}) | png (base64, one an image).
        """
        asked = dict(params or {})
        form = asked.get("format") or "float32"
        if form not in FORMATS:
            raise wrong(f"format={form!r}; expected one of {', '.join(FORMATS)}")
        x = self.rows(model_input, asked)
        made = self.made(x, asked.get("truncation"))
        if form == "float32":
            return made
        levels = in_levels(made)
        levels = levels if self.mark is None else self.mark(levels)
        if form == "uint8":
            return levels
        if form == "bytes":
            return {"shape": list(levels.shape), "dtype": "uint8", "data": base64.b64encode(levels.tobytes()).decode()}
        return [base64.b64encode(png(image)).decode() for image in levels]

    def rows(self, given: Any, asked: dict[str, Any]) -> np.ndarray:
        """The one array that the graph takes: [N, ...] float32."""
        count = asked.get("count") or 0
        if count < 0 or asked.get("seed", 0) < 0 or asked.get("first", 0) < 0:
            raise wrong(f"count={count}, seed={asked.get('seed')}, first={asked.get('first')}; expected whole numbers, 0 or more")
        if is_nothing(given):
            if self.told["fed"] is not None:
                raise wrong(f"this generator makes images of images, and draws none. {self.told['input']}")
            if not count:
                raise wrong(f"neither latents nor params.count; ask for {{'count': 16, 'seed': 0}}, or give latents. {self.told['input']}")
            self.require_few(count)
            return self.drawn(asked.get("seed", 0), range(asked.get("first", 0), asked.get("first", 0) + count), self.classes(asked))
        if count:
            raise wrong(f"params.count={count} beside rows that were given; leave out one of the two")
        x = self.pictures(given) if self.told["fed"] is not None else numbers(given)
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
            raise wrong(f"row {row} has a number that is not finite; {self.told['input']}")
        self.require_few(len(x))
        return x if self.told["fed"] is not None else self.latents(x, asked)

    def latents(self, x: np.ndarray, asked: dict[str, Any]) -> np.ndarray:
        dim, counts = self.told["latents"]["dim"], self.told["class_counts"]
        numbers_of = self.classes(asked)
        if counts and numbers_of and x.ndim == 2 and x.shape[1] == dim:
            return np.hstack([x, np.resize(np.array(numbers_of, np.float32), len(x))[:, None]])
        if numbers_of and x.ndim == 2 and x.shape[1] == dim + 1:
            raise wrong(f"params.classes={asked['classes']} beside latents with a class in the last column; leave out one of the two")
        expected = dim + bool(counts)
        if x.ndim != 2 or x.shape[1] != expected:
            raise wrong(f"got an array of {list(x.shape)}, expected [N, {expected}]. {self.told['input']}")
        if counts:
            labels = x[:, -1]
            known = np.isin(labels, [number for number, images in enumerate(counts) if images])
            if not known.all():
                row = int(np.flatnonzero(~known)[0])
                unknown = "" if all(counts) else " that has training images"
                raise wrong(
                    f"row {row}: {labels[row]:g} in the last column is no class; the last column is no class from 0 to {len(counts) - 1}{unknown}; "
                    f"it takes whole numbers. {self.told['input']}"
                )
        return x

    def pictures(self, given: Any) -> np.ndarray:
        """[N, C, H, W] float32 in [-1, 1]."""
        array = np.asarray(given)
        if array.dtype.kind in "US" or (array.dtype == object and array.size and isinstance(array.flat[0], str)):
            x = np.stack([decoded(str(text), row) for row, text in enumerate(array.ravel())])
        else:
            x = numbers(given) if array.dtype != np.uint8 else array.astype(np.float32) / np.float32(127.5) - 1
        if list(x.shape[1:]) != self.told["fed"]:
            raise wrong(f"got images of {list(x.shape[1:])}, expected {self.told['fed']} (channels, height, width). {self.told['input']}")
        if np.isfinite(x).all() and np.abs(x).max(initial=0) > 1.001:
            raise wrong(f"got values from {x.min():g} to {x.max():g}; expected [-1, 1], uint8, or PNG in base64. {self.told['input']}")
        return x

    def classes(self, asked: dict[str, Any]) -> list[int]:
        """Numbers of the classes that are asked for by name or by number; [] for as often as the data have them."""
        names, counts = self.told["class_names"], self.told["class_counts"]
        wanted = [str(item) for item in asked.get("classes") or ()]
        if wanted and not counts:
            raise wrong(f"params.classes={wanted}, but this generator is told no class; leave it out")
        found = []
        for item in wanted:
            number = names.index(item) if item in names else int(item) if item.isascii() and item.isdigit() else -1
            if not 0 <= number < len(counts) or not counts[number]:
                legal = ", ".join(f"{i} {name}" for i, name in enumerate(names) if counts[i])
                raise wrong(f"params.classes has {item!r}, which is no class; expected names or numbers of: {legal}")
            found.append(number)
        return found

    @torch.inference_mode()
    def drawn(self, seed: int, indices: Sequence[int], classes: Sequence[int]) -> np.ndarray:
        """Row i depends on (seed, i) alone."""
        dim, counts = self.told["latents"]["dim"], self.told["class_counts"]
        is_uniform = self.told["latents"]["distribution"] == "uniform"
        z, rng = torch.empty(len(indices), dim), torch.Generator()
        begun = hashlib.blake2b(f"{seed}:sample:".encode(), digest_size=8)  # `keyed` of (seed, "sample", i) but for i
        for row, i in zip(z, indices, strict=True):  # uniform_ and normal_ are what torch.rand and torch.randn call
            digest = begun.copy()
            digest.update(b"%d" % i)
            rng.manual_seed(int.from_bytes(digest.digest(), "big"))
            row.uniform_(generator=rng) if is_uniform else row.normal_(generator=rng)
        if is_uniform:
            z = z * 2 - 1
        if not counts:
            return z.numpy()
        ends = torch.tensor(counts).cumsum(0)
        labels = [
            float(classes[n % len(classes)])
            if classes
            else float(
                torch.searchsorted(ends, torch.randint(int(ends[-1]), (1,), generator=keyed(rng, seed, "sample label", i)), right=True)
            )
            for n, i in enumerate(indices)
        ]
        return torch.cat([z, torch.tensor(labels)[:, None]], 1).numpy()

    def made(self, x: np.ndarray, truncation: float | None) -> np.ndarray:
        """[N, C, H, W] float32 in [-1, 1]."""
        built_in = self.told["truncation"]
        asked = built_in if truncation is None else truncation
        if asked is not None and not 0 < asked <= 1:
            raise wrong(f"truncation={asked:g}; expected more than 0, and 1 at most")
        if self.truncation is None and asked not in (None, 1.0):
            raise wrong(f"truncation={asked:g}, but this generator has no styles to truncate; leave it out")
        with torch.no_grad(), contextlib.nullcontext() if self.truncation is None else self.turn:
            if self.truncation is not None:
                self.truncation.fill_(asked)
            made = [self.graph(part) for part in torch.from_numpy(np.ascontiguousarray(x)).split(BATCH)]
            return (made[0] if len(made) == 1 else torch.cat(made)).numpy()

    def require_few(self, count: int) -> None:
        most = MAX_VALUES // int(np.prod(self.told["images"]))
        if count > most:
            raise wrong(
                f"{count:,} images at once; expected {most:,} at most. Ask for them in parts (params.first), or use `ganpipe generate`"
            )


def marking(code: Path, key: str, shape: Sequence[int], strength: float | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """What puts the mark of `key` into images of `shape` [C, H, W]; None, which is said, where they are too small.

    Args:
        code: `ganlib/marks/embedding.py`, or the copy that a version holds.
        strength: `marks.strength` of the registration; None, of a version that does not say: the default.
    """
    spec = importlib.util.spec_from_file_location("ganpipe_embedding", code)
    assert spec is not None
    assert spec.loader is not None
    embedding = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(embedding)
    if min(shape[1:]) < embedding.SMALLEST:
        told = f"images of {shape[2]}x{shape[1]} are too small for a mark in the pixels"
        logging.getLogger(__name__).warning("not marked: %s, expected %d pixels a side at least", told, embedding.SMALLEST)
        return None
    patterns = embedding.patterns_of(keyed(torch.Generator(), embedding.seed_of(key), "mark"))
    return partial(embedding.embed, patterns=patterns, strength=embedding.STRENGTH if strength is None else strength)


def wrong(message: str) -> Exception:
    from mlflow.exceptions import MlflowException

    refused: Exception = MlflowException.invalid_parameter_value(message)
    return refused


def refusal() -> type[Exception]:
    """What `wrong` makes."""
    from mlflow.exceptions import MlflowException

    found: type[Exception] = MlflowException
    return found


def is_nothing(given: Any) -> bool:
    return given is None or (isinstance(given, Sized) and not isinstance(given, str) and len(given) == 0)


def in_levels(made: np.ndarray) -> np.ndarray:
    """uint8 of float32 in [-1, 1]. One new array, not one a step: they would cost more than the steps."""
    levels = made + 1
    levels *= 127.5
    return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)


def numbers(given: Any) -> np.ndarray:
    """Rows of numbers, however MLflow hands them over."""
    try:
        found = np.asarray(given.to_numpy() if callable(getattr(given, "to_numpy", None)) else given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise wrong(f"expected rows of numbers, all of one length: {error}") from None
    if found.ndim < 2:
        raise wrong(f"expected rows of numbers, got an array of {list(found.shape)}")
    return found


def keyed(rng: torch.Generator, *parts: int | str) -> torch.Generator:
    """`rng` as `ganlib.rng.keyed_rng` makes one; a new one for each image would cost as much as its latents."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return rng.manual_seed(int.from_bytes(digest, "big"))


def decoded(text: str, row: int) -> np.ndarray:
    """A picture file in base64 -> [C, H, W] float32 in [-1, 1]."""
    from PIL import Image  # MLflow brings it along

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError) as error:
        raise wrong(f"row {row} is no picture in base64: {error}") from None
    if pixels.dtype != np.uint8:
        raise wrong(f"row {row} is a picture of {pixels.dtype}; expected 8 bits a channel, without a palette")
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(127.5) - 1


def png(image: np.ndarray) -> bytes:
    """[C, H, W] uint8 of 1, 3 or 4 channels -> PNG that says that it is synthetic (PNG specification, 2003: a filter byte 0 before each row)."""
    channels, height, width = image.shape
    kinds = {1: 0, 3: 2, 4: 6}
    if channels not in kinds:
        raise wrong(f"format=png of {channels} channels; expected 1, 3 or 4. Take format: bytes")
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = image.transpose(1, 2, 0).reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, kinds[channels], 0, 0, 0)
    text = b"Notice\0" + NOTICE
    parts = [chunk(b"IHDR", header), chunk(b"tEXt", text), chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def is_loaded_by_mlflow(name: str) -> bool:
    return name.startswith("code_model_")


if is_loaded_by_mlflow(__name__):  # and not where this project imports the file
    import mlflow

    class Model(Generator, mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        """As MLflow wants it; a `predict` of its own would be asked for a schema of its hints."""

    mlflow.models.set_model(Model())
