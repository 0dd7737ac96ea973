"""A real clone of this project with a tiny recipe on the digits, and a way to run it as a user does. For the tests and for tests/chaos/chaos.py."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import edit

ROOT = Path(__file__).resolve().parents[1]
TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "digits", "image_size": [8, 8]},
    "model": {"latent_dim": 16, "generator": {"width": 8}, "discriminator": {"width": 8}},
    "train": {
        "total_images": 32_000,
        "logical_workers": 2,
        "history_interval_images": 8000,
        "log_interval_images": 1,  # every line of the history
        "grid_interval_images": 16_000,
        "checkpoint_interval_images": 1600,
    },
    "sample": {"num_images": 600, "batch_images": 200},
    "reference": {"epochs": 1.0},
    "evaluate": {"prdc_images": 200, "bootstrap": 4, "null_draws": 3},
}


@dataclass
class Clone:
    """A checkout in a temporary folder."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, check: bool = True, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command of the project's environment here; `dvc` and `python` are the ones the tests run with."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout)
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`; returns the stages that ran."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", "repro", *arguments).stdout)

    def set(self, **changes: object) -> None:
        """Change params.yaml: set(sample__seed=3)."""
        path = self.root / "params.yaml"
        values = edit.document(path)
        for key, value in changes.items():
            edit.set_value(values, key.replace("__", "."), value)
        edit.write(values, path)

    def lock(self) -> dict[str, str]:
        """Output path -> hash, as dvc.lock has them."""
        stages = YAML(typ="safe").load((self.root / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def copy(self, root: Path, *, home: Path | None = None) -> "Clone":
        """The same commit, data and settings in another folder, with a HOME of its own where one is given."""
        shutil.copytree(self.root, root, symlinks=True)
        return Clone(root, self.environment | ({"HOME": str(home)} if home is not None else {}))


def new_clone(root: Path, home: Path) -> Clone:
    """The working tree as it stands, copied into the empty folder `root` with the tiny recipe, committed."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "dvc.lock").unlink(missing_ok=True)
    clone = Clone(root, environment(home))
    clone.set(**{f"{section}__{key}": value for section, keys in TINY.items() for key, value in keys.items()})
    clone.run("git", "init", "-q")
    clone.commit("tiny")
    return clone


def environment(home: Path) -> dict[str, str]:
    """Of a user who has set nothing."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "RAY_", "DVC_"))}
    return {
        **keep,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "RAY_AUTH_MODE": "disabled",
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }


def made_once(place: Path, make: Callable[[Clone], None]) -> Clone:
    """The clone in the folder `place`, on which `make` has been called once, by whichever of the processes that test together came first."""
    place.mkdir(exist_ok=True)
    root, home, done = place / "clone", place / "home", place / "done"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait
        if not done.exists():
            for folder in (root, home):  # of one that failed
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            make(new_clone(root, home))
            done.touch()
    return Clone(root, environment(home))
