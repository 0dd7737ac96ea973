"""The state of a training as one bundle: everything a resume needs, verified when it is read, never half-written.

A bundle is a folder `step-000000012`: `tensors.safetensors` (networks, moving average, optimizers, running sums), `state.json` (numbers),
`history.jsonl` (what was logged so far) and `manifest.json` (sha256 of the others, written last: its seal). In a folder it is filled under a
temporary name and renamed; in an object store, which cannot rename, a bundle without its seal is none. No pickle. Random numbers and the data
order are functions of the counters, so they need no entry.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ganlib import dist
from ganlib.ema import Ema
from ganlib.networks import Networks
from ganlib.pool import Pool
from ganlib.scalars import Scalars
from ganlib.steering import Steering
from ganlib.storage import Storage

FORMAT = 3
FOLDER = "checkpoints"
SEAL = "manifest.json"
BESIDE = frozenset({"ema", "optimizer", "pool", "scalars"})  # what a bundle has beside networks: no network may be called so
KEEP_BOUNDARIES = 2  # bundles a rollback can go to


class BundleError(ValueError):
    """A bundle is damaged or of another training."""


class IncompleteError(BundleError):
    """A bundle without its seal: the process died while it wrote. There was never more of it, so nothing is lost."""


@dataclass(kw_only=True)
class TrainState:
    """What changes while training.

    Attributes:
        averaged: the network whose moving average `ema` is.
        stage: of the task; networks, optimizers and steering are of this stage.
        rollbacks: what each rollback after a divergence left behind; each lowers the learning rates.
        is_over: it was ended before its budget was spent, because it no longer gained (`train.stop`).
        scheduled: by name, the numbers that follow images seen, as the last step had them: for the log, they are no state.
        gradient_norms: by network, of the last update that was no lazy penalty's, before clipping: for the health, they are no state.
        health: what was measured so far, `{"step", "images_seen", "values": {...}}` and the clock, oldest first; the same on every process.
        alarms: what was raised so far, also before a rollback.
    """

    networks: Networks
    ema: Ema
    optimizers: Mapping[str, torch.optim.Optimizer]
    scalars: Scalars
    steering: Steering
    images_per_step: int
    averaged: str
    pools: Mapping[str, Pool] = field(default_factory=dict)
    stage: int = 0
    step: int = 0
    images_seen: int = 0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False
    scheduled: dict[str, float] = field(default_factory=dict)
    gradient_norms: dict[str, float] = field(default_factory=dict)
    health: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors by name, numbers): copies on the CPU, so that the training may go on. All processes must call it together.

        The main process gets everything, the others no tensors.
        """
        sums, counts = self.scalars.state()
        tensors = {"scalars": sums}
        for name, pool in self.pools.items():
            tensors |= {f"pool.{name}.{key}": value for key, value in pool.state().items()}
        numbers: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "images_seen": self.images_seen,
            "stage": self.stage,
            "averaged": self.averaged,
            "scalars": counts,
            "steering": self.steering.numbers(),
            "rollbacks": list(self.rollbacks),
            "health": list(self.health),
            "alarms": list(self.alarms),
            "optimizers": {},
            **({"is_over": True} if self.is_over else {}),
        }
        if not dist.is_main():
            return {}, numbers
        tensors |= self._weights()
        tensors |= {f"ema.{key}": value for key, value in self.ema.module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            packed = optimizer.state_dict()
            numbers["optimizers"][name] = packed["param_groups"]
            for index, slots in packed["state"].items():
                tensors |= {
                    f"optimizer.{name}.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items() if value is not None
                }
        return _copied(tensors), numbers

    def weights(self) -> dict[str, Tensor]:
        """`NETWORK.NAME` -> tensor: every network, one as its moving average; copies on the CPU, so that the training may go on."""
        tensors = self._weights() | {f"{self.averaged}.{key}": value for key, value in self.ema.module.state_dict().items()}
        return _copied(tensors)

    def _weights(self) -> dict[str, Tensor]:
        assert BESIDE.isdisjoint(self.networks)
        return {f"{name}.{key}": value for name in self.networks for key, value in self.networks[name].state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken, whatever the number of processes then and now; this state must be of the same stage."""
        assert numbers["stage"] == self.stage

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name in self.networks:
            self.networks[name].load_state_dict(under(f"{name}."))
        self.ema.module.load_state_dict(under("ema."))
        for name, optimizer in self.optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in under(f"optimizer.{name}.").items():
                number, slot = key.split(".", 1)
                like = parameters[int(number)]
                if value.shape == like.shape:  # fused kernels walk memory: a moment must be laid out like its parameter
                    value = torch.empty_like(like).copy_(value)
                slots.setdefault(int(number), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": numbers["optimizers"][name]})
        for name, pool in self.pools.items():
            pool.load(under(f"pool.{name}."))
        self.steering.load(numbers["steering"])
        self.scalars.load(tensors["scalars"], numbers["scalars"])
        self.step, self.images_seen = numbers["step"], numbers["images_seen"]
        self.rollbacks = list(numbers["rollbacks"])
        self.is_over = numbers.get("is_over", False)
        self.health, self.alarms = health_of(numbers), list(numbers.get("alarms", ()))


def health_of(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The health's lines in the numbers of a bundle; none in one of an older version."""
    return list(numbers.get("health", ()))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach()) for key, value in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle; `folder` is its name in the storage."""

    folder: str
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def images_seen(self) -> int:
        return int(self.numbers["images_seen"])

    @property
    def averaged(self) -> str:
        """The network whose moving average is in it; older bundles do not say, and are of a generator."""
        return str(self.numbers.get("averaged", "generator"))

    def is_end_of(self, total_images: int) -> bool:
        """Whether it is the last of a training of so many images."""
        return self.images_seen >= total_images or bool(self.numbers.get("is_over"))

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """The weights of every network as it was trained, by its name; the moving average is none of them."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            name, dot, rest = key.partition(".")
            if dot and name not in BESIDE:
                found.setdefault(name, {})[rest] = value
        return found


def bundle_files(tensors: dict[str, Tensor], numbers: Mapping[str, Any], history: list[dict[str, Any]]) -> dict[str, bytes]:
    """A bundle as the files of a folder, without their seal."""
    return {
        "tensors.safetensors": save(tensors),
        "state.json": json.dumps(numbers).encode(),
        "history.jsonl": "".join(json.dumps(line) + "\n" for line in history).encode(),
    }


def sealed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`files` and, as the last one, their checksums."""
    manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, SEAL: json.dumps(manifest, indent=1).encode()}


def read_sealed(storage: Storage, folder: str) -> dict[str, bytes]:
    """The files of a sealed folder, verified, without the seal.

    Raises:
        IncompleteError: it was never finished.
        BundleError: says which file is missing or does not match its checksum.
    """
    where = f"{storage.uri}/{folder}"
    if SEAL not in storage.names(folder):
        raise IncompleteError(f"{where} has no {SEAL}: the process died while it wrote it")
    with _intact(where):
        manifest = json.loads(storage.read(f"{folder}/{SEAL}"))
        files = {name: storage.read(f"{folder}/{name}") for name in manifest}
        for name, expected in manifest.items():
            if hashlib.sha256(files[name]).hexdigest() != expected:
                raise BundleError(f"{where}/{name} does not match its checksum")
        return files


def read_bundle(storage: Storage, folder: str) -> Bundle:
    """Read and verify the bundle in `folder`; raises as `read_sealed`."""
    files = read_sealed(storage, folder)
    where = f"{storage.uri}/{folder}"
    with _intact(where):
        numbers = json.loads(files["state.json"])
        if numbers["format"] != FORMAT:
            raise BundleError(f"{where} has format {numbers['format']}, expected {FORMAT}")
        history = [json.loads(line) for line in files["history.jsonl"].splitlines()]
        return Bundle(folder=folder, tensors=load(files["tensors.safetensors"]), numbers=numbers, history=history)


@contextmanager
def _intact(where: str) -> Iterator[None]:
    """Whatever broken files become in the block is a BundleError."""
    try:
        yield
    except BundleError:
        raise
    except (FileNotFoundError, ValueError, AttributeError, TypeError, KeyError, SafetensorError) as error:
        raise BundleError(f"{where} is damaged: {error}") from None


class BundleStore:
    """Bundles of one training, newest last.

    Args:
        keep: the newest so many are kept.
        keep_best: beside them, the so many with the lowest score.
    """

    def __init__(self, storage: Storage, *, keep: int, keep_best: int = 0) -> None:
        self.storage = storage
        self.keep = keep
        self.keep_best = keep_best
        self._notes: dict[int, dict[str, Any] | None] = {}  # numbers of each bundle; None where they cannot be read

    def steps(self) -> list[int]:
        """Steps that have a folder, ascending."""
        return sorted(int(name[5:]) for name in self.storage.names(FOLDER) if name.startswith("step-") and name[5:].isdigit())

    def name(self, step: int) -> str:
        return f"{FOLDER}/step-{step:09d}"

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: list[dict[str, Any]]) -> str:
        """Write a bundle, then drop what need not be kept. A crash at any moment leaves the earlier bundles whole.

        Args:
            numbers: `TrainState.snapshot`'s; `score` (lower is better) and `is_boundary` in it steer what is kept.

        Raises:
            OSError: with the place and the bytes needed, when the disk is full; earlier bundles are untouched.
        """
        step = int(numbers["step"])
        for leftover in self.storage.names(FOLDER):
            if leftover.startswith(".step-"):  # of a process that died while it wrote
                self.storage.remove(f"{FOLDER}/{leftover}")
        files = bundle_files(tensors, numbers, history)
        try:
            self.storage.write_folder(self.name(step), sealed(files))
        except OSError as error:
            size_bytes = sum(len(data) for data in files.values())
            reason = f"{error.strerror or error}; this checkpoint needs {size_bytes:,} bytes, earlier checkpoints are whole"
            raise type(error)(error.errno, reason) from error
        self._notes[step] = numbers
        self._drop()
        return self.name(step)

    def load(self, step: int) -> Bundle:
        """Read and verify one bundle.

        Raises:
            IncompleteError: it was never finished.
            BundleError: says which file is missing or does not match its checksum.
        """
        return read_bundle(self.storage, self.name(step))

    def newest(self, *, boundary: bool = False) -> tuple[Bundle | None, list[str]]:
        """The newest bundle that verifies (and that a rollback may go to, if `boundary`), and a line for each newer one that does not.

        Raises:
            BundleError: there are bundles, and every one of them is damaged.
        """
        problems: list[str] = []
        any_damaged = False
        for step in reversed(self.steps()):
            try:
                bundle = self.load(step)
            except BundleError as error:
                any_damaged = any_damaged or not isinstance(error, IncompleteError)
                problems.append(str(error))
                continue
            if not boundary or bundle.numbers.get("is_boundary"):
                return bundle, problems
        if any_damaged:
            raise BundleError(
                "every checkpoint of this training is damaged:\n  "
                + "\n  ".join(problems)
                + f"\nremove {self.storage.uri} to train from the start"
            )
        return None, problems

    def drop_after(self, step: int) -> None:
        """Remove every bundle newer than `step`: they lead to a divergence."""
        for newer in self.steps():
            if newer > step:
                self.storage.remove(self.name(newer))
                self._notes.pop(newer, None)

    def _drop(self) -> None:
        """Remove all but the newest, the best, and what a rollback may go to; broken ones go when they are old."""
        steps = self.steps()
        for step in steps:
            if step not in self._notes:
                try:
                    self._notes[step] = json.loads(self.storage.read(f"{self.name(step)}/state.json"))
                except (FileNotFoundError, ValueError):
                    self._notes[step] = None
        whole = {step: notes for step in steps if (notes := self._notes[step]) is not None}
        scored = sorted((notes["score"], -step) for step, notes in whole.items() if notes.get("score") is not None)
        kept = set(sorted(whole)[-self.keep :]) | {-step for _, step in scored[: self.keep_best]}
        kept |= set(sorted(step for step, notes in whole.items() if notes.get("is_boundary"))[-KEEP_BOUNDARIES:])
        for step in steps:
            if step not in kept and step < max(whole, default=0):
                self.storage.remove(self.name(step))
                self._notes.pop(step, None)
