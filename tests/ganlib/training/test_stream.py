import numpy as np
import torch

from ganlib.augment import build
from ganlib.data.arrow import ArrowImages
from ganlib.data.stream import BatchStream
from ganlib.sampling import Prior
from ganlib.train_settings import TrainConfig


def stream(path, here=range(4), augment=(), **keys):
    train = TrainConfig(total_images=1000, **{"batch_images": 32, "logical_workers": 4, **keys})
    prior = Prior(latent_dim=3, distribution="normal")
    return BatchStream(ArrowImages(path), prior=prior, train=train, here=here, augmentations=augment, device=torch.device("cpu"))


def test_an_epoch_is_a_permutation_and_the_next_is_another(tiny_data):
    batches = stream(tiny_data)
    first, second = batches.order(0, 200), batches.order(200, 200)
    assert sorted(first) == sorted(second) == list(range(200))
    assert not np.array_equal(first, second)


def test_any_position_can_be_asked_for_at_any_time(tiny_data):
    whole = stream(tiny_data).order(150, 300)  # over two ends of an epoch
    again = stream(tiny_data)
    assert np.array_equal(np.concatenate([again.order(150 + k, 1) for k in range(300)]), whole)


def test_shards_are_the_same_whoever_computes_them(tiny_data):
    def shards(here):
        return stream(tiny_data, here, augment=build({"hflip": {}})).shards("discriminator", step=7, repeat=1, images_seen=224)

    together = shards(range(4))
    apart = [*shards(range(2)), *shards(range(2, 4))]
    for a, b in zip(together, apart, strict=True):
        assert torch.equal(a.real, b.real)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.inputs().z, b.inputs().z)
    assert len({tuple(s.inputs().z.flatten().tolist()) for s in together}) == 4  # latents differ on every worker


def test_a_batch_is_cut_and_nothing_is_read_twice(tiny_data):
    shards = stream(tiny_data).shards("discriminator", step=0, repeat=0, images_seen=0)
    rows = np.concatenate([s._indices for s in shards])
    assert len(set(rows)) == 32
    assert [s.real.shape for s in shards] == [(8, 1, 8, 8)] * 4
    assert all(s.real.dtype == torch.float32 and s.real.min() >= -1 and s.real.max() <= 1 for s in shards)


def test_the_label_of_an_image_is_its_own(tiny_data):
    """Kills the mutant that reverses `Shard.labels`: images bright on the left are of class 0, those bright on top of class 1."""
    shards = stream(tiny_data).shards("discriminator", step=0, repeat=0, images_seen=0)
    for shard in shards:
        seen = (shard.real[:, 0, :4].mean((1, 2)) > shard.real[:, 0, :, :4].mean((1, 2))).long()
        assert torch.equal(shard.labels, seen)
    assert any(not torch.equal(shard.labels, shard.labels.flip(0)) for shard in shards)


def test_phases_and_repeats_draw_their_own_numbers(tiny_data):
    batches = stream(tiny_data)
    keys = [("discriminator", 0, 0), ("generator", 0, 0), ("discriminator", 1, 0), ("discriminator", 0, 1)]
    drawn = {tuple(batches.shards(phase, step=s, repeat=r, images_seen=0)[0].inputs().z.flatten().tolist()) for phase, s, r in keys}
    assert len(drawn) == 4


def test_flips_are_mirror_images_with_their_probability(tiny_data):
    (flip,) = build({"hflip": {"p": 0.3}})
    images = torch.arange(2.0).expand(4000, 1, 1, 2)
    flipped = flip(images, torch.Generator().manual_seed(0))[:, 0, 0, 0] == 1
    assert abs(flipped.double().mean() - 0.3) < 0.03
