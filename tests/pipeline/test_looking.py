"""What the stages picture of trained networks: walks along latent directions, and what the discriminator makes of images."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganlib import saliency, sampling
from ganlib.metrics.interface import ArrayImages, Comparison
from ganlib.models import ImageSpec, build
from ganlib.models.settings import ModelConfig
from ganlib.sample_settings import SampleConfig
from pipeline import discriminator, generator, latent_walks, looking


def export(root: Path, name: str, *, conditional: bool = False, distribution: str = "normal") -> Path:
    """models/ of networks that were not trained."""
    options = {} if name == "mlp" else {"discriminator": {"width": 4}}
    model = ModelConfig(
        name=name,
        latent_dim=6,
        conditional=conditional,
        latent_distribution=distribution,
        generator={"width": 4},
        **options,  # type: ignore[arg-type]
    )
    image = ImageSpec(channels=1, size=(8, 8), class_counts=(5, 0, 5) if conditional else ())
    folder = root / "models"
    folder.mkdir()
    for network, which in zip(build(model, image, seed=0), ("generator", "discriminator"), strict=True):
        save_file(network.state_dict(), folder / f"{which}.safetensors")
    facts = {"family": name, "model": model.model_dump(mode="json"), "image": image.model_dump(mode="json"), "sha256": "0" * 64}
    (folder / "generator.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(("name", "conditional"), [("mlp", False), ("dcgan", True), ("stylegan2", False), ("stylegan2", True)])
def test_each_walk_passes_through_the_image_itself(name: str, conditional: bool, tmp_path: Path) -> None:
    """A row a direction, the first sample in the middle of each; what lies beside it is something else. Kills a w that is set for one row alone,
    and rows of different images.
    """
    trained = generator.load(export(tmp_path, name, conditional=conditional))
    config = SampleConfig(seed=4, batch_images=50)
    found = latent_walks.directions_of(trained, config, {})
    assert list(found) == ["factorised", "principal"]
    itself = sampling.generate(trained.network, trained.prior.seeded(4, range(1)), batch_images=50)
    for images in found.values():
        rows = images.reshape(latent_walks.COUNT, latent_walks.STEPS, *images.shape[1:])
        middle = rows[:, latent_walks.STEPS // 2].astype(int)
        assert np.abs(middle - itself.astype(int)).max() <= 1  # another batch size may round otherwise
        assert np.abs(rows[:, 0].astype(int) - itself).max() > 1


def test_uniform_latents_stay_where_they_are_drawn(tmp_path: Path) -> None:
    trained = generator.load(export(tmp_path, "mlp", distribution="uniform"))
    seen = []
    trained.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    latent_walks.directions_of(trained, SampleConfig(seed=4), {})
    walks = [z for z in seen if len(z) == latent_walks.COUNT * latent_walks.STEPS]
    assert len(walks) == 2
    assert all(0.99 < z.abs().max() <= 1 for z in walks)


def test_images_are_ranked_by_their_own_logit(tmp_path: Path) -> None:
    """Over more than one batch, each image with the class it was asked for. Kills labels of another image, and worst before best."""
    judge = discriminator.load(export(tmp_path, "dcgan", conditional=True))
    assert judge is not None
    rng = np.random.default_rng(0)
    count = saliency.BATCH_IMAGES + 9
    images = ArrayImages(rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), rng.choice([0, 2], count))
    best, worst = looking.ranked(judge, images)
    assert images.labels is not None
    scores = saliency.logits(judge.network, sampling.to_float(images.array), torch.from_numpy(images.labels))
    assert f"(logit {scores.max():.2f} and below)" in best.caption
    assert f"(logit {scores.min():.2f} and above)" in worst.caption
    assert not torch.equal(scores, saliency.logits(judge.network, sampling.to_float(images.array), torch.from_numpy(2 - images.labels)))


def test_the_view_names_every_level(tmp_path: Path) -> None:
    judge = discriminator.load(export(tmp_path, "dcgan"))
    assert judge is not None
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    assert [strip.title for strip in looking.views(judge, (images, None), (images[:3], None))] == [
        "Images",
        "Level of 4 x 4",
        "Level of 2 x 2",
        "Saliency",
    ]


def test_real_images_are_shown_of_all_classes(tmp_path: Path) -> None:
    """Kills: the first rows of a split, which is in the order of class folders."""
    export(tmp_path, "dcgan")
    dark_then_bright = np.repeat(np.array([30, 220], np.uint8), 100)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    real = discriminator.Shown(ArrayImages(dark_then_bright), np.arange(200))
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    data = Comparison(real=features, fake=features + 0.1, train=features + 0.2)
    looked = looking.take(data, {"fake": real, "real": real, "train": real}, class_names=None, root=tmp_path)
    with Image.open(io.BytesIO(looked.real)) as picture:
        counts = picture.convert("L").histogram()
    assert counts[30] > 0.3 * (counts[30] + counts[220])
    assert counts[220] > 0.3 * (counts[30] + counts[220])
