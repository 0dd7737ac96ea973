"""Super-resolution and inpainting: what holds the generator to the image, with and without a discriminator. Their steps: test_reference_step.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib import tasks
from ganlib.data.arrow import ArrowImages
from ganlib.data.ipc import TableWriter, image_field
from ganlib.losses import Hinge
from ganlib.metrics.imagenet import ImageNet
from ganlib.metrics.interface import ArrayImages
from ganlib.metrics.spread import channel_statistics
from ganlib.models import ImageSpec
from ganlib.models.settings import ModelConfig
from ganlib.perceptual import PERCEPTUAL, Maps
from ganlib.products import Column
from ganlib.sampling import generate, to_float, to_uint8
from ganlib.tasks.adversarial import over_patches
from ganlib.tasks.restoration import Fidelity
from ganlib.tasks.super_resolution import SuperResolution
from ganlib.train_settings import TrainConfig
from ganlib.training.hooks import calibrate_generator
from ganlib.training.loop import Running, TrainingSpec, train

IMAGE = ImageSpec(channels=1, size=(8, 8))
ADAM = {"name": "adam", "lr": 3e-3, "options": {"betas": [0.5, 0.99]}}
FAMILY = {"super_resolution": "srresnet", "inpainting": "gated_conv"}


def spec(make_spec, name: str, *, task=None, networks=("generator", "discriminator"), **overrides) -> TrainingSpec:
    model = {"name": FAMILY[name], **{network: {"width": 8} for network in networks}}
    plain = {"model": model, "task": {"name": name, **(task or {})}, "optim": dict.fromkeys(networks, ADAM), "train__augment": {}}
    return make_spec(name, **{**plain, **overrides})


def errors(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(made.astype(float) - truth).mean())


@pytest.mark.parametrize("name", FAMILY)
def test_it_learns_and_looks_at_its_discriminator(name, make_spec):
    """On held-out images it is nearer to the truth than the plain way. Health has D's logits of all three kinds; there is a grid."""
    short = {
        "train__total_images": 2_560,
        "train__grid_interval_images": 2_560,
        "train__health_interval_images": 2_560,
        "train__select": None,
    }
    chosen = spec(make_spec, name, task={"generator_loss_weight": 0.01}, **short)
    state = train(chosen)
    running = Running.start(chosen)
    (product,) = running.play.products
    held_out = running.looked_at()
    indices = list(range(0, 200, 4))
    source = product.source(held_out)
    inputs, truth = source.seeded(0, indices), source.truth(indices)
    network = product.of(state.ema.module)
    calibrate_generator(network, product.source(running.batches.images), chosen.train)
    made, plain = generate(network, inputs, batch_images=50), to_uint8(product.feed.transform.plain(inputs.z))
    assert errors(made, truth) < 0.8 * errors(plain, truth)
    assert [path.name for path in (Path(chosen.folder) / "grids").iterdir()] == ["images-000000002560.png"]
    health = json.loads((Path(chosen.folder) / "health.jsonl").read_text().splitlines()[-1])["values"]
    assert {"real_logits", "held_out_logits", "fake_logits", "overfitting_gap", "diversity", "weight_norm_discriminator"} <= set(health)


def test_without_an_adversarial_loss_no_discriminator_is_trained(make_spec):
    """The L1 baseline is the task without a key. Kills: a discriminator that is made and not used."""
    chosen = spec(make_spec, "super_resolution", task={"generator_loss_weight": 0.0}, networks=("generator",))
    running = Running.start(chosen)
    assert list(running.state.networks) == ["generator"]
    assert [phase.name for phase in running.play.phases] == ["generator"]
    assert running.play.moment is None
    running.step()
    assert set(running.state.scalars.take()) == {"loss_pixel"}
    with pytest.raises(
        ValueError, match=r"optim.discriminator=.* is not a known key.*the networks of task.name='super_resolution': generator"
    ):
        spec(make_spec, "super_resolution", task={"generator_loss_weight": 0.0})


