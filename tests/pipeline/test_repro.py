"""The main job, for real: `dvc repro` in a temporary clone, with Ray workers and an MLflow store."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.pipeline


def in_store(clone, code: str) -> str:
    """Run `code` with `client` (an MlflowClient of the clone's store) in a process of its own; returns what it prints."""
    start = f"import mlflow; client = mlflow.MlflowClient('sqlite:///{clone.root}/mlflow.db')\n"
    return clone.run("python", "-W", "ignore", "-c", start + code).stdout.strip()


def test_outs_are_whole(finished):
    root = finished.root
    table = pq.read_table(root / "samples" / "samples.parquet")
    assert table.num_rows == 600
    assert table.column_names == ["image", "seed", "index", "label"]
    assert json.loads(table.schema.metadata[b"shape"]) == [1, 8, 8]
    assert set(table["seed"].to_pylist()) == {1}
    assert len({image["bytes"] for image in table["image"].to_pylist()}) > 500  # no collapse to one picture
    facts = json.loads((root / "models" / "generator.json").read_text())
    for name in ("grid.png", "interpolation.png"):
        picture = Image.open(root / "samples" / name)
        assert np.asarray(picture).std() > 10
        assert "synthetic" in picture.info["Notice"]
        assert facts["sha256"] in picture.info["Model"]
        assert picture.info["Commit"] == facts["git_commit"]
        assert picture.info["Seed"] == "1"
    assert len(list((root / "reports" / "training" / "grids").glob("*.png"))) == 2
    report = (root / "reports" / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 6
    evaluation = json.loads((root / "reports" / "evaluation.json").read_text())
    assert {"fid", "kid", "precision", "recall", "density", "coverage"} <= set(evaluation)
    assert {"n_fake", "n_real", "split", "seed", "extractor_sha256"} <= set(evaluation["protocol"])


def test_nothing_to_do_the_second_time(finished):
    before = finished.lock()
    assert finished.repro() == []
    assert finished.lock() == before


def test_one_run_with_everything_in_it(finished):
    code = """
import json
(run,) = client.search_runs(["1"], "tags.`gan.run_key` LIKE '%'")
(child,) = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
assert child.data.params["sample.num_images"] == "600"
version = client.get_model_version_by_alias("gan-digits", "champion")
(model,) = client.search_logged_models(["1"], "metrics.`evaluation/fid` > 0")
assert version.source == f"models:/{model.model_id}"
assert model.name == run.info.run_name == f"dcgan-digits-{run.data.tags['gan.run_key'][:8]}"
assert client.search_logged_models(["1"], "model_type = 'gan-checkpoint' AND metrics.`selection/kid` > -1")
history = client.get_metric_history(run.info.run_id, "train/loss_generator")
print(json.dumps({"status": run.info.status, "params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags,
    "steps": [m.step for m in history], "dataset": run.inputs.dataset_inputs[0].dataset.digest,
    "artifacts": [f.path for d in ("grids", "evaluation", "generator") for f in client.list_artifacts(run.info.run_id, d)]}))
"""
    run = json.loads(in_store(finished, code))
    assert run["status"] == "FINISHED"
    assert run["params"]["train.total_images"] == "32000"
    assert run["params"]["model.name"] == "dcgan"
    assert run["steps"] == [8000, 16000, 24000, 32000]
    assert run["metrics"]["train/images_per_second"] > 0
    assert len(run["tags"]["git.commit"]) == 40
    assert run["tags"]["data.digest"].startswith(run["dataset"])
    assert sum("grids/" in path for path in run["artifacts"]) == 2
    assert "evaluation/report.html" in run["artifacts"]
    evaluation = json.loads((finished.root / "reports" / "evaluation.json").read_text())
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        assert run["metrics"][f"evaluation/{name}"] == pytest.approx(evaluation[name], rel=1e-12)


OPENED = """
import json, math, pathlib, re, subprocess
import mlflow, yaml
mlflow.set_tracking_uri(client.tracking_uri)
experiment = mlflow.get_experiment_by_name("gan")
assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
told = pathlib.Path("reports/evaluation.json").read_bytes()
measured = {key: value for key, value in json.loads(told).items() if isinstance(value, (int, float))}
digest = json.loads(pathlib.Path("data/prepared/manifest.json").read_text())["data_digest"]

def ranked(field):
    order = [{"field_name": f"metrics.{field}", "ascending": True}]
    models = mlflow.search_logged_models([experiment.experiment_id], f"metrics.`{field}` > -1", order_by=order, output_format="list")
    assert models
    for model in models:
        for metric in model.metrics:
            assert (metric.model_id, metric.step) == (model.model_id, 32000)
            if metric.key.startswith(("evaluation/", "selection/")):
                assert metric.dataset_name == "digits"
                assert metric.dataset_digest and digest.startswith(metric.dataset_digest)
    return models

generator = ranked("evaluation/fid")[0]
numbers = {metric.key: metric.value for metric in generator.metrics if metric.key.startswith("evaluation/")}
assert numbers == {f"evaluation/{key.replace('@', '/')}": value for key, value in measured.items()}
best = ranked("selection/kid")[0]
(chosen,) = [row for row in json.loads(pathlib.Path("reports/training/selection.json").read_text())["candidates"] if row["is_chosen"]]
assert best.model_type == "gan-checkpoint"
assert {metric.key: metric.value for metric in best.metrics} == {"selection/kid": chosen["kid"]}
assert str(chosen["images_seen"]) == best.tags["gan.images_seen"]

run = client.get_run(generator.source_run_id)
assert re.fullmatch("dcgan-digits-[0-9a-f]{8}", run.info.run_name)
commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
user = subprocess.check_output(["id", "-un"], text=True).strip()
tags = run.data.tags
assert "dcgan trained on digits for 32,000 images" in tags["mlflow.note.content"]
assert [tags[f"mlflow.{name}"] for name in ("user", "source.name", "source.git.commit")] == [user, "pipeline/stages/train.py", commit]
for name in ("cpu_utilization_percentage", "system_memory_usage_percentage"):
    points = client.get_metric_history(run.info.run_id, f"system/{name}")
    assert points and all(math.isfinite(point.value) for point in points)

(child,) = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
sections = yaml.safe_load(pathlib.Path("params.yaml").read_text())
params = child.data.params
for section in ("sample", "reference", "evaluate"):
    for key, value in sections[section].items():
        assert params[f"{section}.{key}"] == str(value), (section, key)
        assert f"{section}.{key}" not in run.data.params
for run_id, path in ((child.info.run_id, "evaluation.json"), (run.info.run_id, "evaluation/evaluation.json")):
    assert pathlib.Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path)).read_bytes() == told
print("opened")
"""


def test_a_finished_run_in_mlflow_is_what_its_users_look_for(finished):
    """By MLflow's public clients alone. Kills: numbers without their model or data; candidates without a score; a run that names no commit."""
    assert in_store(finished, OPENED) == "opened"


def test_the_registered_version_explains_itself(finished):
    code = """
import json
version = client.get_model_version_by_alias("gan-digits", "champion")
print(json.dumps({"tags": version.tags, "aliases": sorted(version.aliases), "run": version.run_id, "version": version.version}))
"""
    version = json.loads(in_store(finished, code))
    facts = json.loads((finished.root / "models" / "generator.json").read_text())
    assert version["aliases"] == ["challenger", "champion"]
    assert version["tags"]["git.commit"] == facts["git_commit"]
    assert version["tags"]["data.digest"] == facts["data_digest"]
    assert version["tags"]["params.digest"] == facts["params_digest"]
    assert version["tags"]["content.sha256"] == facts["sha256"]
    assert version["tags"]["run_id"] == version["run"]


LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ganlib", "pipeline", "ray", "dvc", "safetensors", "torchmetrics"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/gan-digits@champion")
z = np.random.default_rng(0).standard_normal((7, 16)).astype(np.float32)
images = model.predict(z)
assert images.shape == (7, 1, 8, 8) and images.dtype == np.float32, (images.shape, images.dtype)
assert -1 <= images.min() < images.max() <= 1
again = model.predict(z[:2])
assert np.allclose(again, images[:2], atol=1e-5)
print("served", model.metadata.signature)
"""


def test_the_model_loads_elsewhere_without_this_project(finished, tmp_path):
    done = subprocess.run(
        ["python", "-W", "ignore", "-c", LOAD, f"sqlite:///{finished.root}/mlflow.db"],
        cwd=tmp_path,
        env=finished.environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "served" in done.stdout


def test_mlflow_serves_it(finished, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = finished.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{finished.root}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/gan-digits@champion",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        body = json.dumps({"inputs": np.zeros((3, 16)).tolist()}).encode()
        deadline = time.monotonic() + 120
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
                answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert np.asarray(answer["predictions"]).shape == (3, 1, 8, 8)


def drawn(page: Path) -> list[list[dict[str, str]]]:
    """What each plot of DVC's page draws."""
    text, decoder, found, at = page.read_text(), json.JSONDecoder(), [], 0
    while (at := text.find('{"$schema"', at)) >= 0:
        spec, at = decoder.raw_decode(text, at)
        found.append(spec["data"]["values"])
    return found


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def leaves(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Numbers by their dotted key, as DVC names them."""
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def test_the_ladder_of_a_finished_evaluation(finished):
    """Each step with its own strength and FID, as the calibration has them. Kills: the generator's FID left out; values of another metric."""
    calibrated, evaluation = (
        json.loads((finished.root / name).read_text()) for name in ("data/calibration/calibration.json", "reports/evaluation.json")
    )
    rows = [(row["fault"], row["strength"], float(row["fid"])) for row in table(finished.root / "reports" / "ladder.csv")]
    faults = [
        (fault["title"], str(strength), value)
        for fault in calibrated["faults"].values()
        if fault["applies"]
        for strength, value in zip(fault["strengths"], fault["values"]["fid"], strict=True)
    ]
    assert len(faults) > 20
    assert rows == [
        ("this generator", "", evaluation["ruler"]["alike"]["fid"]),
        ("real images", "", calibrated["null"]["fid"]["mean"]),
        *faults,
    ]


def test_dvcs_own_views_have_the_numbers_of_the_files(finished, tmp_path):
    """Kills: a plot of dvc.yaml whose file or column is not there, which DVC leaves out with a warning."""
    reports = finished.root / "reports"
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]["reports/evaluation.json"]["data"]
    assert leaves(shown) == leaves(json.loads((reports / "evaluation.json").read_text()))
    told = finished.run("dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    assert "index.html" in told.stdout
    assert "WARNING" not in told.stderr
    plots = drawn(tmp_path / "plots" / "index.html")
    for name, *fields in (
        ("training/history.csv", "loss_discriminator", "loss_generator"),
        ("training/history.csv", "logit_fake", "logit_real"),
        ("training/health.csv", "real_logits", "held_out_logits", "fake_logits"),
        ("training/health.csv", "diversity"),
        ("ladder.csv", "fault"),
    ):
        rows = table(reports / name)
        lines = [(row, field) for field in fields for row in rows]  # DVC names the field where a plot has several
        assert lines in [[({key: point.get(key) for key in rows[0]}, point.get("field", fields[0])) for point in plot] for plot in plots]
    candidates = json.loads((reports / "training" / "selection.json").read_text())["candidates"]
    assert [row | {"rev": "workspace"} for row in candidates] in plots
    assert "train.total_images" in finished.run("dvc", "params", "diff", "--all").stdout


def assert_dvc_tells_them_apart(clone, revision: str, before: Path, page: Path) -> None:
    """`dvc metrics diff` and `dvc plots diff` have the numbers of both; `before` is reports/ at `revision`. Kills: numbers DVC does not follow."""
    reports = clone.root / "reports"
    old, new = (leaves(json.loads((folder / "evaluation.json").read_text())) for folder in (before, reports))
    changed = {key: {"old": old[key], "new": new[key], "diff": new[key] - old[key]} for key in new if old.get(key) != new[key]}
    assert {"fid", "kid", "precision"} <= set(changed)
    found = json.loads(clone.run("dvc", "metrics", "diff", revision, "--json").stdout)["reports/evaluation.json"]
    assert found == changed
    clone.run("dvc", "plots", "diff", revision, "-o", str(page))
    rows = [row | {"rev": rev} for rev, folder in (("workspace", reports), (revision, before)) for row in table(folder / "ladder.csv")]
    assert rows in drawn(page / "index.html")
    assert rows[0]["fid"] == str(new["ruler.alike.fid"]) != str(old["ruler.alike.fid"])


def test_a_model_is_the_same_wherever_it_lies(finished, tmp_path):
    """As models/, as a version, and as the state that it was exported from: the same weights to the bit, and none is told from another.

    Kills a state without its measured batch-norm statistics, or without its moving average.
    """
    key = json.loads((finished.root / "models" / "generator.json").read_text())["run_key"]
    finished.run(
        "python", "-m", "pipeline", "compare", "models", "models:/gan-digits@champion", key[:12], "--output", str(tmp_path / "out")
    )
    models = json.loads((tmp_path / "out" / "compare.json").read_text())["models"]
    assert len(models) == 3
    assert len({model["sha256"] for model in models}) == 1
    assert not any(difference["is_significant"] for model in models for difference in model["differences"].values())
    assert [len(model["differences"]) > 5 for model in models] == [False, True, True]


def test_a_change_reruns_what_it_must_and_nothing_else(finished, tmp_path):
    finished.set(cluster__workers=1, tracking__experiment="other", train__keep_checkpoints=2)
    assert finished.repro() == []
    finished.set(cluster__workers=2, tracking__experiment="gan", train__keep_checkpoints=3)
    before = finished.lock()
    finished.run("dvc", "exp", "save", "-n", "before")
    shutil.copytree(finished.root / "reports", tmp_path / "reports")
    finished.set(sample__seed=2)
    assert finished.repro() == ["sample", "evaluate", "register"]
    assert_dvc_tells_them_apart(finished, "before", tmp_path / "reports", tmp_path / "plots")
    finished.run("dvc", "exp", "remove", "before")
    registration = json.loads((finished.root / "reports" / "registration.json").read_text())
    assert (registration["version"], registration["is_new"]) == (1, False)  # the same generator: no second version
    finished.set(sample__seed=1)
    finished.repro()
    assert {k: v for k, v in finished.lock().items() if "registration" not in k} == {
        k: v for k, v in before.items() if "registration" not in k
    }


@pytest.fixture(scope="module")
def changed(finished, tmp_path_factory):
    """A copy for tests that leave something else behind."""
    return finished.copy(tmp_path_factory.mktemp("changed") / "clone")


def test_the_run_cache_restores_without_training(changed):
    shutil.rmtree(changed.root / "models")
    shutil.rmtree(changed.root / "state")
    out = changed.run("dvc", "repro", "train").stdout
    assert "Running stage 'train'" not in out
    assert (changed.root / "models" / "generator.safetensors").is_file()


@pytest.mark.slow
def test_dvc_exp_run_compares(changed):
    changed.run("git", "add", "-A")
    changed.run("git", "commit", "-qm", "results")
    changed.run("dvc", "exp", "run", "-S", "train.total_images=6400", "-n", "short")
    shown = changed.run("dvc", "exp", "show", "--csv").stdout
    assert "short" in shown
    evaluation = json.loads((changed.root / "reports" / "evaluation.json").read_text())
    assert evaluation["protocol"]["n_fake"] == 600
    assert json.loads((changed.root / "models" / "generator.json").read_text())["images_seen"] == 6400
