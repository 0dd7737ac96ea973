"""Directions in latent space along which a trained generator's images change most, found without labels or training.

Two ways: what its first layer stretches most (closed-form factorisation, SeFa, arXiv:2007.06600), and the principal components of what it makes, led
back to the latents (GANSpace, arXiv:2004.02546). A style-based generator is moved in w, by what its layers make of a style; any other in z.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganlib.sampling import Inputs


def factorised(
    network: nn.Module, latent_dim: int, count: int, *, labels: Tensor | None = None, mapping: nn.Module | None = None
) -> Tensor:
    """[count, latent_dim] unit vectors: the eigenvectors of A^T A with the largest eigenvalues, A the weight that latents meet first (eq. 4-6).

    A is taken as the differences that the unit vectors make to the output of a layer: exact, because the layer is affine, whatever scales its
    weight, and whatever else it reads. In w it is that of all layers which read a style, one below another (section 4.1, all layers).

    Args:
        labels: [1] int64, a class to be told, of a conditional generator.
        mapping: the network's own part that makes w of z, where it has styles.
    """
    steps = torch.cat([torch.zeros(1, latent_dim), torch.eye(latent_dim)])
    told = None if labels is None else labels.expand(len(steps))
    outputs = (
        _readers(network, Inputs(steps, told), steps)
        if mapping is None
        else _style_readers(network, Inputs(torch.zeros_like(steps), told), steps, mapping)
    )
    weight = torch.cat([(output[1:] - output[:1]).flatten(1) for output in outputs], dim=1).T.double()  # A: [outputs, latent_dim]
    return _top(weight.T @ weight, count)


def principal(images: Tensor, latents: Tensor, count: int) -> Tensor:
    """[count, d] unit vectors: latents [n, d] regressed on the first principal coordinates of images [n, ...] (section 3.1, eq. 2-3).

    For a style-based generator hand in its w twice: their own principal components are then the directions (section 3.1).

    Raises:
        ValueError: fewer samples than two more than components, or not as many images as latents.
    """
    n = len(images)
    if n != len(latents) or n < count + 2:
        raise ValueError(
            f"principal components: got {n} images and {len(latents)} latents for {count} directions, expected as many, {count + 2} at least"
        )
    x, z = images.flatten(1).double(), latents.double()
    x, z = x - x.mean(dim=0), z - z.mean(dim=0)
    values, vectors = torch.linalg.eigh(x @ x.T) if x.shape[1] > n else torch.linalg.eigh(x.T @ x)
    values, vectors = values.flip(0)[:count].clamp(min=1e-12), vectors.flip(1)[:, :count]
    coordinates = vectors * values.sqrt() if x.shape[1] > n else x @ vectors  # [n, count], orthogonal columns
    return _fixed((coordinates / values).T @ z)  # least squares: u = (c^T c)^-1 c^T z, c^T c diagonal


def walk(start: Tensor, directions: Tensor, steps: int, reach: float) -> Tensor:
    """[count * steps, d]: `start` [d] moved along each of directions [count, d] by -reach to +reach, a direction after another; itself in the middle.

    Raises:
        ValueError: an even number of steps, which has no middle.
    """
    if steps % 2 == 0:
        raise ValueError(f"steps={steps} have no middle; expected an odd number")
    amounts = torch.linspace(-reach, reach, steps)
    return (start + amounts[None, :, None] * directions[:, None, :]).flatten(0, 1)


@contextmanager
def styled(mapping: nn.Module, w: Tensor) -> Iterator[None]:
    """Inside, `mapping` returns w [N, d] whatever it is given: how a style-based generator is told a style."""
    handle = mapping.register_forward_hook(lambda module, inputs, output: w)
    try:
        yield
    finally:
        handle.remove()


def _style_readers(network: nn.Module, inputs: Inputs, w: Tensor, mapping: nn.Module) -> list[Tensor]:
    """Outputs [n, ...] of every layer that reads w as it is."""
    with styled(mapping, w):
        return _outputs(network, inputs, lambda x: x.shape == w.shape and bool(torch.equal(x, w)), is_first_only=False)


def _readers(network: nn.Module, inputs: Inputs, z: Tensor) -> list[Tensor]:
    """Output [n, ...] of the first layer whose input depends on the latents."""
    return _outputs(
        network, inputs, lambda x: x.is_floating_point() and len(x) == len(z) and not bool((x == x[:1]).all()), is_first_only=True
    )


def _outputs(network: nn.Module, inputs: Inputs, reads: Callable[[Tensor], bool], *, is_first_only: bool) -> list[Tensor]:
    found: list[Tensor] = []
    layers = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and reads(given[0]) and not (is_first_only and found):
            found.append(output.detach().float().clone())  # what follows may write into it

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    assert found, "no layer reads the latents"
    return found


def _top(symmetric: Tensor, count: int) -> Tensor:
    """Eigenvectors [count, d] of the largest eigenvalues of [d, d]."""
    _, vectors = torch.linalg.eigh(symmetric)
    return _fixed(vectors.flip(1)[:, :count].T)


def _fixed(directions: Tensor) -> Tensor:
    """[count, d] of length 1, float32; an eigenvector's sign is arbitrary: the largest coordinate is made positive."""
    directions = torch.nn.functional.normalize(directions, dim=1)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).float()
