"""Steps along paths in the latent space of networks whose path length is known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from ganlib import sampling
from ganlib.metrics import METRICS
from ganlib.metrics.interface import Extractor
from ganlib.metrics.pixel_features import Pixels
from ganlib.metrics.settings import EvaluateConfig
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.products import Product
from ganlib.rng import keyed_rng
from ganlib.sampling import Prior
from pipeline import path_length
from pipeline.generator import SAMPLE, TrainedGenerator

SHAPE = (1, 4, 4)
SMALL = ImageSpec(channels=1, size=(4, 4))
PIXELS: Extractor = Pixels(SHAPE)
DIM = 16


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Linear(nn.Module):
    """Images scale * (z reshaped) + the class: two are as far apart as their latents, times the scale, times a half in pixels of [0, 1]."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.told: list[Tensor] = []

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        images = self.scale * z.reshape(-1, *SHAPE)
        if labels is not None:
            self.told.append(labels)
            images = images + labels[:, None, None, None] * 0.5
        return images


class Styled(nn.Module):
    """w = 3 z + 1, images linear in w."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Times3()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = self.mapping(z, labels)
        images: Tensor = 0.01 * w.reshape(-1, *SHAPE)
        return images


class Times3(nn.Module):
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return 3 * z + 1


def trained(network: nn.Module, name: str = "mlp") -> TrainedGenerator:
    model = ModelConfig(name=name, latent_dim=DIM)
    return TrainedGenerator(product=Product.read(SAMPLE, model, SMALL), network=network.eval(), model=model, image=SMALL, facts={})


def measured(network: nn.Module, prior: Prior, name: str = "mlp", *, seed: int = 0) -> dict[str, float]:
    data = path_length.compare(trained(network, name), prior, PIXELS, "middle", seed=seed, options={})
    return METRICS.get("path_length")(data, EvaluateConfig())


def normal(**more) -> Prior:
    return Prior(latent_dim=DIM, distribution="normal", **more)


def great_circles(pairs: int) -> Tensor:
    """[pairs] squared speeds of paths between normal latents, by the formula: an arc at a length that grows from |a| to |b|."""
    a, b = (torch.randn(pairs, DIM, generator=keyed_rng(7, "truth", side), dtype=torch.float64) for side in range(2))
    length_a, length_b = a.norm(dim=1), b.norm(dim=1)
    angle = torch.arccos((a * b).sum(dim=1) / (length_a * length_b))
    t = torch.rand(pairs, generator=keyed_rng(7, "truth t"), dtype=torch.float64)
    return (angle * (length_a + t * (length_b - length_a))).square() + (length_b - length_a).square()


def test_a_linear_generator_has_the_length_of_the_path_of_its_latents():
    """|dz/dt|^2 in polar coordinates, times (scale / 2)^2. Kills lines in place of great circles (whose squared length is 2 D), uint8
    images (whose steps of 1e-4 are nothing, or one level), and a start and an end of different pairs.
    """
    squares = great_circles(200_000).numpy()
    low, high = (torch.quantile(torch.from_numpy(squares), q).item() for q in (0.01, 0.99))
    expected = 0.05**2 / 4 * squares[(low <= squares) & (squares <= high)].mean()
    found = measured(Linear(0.05), normal())
    assert found["path_length_z"] == pytest.approx(expected, rel=0.03)
    assert found["path_length_z_low"] < expected < found["path_length_z_high"]
    assert expected > 1.15 * 0.05**2 / 4 * 2 * DIM  # what a line would have
    assert set(found) == {"path_length_z", "path_length_z_low", "path_length_z_high"}


def test_a_generator_twice_as_steep_has_four_times_the_length():
    one, two = (measured(Linear(scale), normal())["path_length_z"] for scale in (0.02, 0.04))
    assert two == pytest.approx(4 * one, rel=1e-3)


def test_both_ends_are_of_one_class_and_classes_are_those_of_the_prior():
    """A jump of half the range between classes, in a step of 1e-4, would be a length of 1e7. Class 0 has no images."""
    network = Linear(0.01)
    found = measured(network, normal(class_counts=(0, 3, 1)))
    assert found["path_length_z"] < 0.01
    told = torch.cat([labels.view(2, -1)[0] for labels in network.told])
    assert all(torch.equal(*labels.view(2, -1)) for labels in network.told)
    shares = told.bincount(minlength=3) / len(told)
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.75, 0.25]), atol=0.06, rtol=0)


def test_styles_are_joined_by_lines():
    """In w of a linear mapping: |3 (z1 - z0)|^2, 18 D in the mean less the tails, everywhere on the path; in z the great circle, times 9.

    Kills: a great circle in w, steps in z that are called w, and a mapping that stays replaced.
    """
    found = measured(Styled(), normal(), "stylegan2")
    distance = (torch.randn(200_000, DIM, generator=keyed_rng(3, "truth"), dtype=torch.float64) * math.sqrt(2)).square().sum(dim=1)
    low, high = (torch.quantile(distance, q) for q in (0.01, 0.99))
    line = float(distance[(low <= distance) & (distance <= high)].mean()) * 9 * 0.01**2 / 4
    assert found["path_length_w"] == pytest.approx(line, rel=0.03)
    assert found["path_length_w_end"] == pytest.approx(found["path_length_w"], rel=1e-2)
    circle = float(great_circles(200_000).mean()) * 9 * 0.01**2 / 4
    assert found["path_length_z"] == pytest.approx(circle, rel=0.05)
    assert found["path_length_z"] > 1.15 * found["path_length_w"]


def test_uniform_latents_stay_where_they_are_drawn_from():
    seen = []

    class Watched(Linear):
        def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
            seen.append(z)
            return super().forward(z, labels)

    found = measured(Watched(0.01), Prior(latent_dim=DIM, distribution="uniform"))
    assert found["path_length_z"] > 0
    assert float(torch.cat(seen).abs().max()) <= 1


def test_the_same_seed_walks_the_same_paths():
    one, again, other = (measured(Linear(0.02), normal(), seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_real_style_based_generator_is_walked_in_z_and_in_w(monkeypatch):
    """The features of the first step in w are those that the network makes of these styles; truncation halves every step in w."""
    monkeypatch.setattr(path_length, "PAIRS", 60)
    model = ModelConfig(name="stylegan2", latent_dim=8, generator={"width": 4, "mapping_depth": 2})
    image = ImageSpec(channels=1, size=(8, 8))
    real = TrainedGenerator(
        product=Product.read(SAMPLE, model, image), network=build_generator(model, image, seed=0).eval(), model=model, image=image, facts={}
    )
    data, truncated = (
        path_length.compare(real, real.prior, Pixels((1, 8, 8)), "middle", seed=0, options=real.options(truncation))
        for truncation in (1.0, 0.5)
    )
    assert set(data.steps) == {"z", "w", "w_end"}
    z = real.prior.draw(60, keyed_rng(0, "path length", 0)).z
    with torch.no_grad():
        images = real.network(z)
    torch.testing.assert_close(data.steps["w_end"][0], ((images + 1) / 2).flatten(1), atol=1e-5, rtol=1e-4)
    lengths = [METRICS.get("path_length")(each, EvaluateConfig()) for each in (data, truncated)]
    assert lengths[1]["path_length_w"] < lengths[0]["path_length_w"]


def test_places_on_a_walk_are_those_of_the_walk():
    """`along` at the steps of `interpolate`, which its own tests watch."""
    z = sampling.latents(4, 8, "normal", keyed_rng(0, "z"))
    walk = sampling.interpolate(z, steps=5, distribution="normal").reshape(2, 5, 8)
    t = torch.tensor([0.25, 0.75])
    found = sampling.along(z[0::2], z[1::2], t, distribution="normal")
    torch.testing.assert_close(found, torch.stack([walk[0, 1], walk[1, 3]]))
