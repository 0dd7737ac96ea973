"""Training speed, all in one run on one machine, so that the ratios mean something even where the seconds do not.

(a) a hand-written single-process loop over the same networks, precision and shards; (b) our step in one process with the same threads;
(c) torchrun workers of one thread; (d) Ray Train workers of one thread.
(a) and (b) take turns inside one process, three steps each, the order turned about every time; (a), (c) and (d) take turns as whole processes.
Ratios are medians over turns; that of (a) and (b) has a 95 % interval (bootstrap over turns), for it is asked whether it is 0.98.

    python benchmarks/train_throughput.py --images 12000 --rounds 5
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganlib.training.loop import TrainingSpec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def specification(folder: Path, data: Path, images: int, threads: int) -> str:
    from ganlib.training.loop import TrainingSpec
    from pipeline import preflight

    config = preflight.load()
    quiet = {
        "total_images": images,
        "history_interval_images": max(1000, images // 5),
        "grid_interval_images": 10**12,
        "checkpoint_interval_images": 10**12,
    }
    spec = TrainingSpec(
        data=str(data),
        folder=str(folder),
        model=config.model,
        task=config.task,
        optim=config.optim,
        train=config.train.model_copy(update=quiet),
        threads=threads,
    )
    return spec.model_dump_json()


def speed(folder: Path) -> float:
    """Median images/s between log lines, the first left out: it holds the warm-up."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return statistics.median(line["images_per_second"] for line in lines[1:])


def loader_share(spec: "TrainingSpec") -> float:
    """Cost of reading and augmenting a step's real images over the cost of the step that `spec`'s folder recorded."""
    from ganlib.training.loop import Running

    batches, steps = Running.start(spec).batches, 500
    start = time.perf_counter()
    for step in range(steps):
        for shard in batches.shards("discriminator", step=step, repeat=0, images_seen=step * spec.train.batch_images):
            assert shard.real is not None
    return (time.perf_counter() - start) / steps * speed(Path(spec.folder)) / spec.train.batch_images


def steps_by_hand(spec: "TrainingSpec") -> "Callable[[], None]":
    """(a): what one would write without this project: same networks, precision, shards and optimizer; nothing else."""
    import torch
    import torch.nn.functional as F

    from ganlib import models, optim
    from ganlib.data.arrow import ArrowImages
    from ganlib.models import ImageSpec

    assert spec.task.loss == "non_saturating"
    assert not spec.task.regularizers
    torch.set_num_threads(spec.threads)
    torch.manual_seed(0)
    split = ArrowImages(Path(spec.data))
    data = torch.from_numpy(split.slice(0, len(split)).copy())
    image = ImageSpec(channels=split.shape[0], size=split.shape[1:])
    generator, discriminator = (n.to(memory_format=torch.channels_last).train() for n in models.build(spec.model, image, seed=0))
    opt_g = optim.build(spec.optim.generator, generator.parameters())
    opt_d = optim.build(spec.optim.discriminator, discriminator.parameters())
    shards, n = spec.train.logical_workers, spec.train.shard_images
    average = [p.detach().clone() for p in generator.parameters()]

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=spec.train.precision == "bf16")

    def step() -> None:
        for parameter in discriminator.parameters():
            parameter.requires_grad_(True)
        for _ in range(shards):
            real = data[torch.randint(0, len(data), (n,))].float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
            with autocast():
                with torch.no_grad():
                    fake = generator(torch.randn(n, spec.model.latent_dim))
                real_logits, fake_logits = discriminator(real), discriminator(fake)
            ((F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()) / shards).backward()
        opt_d.step()
        opt_d.zero_grad()
        for parameter in discriminator.parameters():
            parameter.requires_grad_(False)
        for _ in range(shards):
            with autocast():
                fake_logits = discriminator(generator(torch.randn(n, spec.model.latent_dim)))
            (F.softplus(-fake_logits).mean() / shards).backward()
        opt_g.step()
        opt_g.zero_grad()
        torch._foreach_lerp_(average, [p.data for p in generator.parameters()], 0.01)

    return step


