"""Losses of two commits for one recipe and seed, compared bit for bit: a change that should change no number is shown to change none.

Each commit is laid out in a temporary folder and trains there with its own code, its own params.yaml under the recipe, one process, one thread.
The data are scikit-learn's digits, prepared once with the code of this tree. Every step is logged.

    python benchmarks/loss_compare.py HEAD~3                     # against the working tree
    python benchmarks/loss_compare.py 76dfaab HEAD --recipe recipes/wgan_gp.yaml --images 6400 --seed 1

Prints the first difference (step, name, both numbers in hex and decimal) and exits with 1, or `equal`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
WORKTREE = "WORKTREE"

# Runs inside a commit, with that commit's own code: old commits know other settings than this one.
WRITE_SPEC = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML
from ganlib.training.loop import TrainingSpec
from pipeline import params, recipe

data, folder, changes = sys.argv[1:]
values = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text())
for change in json.loads(changes):
    recipe.overlay(values, change)
config = params.parse(values)
spec = TrainingSpec(data=data, folder=folder, model=config.model, task=config.task, optim=config.optim, train=config.train, threads=1)
print(spec.model_dump_json())
"""


def prepare_digits(folder: Path) -> Path:
    """train.arrow of the digits, 8x8 grey, below `folder`."""
    from ganlib.config import DataConfig
    from pipeline.stages.fetch import fetch
    from pipeline.stages.prepare import prepare

    config = DataConfig(source="digits", image_size=(8, 8))
    fetch(config, folder)
    prepare(config, folder, processes=1)
    return folder / "data" / "prepared" / "train.arrow"


def lay_out(commit: str, folder: Path) -> Path:
    """The files of `commit` in `folder`; the working tree stays where it is.

    Raises:
        ValueError: no such commit.
    """
    if commit == WORKTREE:
        return ROOT
    found = subprocess.run(["git", "rev-parse", "--verify", "-q", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        raise ValueError(f"{commit!r} is no commit of this project; give a hash, a branch, HEAD~1 or {WORKTREE}")
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "-o", str(archive), found.stdout.strip()], cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
    return folder


def losses(tree: Path, state: Path, data: Path, changes: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(settings, history lines) of a training with the code in `tree`.

    Raises:
        ValueError: that code does not take the settings, or its training failed; with its own words.
    """
    state.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"the code in {tree} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    spec = run("-c", WRITE_SPEC, str(data), str(state), json.dumps(changes))
    (state / "spec.json").write_text(spec)
    run("-m", "ganlib.training", str(state / "spec.json"))
    settings = {key: value for key, value in json.loads(spec).items() if key not in ("data", "folder")}
    return settings, [json.loads(line) for line in (state / "history.jsonl").read_text().splitlines()]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def first_difference(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> str | None:
    """Where two histories part, in words; the clock does not count."""
    for a, b in zip(one, two, strict=False):
        for key in ("step", "images_seen"):
            if a[key] != b[key]:
                return f"step {a['step']}: {key} is {a[key]} and {b[key]}"
        for name in sorted(a["scalars"].keys() | b["scalars"].keys()):
            x, y = a["scalars"].get(name), b["scalars"].get(name)
            if x is None or y is None:
                return f"step {a['step']}: only {'A' if y is None else 'B'} has {name}"
            if float(x).hex() != float(y).hex():
                return f"step {a['step']}: {name} is {float(x).hex()} and {float(y).hex()} ({x!r} and {y!r})"
    if len(one) != len(two):
        return f"A has {len(one)} log lines, B has {len(two)}"
    return None


def compare(a: str, b: str, *, recipe: Path | None, images: int, seed: int) -> str | None:
    """The first difference between the losses of two commits, or None. Notes go to stderr.

    Raises:
        ValueError: an unknown commit, or a training that failed.
    """
    from ruamel.yaml import YAML

    overlays = [YAML(typ="safe", pure=True).load(recipe.read_text(encoding="utf-8"))] if recipe is not None else []
    with tempfile.TemporaryDirectory(prefix="loss-compare-") as scratch:
        folder = Path(scratch)
        data = prepare_digits(folder)
        sizes = {
            "data": {"source": "digits", "image_size": [8, 8]},
            "train": {
                "seed": seed,
                "total_images": images,
                "log_interval_images": 1,  # every step
                "grid_interval_images": 10**12,
                "checkpoint_interval_images": max(1, images // 2),
            },
        }
        results = []
        for name, commit in (("a", a), ("b", b)):
            tree = lay_out(commit, folder / f"tree-{name}")
            results.append(losses(tree, folder / f"state-{name}", data, [*overlays, sizes]))
    (settings_a, history_a), (settings_b, history_b) = results
    one, two = flat(settings_a), flat(settings_b)
    for key in sorted(one.keys() & two.keys()):
        if one[key] != two[key]:
            print(f"note: {key} is {one[key]!r} in A and {two[key]!r} in B", file=sys.stderr)
    print(f"{len(history_a):,} steps of {a}, {len(history_b):,} of {b}, {len(history_a[0]['scalars'])} numbers a step", file=sys.stderr)
    return first_difference(history_a, history_b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="a commit")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKTREE, help="a commit; by default the working tree as it stands")
    parser.add_argument("--recipe", type=Path, help="laid over each commit's own params.yaml")
    parser.add_argument("--images", type=int, default=6400, help="real images a training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        difference = compare(args.a, args.b, recipe=args.recipe, images=args.images, seed=args.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(difference or "equal")
    sys.exit(difference is not None)


if __name__ == "__main__":
    main()
