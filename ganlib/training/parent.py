"""What a training takes over from another one: a state that goes on under changed settings, or trained weights to start from.

Whoever sets a training up copies it into a folder of the training's own state, so that the parent is never looked at again: it may train on, or be
removed. Which settings may change is not decided here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from ganlib.config import Section
from ganlib.storage import Storage
from ganlib.training.fingerprint import fingerprint
from ganlib.training.state import Bundle, TrainState, health_of, read_bundle, read_sealed

FOLDER = "parent"
WEIGHTS = "tensors.safetensors"


class Parent(Section):
    """How a training begins.

    Attributes:
        kind: `continue` takes up a bundle: steps, images, optimizers, average, what is steered, history. `start` takes weights, at step 0.
        folder: where in the storage of the training's state the bundle or the weights are.
    """

    kind: Literal["continue", "start"]
    folder: str = FOLDER


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What of a trained network another one can take.

    Attributes:
        taken: names of the tensors that are in both, in one shape.
        fresh: those of the new network that stay as they are initialised -> why.
        left: those of the trained one that have no place.
    """

    taken: list[str]
    fresh: dict[str, str]
    left: list[str]


def origin(storage: Storage, parent: Parent | None) -> Bundle | None:
    """The bundle that a training with such a parent goes on from; None where it starts at step 0.

    It lacks what of the health was measured only because the parent ended there: one that was never cut has not measured it.

    Raises:
        BundleError: it is damaged.
    """
    if parent is None or parent.kind != "continue":
        return None
    bundle = read_bundle(storage, parent.folder)
    ends = {line["images_seen"] for line in health_of(bundle.numbers) if line.get("is_end")}
    kept = {name: [each for each in bundle.numbers.get(name, ()) if each["images_seen"] not in ends] for name in ("health", "alarms")}
    return replace(bundle, numbers={**bundle.numbers, **kept})


def go_on(state: TrainState, bundle: Bundle) -> None:
    """Continue where the bundle was taken, under the settings `state` was built with.

    Options of optimizers are the new ones, their moments go on. A steered number goes on where its term is still there; a new term starts at its
    options.
    """
    groups = {name: optimizer.state_dict()["param_groups"] for name, optimizer in state.optimizers.items()}
    steering = state.steering.shared(bundle.numbers["steering"])
    state.restore(bundle.tensors, {**bundle.numbers, "optimizers": groups, "steering": steering, "is_over": False})
    for optimizer in state.optimizers.values():
        if isinstance(optimizer, torch.optim.RMSprop):  # torch makes its momentum with the first step or never
            for group in optimizer.param_groups:
                for parameter in group["params"] if group["momentum"] else ():
                    if parameter in optimizer.state:
                        optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def start(state: TrainState, weights: Mapping[str, Tensor]) -> None:
    """Put trained weights (`NETWORK.NAME`) where they fit, those of the averaged network into its average too; the rest stays as it is."""
    networks = {name: state.networks[name] for name in state.networks}
    for name, fit in fits(weights, networks).items():
        networks[name].load_state_dict({key: weights[f"{name}.{key}"] for key in fit.taken}, strict=False)
    state.ema.module.load_state_dict(networks[state.averaged].state_dict())


def fits(weights: Mapping[str, Tensor], networks: Mapping[str, nn.Module]) -> dict[str, Fit]:
    """Network -> what of `weights` it can take. The networks may be on the meta device."""
    found = {}
    for network, module in networks.items():
        own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        theirs = {key.removeprefix(f"{network}."): tuple(value.shape) for key, value in weights.items() if key.startswith(f"{network}.")}
        taken = [name for name in own if own[name] == theirs.get(name)]
        found[network] = Fit(
            taken=taken,
            fresh={
                name: f"{list(own[name])}, the parent has {list(theirs[name])}" if name in theirs else "the parent has none"
                for name in own
                if name not in taken
            },
            left=[name for name in theirs if name not in own],
        )
    return found


def weights_of(bundle: Bundle) -> dict[str, Tensor]:
    """`NETWORK.NAME` -> tensor: every network of a bundle, one as its moving average."""
    weights = {f"{network}.{name}": value for network, tensors in bundle.networks().items() for name, value in tensors.items()}
    return weights | {f"{bundle.averaged}.{name[4:]}": value for name, value in bundle.tensors.items() if name.startswith("ema.")}


def packed(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Weights as the files of a folder, without their seal."""
    return {WEIGHTS: save({name: value.contiguous() for name, value in weights.items()})}


def read_weights(storage: Storage, folder: str) -> dict[str, Tensor]:
    """What `packed` made; raises BundleError where it is damaged."""
    weights: dict[str, Tensor] = load(read_sealed(storage, folder)[WEIGHTS])
    return weights


def bundle_digest(bundle: Bundle) -> str:
    """sha256 of a bundle's content. No clock is in it: the same training, run again elsewhere, has the same one."""
    numbers = {key: bundle.numbers[key] for key in ("step", "images_seen", "stage", "scalars", "rollbacks")}
    return hashlib.sha256(json.dumps([fingerprint(bundle), numbers], sort_keys=True).encode()).hexdigest()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the names, shapes and values of weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
