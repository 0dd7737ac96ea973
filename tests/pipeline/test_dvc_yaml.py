"""dvc.yaml against the code: deps cover imports, params cover settings, and a change reruns what it must and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import deps, identity
from pipeline.schema import Params

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
ORDER = ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]


def test_code_deps_are_what_the_stages_import():
    """Kills: an import without a dep (a stale result is kept), and a dep that nothing imports (a stage reruns for nothing)."""
    assert deps.stale(STAGES) == {}, "run `make deps`"


@pytest.mark.parametrize(
    ("stage", "path"),
    [("fetch", "ganlib/data/sources/parquet.py"), ("train", "ganlib/training/step.py"), ("evaluate", "ganlib/metrics/kid.py")],
)
def test_the_closure_reaches_what_only_a_registry_names(stage, path):
    covered = [Path(dep) for dep in deps.code_deps(stage)]
    assert any(Path(path) == c or c in Path(path).parents for c in covered)


@pytest.mark.parametrize("stage", ["fetch", "prepare"])
def test_a_stage_depends_on_its_own_sections_alone(stage):
    """A changed default or comment in metrics, models or training never prepares the data again."""
    rooms = {Path(dep).parts[1] for dep in deps.code_deps(stage) if dep.startswith("ganlib/")}
    assert not rooms & {"metrics", "models", "tasks", "training", "train_settings.py", "optim.py"}


def leaves(values, prefix=""):
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def test_every_setting_is_somebodys_dependency_or_free_for_a_reason():
    free = {f"train.{key}" for key in identity.FREE_TRAIN_KEYS} | {"cluster", "marks.key", "marks.pixels", "tracking"}
    named = {name for stage in STAGES.values() for name in stage.get("params", [])}
    sections = {(field.alias or name): field.annotation for name, field in Params.model_fields.items()}
    for section, schema in sections.items():
        if section in named or section in free:
            continue
        for key in schema.model_fields:
            name = f"{section}.{key}"
            assert (name in named) != (name in free), (
                f"{name} must be in the params of a stage, or free (identity.FREE_TRAIN_KEYS), not both"
            )
    assert not named & free


# parameter -> the first stages that see it; everything after them reruns too where their outputs change
AFTER = {
    "fetch": set(ORDER),
    "prepare": set(ORDER) - {"fetch"},
    "reference": {
        "reference",
        "calibrate",
        "train",
        "sample",
        "evaluate",
        "register",
    },  # another judge of candidates: nothing is trained again
    "train": {"train", "sample", "evaluate", "register"},
    "sample": {"sample", "evaluate", "register"},
    "evaluate": {"calibrate", "evaluate", "register"},
    "register": {"register"},
}
TABLE = {
    "data.source": "fetch",
    "data.classes": "fetch",
    "data.splits": "prepare",
    "data.image_size": "prepare",
    "data.on_error": "prepare",
    "data.test_fraction": "prepare",
    "model.name": "train",
    "model.generator": "train",
    "task.loss": "train",
    "optim.decay": "train",
    "train.seed": "train",
    "train.total_images": "train",
    "train.logical_workers": "train",
    "train.history_interval_images": "train",
    "train.select": "train",
    "train.stop": "train",
    "train.health_interval_images": "train",
    "train.alarms": "train",
    "train.log_interval_images": None,
    "train.state_uri": None,
    "train.keep_checkpoints": None,
    "sample.seed": "sample",
    "sample.num_images": "sample",
    "reference.epochs": "reference",
    "evaluate.split": "evaluate",
    "register.model": "register",
    "marks.strength": "register",
    "marks.pixels": None,
    "cluster.workers": None,
    "cluster.address": None,
    "tracking.uri": None,
    "tracking.experiment": None,
}


@pytest.mark.parametrize(("param", "first"), TABLE.items())
def test_param_changed_to_stages_that_rerun(param, first):
    """Read from the graph itself; tests/pipeline/test_repro.py watches a real `dvc repro` do it."""

    def sees(stage):
        return any(
            param == name or param.startswith(name + ".") or name.startswith(param + ".") for name in STAGES[stage].get("params", [])
        )

    def outs(stage):
        return [next(iter(o)) if isinstance(o, dict) else o for kind in ("outs", "metrics", "plots") for o in STAGES[stage].get(kind, [])]

    reruns = {stage for stage in ORDER if sees(stage)}
    for stage in ORDER:  # in topological order
        made = [out for other in reruns for out in outs(other)]
        if any(Path(dep) == Path(out) or Path(dep) in Path(out).parents for dep in STAGES[stage]["deps"] for out in made):
            reruns.add(stage)
    assert reruns == (AFTER[first] if first else set())


def test_free_settings_do_not_change_the_key_of_a_training(tmp_path):
    from pipeline import preflight

    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    before = identity.training_settings(preflight.parse(values))
    values["train"] |= {"state_uri": "elsewhere", "keep_checkpoints": 9, "checkpoint_interval_images": 7, "log_interval_images": 7}
    values["cluster"]["workers"] = 1
    assert identity.training_settings(preflight.parse(values)) == before
    values["train"]["seed"] += 1
    assert identity.training_settings(preflight.parse(values)) != before


def test_line_counts_of_stages_stay_thin():
    for stage in ORDER:
        assert len((ROOT / "pipeline" / "stages" / f"{stage}.py").read_text().splitlines()) <= 160, stage


def test_dvc_accepts_the_file():
    done = subprocess.run([sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ORDER


@pytest.mark.heavy
def test_the_generator_is_an_artifact_that_others_get_by_its_name(tmp_path: Path) -> None:
    """From a repository with our `artifacts` and a stand-in for `train`. Kills: a path that is no out of ours, a name that DVC refuses."""
    artifacts = dict(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["artifacts"])
    (name,) = artifacts
    out = artifacts[name]["path"]
    assert out in STAGES["train"]["outs"]
    theirs = tmp_path / "theirs"
    (theirs / out).mkdir(parents=True)
    (theirs / out / "generator.json").write_text("{}")
    (theirs / "dvc.yaml").write_text(json.dumps({"stages": {"train": {"cmd": "true", "outs": [out]}}, "artifacts": artifacts}))
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    person = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (
        ("git", "init", "-q"),
        ("dvc", "init", "-q"),
        ("dvc", "commit", "-q", "-f"),
        ("git", "add", "-A"),
        ("git", *person, "commit", "-q", "-m", "a"),
        ("git", *person, "tag", "-a", f"{name}@v1.0.0", "-m", "a"),
    ):
        subprocess.run(command, cwd=theirs, env=environment, check=True)
    subprocess.run(["dvc", "artifacts", "get", "-q", str(theirs), name, "-o", "got"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "got" / "generator.json").read_text() == "{}"
