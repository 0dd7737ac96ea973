"""A network of the user's own as extractor."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganlib.metrics import choice, interface, torchscript
from ganlib.metrics.interface import ArrayImages


class Means(nn.Module):
    """Means of every channel, and of its upper half."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.float()
        return torch.cat([x.mean(dim=(2, 3)), x[:, :, : x.shape[2] // 2].mean(dim=(2, 3))], dim=1)


class Published(nn.Module):
    """As the published Inception: what it tells apart, or its features where it is asked."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        x = images.float().mean(dim=(2, 3))
        return x * 2 if return_features else x[:, :1]


class Flat(nn.Module):
    """Not [n, d]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(1, 2, 3))


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3)) / images.float().sum()


def saved(module: nn.Module, root: Path, name: str = "mine.pt") -> Path:
    path = root / choice.FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit.script, which people's files were made by
        torch.jit.save(torch.jit.script(module), path)
    return path


def pictures(n: int, channels: int = 3) -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (n, channels, 6, 5)).astype(np.uint8))


def fitted(root: Path, images: ArrayImages) -> interface.Extractor:
    return choice.fit("torchscript:data/extractors/mine.pt", images, seed=0, epochs=1.0, root=root)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_what_the_file_makes_of_the_bytes(tmp_path: Path, channels: int) -> None:
    """Grey as three equal channels. Kills scaled pixels, and a batch that is not cut to its images."""
    path, images = saved(Means(), tmp_path), pictures(53, channels)
    extractor = fitted(tmp_path, images)
    features = interface.extract(extractor, images)
    assert list(features) == ["last"]
    x = np.repeat(images.array.astype(np.float64), 3 // channels, axis=1)
    expected = np.concatenate([x.mean(axis=(2, 3)), x[:, :, :3].mean(axis=(2, 3))], axis=1)
    np.testing.assert_allclose(features["last"].numpy(), expected, rtol=1e-6)
    assert extractor.protocol() == {"file": "mine.pt", "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_nobody_knows_what_a_file_makes_of_floats(tmp_path: Path) -> None:
    saved(Means(), tmp_path)
    extractor = fitted(tmp_path, pictures(5))
    assert not extractor.takes_float
    with pytest.raises(ValueError, match=r"expected \[n, 3, 6, 5\] torch\.uint8"):
        extractor.features(torch.zeros(2, 3, 6, 5))


def test_the_file_is_kept_with_the_features(tmp_path: Path) -> None:
    path, images = saved(Means(), tmp_path), pictures(5)
    extractor = fitted(tmp_path, images)
    (tmp_path / "stored").mkdir()
    interface.save(extractor, tmp_path / "stored")
    path.unlink()
    assert torch.equal(interface.extract(interface.load(tmp_path / "stored"), images)["last"], interface.extract(extractor, images)["last"])


def test_another_file_is_another_extractor(tmp_path: Path) -> None:
    first = fitted(tmp_path, pictures(2, 3)) if saved(Means(), tmp_path) else None
    saved(Published(), tmp_path)
    second = fitted(tmp_path, pictures(2, 3))
    assert first is not None
    assert interface.sha256(first) != interface.sha256(second)


def test_features_are_asked_for_where_a_file_offers_them(tmp_path: Path) -> None:
    saved(Published(), tmp_path)
    images = pictures(4)
    found = interface.extract(fitted(tmp_path, images), images)["last"]
    np.testing.assert_allclose(found.numpy(), 2 * images.array.mean(axis=(2, 3)), rtol=1e-6)


def test_a_file_with_published_figures_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Means(), tmp_path)
    monkeypatch.setitem(torchscript.KNOWN, hashlib.sha256(path.read_bytes()).hexdigest(), "the figures of X")
    assert fitted(tmp_path, pictures(2)).protocol()["published"] == "the figures of X"


@pytest.mark.parametrize(
    ("module", "message"),
    [(Flat(), r"mine.pt gave \(50,\) for 50 images, expected a tensor \[50, features\]"), (Broken(), "NaN or infinity of a black picture")],
    ids=["flat", "broken"],
)
def test_a_network_that_makes_no_features_is_refused(module: nn.Module, message: str, tmp_path: Path) -> None:
    saved(module, tmp_path)
    with pytest.raises(ValueError, match=message):
        fitted(tmp_path, pictures(2))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = saved(Means(), tmp_path)
    path.write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"mine.pt is no TorchScript file.*torch.jit.trace"):
        fitted(tmp_path, pictures(2))
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*dvc pull"):
        fitted(tmp_path, pictures(2))
