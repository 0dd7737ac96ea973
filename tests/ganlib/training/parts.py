"""What a state folder's newest bundle holds, to be compared."""

from pathlib import Path
from typing import Any

from ganlib.storage import open_storage
from ganlib.training.fingerprint import fingerprint
from ganlib.training.state import Bundle, BundleStore


def parts_of(folder: Path | str) -> dict[str, str]:
    return fingerprint(_newest(folder))


def steering_of(folder: Path | str) -> dict[str, dict[str, Any]]:
    """The numbers that followed the training, by key and field."""
    steering: dict[str, dict[str, Any]] = _newest(folder).numbers["steering"]
    return steering


def _newest(folder: Path | str) -> Bundle:
    bundle, problems = BundleStore(open_storage(folder), keep=3).newest()
    assert bundle is not None
    assert problems == []
    return bundle
