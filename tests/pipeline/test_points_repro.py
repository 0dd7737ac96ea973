"""Rows that are no pictures through the whole pipeline, for real: to samples of numbers, a report of previews, a served version."""

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
model = mlflow.pyfunc.load_model("models:/gan-ring@champion")
points = model.predict(np.random.default_rng(0).standard_normal((500, 2)).astype(np.float32))
assert points.shape == (500, 1, 1, 2), points.shape
assert np.abs(points).max() <= 1 and points.std() > 0.2
assert "ganlib" not in sys.modules
"""


def test_points_from_their_source_to_a_served_version(make_clone, tmp_path):
    clone = make_clone()
    clone.run("python", "-m", "pipeline.recipe", "recipes/points.yaml")
    clone.set(train__total_images=60_000, train__grid_interval_images=30_000, sample__num_images=2_000, evaluate__prdc_images=500)
    clone.commit("points")
    assert clone.repro() == ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]
    root = clone.root

    output = json.loads((root / "models" / "generator.json").read_text())["output"]
    assert (output["modality"], output["shape"]) == ("points", ["N", 1, 1, 2])
    assert not {"channels", "to_uint8"} & set(output)  # "grey"

    table = pq.read_table(root / "samples" / "samples.parquet")
    points = np.array(table["points"].to_pylist())
    assert points.shape == (2_000, 2)
    assert len(np.unique(points)) > 3_000  # not 256 levels
    radius = np.hypot(*points.T)
    assert 0.6 < np.median(radius) < 1.0  # of the ring: 0.8
    assert sorted(path.name for path in (root / "samples").glob("*.png")) == ["grid.png"]
    with Image.open(root / "samples" / "grid.png") as grid:
        assert grid.size == (512, 512)

    evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
    assert evaluation["fid"] < 0.1  # of the numbers themselves: their variance is 0.64
    report = (root / "reports" / "report.html").read_text()
    assert "No interpolation" not in report
    registration = json.loads((root / "reports" / "registration.json").read_text())
    assert registration["aliases"] == ["challenger", "champion"]
    environment = clone.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    environment.pop("PYTHONPATH", None)  # a service does not have this project
    script = tmp_path / "serve.py"
    script.write_text(SERVED)
    type(clone)(tmp_path, environment).run(sys.executable, "-W", "ignore", str(script))
    assert clone.repro() == []
