"""The discriminator that a training leaves, read back: the logits are those of a phase."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ganlib import sampling
from ganlib.metrics.interface import ArrayImages
from ganlib.models import ImageSpec, build_discriminator
from ganlib.models.settings import ModelConfig
from pipeline import discriminator
from pipeline.discriminator import BATCH_IMAGES, Shown

IMAGE = ImageSpec(channels=1, size=(8, 8), class_counts=(5, 5))


def left(folder, *, conditional=False, **options):
    """models/ as `pipeline.artifacts` writes it, and the network."""
    model = ModelConfig(name="dcgan", latent_dim=4, conditional=conditional, generator={"width": 4}, discriminator={"width": 4, **options})
    network = build_discriminator(model, IMAGE, seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)  # at the start logits are too near 0 to tell one from another
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "discriminator.safetensors")
    (folder / "generator.json").write_text(json.dumps({"model": model.model_dump(mode="json"), "image": IMAGE.model_dump(mode="json")}))
    return network.train()


def images(n, seed=0):
    rng = np.random.default_rng(seed)
    return ArrayImages(rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8), np.arange(n) % 2)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_logit_is_that_of_the_network_of_its_image_and_label(tmp_path, conditional):
    """Kills: labels of the wrong order, an order that is lost, and images that are not in [-1, 1]."""
    network = left(tmp_path, conditional=conditional, normalization="none")  # else an image's logit is a matter of its batch
    shown = Shown(images(50), np.arange(5, 45))
    found = discriminator.load(tmp_path).logits(shown, seed=0, purpose="p")
    labels = torch.from_numpy(shown.images.labels[5:45]) if conditional else None
    with torch.no_grad():
        alone = network(sampling.to_float(shown.images.array[5:45]), labels)
    torch.testing.assert_close(found.sort().values, alone.double().sort().values, rtol=1e-4, atol=1e-5)
    if conditional:
        with torch.no_grad():
            other = network(sampling.to_float(shown.images.array[5:45]), 1 - labels)
        assert not torch.allclose(found.sort().values, other.double().sort().values, atol=1e-3)


def test_batches_are_of_one_size_and_of_one_kind(tmp_path):
    """With a layer that looks over a batch. Kills a last batch of a few images, whose deviation is another."""
    network = left(tmp_path, minibatch_stddev=True)
    trained, sizes = discriminator.load(tmp_path), []
    trained.network.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    one = images(1, seed=3).array.repeat(40, axis=0)
    found = trained.logits(Shown(ArrayImages(one), np.arange(40)), seed=0, purpose="p")
    with torch.no_grad():
        expected = network(sampling.to_float(one[:BATCH_IMAGES]))
    assert sizes == [BATCH_IMAGES] * 2
    torch.testing.assert_close(found, expected[:1].double().expand(40), rtol=1e-4, atol=1e-5)


def test_the_comparison_is_equally_many_and_repeatable(tmp_path, monkeypatch):
    left(tmp_path)
    trained = discriminator.load(tmp_path)
    sets = {name: Shown(images(n, seed=i), np.arange(n)) for i, (name, n) in enumerate((("train", 120), ("real", 50), ("fake", 90)))}
    data = trained.comparison(sets, seed=0)
    assert {len(getattr(data, name)) for name in sets} == {50}
    assert torch.equal(data.fake, trained.comparison(sets, seed=0).fake)
    monkeypatch.setattr(discriminator, "MAX_BYTES", 40 * 64)
    assert {len(getattr(trained.comparison(sets, seed=0), name)) for name in sets} == {40}


def test_a_task_without_a_discriminator_has_none(tmp_path):
    (tmp_path / "generator.json").write_text(json.dumps({"networks": {"autoencoder": "autoencoder"}}))
    assert discriminator.load(tmp_path) is None
