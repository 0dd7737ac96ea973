"""The state of a training as one bundle: everything a resume needs, verified when it is read, never half-written.

A bundle is a folder `step-000000012`: `tensors.safetensors` (networks, moving average, optimizers, running sums), `state.json` (numbers),
`history.jsonl` (what was logged so far) and `manifest.json` (sha256 of the others, written last). It is filled under a temporary name and
renamed. No pickle. Random numbers and the data order are functions of the counters, so they need no entry.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ganlib.ema import Ema
from ganlib.files import atomic_folder, sha256_file
from ganlib.networks import Networks
from ganlib.scalars import Scalars

FORMAT = 1


class BundleError(ValueError):
    """A bundle is incomplete, damaged or of another training."""


@dataclass(kw_only=True)
class TrainState:
    """What changes while training."""

    networks: Networks
    ema: Ema
    optimizers: Mapping[str, torch.optim.Optimizer]
    scalars: Scalars
    images_per_step: int
    step: int = 0
    images_seen: int = 0

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors by name, numbers). All processes must call it together; the result is the same on each."""
        sums, counts = self.scalars.state()
        tensors = {"scalars": sums}
        numbers: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "images_seen": self.images_seen,
            "scalars": counts,
            "optimizers": {},
        }
        for name in self.networks:
            tensors |= {f"{name}.{key}": value for key, value in self.networks[name].state_dict().items()}
        tensors |= {f"ema.{key}": value for key, value in self.ema.module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            packed = optimizer.state_dict()
            numbers["optimizers"][name] = packed["param_groups"]
            for index, slots in packed["state"].items():
                tensors |= {
                    f"optimizer.{name}.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items() if value is not None
                }
        return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken, whatever the number of processes then and now."""

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
        self.scalars.load(tensors["scalars"], numbers["scalars"])
        self.step, self.images_seen = numbers["step"], numbers["images_seen"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    history: list[dict[str, Any]]


class BundleStore:
    """Bundles of one training below `folder`, newest last."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that have a complete-looking bundle, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*") if path.name[5:].isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any], history: list[dict[str, Any]]) -> Path:
        """Write a bundle, then drop the oldest beyond `keep`. A crash at any moment leaves the earlier bundles whole.

        Raises:
            OSError: with the path and the bytes needed, when the disk is full; earlier bundles are untouched.
        """
        final = self.path(numbers["step"])
        for leftover in self.folder.glob(".step-*"):  # of a process that died while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_folder(final) as temporary:
                (temporary / "tensors.safetensors").write_bytes(save(tensors))  # our own write: a full disk is an OSError
                (temporary / "state.json").write_text(json.dumps(numbers))
                (temporary / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
                manifest = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
                (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        except OSError as error:
            size_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
            reason = f"{error.strerror}; this checkpoint needs about {size_bytes:,} bytes, earlier checkpoints are whole"
            raise OSError(error.errno, reason) from error
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step), ignore_errors=True)
        return final

    def load(self, step: int) -> Bundle:
        """Read and verify one bundle.

        Raises:
            BundleError: says which file is missing or does not match its checksum.
        """
        folder = self.path(step)
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            for name, expected in manifest.items():
                if sha256_file(folder / name) != expected:
                    raise BundleError(f"{folder / name} does not match its checksum")
            numbers = json.loads((folder / "state.json").read_text())
            if numbers["format"] != FORMAT:
                raise BundleError(f"{folder} has format {numbers['format']}, expected {FORMAT}")
            history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            return Bundle(folder=folder, tensors=load_file(folder / "tensors.safetensors"), numbers=numbers, history=history)
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise BundleError(f"{folder} is damaged: {error}") from None

    def newest(self) -> tuple[Bundle | None, list[str]]:
        """The newest bundle that verifies, and a line for each newer one that does not.

        Raises:
            BundleError: there are bundles, and every one of them is damaged.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), problems
            except BundleError as error:
                problems.append(str(error))
        if problems:
            raise BundleError(
                "every checkpoint of this training is damaged:\n  "
                + "\n  ".join(problems)
                + f"\nremove {self.folder} to train from the start"
            )
        return None, []
