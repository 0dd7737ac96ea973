"""Inception score, FID within classes and repeated samples: closed forms, torchmetrics and faults that are planted; PRDC by its authors' code."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganlib.metrics import METRICS
from ganlib.metrics.fid import frechet_distance, moments
from ganlib.metrics.inception_score import score
from ganlib.metrics.interface import Comparison
from ganlib.metrics.null import null
from ganlib.metrics.prdc import membership
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng

CONFIG = EvaluateConfig(bootstrap=5)


def normal(n: int, d: int, name: str, *, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=keyed_rng(0, name)) + shift


# ---- Inception score


def test_the_score_in_closed_form():
    """Sure and even over k classes: k. Sure of one: 1. Unsure: 1. Half sure of two classes: 2^(1/2)."""
    assert score(torch.eye(5).double().repeat(4, 1)) == pytest.approx(5)
    assert score(torch.eye(5)[:1].double().repeat(9, 1)) == pytest.approx(1)
    assert score(torch.full((9, 4), 0.25).double()) == pytest.approx(1)
    half = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]).double()
    assert score(half) == pytest.approx(2**0.5)


def test_the_score_is_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    class Logits(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).double() / 40

    images = torch.randint(0, 256, (60, 3, 1, 2), generator=keyed_rng(0, "images"), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="memory footprint"):
        theirs = InceptionScore(feature=Logits(), splits=1).set_dtype(torch.float64)
    theirs.update(images)
    ours = score(Logits()(images).softmax(dim=1))
    with pytest.warns(UserWarning, match="degrees of freedom"):  # of a single split
        assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_a_rotation_extractor_has_no_score():
    x = normal(12, 3, "x")
    with pytest.raises(ValueError, match="needs an extractor that knows the classes"):
        METRICS.get("inception_score")(Comparison(real=x, fake=x, train=x), CONFIG)


# ---- FID within classes


def in_classes(shift: float) -> Comparison:
    """Three classes far apart; the fakes of class 2 are moved; of class 3 there are too few to compare."""
    classes = np.repeat([0, 1, 2, 3], [60, 50, 40, 10])
    centres = torch.from_numpy(classes)[:, None] * 10.0
    fake = normal(160, 3, "fake") + centres
    fake[torch.from_numpy(classes == 2)] += shift
    x = {"real": normal(160, 3, "real") + centres, "fake": fake, "train": normal(20, 3, "train")}
    return Comparison(**x, real_classes=classes, fake_classes=classes, num_classes=5)


def test_the_worst_class_is_the_one_that_is_made_badly():
    """Kills: FID of all under another name, and the mean for the worst."""
    good, bad = (METRICS.get("class_fid")(in_classes(shift), CONFIG) for shift in (0.0, 2.0))
    assert good["class_fid_classes"] == bad["class_fid_classes"] == 3
    data, classes = in_classes(2.0), in_classes(2.0).real_classes
    by_hand = [frechet_distance(*(moments(side[torch.from_numpy(classes == c)]) for side in (data.real, data.fake))) for c in range(3)]
    assert bad["class_fid"] == pytest.approx(np.mean(by_hand))
    assert bad["class_fid_worst"] == pytest.approx(by_hand[2])
    assert bad["class_fid_worst_low"] > good["class_fid_worst_high"]
    assert bad["class_fid_worst_low"] < bad["class_fid_worst"] < bad["class_fid_worst_high"]


def test_classes_that_are_all_too_small_give_nothing():
    x, classes = normal(60, 3, "x"), np.arange(60) % 10
    data = Comparison(real=x, fake=x, train=x, real_classes=classes, fake_classes=classes, num_classes=10)
    assert METRICS.get("class_fid")(data, CONFIG) == {}
    assert null(METRICS.get("class_fid"), data, CONFIG) == {}


# ---- repeated samples


def test_repeated_samples_are_counted_and_honest_ones_are_at_chance():
    real, train, fake = normal(1000, 4, "real"), normal(50, 4, "train"), normal(1000, 4, "fake")
    repeated = torch.cat([fake[:700], fake[:300] + 1e-4])
    measure = METRICS.get("duplicates")
    honest = measure(Comparison(real=real, fake=fake, train=train), CONFIG)
    found = measure(Comparison(real=real, fake=repeated, train=train), CONFIG)
    assert honest["duplicated_share_low"] < 0.01 < honest["duplicated_share_high"] + 0.01
    assert found["duplicated_share"] == pytest.approx(0.6, abs=0.02)  # both of a pair


def test_the_interval_of_repeated_samples_holds_what_it_says():
    """Over fresh draws of the fakes. Kills Wilson's of all samples: what is near comes in twos, and it held 80 of 100."""
    real, train = normal(300, 4, "real"), normal(20, 4, "train")
    found = [
        METRICS.get("duplicates")(Comparison(real=real, fake=0.7 * normal(300, 4, f"fake {i}"), train=train), CONFIG) for i in range(200)
    ]
    centre = np.mean([each["duplicated_share"] for each in found])
    inside = [each["duplicated_share_low"] <= centre <= each["duplicated_share_high"] for each in found]
    assert 0.92 <= np.mean(inside) <= 0.99


def test_more_samples_than_real_images_are_no_repetition():
    """Kills the nearest among all fakes: of ten times as many it is nearer by itself."""
    real, fake = normal(200, 2, "real"), normal(2000, 2, "fake")
    found = METRICS.get("duplicates")(Comparison(real=real, fake=fake, train=real), CONFIG)
    assert found["duplicated_share"] < 0.05


def test_data_that_repeat_themselves_make_exact_copies_count():
    real = normal(50, 2, "real").repeat(2, 1)
    fake = torch.cat([normal(90, 2, "fake"), normal(5, 2, "twice").repeat(2, 1)])
    found = METRICS.get("duplicates")(Comparison(real=real, fake=fake, train=real), CONFIG)
    assert found["duplicated_share"] == pytest.approx(0.1)


# ---- others' code


def test_prdc_agrees_with_its_authors_code():
    import prdc as theirs

    real, fake = normal(300, 8, "r").double(), normal(280, 8, "f", shift=0.3).double()
    expected = theirs.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    found = membership(real, fake, 5)
    parts = {
        "precision": found.fake_is_real,
        "recall": found.real_is_fake,
        "density": found.fake_density,
        "coverage": found.real_is_covered,
    }
    assert {name: float(part.double().mean()) for name, part in parts.items()} == pytest.approx(expected, abs=1e-9)


def test_kid_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).double() / 255

    real, fake = (torch.randint(low, 256, (64, 3, 2, 2), generator=keyed_rng(0, str(low)), dtype=torch.uint8) for low in (0, 60))
    with pytest.warns(UserWarning, match="memory footprint"):
        theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=64).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    data = Comparison(real=Flat()(real).float(), fake=Flat()(fake).float(), train=Flat()(real).float())
    ours = METRICS.get("kid")(data, CONFIG)["kid"]
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
