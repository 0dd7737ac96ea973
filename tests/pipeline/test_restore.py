"""A finished training is restored, not repeated, where only the bytes of its code have changed: a real `dvc repro` in a copy of a finished clone."""

import csv
import json
import re
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline import artifacts, cached_outs
from tests.clones import ROOT, Clone

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def clone(finished, tmp_path_factory) -> Clone:
    copy = finished.copy(tmp_path_factory.mktemp("restore") / "clone")
    copy.commit("results")
    return copy


def edited(clone: Clone, old: str, new: str) -> None:
    """Change ganlib/losses.py and commit."""
    path = clone.root / "ganlib" / "losses.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    clone.commit("edit")


def repro(clone: Clone, *arguments: str) -> tuple[list[str], str]:
    """(stages that ran, all that was said)."""
    done = clone.run("dvc", "repro", *arguments)
    said = done.stdout + done.stderr
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage ")], said


def facts(clone: Clone) -> dict:
    return json.loads((clone.root / "models" / "generator.json").read_text())


def test_the_outs_that_are_restored_are_those_of_dvc_yaml():
    """Kills: an out that is added to dvc.yaml and not to the restored ones."""
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    outs = [next(iter(out)) if isinstance(out, dict) else out for kind in ("outs", "plots") for out in stage[kind]]
    assert sorted(outs) == sorted(artifacts.OUTS)
    assert stage["cmd"] == cached_outs.COMMAND
    assert all(any(out == folder or out.startswith(f"{folder}/") for folder in cached_outs.FOLDERS) for out in outs)


def test_a_comment_and_a_reformat_restore_from_the_state(clone):
    """Kills: a key of bytes (it would train), the commit of the restoring checkout in generator.json (sample would run), a clock in an out."""
    before, trained = clone.lock(), facts(clone)
    edited(
        clone,
        "        return F.softplus(-fake_logits)\n",
        "        # a comment\n        return F.softplus(\n            -fake_logits,\n        )\n",
    )
    stages, said = repro(clone)
    assert stages == ["train"]
    assert "is finished: restored from its state" in said
    assert "training on" not in said
    assert clone.lock() == before
    assert facts(clone) == trained
    assert trained["git_commit"] != clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert "up to date" in clone.run("dvc", "status").stdout
    with (clone.root / "reports" / "training" / "history.csv").open() as file:
        assert not {"time", "images_per_second", "wall_seconds"} & set(next(csv.reader(file)))


def test_what_a_person_sees_reruns_nothing(clone):
    """Kills: log_interval_images among the stage's params, or in the key."""
    clone.set(train__log_interval_images=16_000, train__keep_best=2)
    assert repro(clone)[0] == []
    clone.run("git", "checkout", "-q", "params.yaml")


def test_without_the_state_they_come_from_dvcs_cache(clone):
    """Kills: training again in a clone that has the cache alone; a state that is made by restoring."""
    before, trained = clone.lock(), facts(clone)
    away = (clone.root / "state").rename(clone.root.parent / "state")
    edited(clone, "        # a comment\n", "        # another one\n")
    stages, said = repro(clone)
    assert stages == ["train"]
    assert "is finished: restored from DVC's cache" in said
    assert clone.lock() == before
    assert facts(clone) == trained
    assert "up to date" in clone.run("dvc", "status").stdout
    assert not (clone.root / "state").exists()
    away.rename(clone.root / "state")


def test_the_run_cache_is_asked_where_dvc_lock_is_gone_and_every_byte_is_verified(clone, tmp_path, capsys, monkeypatch):
    """Kills: looking at dvc.lock alone; outs of another key; half of the outs, or damaged ones, for all of them; a switch that switches nothing."""
    root = tmp_path / "project"
    shutil.copytree(clone.root / ".dvc", root / ".dvc")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    key, choice = facts(clone)["run_key"], facts(clone)["selection"]["choice"]
    assert not cached_outs.restore("0" * 64, choice, root)
    monkeypatch.setenv(cached_outs.OFF, "0")
    assert not cached_outs.restore(key, choice, root)
    monkeypatch.delenv(cached_outs.OFF)
    assert not cached_outs.restore(key, "f" * 64, root)  # another judge may choose another candidate
    assert not (root / "models").exists()
    assert cached_outs.restore(key, choice, root)
    for folder in cached_outs.FOLDERS:
        files = sorted(path.relative_to(clone.root) for path in (clone.root / folder).rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file())
        assert all((root / path).read_bytes() == (clone.root / path).read_bytes() for path in files)
    shutil.rmtree(root / "models")
    shutil.rmtree(root / "reports")
    files = cached_outs._files(root / ".dvc" / "cache", {out["path"]: out["md5"] for out in train_outs(clone)})
    md5 = files["models/discriminator.safetensors"]
    path = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not cached_outs.restore(key, choice, root)
    assert f"{path} does not match its checksum" in capsys.readouterr().err
    path.unlink()
    assert not cached_outs.restore(key, choice, root)
    assert f"{path} is missing" in capsys.readouterr().err
    assert not (root / "models").exists()
    assert not (root / "reports" / "training").exists()


def train_outs(clone: Clone) -> list[dict]:
    return YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]["train"]["outs"]


def test_a_loss_that_is_used_and_changed_trains_anew_and_says_what_there_is(clone):
    """Kills: a key that a change of meaning does not move (another code's weights would be restored), and states that nobody hears of."""
    before = facts(clone)
    (record,) = (clone.root / "state").glob("*/training.json")
    values = json.loads(record.read_text())
    values["settings"]["train"]["total_images"] = 64_000  # as if it had been meant to go on
    record.write_text(json.dumps(values))
    edited(clone, "F.softplus(-real_logits)", "F.softplus(-1.001 * real_logits)")
    stages, said = repro(clone, "train")
    assert stages == ["train"]
    assert "unfinished ones of the same data are kept:" in said
    done = f"{before['images_seen']:,}"  # whatever the tests before this one have made of the clone
    assert f"  {record.parent.name}  {done} of 64,000 images, " in said
    assert "    code: ganlib.losses:_CrossEntropy changed\n" in said
    assert f"to go on with it: git checkout {before['git_commit']}; in params.yaml train.total_images: 64000; dvc repro" in said
    assert said.index("are kept:") < said.index("training on")
    assert facts(clone)["run_key"] != before["run_key"]
    assert facts(clone)["git_commit"] == clone.run("git", "rev-parse", "HEAD").stdout.strip()
    shown = re.sub(" {2,}", "  ", clone.run("python", "-m", "pipeline.states", "list").stdout)
    assert f"* {facts(clone)['run_key'][:16]}  {done} of {done}  finished" in shown
    assert f"  {record.parent.name}  {done} of 64,000  unfinished" in shown
