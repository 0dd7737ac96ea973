"""The images of a seed out of model.onnx, with numpy and onnxruntime alone:

    session = onnxruntime.InferenceSession("model.onnx")
    images = seeded.images(session, seed=3, numbers=range(16))

Image i is that of (seed, i), as everywhere in the project that made the file: its latents are the first draw of a Mersenne Twister whose key
is BLAKE2b of "SEED:sample:i", its class that of "SEED:sample label:i", as often as the training data have it. `ganpipe export` copies this file
beside model.onnx, so it imports nothing else; model.onnx says in its metadata (`interface`) what it is fed.

The numbers are torch's (2.13), which drew them in training: uniform ones, classes, and fewer than 16 normal ones to the bit. From 16 on torch takes
logarithm and sine of float32, whose last digits depend on the machine: 5e-7 apart where torch has AVX2, 2e-6 where it has no vectors.
"""

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

BATCH = 250  # images of a forward pass
BLOCK = 16  # normal numbers that torch makes at once
WIDE = 1 << 28  # from so many whole numbers on, torch draws one of them with 64 bits


def images(
    session: Any, seed: int, numbers: Iterable[int], *, classes: Sequence[str | int] = (), truncation: float | None = None
) -> np.ndarray:
    """[N, C, H, W] float32 in [-1, 1]: images `numbers` of `seed`.

    Args:
        session: onnxruntime's, of model.onnx.
        classes: names or numbers, in turn; none: as often as the training data have them.
        truncation: of styles, above 0 and 1 at most; None: what is built in.

    Raises:
        ValueError: a generator that is fed images, one that has no such class, or no styles.
    """
    told = interface(session)
    x, feeds = rows(told, seed, numbers, classes), {}
    built_in = told["truncation"]
    if built_in is None and truncation not in (None, 1.0):
        raise ValueError(f"truncation={truncation:g}, but this generator has no styles to truncate; leave it out")
    if built_in is not None:
        asked = built_in if truncation is None else truncation
        if not 0 < asked <= 1:
            raise ValueError(f"truncation={asked:g}; expected more than 0, and 1 at most")
        feeds = {"truncation": np.array(asked, np.float32)}
    made = [session.run(None, {"x": x[start : start + BATCH], **feeds})[0] for start in range(0, len(x), BATCH)]
    return np.concatenate(made) if made else np.empty((0, *told["images"]), np.float32)


def interface(session: Any) -> dict[str, Any]:
    """What model.onnx takes and gives, as it says itself."""
    told: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map["interface"])
    return told


def rows(told: Mapping[str, Any], seed: int, numbers: Iterable[int], classes: Sequence[str | int] = ()) -> np.ndarray:
    """The array `x` that model.onnx takes, [N, dim] float32, or [N, dim + 1] with the class; `told` is its `interface`."""
    if told["latents"] is None:
        raise ValueError(f"this generator makes images of images, and draws none. {told['input']}")
    seed, numbers = operator.index(seed), [operator.index(number) for number in numbers]
    if min([seed, *numbers]) < 0:
        raise ValueError(f"seed={seed}, image {min(numbers, default=0)}; expected whole numbers, 0 or more")
    z = latents(seed, numbers, **told["latents"])
    asked = [_class(told, item) for item in classes]
    if not told["class_counts"]:
        return z
    labels = np.resize(asked, len(numbers)) if asked else drawn_classes(seed, numbers, told["class_counts"])
    return np.concatenate([z, labels.astype(np.float32)[:, None]], axis=1)


def _class(told: Mapping[str, Any], asked: str | int) -> int:
    """The number of a class by its name or number."""
    names, counts, word = told["class_names"], told["class_counts"], str(asked)
    number = names.index(word) if word in names else int(word) if word.isascii() and word.isdigit() else -1
    if not 0 <= number < len(counts) or not counts[number]:
        legal = ", ".join(f"{i} {name}" for i, name in enumerate(names) if counts[i]) if counts else "none, it is told no class"
        raise ValueError(f"no class {asked!r}; expected names or numbers of: {legal}")
    return int(number)


def latents(seed: int, numbers: Sequence[int], *, dim: int, distribution: str) -> np.ndarray:
    """[N, dim] float32: N(0, 1) for `normal`, U(-1, 1) for `uniform`."""
    draw = {"normal": _normal, "uniform": _between_ends}[distribution]
    found = [draw(_key(seed, "sample", number), dim) for number in numbers]
    return np.stack(found) if found else np.empty((0, dim), np.float32)


def drawn_classes(seed: int, numbers: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """[N] int64: the class of one of the training images, of which each class has `counts`."""
    ends = np.cumsum(counts)
    total, places = int(ends[-1]), []
    for number in numbers:
        first, second = (int(word) for word in _words(_key(seed, "sample label", number), 2))
        places.append((first << 32 | second if total >= WIDE else first) % total)
    return np.searchsorted(ends, np.array(places, np.int64), side="right")


def _key(*parts: int | str) -> int:
    """The 32 bits that the generator is seeded with: torch's takes the lower half of a 64-bit key."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[4:], "big")


def _words(key: int, count: int) -> np.ndarray:
    """The first `count` numbers of 32 bits of MT19937 (Matsumoto and Nishimura 1998)."""
    return np.frombuffer(np.random.RandomState(key).bytes(4 * count), "<u4")


def _fractions(key: int, count: int) -> np.ndarray:
    """[count] float32 in [0, 1), of 24 bits each."""
    return (_words(key, count) & (1 << 24) - 1).astype(np.float32) * np.float32(2**-24)


def _between_ends(key: int, count: int) -> np.ndarray:
    return _fractions(key, count) * 2 - 1


def _normal(key: int, count: int) -> np.ndarray:
    """[count] float32 of N(0, 1), by Box and Muller (1958): pairs of float64 below BLOCK numbers, else blocks of float32.

    A block's first half are the lengths and its second half the angles of what becomes cosines, then sines. Where blocks do not divide `count`, the
    last BLOCK numbers are drawn again.
    """
    if count < BLOCK:
        words = _words(key, 4 * -(-count // 2)).astype(np.uint64)
        angles, lengths = ((words[0::2] << np.uint64(32) | words[1::2]) & np.uint64((1 << 53) - 1)).reshape(-1, 2).T * 2.0**-53
        length = np.sqrt(-2 * np.log1p(-lengths))
        pairs = length * np.cos(2 * math.pi * angles), length * np.sin(2 * math.pi * angles)
        return np.stack(pairs, axis=1).ravel()[:count].astype(np.float32)
    whole = count // BLOCK * BLOCK
    drawn = _fractions(key, count if whole == count else count + BLOCK)
    found = np.empty(count, np.float32)
    found[:whole] = _blocks(drawn[:whole])
    if whole < count:
        found[-BLOCK:] = _blocks(drawn[count:])
    return found


def _blocks(drawn: np.ndarray) -> np.ndarray:
    """Each step rounded to float32, as torch does."""
    lengths, angles = drawn.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    length = _rounded(np.sqrt, np.float32(-2) * _rounded(np.log, 1 - lengths))
    angle = np.float32(2 * math.pi) * angles
    return np.stack([length * _rounded(np.cos, angle), length * _rounded(np.sin, angle)], axis=1).ravel()


def _rounded(function: np.ufunc, x: np.ndarray) -> np.ndarray:
    """`function` of float32, as precise as float32 has it."""
    return np.asarray(function(x.astype(np.float64)), np.float32)
