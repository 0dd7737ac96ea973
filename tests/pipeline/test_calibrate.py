"""The calibrate stage on scikit-learn's digits: the ladder, the verdicts on planted metrics, and what follows of them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ganlib.data.arrow import ArrowImages, ArrowWriter, read_manifest, split_path, write_manifest
from ganlib.metrics import METRICS, interface, ladder, measure, needs, trunk
from ganlib.metrics.calibration import Calibration, read
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig, ReferenceConfig
from ganlib.registry import Entry
from pipeline.stages.calibrate import calibrate
from pipeline.stages.reference import reference

CONFIG = EvaluateConfig(metrics=["fid", "kid", "prdc", "memorization", "class_coverage", "spectrum"], prdc_images=200, bootstrap=4)
COUNTS = {"train": 1200, "val": 40, "test": 500}


@pytest.fixture(scope="module", autouse=True)
def _small_and_single_threaded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk, "MIN_STEPS", 80)
        yield
    torch.set_num_threads(threads)


def write_prepared(root: Path, *, counts: dict[str, int] = COUNTS, shuffled: bool = False) -> None:
    """Digits in three splits; `shuffled`: labels that mean nothing."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    images = np.round(bunch.images[order] * 255 / 16).astype(np.uint8)[:, None]
    labels = bunch.target[order].astype(np.int64)
    if shuffled:
        labels = np.random.default_rng(1).permutation(labels)
    folder, start, class_counts = root / "data" / "prepared", 0, {}
    folder.mkdir(parents=True)
    names = [str(i) for i in range(10)]
    for split, n in counts.items():
        chosen = slice(start, start + n)
        with ArrowWriter(folder / f"{split}.arrow", shape=(1, 8, 8), class_names=names) as writer:
            writer.append(images[chosen], labels[chosen])
        class_counts[split] = np.bincount(labels[chosen], minlength=10).tolist()
        start += n
    write_manifest(folder, class_names=names, class_counts=class_counts)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with a reference; calibrations of one test are replaced by those of the next."""
    root = tmp_path_factory.mktemp("digits")
    write_prepared(root)
    reference(ReferenceConfig(extractor="classifier", epochs=0.1), root=root)
    return root


@pytest.fixture(scope="module")
def calibrated(root: Path) -> Calibration:
    return calibrate(CONFIG, root=root)


def test_on_digits_the_strongest_form_of_each_fault_is_seen(root: Path, calibrated: Calibration) -> None:
    assert (calibrated.split, calibrated.n) == ("test", 250)
    assert read(root / "data" / "calibration") == calibrated
    assert [name for name, rungs in calibrated.faults.items() if not rungs.applies] == ["colour_shift"]
    for name, rungs in calibrated.faults.items():
        if rungs.applies:
            assert any(verdict.sees[name] is not None for verdict in calibrated.metrics.values()), name
            assert all(len(values) == len(rungs.strengths) for values in rungs.values.values())
    fid = calibrated.metrics["fid"]
    assert fid.is_trusted
    assert sum(fid.rises.values()) >= 6
    assert fid.sees["train_duplicates"] is None
    assert calibrated.metrics["memorized_share"].sees["train_duplicates"] is not None
    assert calibrated.metrics["class_coverage"].sees["dropped_class"] == 1.0
    assert calibrated.metrics["label_agreement"].is_trusted
    assert calibrated.extractor_accuracy is not None
    assert calibrated.majority_share is not None
    assert calibrated.extractor_accuracy > 0.8 > 0.15 > calibrated.majority_share
    for name in ("ladder.png", "metrics.png"):
        with Image.open(root / "data" / "calibration" / name) as picture:
            assert min(picture.size) > 400


def test_two_runs_give_the_same_bytes(root: Path, calibrated: Calibration) -> None:
    def written() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (root / "data" / "calibration").iterdir()}

    before = written()
    calibrate(CONFIG, root=root)
    assert written() == before


def test_generated_images_are_measured_as_the_ladder_is(root: Path, calibrated: Calibration) -> None:
    """The other half of the held-out images in the place of generated ones comes to the first draw of the null itself. Kills: other real images,
    other training images, all of the generated ones in place of as many as the ladder has, and as many of other places for their features."""
    splits = {name: ArrowImages(split_path(root / "data" / "prepared", name)) for name in COUNTS}
    stored = Reference.read(root / "data" / "reference", data_digest=calibrated.data_digest)

    @needs.declares(needs.Needs(gives=(needs.Value(key="count", title="Count", meaning="Images.", better="higher"),)))
    def count(data: interface.Comparison, config: EvaluateConfig) -> dict[str, float]:
        return {"count": float(len(data.fake))}

    metrics = {name: METRICS.get(name) for name in CONFIG.metrics} | {"count": count}
    counts = read_manifest(root / "data" / "prepared").splits["train"].class_counts
    ruler = ladder.Ruler.of(stored, splits, metrics=metrics, config=CONFIG, class_counts=counts)
    _, fake, _ = ladder.halves(ruler.rows, calibrated.n, seed=CONFIG.seed, draw=0)

    def placed(rows: np.ndarray, n: int) -> dict[str, float]:
        images = interface.ArrayImages(splits["test"].gather(rows))
        return ruler.generated(images, measure.extract(stored, images), n)

    expected = ruler.null_draw(calibrated.n, 0)
    assert placed(fake, calibrated.n) == pytest.approx({key: value for key, value in expected.items() if key in placed(fake, calibrated.n)})
    assert {"fid", "kid", "memorized_share", "spectrum_distance"} <= placed(fake, calibrated.n).keys()
    many = np.concatenate([fake, fake, fake])  # drawn from three times as many
    assert placed(many, calibrated.n)["count"] == calibrated.n
    assert 0.5 * expected["fid"] < placed(many, calibrated.n)["fid"] != expected["fid"]
    assert placed(fake[:100], calibrated.n) == placed(fake, 0) == {}


def test_a_blind_metric_is_vetoed_and_a_good_one_trusted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`blind` never looks at the generated side, `keen` at how rough its pictures are. Kills: trust in whatever nothing speaks against."""

    def declared(key: str) -> needs.Needs:
        return needs.Needs(pixels=True, gives=(needs.Value(key=key, title=key, meaning="Planted.", better="lower"),))

    def both(data: interface.PixelComparison) -> tuple[np.ndarray, np.ndarray]:
        real, fake = (data.drawn(side, 200, seed=0).astype(np.float64) for side in data.SIDES)
        return real, fake

    @needs.declares(declared("blind"))
    def blind(data: interface.PixelComparison, config: EvaluateConfig) -> dict[str, float]:
        return {"blind": float(both(data)[0].mean())}

    @needs.declares(declared("keen"))
    def keen(data: interface.PixelComparison, config: EvaluateConfig) -> dict[str, float]:
        real, fake = (np.sort(np.abs(np.diff(x, axis=3)).mean(axis=(1, 2, 3)) / x.mean(axis=(1, 2, 3))) for x in both(data))
        return {"keen": float(np.abs(real - fake).mean())}

    for name, metric in (("blind", blind), ("keen", keen)):
        monkeypatch.setitem(METRICS._entries, name, Entry(name=name, value=metric, summary="", paper=""))
    found = calibrate(CONFIG.model_copy(update={"metrics": ["blind", "keen"]}), root=root)
    assert found.metrics["keen"].is_trusted
    assert not found.metrics["blind"].is_trusted
    assert "cannot tell real images" in found.metrics["blind"].why
    assert "scrambled phases" in found.metrics["blind"].why
    assert found.trusted() == ["keen"]
    assert any(line.startswith("blind is not to be trusted") for line in found.warnings)


