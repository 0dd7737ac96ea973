"""Where the resumable state of a training lies."""

from pathlib import Path

from pipeline.params import ROOT, home


def state_uri(base: str, key: str, root: Path = ROOT) -> str:
    """Where a training's resumable state is: an absolute folder, or an object-store address; one below `base` (`train.state_uri`) a training."""
    if "://" not in base:
        return str((home(root) / base / key[:16]).resolve())
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}/{key[:16]}{mark}{query}"
