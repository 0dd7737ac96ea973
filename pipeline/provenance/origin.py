"""Where each data source gets its bytes from, as far as it is known without asking anybody."""

import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ganlib.config import Section

PYTHON_PACKAGES = {"digits": "scikit-learn"}  # source -> the package that holds its bytes
DEBIAN_PACKAGES = {"fashion-mnist": "dataset-fashion-mnist"}
ADDRESSES: Mapping[str, tuple[str, ...]] = {
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    )
}
GENERATED = frozenset({"ring", "grid"})  # made by the source itself
DPKG_SECONDS = 20


class Origin(Section):
    """Where data came from.

    Attributes:
        path: `data.path`, or `data.source_uri` where it is set, for sources that read files of one's own; Fashion-MNIST looks there first.
        package, version: that holds the bytes, as it is installed where the version was registered; None where it is not.
        addresses: where the source would download them.
        files: of data/raw, name -> sha256; None where data/raw is not there.
        stored: digest of the objects that `data.source_uri` named when they were fetched.
    """

    source: str
    path: str | None = None
    package: str | None = None
    version: str | None = None
    addresses: tuple[str, ...] = ()
    files: dict[str, str] | None = None
    stored: str | None = None


def origin(source: str, path: str | None, root: Path) -> Origin:
    """Of the data set that `data.source` and a path or an address name."""
    files, stored = _fetched(root)
    package = PYTHON_PACKAGES.get(source) or DEBIAN_PACKAGES.get(source)
    return Origin(
        source=source,
        path=None if source in PYTHON_PACKAGES or source in GENERATED else path,
        package=package,
        version=_version(source),
        addresses=ADDRESSES.get(source, ()),
        files=files,
        stored=stored,
    )


def _version(source: str) -> str | None:
    if source in PYTHON_PACKAGES:
        try:
            return importlib.metadata.version(PYTHON_PACKAGES[source])
        except importlib.metadata.PackageNotFoundError:
            return None
    if source in DEBIAN_PACKAGES:
        try:
            command = ["dpkg-query", "-W", "-f", "${Version}", DEBIAN_PACKAGES[source]]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=DPKG_SECONDS).stdout.strip() or None
        except (OSError, subprocess.SubprocessError):
            return None
    return None


def _fetched(root: Path) -> tuple[dict[str, str] | None, str | None]:
    try:
        described = json.loads((root / "data" / "raw" / "source.json").read_text(encoding="utf-8"))
        files = {file["name"]: file["sha256"] for file in described["files"]}
        return files, described["stored"]["sha256"] if "stored" in described else None
    except (OSError, ValueError, KeyError, TypeError):  # restored without it, or another day's
        return None, None
