import pytest
import torch

from ganlib.ema import Ema


def average_after(*, halflife: int, batches: int, batch_images: int, start: int = 10**9) -> float:
    """Weight 0 averaged while the network stays at 1; images_seen is far beyond the ramp unless `start` says otherwise."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    ema = Ema(network, halflife_images=halflife)
    torch.nn.init.ones_(network.weight)
    for step in range(batches):
        ema.update(batch_images=batch_images, images_seen=start + (step + 1) * batch_images)
    return ema.module.weight.item()


def test_half_of_the_way_after_one_half_life_whatever_the_batch():
    assert average_after(halflife=640, batches=10, batch_images=64) == pytest.approx(0.5, abs=1e-5)
    assert average_after(halflife=640, batches=40, batch_images=16) == pytest.approx(0.5, abs=1e-5)


def test_the_ramp_shortens_the_half_life_at_the_start():
    # at 64 images seen the half-life is 0.05 * 64 = 3.2 images: beta = 0.5 ** (64 / 3.2) = 2 ** -20
    assert average_after(halflife=10_000, batches=1, batch_images=64, start=0) == pytest.approx(1 - 2**-20, abs=1e-7)


def test_zero_switches_it_off():
    assert average_after(halflife=0, batches=1, batch_images=8) == 1.0


def test_the_averaged_network_is_frozen_and_apart():
    network = torch.nn.Linear(2, 2)
    ema = Ema(network, halflife_images=10)
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not any(a.data_ptr() == b.data_ptr() for a, b in zip(network.parameters(), ema.module.parameters(), strict=True))
