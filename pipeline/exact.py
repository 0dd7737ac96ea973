"""`make exact`: one tiny recipe trained in one process, under torchrun and under Ray, on 1, 2 and 4 workers, and killed on the way: the same bytes.

    python -m pipeline.exact                                    # batch norm, lazy R1, n_critic 2, EMA, bf16, flips, minibatch stddev
    python -m pipeline.exact --recipe recipes/wgan_gp.yaml      # the same question for other settings
    python -m pipeline.exact --recipe params.yaml --images 5120 # and for your own, on the digits and in small

One line a run with the sha256 (first 12 digits) of each part of the final state, then `equal`, or which run differs in what, and exit code 1.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from ganlib.data.settings import DataConfig
from ganlib.storage import open_storage
from ganlib.training.fingerprint import fingerprint
from ganlib.training.loop import TrainingSpec
from ganlib.training.state import Bundle, BundleStore
from pipeline import cli, edit, preflight
from pipeline.driver.settings import ClusterConfig
from pipeline.params import ROOT, project
from pipeline.schema import Params

LOGICAL_WORKERS = 4
# Everything that has broken exactness somewhere, at once. A recipe is laid over it.
HARD: dict[str, Any] = {
    "model": {
        "name": "dcgan",
        "latent_dim": 16,
        "generator": {"width": 8},
        "discriminator": {"width": 8, "minibatch_stddev": True},
    },
    "task": {
        "name": "adversarial",
        "loss": "non_saturating",
        "loss_options": {},
        "regularizers": {"r1": {"gamma": 1.0, "interval_steps": 4}},
        "discriminator_repeats": 2,
        "weight_clip": None,
    },
    "train": {"precision": "bf16", "channels_last": True, "ema_halflife_images": 500, "augment": {"hflip": {"p": 0.5}}},
}


def small(images: int) -> dict[str, Any]:
    """What no recipe may change: the data and the size of the question."""
    return {
        "data": {"source": "digits", "image_size": [8, 8], "channels": 1},
        "train": {
            "total_images": images,
            "stop": None,  # whether it would have ended before is no question here
            "batch_images": 8 * LOGICAL_WORKERS,
            "logical_workers": LOGICAL_WORKERS,
            "history_interval_images": max(1, images // 20),
            "health_interval_images": max(1, images // 4),
            "grid_interval_images": max(1, images // 2),
            "checkpoint_interval_images": max(1, images // 8),
            "state_uri": "state",
        },
        "cluster": {"workers": 1},
    }


def settings(recipe_file: Path | None, images: int) -> Params:
    """The hard settings, the recipe over them, in small.

    Raises:
        ValueError: the recipe cannot be read or does not fit.
    """
    values = edit.plain(project() / "params.yaml")
    edit.overlay(values, HARD)
    if recipe_file is not None:
        recipe = edit.plain(recipe_file)
        edit.overlay(values, recipe)
        edit.leave_out(values, recipe)
    edit.overlay(values, small(images))
    return preflight.parse(values)


def prepare_digits(config: DataConfig, folder: Path) -> Path:
    """train.arrow of the digits below `folder`."""
    from pipeline.stages.fetch import fetch
    from pipeline.stages.prepare import prepare

    fetch(config, folder)
    prepare(config, folder, processes=1)
    return folder / "data" / "prepared" / "train.arrow"


@dataclass(frozen=True)
class Way:
    """One way to the same result.

    Attributes:
        launcher: alone, torchrun or ray.
        workers: physical workers.
        killed: kill -9 after about half of it; the second life has twice the workers.
    """

    launcher: str
    workers: int
    killed: bool = False

    @property
    def name(self) -> str:
        after = f", killed, {2 * self.workers}" if self.killed else ""
        return "one process" if self.launcher == "alone" else f"{self.launcher} {self.workers}{after}"


WAYS = (
    Way("alone", 1),
    *(Way(launcher, workers) for launcher in ("torchrun", "ray") for workers in (1, 2, 4)),
    Way("torchrun", 2, killed=True),
)


def run(way: Way, spec: TrainingSpec) -> dict[str, str]:
    """Train `spec` that way; the fingerprint of its final state.

    Raises:
        ValueError: the training failed; with its own words.
    """
    path = Path(spec.folder) / "spec.json"
    path.parent.mkdir(parents=True)
    path.write_text(spec.model_dump_json())
    if way.killed:
        _kill_half_way(_command(way.launcher, way.workers, path), spec)
    _finish(_command(way.launcher, way.workers * (2 if way.killed else 1), path), way)
    return fingerprint(_last(way, spec))


def _last(way: Way, spec: TrainingSpec) -> Bundle:
    """The last checkpoint of a training that has ended.

    Raises:
        ValueError: there is none, it cannot be read, or it is not of the end.
    """
    bundle, problems = BundleStore(open_storage(spec.folder), keep=1).newest()
    if bundle is None or problems:
        said = "; ".join(problems) or f"there is none in {spec.folder}"
        raise ValueError(f"{way.name}: it ended, but its last checkpoint cannot be read: {said}; is the disk full?")
    if bundle.images_seen < spec.train.total_images:
        raise ValueError(
            f"{way.name}: its last checkpoint is of {bundle.images_seen:,} images, expected {spec.train.total_images:,} or more"
        )
    return bundle


def _command(launcher: str, workers: int, spec: Path) -> list[str]:
    start = {
        "alone": ["-m", "ganlib.training"],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m", "ganlib.training"],
        "ray": ["-m", "pipeline.exact", "--on-ray", str(workers)],
    }
    return [sys.executable, *start[launcher], str(spec)]


def _environment() -> dict[str, str]:
    """No Ray but our own, one thread a process, whatever the caller's environment says."""
    keep = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return keep | {"OMP_NUM_THREADS": "1"}


