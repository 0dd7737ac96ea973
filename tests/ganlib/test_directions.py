"""Latent directions against closed forms: a linear generator, whose directions are the singular vectors of its weight, and networks' own weights."""

import pytest
import torch
from torch import nn

from ganlib import directions
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng


def right_singular(weight: torch.Tensor, count: int) -> torch.Tensor:
    """[count, d] of the largest singular values, by SVD: no eigenvectors, no products."""
    return torch.linalg.svd(weight.double(), full_matrices=False).Vh[:count].float()


def same_lines(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Row i of both lies on one line, whichever way it points."""
    return bool(((one * other).sum(dim=1).abs() > 1 - tolerance).all())


def family(name: str, **options: bool) -> tuple[nn.Module, ModelConfig]:
    model = ModelConfig(name=name, latent_dim=6, generator={"width": 4}, **options)
    counts = (5, 5, 5) if model.conditional else ()
    return build_generator(model, ImageSpec(channels=1, size=(8, 8), class_counts=counts), seed=0).eval(), model


def test_factorised_directions_are_the_singular_vectors_of_the_first_layer() -> None:
    """Kills the smallest eigenvalues instead of the largest, A A^T instead of A^T A, and the second layer instead of the first."""
    rng = keyed_rng(0, "test")
    network, _ = family("mlp")
    first = next(module for module in network.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        first.weight.normal_(generator=rng)
    found = directions.factorised(network, 6, 6)
    assert same_lines(found, right_singular(first.weight.detach(), 6), 1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("is_conditional", [False, True])
def test_a_class_beside_the_latents_takes_no_part(is_conditional: bool) -> None:
    """DCGAN's linear layer reads latents and a one-hot class: only the latents' columns count. Kills the mutant that factorises all columns."""
    network, _ = family("dcgan", conditional=is_conditional)
    weight = network.layers[0].weight.detach()[:, :6]
    labels = torch.tensor([1]) if is_conditional else None
    assert same_lines(directions.factorised(network, 6, 3, labels=labels), right_singular(weight, 3), 1e-4)


def test_styles_are_factorised_from_every_layer_that_reads_them() -> None:
    """StyleGAN2: the affine maps of all layers below one another. Kills the mutant that takes the first of them alone."""
    network, _ = family("stylegan2")
    affine = [module.style for module in network.modules() if type(module).__name__ == "Modulated"]
    assert len(affine) > 3
    weight = torch.cat([layer(torch.eye(6)) - layer(torch.zeros(1, 6)) for layer in affine], dim=1).T.detach()
    found = directions.factorised(network, 6, 2, mapping=network.mapping)
    assert same_lines(found, right_singular(weight, 2), 1e-4)
    assert not same_lines(found, right_singular(affine[0].weight.detach(), 2), 1e-2)


@pytest.mark.parametrize("pixels", [5, 300])
def test_principal_components_of_a_linear_generator_lead_back_to_its_singular_vectors(pixels: int) -> None:
    """G(z) = A z with z ~ N(0, I): the components are the left singular vectors, and regression leads to the right ones, which need many samples.

    Once with more pixels than samples, once with fewer: the two eigenproblems are one. Kills A's columns instead of the regression.
    """
    rng = keyed_rng(1, "test")
    n, d = 200 if pixels == 300 else 4000, 5
    z = torch.linalg.qr(torch.randn(n, d, generator=rng)).Q * n**0.5  # exactly white but for the mean
    left = torch.linalg.qr(torch.randn(pixels, d, generator=rng)).Q
    right = torch.linalg.qr(torch.randn(d, d, generator=rng)).Q
    weight = left @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])) @ right.T
    found = directions.principal((z @ weight.T)[:, :, None], z, 3)
    assert same_lines(found, right.T[:3], 0.01)


def test_principal_components_of_latents_themselves_are_their_eigenvectors() -> None:
    """What a style-based generator is asked for. sklearn's PCA is the reference."""
    from sklearn.decomposition import PCA

    w = torch.randn(500, 4, generator=keyed_rng(2, "test")) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.3]))
    expected = torch.from_numpy(PCA(3).fit(w.numpy()).components_)
    assert same_lines(directions.principal(w, w, 3), expected.float(), 1e-4)


def test_a_walk_has_the_image_itself_in_its_middle() -> None:
    start = torch.arange(3.0)
    walk = directions.walk(start, torch.eye(3)[:2], 5, 2.0)
    assert walk.shape == (10, 3)
    torch.testing.assert_close(walk[[2, 7]], start.expand(2, -1))
    torch.testing.assert_close(walk[:5, 0], start[0] + torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(walk[9], start + torch.tensor([0.0, 2.0, 0.0]))
    with pytest.raises(ValueError, match="no middle"):
        directions.walk(start, torch.eye(3), 4, 1.0)


def test_a_style_that_is_set_is_the_style_that_is_used() -> None:
    network, _ = family("stylegan2")
    z = torch.randn(2, 6, generator=keyed_rng(3, "test"))
    with torch.no_grad():
        w, expected = network.mapping(z, None), network(z)
        with directions.styled(network.mapping, w):
            torch.testing.assert_close(network(torch.zeros(2, 6)), expected)
        assert not torch.equal(network(torch.zeros(2, 6)), expected)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="4 at least"):
        directions.principal(torch.zeros(3, 5), torch.zeros(3, 2), 2)
