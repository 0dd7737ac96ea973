"""Models side by side: found wherever they lie, fed the same latents, and told apart by no more than chance allows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats

from ganlib import sampling
from ganlib.files import sha256_file
from ganlib.metrics import needs
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.rng import keyed_rng
from pipeline import compare, generator
from pipeline.report import numbers, significance
from pipeline.report.numbers import Span
from tests import browser

PROTOCOL = {"extractor_sha256": "e", "data_digest": "d", "n_real": 60, "split": "test"}


def make(root: Path, name: str, *, seed: int, fid: float = 5.0, latent_dim: int = 4, conditional: bool = False, **protocol: Any) -> Path:
    """A folder like models/ of an untrained generator, with an evaluation beside it that says what `fid` says."""
    folder = root / name / "models"
    folder.mkdir(parents=True)
    model = ModelConfig(name="mlp", latent_dim=latent_dim, conditional=conditional, generator={"width": 8})
    image = ImageSpec(channels=1, size=(8, 8), class_counts=(5, 5, 5) if conditional else ())
    save_file(build_generator(model, image, seed=seed).state_dict(), folder / "generator.safetensors")
    sha256 = sha256_file(folder / "generator.safetensors")
    facts = {"family": "mlp", "model": model.model_dump(mode="json"), "image": image.model_dump(mode="json"), "sha256": sha256}
    (folder / "generator.json").write_text(json.dumps(facts | {"images_seen": 1000, "run_key": f"{seed:064x}"}))
    values = {
        "fid": fid,
        "fid_low": fid - 0.5,
        "fid_high": fid + 0.5,
        "recall": 0.5,
        "recall_low": 0.4,
        "recall_high": 0.6,
        "class_kl": 0.1,
    }
    (root / name / "reports").mkdir()
    protocol = {**PROTOCOL, **protocol, "generator_sha256": sha256}
    (root / name / "reports" / "evaluation.json").write_text(json.dumps(values | {"baseline": {}, "protocol": protocol}))
    return folder


def run(root: Path, *names: str) -> tuple[dict[str, Any], str, Path]:
    """The summary by name, the page, and the folder of a comparison of these folders."""
    page = compare.compare([f"{name}/models" for name in names], images=24, seed=3, root=root, output=root / "out")
    found = json.loads((root / "out" / "compare.json").read_text())
    return {model["name"].partition("/")[0]: model for model in found["models"]}, page.read_text(), root / "out"


def test_the_same_latents_for_both_and_each_difference_with_its_significance(tmp_path: Path) -> None:
    """Kills: a seed of each model's own, a better that is worse (FID is better lower), and a difference within chance that is told."""
    make(tmp_path, "one", seed=1, fid=5.0)
    make(tmp_path, "two", seed=2, fid=7.0)
    found, page, folder = run(tmp_path, "one", "two")
    fid, recall, class_kl = (found["two"]["differences"][key] for key in ("fid", "recall", "class_kl"))
    z = 2.0 / (2**0.5 * 0.5 / 1.959963984540054)
    assert fid["p"] == pytest.approx(2 * (1 - stats.norm.cdf(z)), rel=1e-6)
    assert (fid["change"], fid["direction"], fid["is_significant"]) == (2.0, "worse", True)
    assert (recall["p"], recall["is_significant"]) == (1.0, False)
    assert class_kl["p"] is None
    assert "two/models is worse in FID." in page
    assert "better" not in found["one"]["differences"]
    with Image.open(folder / "compare.png") as picture:
        assert picture.info["Notice"].startswith("synthetic image")
        trained = generator.load(tmp_path / "two" / "models")
        images = sampling.generate(trained.network, trained.prior.seeded(3, range(24)), batch_images=compare.BATCH_IMAGES)
        top = picture.size[1] // 2 + 34
        shown = np.asarray(picture)[top + 24, 10 + 24 :: 50][:12, 0]  # a pixel in the middle of each image of the first row
    assert shown.tolist() == images[:12, 0, 4, 4].tolist()