def by_hand(spec: "TrainingSpec") -> None:
    """(a) as a process of its own; writes the same history lines as a training."""
    step, lines, seen = steps_by_hand(spec), [], 0
    start = time.perf_counter()
    while seen < spec.train.total_images:
        step()
        seen += spec.train.batch_images
        if seen // spec.train.history_interval_images > (seen - spec.train.batch_images) // spec.train.history_interval_images:
            now = time.perf_counter()
            lines.append({"images_per_second": spec.train.history_interval_images / (now - start)})
            start = now
    (Path(spec.folder) / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def our_step(spec: "TrainingSpec") -> "Callable[[], None]":
    """(b): the step of ganlib.training, as the loop calls it."""
    from ganlib.training.loop import Running

    return Running.start(spec).step


def paired(spec: "TrainingSpec", *, turns: int, steps: int = 3) -> dict[str, Any]:
    """(a) and (b) in turns inside this process: images/s of each, and the median of their ratio turn by turn with its 95 % interval."""
    import torch

    both = {"a": steps_by_hand(spec), "b": our_step(spec)}
    torch.set_num_threads(spec.threads)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(turns + 4):
        for name in ("a", "b") if turn % 2 else ("b", "a"):
            start = time.perf_counter()
            for _ in range(steps):
                both[name]()
            if turn >= 4:  # the first ones warm up
                seconds[name].append(time.perf_counter() - start)
    images = steps * spec.train.batch_images
    speeds = {name: round(images / statistics.median(values), 1) for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["a"], seconds["b"], strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=turns)) for _ in range(2000))
    return speeds | {"b/a": round(statistics.median(ratios), 3), "b/a 95 %": [round(medians[50], 3), round(medians[1949], 3)]}


def on_ray(spec: "TrainingSpec", workers: int) -> None:
    from pipeline.driver import ray_driver
    from pipeline.driver.settings import ClusterConfig

    ray_driver.run(spec, ClusterConfig.model_validate({"workers": workers}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000, help="real images a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "train.arrow")
    parser.add_argument("--only", choices=["by_hand", "ray", "loader", "paired"], help=argparse.SUPPRESS)
    parser.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        from ganlib.training.loop import TrainingSpec

        spec = TrainingSpec.model_validate_json(args.spec.read_text())
        jobs = {
            "by_hand": lambda: by_hand(spec),
            "ray": lambda: on_ray(spec, args.workers),
            "loader": lambda: print(loader_share(spec)),
            "paired": lambda: print(json.dumps(paired(spec, turns=12 * args.rounds))),
        }
        jobs[args.only]()
        return
    this = [str(Path(__file__).resolve()), "--workers", str(args.workers), "--rounds", str(args.rounds)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.workers}"]
    runs = {
        "a by hand, all cores": (args.workers, [*this, "--only", "by_hand", "--spec"]),
        "a by hand, one core": (1, [*this, "--only", "by_hand", "--spec"]),
        "c torchrun": (1, [*torchrun, "-m", "ganlib.training"]),
        "d Ray": (1, [*this, "--only", "ray", "--spec"]),
    }
    if not args.data.is_file():
        parser.error(f"--data: {args.data} is not there; `dvc repro prepare` writes it")
    measured: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as scratch:

        def launch(name: str, threads: int, command: list[str]) -> str:
            folder = Path(scratch) / name
            folder.mkdir(exist_ok=True)
            (folder / "spec.json").write_text(specification(folder, args.data.resolve(), args.images, threads))
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
            whole = [sys.executable, *command, str(folder / "spec.json")]
            return subprocess.run(whole, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

        pairs = {
            threads: json.loads(launch(f"pair{threads}", threads, [*this, "--only", "paired", "--spec"])) for threads in (1, args.workers)
        }
        for number in range(args.rounds):
            for name, (threads, command) in runs.items():
                folder = f"{number}-{name.replace(' ', '-').replace(',', '')}"
                launch(folder, threads, command)
                measured[name].append(speed(Path(scratch) / folder))
        share = float(launch(f"{args.rounds - 1}-c-torchrun", 1, [*this, "--only", "loader", "--spec"]))
    middle = {name: statistics.median(values) for name, values in measured.items()}

    def ratio(upper: str, lower: str) -> float:
        return round(statistics.median(x / y for x, y in zip(measured[upper], measured[lower], strict=True)), 3)

    best = max(("a by hand, one core", "a by hand, all cores"), key=middle.__getitem__)
    print(
        json.dumps(
            {
                **{f"b/a paired, {threads} threads": values for threads, values in pairs.items()},
                "images_per_second": {name: round(value, 1) for name, value in middle.items()},
                "d/c": ratio("d Ray", "c torchrun"),
                f"d/{best}": ratio("d Ray", best),
                "loader share of a step": round(share, 4),
                "rounds": args.rounds,
                "images a run": args.images,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
