"""The variational autoencoder against closed forms: its two terms, the bound against a likelihood that is known, a step against plain torch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from ganlib.models import ImageSpec
from ganlib.models.conv_autoencoder import Coding
from ganlib.models.settings import ModelConfig
from ganlib.products import Product
from ganlib.rng import keyed_rng
from ganlib.sampling import Prior, generate
from ganlib.tasks.vae import ELBO, VAE, VAEConfig, divergence
from ganlib.train_settings import TrainConfig
from ganlib.training.loop import Running, TrainingSpec, train

IMAGE = ImageSpec(channels=1, size=(8, 8))
ADAM = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.9, 0.999]}}


def normal(*shape: int, counter: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=keyed_rng(0, "vae", counter), dtype=torch.float64)


def coding_of(mean, log_variance, images, *, sigma: float = 1.0) -> Coding:
    """As a network that decodes to `images` [n, C, H, W] within (-1, 1)."""
    log_sigma = torch.tensor(math.log(sigma), dtype=images.dtype)
    return Coding(mean=mean, log_variance=log_variance, activation=images.atanh(), log_sigma=log_sigma)


def test_the_divergence_is_that_of_gaussians():
    mean, log_variance = normal(5, 7), normal(5, 7, counter=1)
    theirs = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), theirs)
    assert divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0.0


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_the_errors_are_log_densities(sigma):
    """Kills: a mean over pixels, a density without its constant, a learnt sigma that is not read, a fixed one that is."""
    made, images = 0.9 * normal(4, 3, 2, 2).tanh(), normal(4, 3, 2, 2, counter=1).tanh()
    coding = coding_of(normal(4, 2), normal(4, 2), made, sigma=0.5)
    error, _ = ELBO(sigma=sigma)(images, coding)
    theirs = Independent(Normal(made, sigma or 0.5), 3).log_prob(images)
    torch.testing.assert_close(error, -theirs)
    pixels = (images > 0).double()
    error, _ = ELBO(likelihood="bernoulli")(2 * pixels - 1, coding)
    torch.testing.assert_close(error, -Independent(Bernoulli((made + 1) / 2), 3).log_prob(pixels))


def test_the_bound_of_a_linear_autoencoder_is_the_likelihood_of_probabilistic_pca():
    """Tipping and Bishop 1999, eq. 4 and 7: where q(z | x) is the posterior, the bound is log p(x), x ~ N(mu, W W^T + sigma^2 I).

    The expectation over q is exact: of a quadratic it is the mean over 2 d points +-sqrt(d) e_i. Kills: beta in the error, a KL the wrong way.
    """
    pixels, dim, sigma = 16, 3, 0.1
    w = torch.linalg.qr(normal(pixels, dim))[0] * torch.tensor(
        [0.10, 0.07, 0.05], dtype=torch.float64
    )  # orthogonal columns: q has no correlations
    mu, x = 0.1 * normal(pixels, counter=1).tanh(), 0.2 * normal(6, pixels, counter=2).tanh()
    precision = (w.T @ w).diagonal() + sigma**2  # M, diagonal
    mean, variance = (x - mu) @ w / precision, (sigma**2 / precision).expand(6, dim)
    points = math.sqrt(dim) * torch.cat([torch.eye(dim), -torch.eye(dim)]).double()
    bounds = []
    for point in points:
        z = mean + variance.sqrt() * point
        made = (z @ w.T + mu).view(6, 1, 4, 4)
        error, nats = ELBO(sigma=sigma)(x.view(6, 1, 4, 4), coding_of(mean, variance.log(), made))
        bounds.append(-(error + nats))
    likelihood = MultivariateNormal(mu, w @ w.T + sigma**2 * torch.eye(pixels, dtype=torch.float64)).log_prob(x)
    torch.testing.assert_close(torch.stack(bounds).mean(0), likelihood)
    worse = ELBO(sigma=sigma)(x.view(6, 1, 4, 4), coding_of(mean + 0.5, variance.log(), ((mean + 0.5) @ w.T + mu).view(6, 1, 4, 4)))
    assert (-sum(worse) < likelihood).all()  # any other q gives less


def spec(make_spec, name: str = "vae", **overrides) -> TrainingSpec:
    model = {"name": "conv_autoencoder", "latent_dim": 8, "autoencoder": {"width": 8}}
    plain = {"model": model, "task": {"name": "vae"}, "optim": {"autoencoder": ADAM}, "train__precision": "fp32", "train__augment": {}}
    return make_spec(name, **{**plain, **overrides})


def test_a_step_is_that_of_plain_torch(make_spec):
    """Gradients of the bound by autograd, Adam and the average by hand. Kills: a term without its weight, a sum over the batch, another noise."""
    running = Running.start(spec(make_spec, task={"name": "vae", "beta": 2.0}, train__channels_last=False))
    network = running.state.networks["autoencoder"]
    before = {name: value.clone() for name, value in network.named_parameters()}
    shards = running.batches.shards("autoencoder", step=0, repeat=0, images_seen=0)
    total = 0.0
    for shard in shards:
        mean, log_variance = network.encoder(shard.real)
        made = network.decoder(mean + (log_variance / 2).exp() * torch.randn(8, 8, generator=shard.rng("latents")))
        sigma = network.log_sigma.exp()
        likelihood = Independent(Normal(made, sigma), 3).log_prob(shard.real)
        nats = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
        total = total + (2.0 * nats - likelihood).sum() / 32
    gradients = torch.autograd.grad(total, list(network.parameters()))
    running.step()
    for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
        step = 1e-3 * gradient / (gradient.abs() + 1e-8)  # Adam's first
        torch.testing.assert_close(value, before[name] - step, rtol=1e-4, atol=2e-6)
    scalars = running.state.scalars.take()
    assert scalars["loss_reconstruction"] + 2.0 * scalars["loss_kl"] == pytest.approx(total.item(), rel=1e-5)


def test_it_learns_what_it_is_shown(make_spec):
    """Held-out images are nearest to reconstructions of their kind; the grids and the health are of what the task has."""
    chosen = spec(
        make_spec, train__total_images=12_800, train__ema_halflife_images=500, train__batch_images=32, train__grid_interval_images=12_800
    )
    state = train(chosen)
    products = {product.name: product for product in VAE().products(chosen.model, chosen.task, IMAGE)}
    running = Running.start(chosen)
    held_out = running.held_out()
    assert held_out is not None
    kinds = np.concatenate([np.arange(25), np.arange(100, 125)])  # bright on the left, bright at the top
    images = torch.from_numpy(held_out.images.gather(kinds)).float() / 127.5 - 1
    network = products["reconstruct"].of(state.ema.module)
    with torch.no_grad():
        made = network(*products["reconstruct"].feed.inputs(images, keyed_rng(0, "nothing is drawn")))
    distances = torch.cdist(images.flatten(1), made.flatten(1))
    assert torch.equal(distances.argmin(1) // 25, torch.arange(50) // 25)
    product = products["sample"]
    drawn = generate(product.of(state.ema.module), product.feed.seeded(0, range(4)), batch_images=4)
    assert drawn.shape == (4, 1, 8, 8)
    grids = sorted(path.name for path in (Path(chosen.folder) / "grids").iterdir())
    assert grids == ["images-000000012800.png", "reconstruct-000000012800.png"]
    health = json.loads((Path(chosen.folder) / "health.jsonl").read_text().splitlines()[-1])["values"]
    assert {"diversity", "weight_norm_autoencoder", "update_norm_autoencoder"} <= set(health)
    assert not any("logit" in name for name in health)


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ({}, {"likelihood": "bernoulli", "sigma": 0.1}, r"task.sigma=0.1 is of a Gaussian.*set task.sigma: null"),
        ({"latent_distribution": "uniform"}, {}, r"model.latent_distribution='uniform'.*near N\(0, 1\); set it to normal"),
        ({"conditional": True}, {}, r"model.conditional=true: .* told no class; set model.conditional: false"),
        ({"name": "dcgan"}, {}, r"model.name='dcgan' builds generator and discriminator"),
    ],
)
def test_what_means_nothing_to_it_is_refused(model, task, message):
    chosen = ModelConfig(**{"name": "conv_autoencoder", "latent_dim": 4, **model})
    image = IMAGE.model_copy(update={"class_counts": (3, 3)})
    with pytest.raises(ValueError, match=message):
        VAE().check(chosen, VAEConfig(name="vae", **task), TrainConfig(total_images=10), image)


def test_a_product_of_latents_has_no_truth():
    prior = Prior(latent_dim=2, distribution="normal")
    with pytest.raises(ValueError, match=r"product sample: latents have no image"):
        Product(name="sample", network="g", feed=prior, has_truth=True)


def test_a_description_of_a_product_is_enough_to_make_it():
    """generator.json alone, without the task. Kills: a part or a truth that is not written."""
    chosen = ModelConfig(name="conv_autoencoder", latent_dim=4)
    for product in VAE().products(chosen, VAEConfig(name="vae"), IMAGE):
        assert Product.read(json.loads(json.dumps(product.facts())), chosen, IMAGE) == product
