"""Versions of a real `dvc repro`: verified, earned again by others' code, and made again from their commit."""

import json
import shutil

import pytest

from tests.clones import Clone

pytestmark = [pytest.mark.heavy, pytest.mark.pipeline, pytest.mark.slow]


def version(clone):
    outcome = json.loads((clone.root / "reports" / "registration.json").read_text())
    return f"models:/{outcome['model']}/{outcome['version']}"


def lineage(clone, *words, check=True):
    return clone.run("python", "-m", "pipeline", "lineage", *words, check=check)


@pytest.fixture
def elsewhere(finished, tmp_path) -> Clone:
    """The repository, its data and states in another folder; the store stays where it was."""
    copy = finished.copy(tmp_path / "clone")
    copy.set(tracking__uri=f"sqlite:///{finished.root}/mlflow.db")
    return copy


def test_a_version_is_verified_earned_again_and_made_again(finished):
    """Kills: a replay that takes the weights out of a cache; figures of other images; links that never hold in earnest."""
    assert "every link holds" in lineage(finished, "verify", version(finished)).stdout
    earned = lineage(finished, "reearn", version(finished)).stdout.splitlines()
    assert {line.partition(":")[0] for line in earned} >= {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert all(line.endswith(": agrees") for line in earned)
    assert "was made again, byte for byte" in lineage(finished, "replay", version(finished)).stdout


def test_what_the_cache_has_lost_is_named_and_a_replay_needs_none_of_it(elsewhere):
    """The working tree is not the commit, and is not asked. Kills: a replay that runs uncommitted code, or cannot do without DVC's cache."""
    stage, name = elsewhere.root / "pipeline" / "stages" / "train.py", version(elsewhere)
    stage.write_text(f"raise SystemExit('uncommitted')\n{stage.read_text()}")
    assert "every link holds" in lineage(elsewhere, "verify", name).stdout
    stored = next((elsewhere.root / ".dvc" / "cache").rglob("*.dir"))
    stored.chmod(0o600)
    stored.write_text("[]")
    broken = lineage(elsewhere, "verify", name, check=False)
    assert broken.returncode == 1
    assert "error: DVC objects: " in broken.stderr
    shutil.rmtree(elsewhere.root / ".dvc" / "cache")
    replayed = lineage(elsewhere, "replay", name, "--workers", "1").stdout
    assert "data: fetched from digits" in replayed
    assert "was made again, byte for byte" in replayed


def test_a_training_that_took_over_from_another_is_made_again(elsewhere):
    """Kills: a replay without its parent, or with what the parent's address names today."""
    elsewhere.set(tracking__uri=None)
    shutil.rmtree(elsewhere.root / "mlartifacts")
    (elsewhere.root / "mlflow.db").unlink()
    parent = json.loads((elsewhere.root / "models" / "generator.json").read_text())["run_key"]
    elsewhere.set(train__start_from=parent[:16], train__total_images=3_200, train__select=None)
    elsewhere.commit("on from there")
    assert "register" in elsewhere.repro()
    replayed = lineage(elsewhere, "replay", version(elsewhere)).stdout
    assert "parent: as it was pinned in the state of training" in replayed
    assert "was made again, byte for byte" in replayed
    ours = json.loads((elsewhere.root / "models" / "generator.json").read_text())["run_key"]
    shutil.rmtree(elsewhere.root / "state" / ours[:16])
    again = lineage(elsewhere, "replay", version(elsewhere)).stdout
    assert f"parent: training {parent[:16]}, as it is today" in again
    assert "was made again, byte for byte" in again
    shutil.rmtree(elsewhere.root / "state" / parent[:16])
    lost = lineage(elsewhere, "replay", version(elsewhere), check=False)
    assert lost.returncode == 1
    assert f"it took over from training {parent[:16]}, and neither the state that pinned it" in lost.stderr