def test_labels_that_mean_nothing_are_noticed(tmp_path: Path) -> None:
    """The extractor is at chance: nothing in its features counts, what needs none does."""
    write_prepared(tmp_path, shuffled=True)
    reference(ReferenceConfig(extractor="classifier", epochs=0.1), root=tmp_path)
    found = calibrate(CONFIG.model_copy(update={"metrics": ["fid", "kid", "spectrum"]}), root=tmp_path)
    assert not found.metrics["fid"].is_trusted
    assert "classifier has learnt nothing" in found.metrics["fid"].why
    assert found.metrics["spectrum_distance"].is_trusted
    assert found.trusted() == ["spectrum_distance"]
    assert "do the labels mean anything?" in found.warnings[0]


def test_too_few_held_out_images_are_said_and_nothing_is_vetoed(tmp_path: Path) -> None:
    write_prepared(tmp_path, counts={"train": 300, "val": 30, "test": 99})
    reference(ReferenceConfig(extractor="classifier", epochs=0.1), root=tmp_path)
    found = calibrate(CONFIG, root=tmp_path)
    assert (found.n, found.untrusted(), found.metrics) == (0, {}, {})
    assert "99 held-out images, and at least 100 are needed" in found.warnings[-1]
    assert [path.name for path in (tmp_path / "data" / "calibration").iterdir()] == ["calibration.json"]
    shutil.rmtree(tmp_path / "data" / "calibration")
    write = tmp_path / "data" / "prepared" / "manifest.json"
    write.write_text(json.dumps(json.loads(write.read_text()) | {"data_digest": "f" * 64}))
    with pytest.raises(ValueError, match="dvc repro reference"):
        calibrate(CONFIG, root=tmp_path)
    assert not (tmp_path / "data" / "calibration").exists()
