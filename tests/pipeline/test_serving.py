"""What a registered generator answers: latents, images and requests in words; and what it refuses."""

import base64
import io
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib.pictures import NOTICE
from ganlib.sampling import Inputs, Prior, generate, to_uint8
from pipeline import forms
from pipeline.tracking import serving
from tests.pipeline.test_forms import made, translated

COUNTS = (3, 0, 5)
pytestmark = pytest.mark.filterwarnings("ignore")  # torch.export's own


@pytest.fixture(scope="module")
def refusal() -> type[Exception]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException

        return MlflowException


def served(trained, folder: Path, truncation: float = 1.0) -> serving.Generator:
    forms.write_pt2(trained, truncation, folder / "model.pt2")
    (folder / "interface.json").write_text(json.dumps(forms.interface(trained, truncation)))
    model = serving.Generator()
    model.load_context(SimpleNamespace(artifacts={"graph": str(folder / "model.pt2"), "interface": str(folder / "interface.json")}))
    return model


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    trained = made("stylegan2", counts=COUNTS)
    return trained, served(trained, tmp_path_factory.mktemp("styled"), truncation=0.6)


@pytest.fixture(scope="module")
def classed(tmp_path_factory):
    trained = made("dcgan", counts=COUNTS)
    return trained, served(trained, tmp_path_factory.mktemp("classed"))


def test_a_seed_gives_the_images_of_the_sample_stage(styled) -> None:
    """Against the network and `Prior`, which know nothing of the served file. Kills: another draw of latents or labels, `first` that shifts one
    of the two, a truncation that is not the built-in one or stays from the request before."""
    trained, model = styled
    expected = trained.prior.seeded(7, range(2, 9))
    for truncation in (None, 0.3, None, 1.0):
        told = {"truncation": 0.6 if truncation is None else truncation}
        with torch.no_grad():
            images = trained.network(*expected, **told).numpy()
        asked = {"count": 7, "seed": 7, "first": 2, **({} if truncation is None else told)}
        assert np.allclose(model.predict(None, None, asked), images, atol=1e-5)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_drawn_array_is_that_of_the_prior(classed, distribution: str) -> None:
    """To the bit. Kills: another key, another purpose, a label from another class count."""
    _, model = classed
    prior = Prior(latent_dim=8, distribution=distribution, class_counts=COUNTS)
    model = serving.Generator()
    model.told = {"latents": {"dim": 8, "distribution": distribution}, "class_counts": list(COUNTS)}
    z, labels = prior.seeded(3, range(40))
    assert np.array_equal(model.drawn(3, range(40), []), np.hstack([z.numpy(), labels.numpy()[:, None].astype(np.float32)]))


def test_classes_by_name_and_by_number_in_turn(classed) -> None:
    trained, model = classed
    z = trained.prior.seeded(0, range(5)).z
    with torch.no_grad():
        expected = trained.network(z, torch.tensor([2, 0, 2, 0, 2])).numpy()
    assert np.allclose(model.predict(None, None, {"count": 5, "classes": ["all", "0"]}), expected, atol=1e-5)
    assert np.allclose(model.predict(None, z.numpy(), {"classes": ["all", "0"]}), expected, atol=1e-5)


def test_formats_hold_the_same_pixels(classed) -> None:
    """The PNG is read by Pillow. Kills: rows and columns swapped, a rounding of its own, a picture that does not say that it is synthetic."""
    trained, model = classed
    inputs = trained.prior.seeded(0, range(3))
    expected = generate(trained.network, inputs, batch_images=3)
    assert np.array_equal(model.predict(None, None, {"count": 3, "format": "uint8"}), expected)
    told = model.predict(None, None, {"count": 3, "format": "bytes"})
    assert np.array_equal(np.frombuffer(base64.b64decode(told["data"]), np.uint8).reshape(told["shape"]), expected)
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in model.predict(None, None, {"count": 3, "format": "png"})]
    assert np.array_equal(np.stack([np.asarray(picture)[None] for picture in pictures]), expected)
    assert pictures[0].info["Notice"] == NOTICE
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(serving.png(colours)))).transpose(2, 0, 1), colours)


def test_images_of_images(refusal, tmp_path: Path) -> None:
    """Numbers, uint8 levels and PNG files are the same request."""
    trained = translated("srresnet")
    model = served(trained, tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    numbers = levels.astype(np.float32) / np.float32(127.5) - 1
    with torch.no_grad():
        expected = to_uint8(trained.network(*Inputs(torch.from_numpy(numbers))))
    files = [base64.b64encode(serving.png(image)).decode() for image in levels]
    for given in (numbers, numbers.tolist(), levels, np.array(files), files):
        got = model.predict(None, given, {"format": "uint8"})
        assert np.abs(got.astype(int) - expected).max() <= 1
    for given, match in (
        (None, "draws none"),
        (numbers[:, :1], r"\[1, 8, 8\], expected \[3, 8, 8\]"),
        (numbers * 3, "values from"),
        (["x"], "row 0"),
    ):
        with pytest.raises(refusal, match=match):
            model.predict(None, given, {"count": 1} if given is None else {})


def latents(**cells: float) -> np.ndarray:
    x = np.full((3, 9), 0.5, np.float32)
    x[:, -1] = 2
    for cell, value in cells.items():
        x[1, {"first": 0, "label": -1}[cell]] = value
    return x


@pytest.mark.parametrize(
    ("given", "params", "match"),
    [
        (latents(first=np.nan), {}, "row 1 has a number that is not finite"),
        (latents(first=np.inf), {}, "row 1 has a number that is not finite"),
        (latents(label=2.5), {}, "row 1: 2.5 in the last column is no class; .*0 left, 2 all"),
        (latents(label=1), {}, "row 1: 1 in the last column is no class"),
        (latents(label=3), {}, "row 1: 3 in the last column is no class"),
        (latents()[:, :5], {}, r"array of \[3, 5\], expected \[N, 9\]. Input: float32"),
        ([[1.0, 2.0], [1.0]], {}, "expected rows of numbers, all of one length"),
        (latents(), {"count": 3}, "count=3 beside rows"),
        (latents(), {"classes": ["all"]}, "beside latents with a class"),
        (None, {}, "neither latents nor params.count"),
        ([], {"count": -1}, "count=-1"),
        (None, {"count": 1 << 21}, "2,097,152 images at once; expected 1,048,576 at most"),
        (None, {"count": 1, "classes": ["dog"]}, "'dog', which is no class; expected names or numbers of: 0 left, 2 all"),
        (None, {"count": 1, "classes": ["1"]}, "'1', which is no class"),
        (None, {"count": 1, "truncation": 0.5}, "no styles to truncate"),
        (None, {"count": 1, "truncation": float("nan")}, "truncation=nan; expected more than 0"),
        (None, {"count": 1, "format": "jpeg"}, "format='jpeg'; expected one of float32, uint8, bytes, png"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_right(classed, refusal, given, params, match: str) -> None:
    """Each is an INVALID_PARAMETER_VALUE, which MLflow's server answers with 400. Kills: NaN in, NaN out; a class that is rounded or clamped."""
    with pytest.raises(refusal, match=match) as refused:
        classed[1].predict(None, given, params)
    assert refused.value.get_http_status_code() == 400
