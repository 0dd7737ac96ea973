"""Fashion-MNIST (arXiv:1708.07747), from wherever it can be had, always the same bytes."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ganlib.data.idx import copy_uncompressed
from ganlib.data.raw import Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.files import sha256_file

# Of the decompressed files: Debian compresses them anew, so the .gz differ.
SHA256 = {
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ADDRESSES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
)
SOCKET_SECONDS = 30
APT_SECONDS = 300
MAX_DOWNLOAD_BYTES = 64 << 20


class Unavailable(Exception):
    """One way to the files did not work; the next is tried."""


@SOURCES.register("fashion-mnist", paper="arXiv:1708.07747")
class FashionMnist:
    """70,000 grey 28x28 pictures of ten kinds of clothing: from data.path, the Debian package, or its official addresses."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        ways: list[tuple[str, Callable[[], None]]] = [
            (f"files in {config.path} (data.path)", lambda: _from_own_folder(Path(config.path), raw)),
            (f"files in {DEBIAN_FOLDER}", lambda: _from_folder(DEBIAN_FOLDER, raw)),
            (f"apt-get install {DEBIAN_PACKAGE}", lambda: _from_debian(raw)),
            *((f"download from {address}", lambda address=address: _download(address, raw)) for address in ADDRESSES),
        ]
        failures = []
        for description, way in ways:
            try:
                way()
            except Unavailable as error:
                failures.append(f"  {description}: {error}")
                for path in raw.iterdir():
                    path.unlink()
            else:
                return Fetched(layout="idx", class_names=CLASS_NAMES)
        raise ValueError(
            "Fashion-MNIST could not be had in any way:\n"
            + "\n".join(failures)
            + f"\nPut its four files ({', '.join(SHA256)}; .gz or not) into {config.path} and run the same command again, "
            "or set data.source=digits, which needs no network"
        )


def _from_own_folder(folder: Path, raw: Path) -> None:
    """As `_from_folder`, but files of another data set under these names are the user's mistake, not a way that is closed."""
    try:
        _from_folder(folder, raw)
    except ValueError as error:
        raise ValueError(f"{error}; remove it from {folder}, or set data.source=idx to use your own IDX files") from None


def _from_folder(folder: Path, raw: Path) -> None:
    for name, expected in SHA256.items():
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise Unavailable(f"{name} is not there")
        _verify(copy_uncompressed(found[0], raw), expected, origin=str(found[0]))


def _verify(path: Path, expected: str, *, origin: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise ValueError(f"{origin} is not Fashion-MNIST's {path.name}: sha256 {found} decompressed, expected {expected}")


def _from_debian(raw: Path) -> None:
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise Unavailable("there is no apt-get" if apt is None else "only root may install packages")
    install = [apt, "install", "-y", "-q", "--no-install-recommends", DEBIAN_PACKAGE]
    problem = _apt(install)
    if problem:
        problem = _apt([apt, "update", "-q"]) or _apt(install)
    if problem:
        raise Unavailable(problem)
    _from_folder(DEBIAN_FOLDER, raw)


def _apt(command: list[str]) -> str:
    """Run apt-get quietly; "" or its last line."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=APT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else ((done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _download(address: str, raw: Path) -> None:
    for name, expected in SHA256.items():
        packed = raw / f"{name}.gz"
        try:
            with urllib.request.urlopen(f"{address}/{name}.gz", timeout=SOCKET_SECONDS) as answer, packed.open("wb") as file:
                size_bytes = 0
                while block := answer.read(1 << 20):
                    size_bytes += len(block)
                    if size_bytes > MAX_DOWNLOAD_BYTES:
                        raise Unavailable(f"{name}.gz is larger than {MAX_DOWNLOAD_BYTES:,} bytes, which it should not be")
                    file.write(block)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise Unavailable(str(getattr(error, "reason", error) or error)) from None
        try:
            _verify(copy_uncompressed(packed, raw), expected, origin=f"{address}/{name}.gz")
        except ValueError as error:  # a captive portal's page, a cut transfer
            raise Unavailable(str(error)) from None
        packed.unlink()
