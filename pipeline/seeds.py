"""`ganpipe seeds`: train the current settings under several seeds, measure each, and keep the spread that a promotion needs in `seeds/`.

Each seed is trained, sampled and evaluated by the stages themselves in a temporary copy of the project, with this project's prepared data, states and
tracking store: one that was interrupted goes on, and one that is finished is not trained again. Nothing is registered.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline import cli, edit, params, preflight, spread
from pipeline.promotion import FEWEST_SEEDS
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import tracking_uri

STAGES = ("train", "sample", "evaluate")
CODE = ("ganlib", "pipeline", "dvc.yaml", "params.yaml", ".git")
DATA = ("data/prepared", "data/reference", "data/calibration", "reports/data.json")


def measure(seed: int, root: Path) -> Path:
    """One seed of the settings in `root`; returns the file of the spread.

    Raises:
        ValueError: a stage failed.
    """
    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        copy = Path(folder) / root.name
        for name in (*CODE, *DATA):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if name in DATA or name == ".git":
                if (root / name).exists():
                    (copy / name).symlink_to(root / name)
            elif (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(root / name, copy / name)
        values = edit.document(copy / "params.yaml")
        state = preflight.load().train.state_uri
        edit.set_value(values, "train.seed", seed)
        edit.set_value(values, "train.state_uri", state if "://" in state else str((root / state).resolve()))
        edit.write(values, copy / "params.yaml")
        uri = tracking_uri(params.section("tracking", TrackingConfig), root)
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(copy)}
        for stage in STAGES:
            done = subprocess.run([sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=copy, env=environment)
            if done.returncode:
                raise ValueError(f"seed {seed}: {stage} ended with {done.returncode}, see above; the same command goes on from here")
        generator = json.loads((copy / "models" / "generator.json").read_text(encoding="utf-8"))
        return spread.keep(
            root,
            recipe=generator["recipe_digest"],
            data_digest=generator["data_digest"],
            settings=preflight.load().model_dump(mode="json", include={"model", "task", "optim", "train"}),
            seed=seed,
            evaluation=json.loads((copy / "reports" / "evaluation.json").read_text(encoding="utf-8")),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5, help=f"of seeds, from train.seed on (default: 5; {FEWEST_SEEDS} at least)")
    options = parser.parse_args()
    if options.count < FEWEST_SEEDS:
        parser.error(f"--count {options.count}: expected {FEWEST_SEEDS} or more; a deviation of fewer is nothing to go by")
    root, first = params.clone(), preflight.load().train.seed
    missing = [name for name in DATA if not (root / name).exists()]
    if missing:
        raise ValueError(f"{', '.join(missing)} not there; run `dvc repro calibrate` first")
    for seed in range(first, first + options.count):
        print(f"seed {seed}: {measure(seed, root).relative_to(root)}", flush=True)
    print(f"commit {spread.FOLDER}/, then `dvc repro register`")


if __name__ == "__main__":
    cli.run(main)
