"""Checkpoints as named arrays, whatever wrote them; how two of them differ, and in what kind of state. Nothing in them is ever run."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

Entries = Mapping[str, "Entry"]
# Kind -> what is in the names of its entries. The first that fits: Adam's `exp_avg` is no average of weights.
KINDS: Mapping[str, str] = {
    "RNG": r"(^|[._/])rngs?([._/\d]|$)|rng_state|random_state|bit_generator|generator_state",
    "optimizer": r"optim|exp_avg|momentum|adam|grad_scaler|scaler",
    "average": r"(^|[._/])(ema|average|averaged|swa|shadow)([._/\d]|$)",
    "sampler": r"sampler|(data_?)?loader|dataset|permutation|cursor|position|(^|[._/])order([._/]|$)",
    "schedule": r"schedul|(^|[._/])(lr|learning_rate)([._/]|$)|warmup",
    "progress": r"(^|[._/])(global_)?(step|steps|epoch|epochs|iteration|iter|images_seen|n_iter)$",
}
WEIGHTS = "weights"
# In this order a difference is named: what differs further down may be its consequence.
ORDER = ("progress", "sampler", "RNG", "schedule", WEIGHTS, "optimizer", "average")
CLOCKS = re.compile(r"(^|[._/])(wall_?)?(time|timestamp|clock|seconds|date|elapsed|duration|hostname|pid)([._/]|$)|_seconds$|_time$")


class UnreadableError(ValueError):
    """A file that is no whole checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor or a number.

    Attributes:
        value: bfloat16 and smaller as float32.
        dtype: as it is stored.
    """

    value: np.ndarray
    dtype: str

    def same(self, other: "Entry") -> bool:
        """Byte for byte; a NaN is equal to itself."""
        return (self.dtype, self.value.shape, self.value.tobytes()) == (other.dtype, other.value.shape, other.value.tobytes())


@dataclass(frozen=True, kw_only=True)
class Difference:
    """
    Attributes:
        name: `FILE: ENTRY`.
    """

    name: str
    kind: str
    words: str

    def in_words(self) -> str:
        return f"{self.kind}: {self.name} {self.words}"


def read(path: Path) -> dict[str, Entry]:
    """The entries of .safetensors, .npz, .npy, .json, .jsonl, or of what torch saved (`weights_only`), by dotted name.

    Raises:
        UnreadableError: damaged, of another kind, or holding more than tensors, numbers and words.
    """
    reader = READERS.get(path.suffix, _torch)
    try:
        return {name: entry(value) for name, value in _leaves(reader(path), "")}
    except FileNotFoundError:
        raise
    except Exception as problem:  # whatever a parser makes of half a file
        known = ", ".join((*READERS, "and what torch.save wrote of tensors alone"))
        raise UnreadableError(f"{path.name} cannot be read ({type(problem).__name__}: {str(problem)[:200]}); known: {known}") from None


def entry(value: Any) -> Entry:
    """Of a tensor, an array, a number, a word or None."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        dtype = str(tensor.dtype).removeprefix("torch.")
        is_odd = tensor.is_floating_point() and tensor.element_size() < 4 and tensor.dtype != torch.float16
        return Entry(value=(tensor.float() if is_odd else tensor).contiguous().numpy(), dtype=dtype)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        value = str(value)  # a state of PCG64
    array = np.asarray(value if value is not None else "None")
    return Entry(value=array, dtype=str(array.dtype) if array.dtype.kind != "U" else "text")


def kind(name: str) -> str:
    """What kind of state an entry is, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), WEIGHTS)


def differences(
    expected: Mapping[str, Entries], found: Mapping[str, Entries], *, ignore: re.Pattern[str] | None = None
) -> list[Difference]:
    """What `found` has otherwise, causes before their consequences.

    Args:
        expected, found: file -> its entries.
        ignore: names that are left out.
    """
    lines = []
    for file in sorted({*expected, *found}):
        if file not in found or file not in expected:
            words = "is missing" if file not in found else "should not be there"
            lines.append(Difference(name=file, kind="files", words=words))
            continue
        for name in dict.fromkeys([*expected[file], *found[file]]):
            if ignore is not None and ignore.search(name):
                continue
            ours, theirs = expected[file].get(name), found[file].get(name)
            if ours is None or theirs is None or not ours.same(theirs):
                lines.append(Difference(name=f"{file}: {name}", kind=kind(name), words=_words(ours, theirs)))
    order = {name: place for place, name in enumerate(ORDER)}
    return sorted(lines, key=lambda line: order.get(line.kind, -1))


def _words(expected: Entry | None, found: Entry | None) -> str:
    if found is None:
        return "is missing"
    if expected is None:
        return "should not be there"
    if (expected.dtype, expected.value.shape) != (found.dtype, found.value.shape):
        return f"is {found.dtype} {list(found.value.shape)}, expected {expected.dtype} {list(expected.value.shape)}"
    if expected.value.size == 1:
        return f"is {found.value.reshape(-1)[0]}, expected {expected.value.reshape(-1)[0]}"
    unlike = expected.value != found.value
    place = tuple(int(i) for i in np.argwhere(unlike)[0]) if unlike.any() else (0,) * expected.value.ndim
    count, first = f"{int(unlike.sum()):,} of {unlike.size:,} values", list(place)
    return f"differs in {count}, first at {first}: {found.value[place]}, expected {expected.value[place]}"


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        if len(value) > 8 and all(isinstance(each, int | float) for each in value):
            yield name, np.asarray(value)
            return
        for place, each in enumerate(value):
            yield from _leaves(each, f"{name}.{place}" if name else str(place))
    else:
        yield name, value


def _torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _npz(path: Path) -> Any:
    with path.open("rb") as file:  # of its own: numpy leaves one open that it cannot read
        found = np.load(file, allow_pickle=False)
        return dict(found) if path.suffix == ".npz" else {"array": found}


def _json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".safetensors": lambda path: load_file(path),
    ".npz": _npz,
    ".npy": _npz,
    ".json": _json,
    ".jsonl": _json,
}
