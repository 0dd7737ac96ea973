"""The forms of a generator that need no code of ours, for every family that makes images."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib.models import MODELS, TRANSLATOR, ImageSpec, build_network
from ganlib.models.settings import ModelConfig
from ganlib.products import Product
from ganlib.sampling import Prior
from pipeline import forms
from pipeline.generator import SAMPLE, TrainedGenerator

NAMES = ["left", "top", "all"]
GENERATORS = [entry.name for entry in MODELS if "generator" in entry.value.roles]
TRANSLATORS = [entry.name for entry in MODELS if TRANSLATOR in entry.value.roles]


def made(
    name: str, *, conditional: bool = True, counts: tuple[int, ...] = (1, 0, 1), size: int = 8, dim: int = 8, distribution: str = "normal"
) -> TrainedGenerator:
    """A generator with weights of its initialisation, DCGAN's last ones larger, for its images would be all but one and the same, and a mean of w
    that is not 0 where it has styles."""
    model = ModelConfig(name=name, latent_dim=dim, latent_distribution=distribution, conditional=conditional, generator={"width": 8})
    image = ImageSpec(channels=1, size=(size, size), class_counts=counts)
    network = build_network(model, image, "generator", seed=0).eval()
    if MODELS.get(name).has_styles:
        network.get_buffer("mean_latent.mean").normal_(generator=torch.Generator().manual_seed(0))
    product = Product.read(SAMPLE, model, image)
    assert isinstance(product.feed, Prior)
    if name == "dcgan":
        with torch.no_grad():
            list(network.parameters())[-2].mul_(0.2 / network(*product.feed.seeded(0, range(16))).std(dim=0).mean())
    return TrainedGenerator(product=product, network=network, model=model, image=image, facts={"class_names": NAMES} if conditional else {})


def translated(name: str) -> TrainedGenerator:
    """A network that makes 16x16 RGB images of what a transform left of them."""
    transform = {"srresnet": {"name": "low_resolution", "factor": 2}, "gated_conv": {"name": "holes"}}[name]
    model, image = ModelConfig(name=name, generator={}), ImageSpec(channels=3, size=(16, 16))
    product = Product.read(
        {"name": "x", "network": "generator", "part": "whole", "has_truth": True, "feed": {"kind": "images", "transform": transform}},
        model,
        image,
    )
    network = build_network(model, image, "generator", role=TRANSLATOR, seed=0, fed=product.fed(image)).eval()
    return TrainedGenerator(product=product, network=network, model=model, image=image, facts={})


def truncation(trained: TrainedGenerator) -> float:
    return 0.6 if MODELS.get(trained.model.name).has_styles else 1.0


@pytest.mark.parametrize("name", GENERATORS)
def test_pt2_gives_the_network_s_images_and_holds_no_code(name: str, tmp_path: Path) -> None:
    """Kills: a graph of a fixed batch, a truncation that is lost or left at 1, and a form with Python in it."""
    trained = made(name)
    forms.write_pt2(trained, truncation(trained), tmp_path / forms.PT2)  # compares, at other batches than it was traced with
    x = forms.example(trained, 3)
    with torch.no_grad():
        got = torch.export.load(tmp_path / forms.PT2).module()(x)
        expected = trained.network(x[:, :-1], x[:, -1].long(), **trained.options(truncation(trained)))
    torch.testing.assert_close(got, expected)
    with zipfile.ZipFile(tmp_path / forms.PT2) as archive:
        assert not [entry for entry in archive.namelist() if entry.endswith((".py", ".pyc"))]


@pytest.mark.parametrize("name", [*GENERATORS, *TRANSLATORS])
def test_onnx_gives_the_network_s_images(name: str, tmp_path: Path) -> None:
    """Kills: an export of one batch size only, labels or truncation baked in as they were traced, a class that is clamped into another one."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trained = translated(name) if name in TRANSLATORS else made(name)
    forms.write_onnx(trained, truncation(trained), tmp_path / forms.ONNX)
    session = onnxruntime.InferenceSession(tmp_path / forms.ONNX)
    x = forms.example(trained, 3)
    if name in TRANSLATORS:
        with torch.no_grad():
            assert np.allclose(session.run(None, {"x": x.numpy()})[0], trained.network(x).numpy(), atol=1e-4)
        return
    told = {"truncation": np.array(0.3, np.float32)} if MODELS.get(name).has_styles else {}
    with torch.no_grad():
        expected = trained.network(x[:, :-1], x[:, -1].long(), **({"truncation": 0.3} if told else {}))
    assert np.allclose(session.run(None, {"x": x.numpy(), **told})[0], expected.numpy(), atol=1e-4)
    for number in (1, 3, -1, 0.5, np.nan):  # 1 has no training images
        x[1, -1] = number
        images = session.run(None, {"x": x.numpy(), **told})[0]
        assert np.isnan(images).all(axis=(1, 2, 3)).tolist() == [False, True, False]


def test_a_form_that_differs_is_refused() -> None:
    """Kills: a comparison that takes NaN, another shape or another number for equal."""
    trained = made("mlp", conditional=False)
    for wrong in (lambda x: trained.network(x) + 1e-3, lambda x: trained.network(x) * torch.nan, lambda x: trained.network(x)[:1]):
        with pytest.raises(ValueError, match=r"model\.pt2 of mlp differs from the network: . images of .*; expected"):
            forms.require_parity(trained, 1.0, wrong, forms.PT2)


def test_what_a_form_takes_is_json() -> None:
    told = forms.interface(made("stylegan2"), 0.6)
    assert json.loads(json.dumps(told)) == told
    assert (told["latents"], told["fed"], told["images"]) == ({"dim": 8, "distribution": "normal"}, None, [1, 8, 8])
    assert (told["class_names"], told["class_counts"], told["truncation"]) == (NAMES, [1, 0, 1], 0.6)
    assert forms.interface(made("dcgan", conditional=False), 1.0)["truncation"] is None
    assert forms.interface(translated("srresnet"), 1.0)["fed"] == [3, 8, 8]
