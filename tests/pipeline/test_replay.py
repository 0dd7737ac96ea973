"""A version of a real `dvc repro`: verified, earned again by others' code, and made again from its commit."""

import json

import pytest

pytestmark = [pytest.mark.heavy, pytest.mark.pipeline, pytest.mark.slow]


def lineage(clone, verb, *, check=True):
    version = json.loads((clone.root / "reports" / "registration.json").read_text())
    return clone.run("python", "-m", "pipeline", "lineage", verb, f"models:/{version['model']}/{version['version']}", check=check)


def test_a_version_is_verified_earned_again_and_made_again(finished, tmp_path):
    """Kills: a replay that takes the weights out of a cache, or trains other settings; figures of other images; links that never hold in earnest."""
    assert "every link holds" in lineage(finished, "verify").stdout
    earned = lineage(finished, "reearn").stdout.splitlines()
    assert {line.partition(":")[0] for line in earned} >= {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert all(line.endswith(": agrees") for line in earned)
    assert "was made again, byte for byte" in lineage(finished, "replay").stdout
    elsewhere = finished.copy(tmp_path / "clone")
    (elsewhere.root / "pipeline" / "names.py").write_text("# another\n" + (elsewhere.root / "pipeline" / "names.py").read_text())
    assert lineage(elsewhere, "verify").returncode == 0  # the commit counts, not the working tree
    stored = next((elsewhere.root / ".dvc" / "cache").rglob("*.dir"))
    stored.chmod(0o600)
    stored.write_text("[]")
    broken = lineage(elsewhere, "verify", check=False)
    assert broken.returncode == 1
    assert "DVC objects" in broken.stderr
