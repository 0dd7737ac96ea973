"""The two families that make images from images, each against its paper and its promise."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganlib import models
from ganlib.models import TRANSLATOR, ImageSpec
from ganlib.models.gated_conv import GatedConv2d
from ganlib.models.layers.norm import calibrate
from ganlib.models.settings import ModelConfig
from ganlib.products import Column
from ganlib.rng import keyed_rng
from ganlib.sampling import generate, to_float, to_uint8
from ganlib.transforms.holes import Holes, HolesConfig
from ganlib.transforms.low_resolution import LowResolution, LowResolutionConfig

HOLES = Holes(config=HolesConfig())


def network(name: str, image: ImageSpec, fed: ImageSpec, **options):
    config = ModelConfig(name=name, generator=options)
    return models.build_network(config, image, "generator", role=TRANSLATOR, seed=0, fed=fed)


def pictures(count: int, channels: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, *size), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_known_pixels_are_kept_to_the_bit(precision):
    """All 256 levels, also after rounding and under autocast; the hole is made. Kills: made everywhere, a blend, a known pixel that is rounded."""
    image = ImageSpec(channels=3, size=(16, 24))
    images = pictures(8, 3, (16, 24))
    images.reshape(8, -1)[:, :256] = np.arange(256)
    filled = network("gated_conv", image, HOLES.fed(image), width=4).eval()
    inputs = Column(transform=HOLES).inputs(to_float(images), keyed_rng(0, "x"))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), torch.no_grad():
        made = filled(inputs.z)
    hole = inputs.z[:, -1:].expand(-1, 3, -1, -1) > 0
    assert torch.equal(made[~hole], to_float(images)[~hole])
    assert np.array_equal(to_uint8(made)[~hole.numpy()], images[~hole.numpy()])
    assert np.array_equal(generate(filled, inputs, batch_images=3)[~hole.numpy()], images[~hole.numpy()])
    assert made[hole].std() > 1e-3
    assert not torch.equal(made[hole], to_float(images)[hole])


def test_what_was_in_the_hole_cannot_be_seen():
    """Kills: a mask that is cut out of the output alone."""
    image = ImageSpec(channels=1, size=(16, 16))
    fed = HOLES(to_float(pictures(4, 1, (16, 16))), keyed_rng(0, "x"))
    other = HOLES(torch.where(fed[:, -1:] > 0, 0.5, fed[:, :1]), keyed_rng(0, "x"))
    filled = network("gated_conv", image, HOLES.fed(image), width=4).eval()
    assert torch.equal(filled(fed), filled(other))


def test_a_gated_convolution_is_two_convolutions():
    """arXiv:1806.03589, eq. 1-2. Kills: the halves the other way round, a gate without its sigmoid."""
    layer = GatedConv2d(3, 5, 3, stride=2)
    x = torch.randn(2, 3, 8, 8, generator=keyed_rng(0, "x"))
    feature, gate = (
        F.conv2d(x, layer.both.weight[part], layer.both.bias[part], stride=2, padding=1) for part in (slice(0, 5), slice(5, 10))
    )
    torch.testing.assert_close(layer(x), F.elu(feature) / (1 + torch.exp(-gate)))


def test_signals_neither_die_nor_grow_in_gates():
    """The size of the maps, layer after layer at the start. Kills: plain He weights, under which a gate of a half costs a factor each layer."""
    image = ImageSpec(channels=1, size=(32, 32))
    filled = network("gated_conv", image, HOLES.fed(image), width=16)
    x = HOLES(to_float(pictures(8, 1, (32, 32))), keyed_rng(0, "x"))
    sizes = []
    for layer in filled.layers:
        x = layer(x)
        sizes.append(x.std().item())
    assert 0.1 < min(sizes) < max(sizes) < 10


def test_patches_are_judged_by_themselves():
    """A change in one corner leaves the opposite one's verdict as it was. Kills: pooling before the verdicts."""
    discriminator = models.build_network(
        ModelConfig(name="gated_conv", discriminator={"width": 4}), ImageSpec(channels=1, size=(64, 64)), "discriminator", seed=0
    )
    images = to_float(pictures(1, 1, (64, 64)))
    changed = images.clone()
    changed[:, :, :4, :4] *= -1
    before, after = (discriminator(x, full=True).patch_logits.view(4, 4) for x in (images, changed))
    assert before[0, 0] != after[0, 0]
    assert torch.equal(before[-1, -1], after[-1, -1])


@pytest.mark.parametrize("options", [{"block": "residual"}, {"block": "rrdb"}, {"normalization": "batch"}], ids=str)
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_begins_near_the_bicubic_image(options, factor):
    """Kills: pixels in another order than PixelShuffle's and the interpolation's, an interpolation of another size."""
    image = ImageSpec(channels=3, size=(32, 32))
    transform = LowResolution(config=LowResolutionConfig(factor=factor))
    enlarged = network("srresnet", image, transform.fed(image), width=8, blocks=2, **options)
    smooth = F.interpolate(torch.rand(4, 3, 4, 4, generator=keyed_rng(0, "x")) * 1.6 - 0.8, (32, 32), mode="bicubic").clamp(-0.9, 0.9)
    fed = transform(smooth, keyed_rng(0, "x"))
    calibrate(enlarged, [(fed,)])
    with torch.no_grad():
        for parameter in enlarged.last.parameters():
            parameter.zero_()
        torch.testing.assert_close(enlarged(fed), 0.98 * transform.plain(fed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "image", "fed", "message"),
    [
        (
            "srresnet",
            (1, (28, 28)),
            (1, (28, 28)),
            r"model.name='?srresnet'? cannot make 1 channels of \[28, 28\] from 1 of \[28, 28\].*task.transform",
        ),
        ("srresnet", (1, (24, 24)), (1, (8, 8)), r"2, 4, 8, ... times as long"),
        ("srresnet", (3, (32, 32)), (1, (8, 8)), r"cannot make 3 channels"),
        ("srresnet", (1, (32, 64)), (1, (8, 8)), r"cannot make 1 channels of \[32, 64\]"),
        ("gated_conv", (1, (28, 28)), (1, (7, 7)), r"fills holes: it is fed 1 \+ 1 channels of \[28, 28\].*set task.transform.name: holes"),
        ("gated_conv", (1, (10, 10)), (2, (10, 10)), r"each side is a multiple of 4"),
    ],
)
def test_what_they_cannot_make_is_refused(name, image, fed, message):
    image, fed = (ImageSpec(channels=channels, size=size) for channels, size in (image, fed))
    with pytest.raises(ValueError, match=message):
        models.check(ModelConfig(name=name), image, {"generator": TRANSLATOR}, fed=fed)
