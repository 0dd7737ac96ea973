"""One hash per part of a training's state: what must not depend on processes, kills or resizes."""

import hashlib
import json

from ganlib.training.state import Bundle


def fingerprint(bundle: Bundle) -> dict[str, str]:
    """sha256 of each network, the moving average, each optimizer and what is steered, and of losses and health: their numbers, not their clock."""
    parts: dict[str, hashlib._Hash] = {}
    for name in sorted(bundle.tensors):
        part = ".".join(name.split(".")[: 2 if name.startswith("optimizer") else 1])
        parts.setdefault(part, hashlib.sha256()).update(name.encode() + bundle.tensors[name].numpy().tobytes())
    losses = [{key: line[key] for key in ("step", "images_seen", "scalars")} for line in bundle.history]
    parts["losses"] = hashlib.sha256(json.dumps(losses).encode())
    parts["steering"] = hashlib.sha256(json.dumps(bundle.numbers["steering"]).encode())
    if bundle.numbers.get("health"):  # older bundles have none, and keep their digest
        health = [{key: line[key] for key in ("step", "images_seen", "values")} for line in bundle.numbers["health"]]
        parts["health"] = hashlib.sha256(json.dumps([health, bundle.numbers["alarms"]]).encode())
    return {part: digest.hexdigest() for part, digest in parts.items()}