def test_differences_by_hand():
    made, truth = torch.tensor([[[[0.5, -1.0]]], [[[0.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]], [[[0.0, 0.5]]]])
    torch.testing.assert_close(Fidelity(pixel="l1").difference(made, truth), torch.tensor([1.25, 0.25]))
    torch.testing.assert_close(Fidelity(pixel="l2").difference(made, truth), torch.tensor([2.125, 0.125]))


def test_each_patch_has_its_own_hinge():
    """Verdicts 3 and -1: the mean of hinges is 1, the hinge of the mean 0. Kills: patches that are averaged before the loss."""
    verdicts = torch.tensor([[3.0, -1.0]])
    values = over_patches(Hinge().discriminator(verdicts, torch.full((1, 2), -2.0)))
    torch.testing.assert_close(values, torch.tensor([1.0]))
    torch.testing.assert_close(over_patches(torch.tensor([2.0, 4.0])), torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_maps_are_those_the_extractor_measures_with(channels):
    """Their statistics, in its units, are its features. Kills: images in [-1, 1] for levels, another block, another size."""
    levels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, channels, 28, 28), dtype=np.uint8))
    extractor = ImageNet.fit(ArrayImages(levels.numpy()), None, seed=0, epochs=0)
    expected = extractor.features(levels.float())["middle"] * extractor.weights()["units.middle"]
    torch.testing.assert_close(channel_statistics(Maps()(to_float(levels.numpy()))), expected, rtol=1e-4, atol=1e-4)


def test_imagenet_features_are_no_part_of_the_state(make_spec):
    """They train the generator, and stay as they are. Kills: a frozen network among the networks, in an optimizer or in a checkpoint; no gradient."""
    task = {"perceptual": "efficientnet_lite0", "pixel_weight": 0.0, "generator_loss_weight": 0.0}
    chosen = spec(make_spec, "super_resolution", task=task, networks=("generator",), train__batch_images=4)
    running = Running.start(chosen)
    before = {key: value.clone() for key, value in running.state.networks["generator"].state_dict().items()}
    running.step()
    assert all(not torch.equal(value, before[key]) for key, value in running.state.networks["generator"].state_dict().items())
    tensors, _ = running.state.snapshot()
    assert not any("network." in name or "maps" in name for name in tensors)
    assert set(running.state.scalars.take()) == {"loss_pixel", "loss_perceptual"}


