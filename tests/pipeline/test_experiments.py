"""`dvc exp run` in a folder that DVC deletes: what outlives a run lies in the project it came from."""

import json

import pytest

from tests.pipeline.test_repro import in_store

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


@pytest.mark.parametrize("way", ["--temp", "--queue"])
def test_a_temporary_experiment_leaves_its_state_and_its_version_in_the_project(make_prepared, way):
    """Kills: a store or a state below the experiment's folder, which is deleted; settings of -S under the name of the commit."""
    clone = make_prepared()
    clone.run("dvc", "exp", "run", way, "-S", "train.seed=7", "-n", "other-seed")
    if way == "--queue":
        clone.run("dvc", "queue", "start")
        clone.run("dvc", "queue", "logs", "--follow", "other-seed", check=False)
    (state,) = (clone.root / "state").glob("*/training.json")
    record = json.loads(state.read_text())
    assert record["settings"]["train"]["seed"] == 7
    assert record["git_commit"].endswith("-dirty")
    assert record["git_changed"] == ["params.yaml"]
    code = """
version = client.get_model_version_by_alias("gan-digits", "champion")
mlflow.set_tracking_uri(client.tracking_uri)
print(version.tags["gan.run_key"], version.tags["git.changed"])
mlflow.pytorch.load_model("models:/gan-digits@champion")
print("loaded")
"""
    assert in_store(clone, code).splitlines() == [f"{record['run_key']} params.yaml", "loaded"]
    clone.run("dvc", "exp", "apply", "other-seed")
    facts = json.loads((clone.root / "models" / "generator.json").read_text())
    assert facts["run_key"] == record["run_key"]