def test_what_was_measured_otherwise_is_not_compared(tmp_path: Path) -> None:
    """By another extractor, or not at all: said, and no number is shown for it. Kills a comparison of any two numbers of one name."""
    make(tmp_path, "one", seed=1)
    make(tmp_path, "other", seed=2, fid=1.0, extractor_sha256="f")
    lost = make(tmp_path, "lost", seed=3)
    path = tmp_path / "lost" / "reports" / "evaluation.json"
    path.write_text(path.read_text().replace(sha256_file(lost / "generator.safetensors"), "0" * 64))  # of weights that were replaced
    found, page, _ = run(tmp_path, "one", "other", "lost")
    assert found["other"]["not_compared"] == "it was measured by another protocol (extractor_sha256)"
    assert found["lost"]["not_compared"] == "there is no evaluation of it"
    assert found["other"]["differences"] == found["lost"]["differences"] == {}
    assert page.count('class="cell"') == 3  # the first model's own


def test_latents_that_cannot_be_the_same_are_said(tmp_path: Path) -> None:
    make(tmp_path, "one", seed=1)
    make(tmp_path, "wide", seed=2, latent_dim=6)
    found, page, _ = run(tmp_path, "one", "wide")
    assert (found["one"]["has_same_latents"], found["wide"]["has_same_latents"]) == (True, False)
    assert "places do not correspond" in page