REFUSED = [
    (
        {"generator_loss_weight": 0.0, "perceptual": "discriminator_features"},
        r"task.perceptual=discriminator_features compares .* task.generator_loss_weight=0 trains none",
    ),
    ({"generator_loss_weight": 0.0, "pixel_weight": 0.0}, r"leave the generator nothing to learn from; give one of them a weight"),
    (
        {"generator_loss_weight": 0.0, "regularizers": {"r1": {}}},
        r"generator_loss_weight=0 trains no discriminator, and task.regularizers.r1 is for one",
    ),
    ({"generator_loss_weight": 0.0, "augment": {"diffaugment": {}}}, r"task.augment.diffaugment is for one"),
    ({"perceptual": "vgg"}, r"task.perceptual='vgg' is not a known perceptual loss; legal: discriminator_features, efficientnet_lite0"),
    ({"pixel_weight": {"schedule": "linear", "from": 1.0, "to": -1.0}}, r"task.pixel_weight=.*expected at least 0 at both ends"),
    ({"loss": "nonsense"}, r"task.loss='nonsense' is not a known loss"),
    ({"transform": {"name": "low_resolution", "factor": 3}}, r"task.transform.factor=3 does not divide data.image_size=\[8, 8\]"),
    ({"transform": {"name": "holes"}}, r"model.name=srresnet cannot make 1 channels of \[8, 8\] from 2 of \[8, 8\]"),
    ({"transform": {"name": "hole"}}, r"task.transform.name='hole' is not a known transform \(did you mean 'holes'\?\)"),
    ({"transform": {"factor": 2}}, r"task.transform.name"),
    ({"transform": {"name": "low_resolution", "faktor": 2}}, r"task.transform.faktor=2 is not a known key \(did you mean 'factor'\?\)"),
    ({"regularizers": {"path_length": {}}}, r"task.regularizers.path_length measures paths .* model.name='srresnet' has none"),
    ({"conditional": True}, r"model.conditional=true: .* told no class; set model.conditional: false"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_what_means_nothing_is_refused(changes, message):
    model = ModelConfig(name="srresnet", conditional=changes.get("conditional", False))
    values = {"name": "super_resolution", **{key: value for key, value in changes.items() if key != "conditional"}}
    image = IMAGE.model_copy(update={"class_counts": (3, 3)})

    def check() -> None:
        task = tasks.settings(values)
        tasks.of(task).check(model, task, TrainConfig(total_images=10), image)

    with pytest.raises(ValueError, match=message):
        check()


def test_a_training_goes_on_with_the_same_transform_and_networks():
    train_config, model = TrainConfig(total_images=10), ModelConfig(name="srresnet")
    before = tasks.settings({"name": "super_resolution"})
    check = tasks.of(before).check_continued
    check(model, IMAGE, (before, train_config), (tasks.settings({"name": "super_resolution", "pixel_weight": 2.0}), train_config))
    for values, message in (
        ({"transform": {"name": "low_resolution", "factor": 2}}, r"task.transform=.*learnt to undo .*'factor': 4"),
        ({"generator_loss_weight": 0.0}, r"has the networks generator, discriminator, and would have generator"),
    ):
        with pytest.raises(ValueError, match=message):
            check(model, IMAGE, (before, train_config), (tasks.settings({"name": "super_resolution", **values}), train_config))


@pytest.mark.parametrize("name", PERCEPTUAL.names())
def test_perceptual_losses_are_zero_of_the_image_itself(name, make_spec):
    """One value an image, positive elsewhere. Kills: a sum over the shard; the distance of unlike things."""
    running = Running.start(spec(make_spec, "super_resolution", train__batch_images=8, train__precision="fp32"))
    (shard, *_) = running.batches.shards("generator", step=0, repeat=0, images_seen=0)
    with running.state.networks.training("generator") as nets:
        assert running.play.moment is not None
        moment = running.play.moment(nets, shard, running.state.scalars.shard(0))
        perceptual = PERCEPTUAL.get(name)(torch.device("cpu"))
        values = perceptual(moment)
        assert values.shape == (2,)
        assert (values > 0).all()
        same = running.play.moment(nets, shard, running.state.scalars.shard(0))
        same.__dict__["fake"] = same.real
        assert (perceptual(same) == 0).all()


def test_the_hole_of_an_image_is_another_each_time(make_spec):
    """A training is shown other holes each epoch; a look at fixed shards the same ones."""
    running = Running.start(spec(make_spec, "inpainting"))

    def holes(shard):
        with running.state.networks.training("") as nets:
            assert running.play.moment is not None
            moment = running.play.moment(nets, shard, running.state.scalars.shard(0))
            return (moment.fake == moment.real).all(1)

    first, second = (running.batches.shards("generator", step=step, repeat=0, images_seen=0)[0] for step in (0, 1))
    assert torch.equal(first.real, second.real)
    assert not torch.equal(holes(first), holes(second))
    assert torch.equal(holes(running.batches.fixed("health", 0)), holes(running.batches.fixed("health", 0)))


def test_a_task_that_is_fed_another_column_learns_from_that(make_spec, tmp_path, monkeypatch):
    """Small images that no shrinking of the large ones gives: the first loss is of them, image by image, and so is what it makes in the end. A task
    says so in one line (`feed`). Kills: the image shrunk, rows that do not belong together, and flips of the image alone."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)
    large = 255 - small.repeat(2, 2).repeat(2, 3)
    for split in ("train", "val"):
        with TableWriter(tmp_path / f"{split}.arrow", fields=(image_field("image", (1, 8, 8)), image_field("small", (1, 4, 4)))) as writer:
            writer.append({"image": large, "small": small})
    monkeypatch.setattr(SuperResolution, "feed", lambda self, task: Column(field="small"))
    settings = {
        "data": str(tmp_path / "train.arrow"),
        "held_out": str(tmp_path / "val.arrow"),
        "task": {"generator_loss_weight": 0.0, "perceptual": "none"},
        "networks": ("generator",),
        "train__history_interval_images": 32,
        "train__total_images": 3_200,
        "train__precision": "fp32",
        "train__select": None,
    }
    chosen = spec(make_spec, "super_resolution", **settings)
    untrained = Running.start(chosen)
    rows = untrained.batches.order(0, 32)
    with torch.no_grad():
        made = untrained.play.networks["generator"](to_float(small[rows]))
    state = train(chosen)
    first = json.loads((Path(chosen.folder) / "history.jsonl").read_text().splitlines()[0])["scalars"]
    assert first["loss_pixel"] == pytest.approx(float((made - to_float(large[rows])).abs().mean()), rel=1e-5)
    generator = state.ema.module.eval()
    (product,) = untrained.play.products
    table = ArrowImages(tmp_path / "val.arrow")
    made_at_the_end = generate(product.of(generator), product.source(table).seeded(0, range(50)), batch_images=50)
    assert errors(made_at_the_end, large[:50]) < 0.5 * errors(255 - large[:50], large[:50])
    with pytest.raises(
        ValueError, match=r"train.augment has hflip, which changes the image and not the column 'small'.*set train.augment: \{\}"
    ):
        Running.start(spec(make_spec, "super_resolution", **(settings | {"train__augment": {"hflip": {}}})))
