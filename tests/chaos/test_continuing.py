"""kill -9 of a training that takes over from another one, at its beginning and after its first checkpoint; the parent is gone by then."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ganlib.files import sha256_file
from tests.clones import Clone

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
OUTS = ("generator.json", "generator.safetensors", "discriminator.safetensors")
CHILDREN = {
    "continue": {"train__total_images": 9_600, "optim__decay": "linear", "optim__discriminator": {"name": "adam", "lr": 1e-4}},
    "start": {"train__total_images": 4_800, "train__freeze": {"discriminator": ["features.0.*"]}},
}


@pytest.fixture(scope="module")
def parent(make_prepared):
    """A clone in which a training has ended, and the name of its state."""
    clone = make_prepared()
    clone.set(
        train__total_images=4_800,
        train__checkpoint_interval_images=640,
        train__log_interval_images=640,
        optim__decay="none",
        optim__discriminator={"name": "adam", "lr": 1e-3},
    )
    clone.run("python", "-m", "pipeline.stages.train")
    return clone, json.loads((clone.root / "models" / "generator.json").read_text())["run_key"]


def outs(clone: Clone) -> dict[str, str]:
    return {name: sha256_file(clone.root / "models" / name) for name in OUTS}


def killed_when(clone: Clone, is_there) -> None:
    """Start the stage, and kill -9 it as soon as `is_there` is true of its state."""
    with (clone.root / "log").open("w") as log:
        process = subprocess.Popen(
            ["python", "-m", "pipeline.stages.train"], cwd=clone.root, env=clone.environment, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 200
        while process.poll() is None and not is_there() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (clone.root / "log").read_text()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["continue", "start"])
def test_a_child_that_is_killed_goes_on_without_its_parent(parent, kind, tmp_path):
    """Kills: a pin that is written after the workers start, or is not whole; a resume that looks for the parent, or names another child."""
    clone, key = parent
    quiet, killed = clone.copy(tmp_path / "quiet"), clone.copy(tmp_path / "killed")
    for each in (quiet, killed):
        each.set(**{f"train__{kind}_from": key[:8]}, **CHILDREN[kind])
    quiet.run("python", "-m", "pipeline.stages.train")
    state = killed.root / "state"

    def children() -> list[Path]:
        return [path for path in state.iterdir() if path.name != key[:16]]

    killed_when(killed, lambda: any((path / "parent" / "manifest.json").exists() for path in children()))
    assert not any((path / "checkpoints").exists() for path in children())
    shutil.rmtree(state / key[:16])
    killed_when(killed, lambda: any(any(path.glob("checkpoints/step-*/manifest.json")) for path in children()))
    done = killed.run("python", "-m", "pipeline.stages.train")
    assert "as it was when this training began" in done.stdout
    assert len(children()) == 1
    assert outs(killed) == outs(quiet)
    told = json.loads((killed.root / "models" / "generator.json").read_text())
    assert told["parent"]["run_key"] == key
    assert told["run_key"][:16] == children()[0].name
