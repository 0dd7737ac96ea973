"""Tasks that make images of images through the whole pipeline, for real: to a registered version that is loaded and repairs, and to its report."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from ganlib.data.arrow import ArrowImages
from ganlib.samples import Samples

pytestmark = pytest.mark.pipeline

SERVED = """
import sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/gan-digits@champion")
fed = np.load("fed.npy")
np.save("made.npy", model.predict(fed))
assert model.predict(fed[:1]).shape == (1, 1, 8, 8)
assert "ganlib" not in sys.modules
"""
RECIPES = {
    "srgan": {"task__transform": {"name": "low_resolution", "factor": 2}, "model__generator": {"width": 8, "blocks": 1}},
    "inpainting": {"model__generator": {"width": 8}, "model__discriminator": {"width": 8}},
}


@pytest.mark.parametrize("recipe", ["srgan", pytest.param("inpainting", marks=pytest.mark.slow)])
def test_from_data_to_a_served_version_that_is_fed_images(recipe, make_clone, tmp_path):
    """Kills: a description that forgets the transform, a served input that is not what a training is fed, samples of other images."""
    clone = make_clone()
    clone.run("python", "-m", "pipeline.recipe", f"recipes/{recipe}.yaml")
    clone.set(**RECIPES[recipe], train__total_images=8_000, train__grid_interval_images=8_000)
    clone.set(evaluate__metrics=["fid", "discriminator", "pairs"])
    clone.commit(recipe)
    assert clone.repro() == ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]
    root = clone.root

    facts = json.loads((root / "models" / "generator.json").read_text())
    (product,) = facts["products"]
    assert (product["feed"]["kind"], product["has_truth"]) == ("images", True)
    assert product["feed"]["transform"]["name"] == {"srgan": "low_resolution", "inpainting": "holes"}[recipe]
    held_out = ArrowImages(root / "data" / "prepared" / "test.arrow")
    made = Samples(root / "samples")
    assert len(made) == len(held_out) < 600  # one of each, of 600 that were asked for
    assert made.facts.fed_with == "test"
    truth, first = held_out.gather(np.arange(50)).astype(float), made.gather(np.arange(50)).astype(float)
    others = np.abs(first[:, None] - truth[None]).mean((2, 3, 4))
    assert (others.argmin(1) == np.arange(50)).mean() > 0.2  # image i is made of image i; chance: 0.02

    with Image.open(root / "samples" / "grid.png") as grid:
        told = grid.info["Rows"]
    assert told == "held-out images (test split), one below another: input, made, truth"
    report = (root / "reports" / "report.html").read_text()
    assert "one below another: input, made, truth" in report
    assert "Through the latents" not in report
    evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
    assert 10 < evaluation["psnr_low"] < evaluation["psnr"] < evaluation["psnr_high"] < 60
    assert 0.5 < evaluation["discriminator_auc"] <= 1 or "discriminator_auc" in evaluation
    assert sorted(path.name for path in (root / "reports" / "training" / "grids").iterdir()) == ["images-000000008000.png"]

    fed = [held_out.gather(np.arange(3)).astype(np.float32) / 127.5 - 1]
    if recipe == "srgan":
        fed = [fed[0].reshape(3, 1, 4, 2, 4, 2).mean((3, 5), dtype=np.float32)]
    else:
        mask = np.zeros((3, 1, 8, 8), np.float32)
        mask[:, :, 2:6, 2:6] = 1
        fed = [np.where(mask == 1, np.float32(0), fed[0]), mask]
    (tmp_path / "served").mkdir()
    np.save(tmp_path / "served" / "fed.npy", np.concatenate(fed, 1))
    environment = clone.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    environment.pop("PYTHONPATH", None)  # a service does not have this project
    script = tmp_path / "served" / "serve.py"
    script.write_text(SERVED)
    other = type(clone)(tmp_path / "served", environment)
    other.run(sys.executable, "-W", "ignore", str(script))
    served = np.load(tmp_path / "served" / "made.npy")
    assert served.shape == (3, 1, 8, 8)
    if recipe == "inpainting":
        known = np.broadcast_to(mask == 0, served.shape)
        assert np.array_equal(served[known], fed[0][known])
    assert clone.repro() == []
