"""What a state folder's newest bundle and its candidates for export hold, to be compared."""

import hashlib
from pathlib import Path
from typing import Any

from ganlib.storage import open_storage
from ganlib.training import candidates
from ganlib.training.fingerprint import fingerprint
from ganlib.training.state import SEAL, Bundle, BundleStore


def parts_of(folder: Path | str) -> dict[str, str]:
    return fingerprint(_newest(folder)) | {"candidates": _candidates(folder)}


def _candidates(folder: Path | str) -> str:
    storage, digest = open_storage(folder), hashlib.sha256()
    for images_seen in candidates.present(storage):
        digest.update(f"{images_seen} ".encode() + storage.read(f"{candidates.name(images_seen)}/{SEAL}"))
    return digest.hexdigest()


def steering_of(folder: Path | str) -> dict[str, dict[str, Any]]:
    """The numbers that followed the training, by key and field."""
    steering: dict[str, dict[str, Any]] = _newest(folder).numbers["steering"]
    return steering


def _newest(folder: Path | str) -> Bundle:
    bundle, problems = BundleStore(open_storage(folder), keep=3).newest()
    assert bundle is not None
    assert problems == []
    return bundle