def _finish(command: list[str], way: Way) -> None:
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{way.name}: exit code {done.returncode}\n{done.stderr[-3000:]}")


def _kill_half_way(command: list[str], spec: TrainingSpec) -> None:
    """Start, and kill -9 every process of it once half of the images are logged and a checkpoint is there.

    Raises:
        ValueError: it ended before it could be killed.
    """
    started = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    history, checkpoints = Path(spec.folder) / "history.jsonl", Path(spec.folder) / "checkpoints"
    try:
        while started.poll() is None:
            lines = len(history.read_text().splitlines()) if history.exists() else 0
            if lines >= 10 and any(checkpoints.glob("step-*")):
                break
            time.sleep(0.002)
    finally:
        if started.poll() is None:
            family = psutil.Process(started.pid)
            for process in [family, *family.children(recursive=True)]:  # the launcher first: it must not see its workers die
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        started.wait()
    if started.returncode != -signal.SIGKILL:
        raise ValueError(f"the run that is to be killed ended first, with exit code {started.returncode}; try --images {8 * 2560}")


def differences(prints: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each run and part that is not what the first run has; empty where all are equal."""
    (reference, expected), *others = prints.items()
    lines = []
    for name, parts in others:
        for part in sorted(expected.keys() | parts.keys()):
            if parts.get(part) != expected.get(part):
                lines.append(f"{name} differs from {reference} in {part}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.exact", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on-ray", type=int, metavar="WORKERS", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, help="settings to ask the question for, in the form of params.yaml")
    parser.add_argument("--images", type=int, default=2560, help="real images a run")
    args = parser.parse_args()
    if args.on_ray:
        from pipeline.driver import ray_driver

        spec = TrainingSpec.model_validate_json(args.spec.read_text())
        ray_driver.run(spec, ClusterConfig.model_validate({"workers": args.on_ray}))
        return
    config = settings(args.recipe, args.images)
    prints: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    width = max(len(way.name) for way in WAYS)
    with tempfile.TemporaryDirectory(prefix="exact-") as scratch:
        data = prepare_digits(config.data, Path(scratch))
        for number, way in enumerate(WAYS):
            spec = TrainingSpec(
                data=str(data),
                held_out=str(data.with_name("val.arrow")),
                folder=str(Path(scratch) / f"run{number}"),
                model=config.model,
                task=config.task,
                optim=config.optim,
                train=config.train,
                threads=1,
            )
            start = time.perf_counter()
            prints[way.name] = run(way, spec)
            if not columns:
                columns = sorted(prints[way.name])
                print(" " * width, *(f"{part:<{max(12, len(part))}}" for part in columns), "seconds", sep="  ", flush=True)
            cells = (f"{prints[way.name].get(part, '-')[:12]:<{max(12, len(part))}}" for part in columns)
            print(f"{way.name:<{width}}", *cells, f"{time.perf_counter() - start:7.1f}", sep="  ", flush=True)
    different = differences(prints)
    print("\n".join(different) if different else "equal")
    sys.exit(bool(different))


if __name__ == "__main__":
    cli.run(main)
