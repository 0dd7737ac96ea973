"""Rows that are no pictures after a training: samples of numbers, what is told of them, and what is refused before any work."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganlib import samples
from ganlib.files import sha256_file
from ganlib.metrics import interface
from ganlib.models import ImageSpec, build_generator
from ganlib.models.settings import ModelConfig
from ganlib.sample_settings import SampleConfig
from ganlib.sampling import Prior
from ganlib.train_settings import TrainConfig
from pipeline import artifacts, compare, edit, generator, looking, preflight, recipe
from pipeline.discriminator import Shown
from pipeline.params import ParamsError
from pipeline.stages.sample import sample

ROOT = Path(__file__).resolve().parents[2]
SPEC = ImageSpec(channels=1, size=(1, 2), modality="points")
MODEL = ModelConfig.model_validate({"name": "mlp", "latent_dim": 2, "generator": {"width": 8}})
FEW = {"num_images": 230, "batch_images": 100, "grid_rows": 2, "grid_columns": 4}


def export(root: Path) -> Path:
    """models/ of a generator that was not trained."""
    folder = root / "models"
    folder.mkdir(parents=True)
    save_file(build_generator(MODEL, SPEC, seed=0).state_dict(), folder / "generator.safetensors")
    facts = {"family": "mlp", "model": MODEL.model_dump(mode="json"), "image": SPEC.model_dump(mode="json"), "git_commit": "c"}
    facts |= {"data_digest": "d", "sha256": sha256_file(folder / "generator.safetensors")}
    (folder / "generator.json").write_text(json.dumps(facts))
    return folder


def test_samples_hold_the_numbers_as_they_were_made(tmp_path: Path) -> None:
    """Against the network itself, and read by pyarrow alone. Kills rounding to 256 levels, a row order, and points that are cut into pictures."""
    export(tmp_path)
    sample(SampleConfig.model_validate(FEW), tmp_path)
    stored = samples.Samples(tmp_path / "samples")
    network = build_generator(MODEL, SPEC, seed=0).eval()
    with torch.no_grad():
        made = network(*Prior.of(MODEL, SPEC).seeded(1, range(230))).numpy()
    chosen = np.array([229, 3, 3, 100])
    found = stored.gather(chosen)
    assert (found.dtype, found.shape, stored.labels) == (np.float32, (4, 1, 1, 2), None)
    np.testing.assert_allclose(found, made[chosen], atol=1e-6)  # another batch size may round otherwise
    table = pq.read_table(tmp_path / "samples" / "samples.parquet")
    assert table.column_names == ["points", "seed", "index", "label"]
    np.testing.assert_array_equal(np.array(table["points"].to_pylist(), np.float32), stored.gather(np.arange(230)).reshape(-1, 2))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["points"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "Sequence"}
    assert [path.name for path in (tmp_path / "samples").glob("*.png")] == ["grid.png"]
    with Image.open(tmp_path / "samples" / "grid.png") as grid:
        assert grid.size == (512, 512)  # a scatter plot
        assert grid.info["Seed"] == "1"
    before = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    sample(SampleConfig.model_validate(FEW), tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()} == before


def test_what_is_told_of_points_has_no_colours(tmp_path: Path) -> None:
    """Kills "grey" and `to_uint8` of numbers."""
    trained = generator.load(export(tmp_path))
    output = artifacts.interface(trained.product, SPEC, TrainConfig.model_validate({"total_images": 64}))["output"]
    assert output["modality"] == "points"
    assert output["shape"] == ["N", 1, 1, 2]
    assert not {"channels", "to_uint8"} & output.keys()
    assert "Output: float32 points [N, 1, 1, 2] in [-1, 1], synthetic." in trained.served(1.0).words
    grey = artifacts.interface(trained.product, ImageSpec(channels=1, size=(8, 8)), TrainConfig.model_validate({"total_images": 64}))
    assert grey["output"]["channels"] == "grey"


def test_the_report_is_shown_both_sides_and_only_one_says_that_it_is_synthetic(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (300, 1, 1, 2)).astype(np.float32)
    real, fake = (Shown(interface.ArrayImages(part), np.arange(150)) for part in (rows[:150], rows[150:]))
    features = [torch.from_numpy(part.reshape(-1, 2)) for part in (rows[:150], rows[150:])]
    data = interface.Comparison(real=features[0], fake=features[1], train=features[0])
    seen = looking.take(data, {"real": real, "fake": fake, "train": real}, class_names=None, root=tmp_path, modality="points")
    assert (seen.pairs, seen.extremes, seen.judged) == ((), (), ())
    assert (b"synthetic" in seen.fake, b"synthetic" in seen.real) == (True, False)
    assert [path.name for path in (tmp_path / "reports" / "plots").iterdir()] == ["features.png"]


def test_pictures_of_points_are_not_compared(tmp_path: Path) -> None:
    folder = export(tmp_path)
    with pytest.raises(ValueError, match=r"makes points, and models are compared by their pictures; read its reports/report.html"):
        compare.compare([str(folder), str(folder)], images=4, seed=0, root=tmp_path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def values(tmp_path: Path) -> dict:
    target = tmp_path / "params.yaml"
    target.write_text((ROOT / "params.yaml").read_text())
    recipe.apply(ROOT / "recipes" / "points.yaml", target)
    return edit.plain(target)


@pytest.mark.parametrize("format", [format for format in get_args(samples.Format) if format != samples.OF_NUMBERS])
def test_a_format_of_pictures_is_refused_before_any_work(format: str, values: dict) -> None:
    values["sample"]["format"] = format
    with pytest.raises(ParamsError, match=rf"sample.format='{format}' holds pictures.*set sample.format: parquet"):
        preflight.parse(values)


@pytest.mark.parametrize("metric", ["swd", "spectrum", "two_sample", "path_length", "pairs"])
def test_a_metric_of_pictures_is_refused_before_any_work(metric: str, values: dict) -> None:
    """Kills a late error, and levels of 255 that are taken for points."""
    values["evaluate"]["metrics"].append(metric)
    with pytest.raises(ParamsError, match=f"evaluate.metrics has {metric}, which looks at pictures.*take {metric} out of evaluate.metrics"):
        preflight.parse(values)