def test_both_are_asked_for_the_same_classes(tmp_path: Path) -> None:
    """Trained on as many classes, in other proportions: a place shows one class in both pictures."""
    one = make(tmp_path, "one", seed=1, conditional=True)
    two = make(tmp_path, "two", seed=2, conditional=True)
    facts = json.loads((two / "generator.json").read_text())
    facts["image"]["class_counts"] = [90, 5, 5]
    (two / "generator.json").write_text(json.dumps(facts))
    first, second = (generator.load(folder) for folder in (one, two))
    expected = first.prior.seeded(0, range(30))
    assert not torch.equal(second.prior.seeded(0, range(30)).labels, expected.labels)
    found = compare._inputs(first.product, second.product, 0, 30, tmp_path)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.z, expected.z)


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        (["one/models"], "got 1 run, expected two or more"),
        (["one/models", "nowhere"], r"no trained generator in \S+nowhere: .*"),
        (["one/models", "models:/x"], r"RUN='models:/x' names no version; expected models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_named(runs: list[str], problem: str, tmp_path: Path) -> None:
    make(tmp_path, "one", seed=1)
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    with pytest.raises(ValueError, match=problem):
        compare.compare(runs, images=4, seed=0, root=tmp_path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the statistics ----


def test_the_test_keeps_its_level_and_finds_what_is_there() -> None:
    """Two estimates of one mean from independent draws: about 5 % of the comparisons are below 0.05. Kills a p of one side, and a sum of errors
    in place of the root of squares: 2.5 % and 0.6 %.
    """
    rng = keyed_rng(0, "test")
    draws = torch.randn(4000, 2, 100, generator=rng, dtype=torch.float64)
    means, errors = draws.mean(2), draws.std(2) / 10
    spans = [
        [Span(value=m, low=m - 1.96 * e, high=m + 1.96 * e) for m, e in zip(*row, strict=True)]
        for row in zip(means.tolist(), errors.tolist(), strict=True)
    ]
    p_values = [significance.p_value(one, other) for one, other in spans]
    rejected = np.mean([p < 0.05 for p in p_values if p is not None])
    assert 0.04 < rejected < 0.065
    shifted = Span(value=1.0, low=0.8, high=1.2)
    assert significance.p_value(Span(value=0.0, low=-0.2, high=0.2), shifted) < 1e-10
    assert significance.p_value(Span(value=0.0, low=0.0, high=0.0), shifted) is None


def test_an_interval_that_is_cut_at_its_bound_counts_by_its_longer_side() -> None:
    """A recall of 0.99 in [0.95, 1.0]. Kills half the width."""
    assert significance.standard_error(Span(value=0.99, low=0.95, high=1.0)) == pytest.approx(0.04 / 1.959964, rel=1e-5)


def test_holms_correction_is_that_of_statsmodels_textbook_example() -> None:
    """p = 0.01, 0.02, 0.03, 0.04 of four: 0.0125, 0.0167, 0.025, 0.05 are the bounds, and the first that fails ends it. Kills Bonferroni's and
    none, and one that goes on after a failure.
    """
    assert significance.holm([0.04, 0.01, None, 0.03, 0.02]) == [False, True, False, False, False]
    assert significance.holm([0.012, 0.013, 0.02, 0.04]) == [True, True, True, True]
    assert significance.holm([0.2, 0.04]) == [False, False]


def test_a_target_is_better_when_it_is_nearer() -> None:
    """Density is best at 1: 1.1 is better than 0.5, and 1.6 is worse. Kills higher is better."""

    def density(value: float) -> list[numbers.Number]:
        return numbers.measured({"density": value, "density_low": value - 0.01, "density_high": value + 0.01}, needs.values(), {})

    one, other = significance.differences(density(0.5), [density(1.1), density(1.6)])
    assert (one["density"].words, other["density"].direction) == ("better (p < 0.001)", "worse")


def judged(fid: float, other: float, width: float = 0.1) -> list[numbers.Number]:
    values = {"fid": fid, "fid@rotation": other, "kid": 0.1, "kid@rotation": 0.1}
    ends = {f"{key}{end}": value + sign * width for key, value in values.items() for end, sign in (("_low", -1), ("_high", 1))}
    return numbers.measured(values | ends, needs.values(), {})


def test_extractors_that_rank_models_in_other_orders_are_said() -> None:
    """One is best by the classifier and worst by rotation, of three. Kills: higher is better, an order that is the same told as another, equal
    numbers taken for an order, and a difference within chance that is told as sure."""
    models = {"one": judged(2.0, 9.0), "two": judged(3.0, 8.0), "three": judged(4.0, 8.5)}
    found = significance.reversals(models)
    assert {(item.better, item.worse, item.key, item.extractor) for item in found} == {
        ("one", "two", "fid", "rotation"),
        ("one", "three", "fid", "rotation"),
    }
    assert all(item.is_significant for item in found)
    assert significance.told(found, "classifier")[0] == (
        "The extractors disagree: one is better than two in FID by classifier, and worse by rotation, both beyond chance: neither alone decides "
        "which is better"
    )
    swapped = significance.reversals({"two": models["two"], "one": models["one"]})
    assert [(item.better, item.worse) for item in swapped] == [("one", "two")]
    (unsure,) = significance.reversals({"one": judged(2.0, 9.0, width=5.0), "two": judged(3.0, 8.0, width=5.0)})
    assert not unsure.is_significant
    assert significance.told([unsure], "classifier")[0].endswith("chance may have made one of the two orders")
    assert significance.reversals({"one": judged(2.0, 8.0), "two": judged(3.0, 9.0)}) == []


def test_a_comparison_says_where_the_extractors_disagree(tmp_path: Path) -> None:
    """In its first sentences and for a program; not of a model that was measured otherwise."""
    for seed, (name, fid, other, protocol) in enumerate(
        (("one", 2.0, 9.0, {}), ("two", 3.0, 8.0, {}), ("odd", 9.0, 1.0, {"split": "val"}))
    ):
        make(tmp_path, name, seed=seed, fid=fid, extractor="classifier", **protocol)
        path = tmp_path / name / "reports" / "evaluation.json"
        more = {"fid@rotation": other, "fid@rotation_low": other - 0.1, "fid@rotation_high": other + 0.1}
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    _, page, folder = run(tmp_path, "one", "two", "odd")
    assert "The extractors disagree: one/models is better than two/models in FID by classifier, and worse by rotation" in page
    told = json.loads((folder / "compare.json").read_text())["reversals"]
    assert [(item["better"], item["worse"], item["key"]) for item in told] == [("one/models", "two/models", "fid")]


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    name = "a" * 70  # a long name is broken
    make(tmp_path, name, seed=1)
    make(tmp_path, "two", seed=2, fid=9.0)
    _, page, folder = run(tmp_path, name, "two")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    views, console = browser.look(folder / "compare.html", widths=(390, 1200), scheme="dark")
    assert console == []
    assert [(view.width, view.overflow, view.images, view.missing, view.outside) for view in views] == [
        (390, 0, 2, 0, []),
        (1200, 0, 2, 0, []),
    ]
