"""A task without a discriminator through the whole pipeline, for real: to a registered version that is loaded and draws, and to its report."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

SERVED = """
import sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/gan-digits@champion")
images = model.predict(np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32))
assert images.shape == (3, 1, 8, 8), images.shape
assert np.abs(images).max() <= 1 and images.std() > 0.05
assert "ganlib" not in sys.modules
"""


def test_from_data_to_a_served_version_without_a_discriminator(make_clone, tmp_path):
    clone = make_clone()
    clone.run("python", "-m", "pipeline.recipe", "recipes/vae.yaml")
    clone.set(model__latent_dim=16, model__autoencoder={"width": 8}, train__total_images=16_000, train__grid_interval_images=8_000)
    clone.set(evaluate__metrics=["fid", "discriminator", "pairs"])
    clone.commit("vae")
    assert clone.repro() == ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]
    root = clone.root

    facts = json.loads((root / "models" / "generator.json").read_text())
    assert facts["task"]["name"] == "vae"
    assert sorted(path.name for path in (root / "models").iterdir()) == ["autoencoder.safetensors", "generator.json"]
    assert set(facts["parameters"]) == {"autoencoder"}
    assert [product["name"] for product in facts["products"]] == ["sample", "reconstruct"]

    assert pq.read_table(root / "samples" / "samples.parquet").num_rows == 600
    beside = Image.open(root / "samples" / "reconstruct.png")
    assert "one below another: made, truth" in beside.info["Rows"]
    pixels = np.asarray(beside).astype(float)
    assert pixels.std() > 20
    evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
    assert 8 < evaluation["psnr_low"] < evaluation["psnr"] < evaluation["psnr_high"] < 40
    assert 0.2 < evaluation["ssim"] < 1
    assert 0 < evaluation["feature_distance"] < 1  # nearer than another image
    assert "discriminator_auc" not in evaluation
    report = (root / "reports" / "report.html").read_text()
    assert "Reconstruct: held-out images (test split), one below another: made, truth" in report
    assert "PSNR" in report

    grids = sorted(path.name for path in (root / "reports" / "training" / "grids").glob("*.png"))
    assert grids == [f"{name}-{images:012d}.png" for name in ("images", "reconstruct") for images in (8_000, 16_000)]
    header = (root / "reports" / "training" / "health.csv").read_text().splitlines()[0]
    assert "update_norm_autoencoder" in header
    assert "logit" not in header

    registration = json.loads((root / "reports" / "registration.json").read_text())
    assert registration["aliases"] == ["challenger", "champion"]
    environment = clone.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    environment.pop("PYTHONPATH", None)  # a service does not have this project
    script = tmp_path / "serve.py"
    script.write_text(SERVED)
    other = type(clone)(tmp_path, environment)
    other.run(sys.executable, "-W", "ignore", str(script))
    assert clone.repro() == []
