"""One hash per part of a finished training: what must not depend on processes, kills or resizes."""

import hashlib
import json
from pathlib import Path

from ganlib.training.state import BundleStore


def fingerprint(folder: Path | str) -> dict[str, str]:
    """sha256 of each network, moving average, optimizer and of the losses (not the clock) of the newest bundle."""
    bundle, problems = BundleStore(Path(folder) / "checkpoints", keep=3).newest()
    assert bundle is not None
    assert problems == []
    parts: dict[str, hashlib._Hash] = {}
    for name in sorted(bundle.tensors):
        part = ".".join(name.split(".")[: 2 if name.startswith("optimizer") else 1])
        parts.setdefault(part, hashlib.sha256()).update(name.encode() + bundle.tensors[name].numpy().tobytes())
    losses = [{key: line[key] for key in ("step", "images_seen", "scalars")} for line in bundle.history]
    parts["losses"] = hashlib.sha256(json.dumps(losses).encode())
    return {part: digest.hexdigest() for part, digest in parts.items()}
