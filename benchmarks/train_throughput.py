"""Training speed, all in one run on one machine, so that the ratios mean something even where the seconds do not.

(a) a hand-written single-process loop over the same networks, precision and shards; (b) our step in one process with the same threads;
(c) torchrun workers of one thread; (d) Ray Train workers of one thread. (a) and (b) are also run with all cores as threads of one process.

    python benchmarks/train_throughput.py --images 30000 --rounds 3
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def specification(folder: Path, data: Path, images: int, threads: int) -> str:
    from ganlib.training.loop import TrainingSpec
    from pipeline import params

    config = params.load()
    quiet = {"total_images": images, "log_interval_images": max(1000, images // 5), "grid_interval_images": 10**12, "checkpoint_interval_images": 10**12}
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


def loader_share(spec_path: Path) -> float:
    """Cost of reading and augmenting a step's real images over the cost of the step, in one process."""
    from ganlib import augment
    from ganlib.data.arrow import ArrowImages
    from ganlib.data.stream import BatchStream
    from ganlib.training.loop import TrainingSpec

    import torch

    spec = TrainingSpec.model_validate_json(spec_path.read_text())
    torch.set_num_threads(spec.threads)
    stream = BatchStream(
        ArrowImages(Path(spec.data)),
        model=spec.model,
        train=spec.train,
        here=range(spec.train.logical_workers),
        augmentations=augment.build(spec.train.augment),
        device=torch.device("cpu"),
    )
    start, steps = time.perf_counter(), 500
    for step in range(steps):
        for shard in stream.shards("discriminator", step=step, repeat=0, images_seen=step * spec.train.batch_images):
            assert shard.real is not None
    per_step = (time.perf_counter() - start) / steps
    return per_step * speed(Path(spec.folder)) / spec.train.batch_images


def by_hand(spec_path: Path) -> None:
    """(a): what one would write without this project: same networks, precision, shards and optimizer; nothing else."""
    import torch
    import torch.nn.functional as F

    from ganlib import models, optim
    from ganlib.data.arrow import ArrowImages
    from ganlib.models import ImageSpec
    from ganlib.training.loop import TrainingSpec

    spec = TrainingSpec.model_validate_json(spec_path.read_text())
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

    total, lines, seen = spec.train.total_images, [], 0
    start = time.perf_counter()
    while seen < total:
        step()
        seen += n * shards
        if seen // spec.train.log_interval_images > (seen - n * shards) // spec.train.log_interval_images:
            now = time.perf_counter()
            lines.append({"images_per_second": spec.train.log_interval_images / (now - start)})
            start = now
    (Path(spec.folder) / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def on_ray(spec_path: Path, workers: int) -> None:
    from ganlib.training.loop import TrainingSpec
    from pipeline import ray_backend
    from pipeline.params import ClusterConfig

    spec = TrainingSpec.model_validate_json(spec_path.read_text())
    ray_backend.run(spec, ClusterConfig(workers=workers), stop_file=Path(spec.folder) / "stop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30_000, help="real images a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "train.arrow")
    parser.add_argument("--only", choices=["by_hand", "ray", "loader"])
    parser.add_argument("--spec", type=Path)
    args = parser.parse_args()
    if args.only == "by_hand":
        return by_hand(args.spec)
    if args.only == "ray":
        return on_ray(args.spec, args.workers)
    if args.only == "loader":
        return print(loader_share(args.spec))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.workers}"]
    this = [str(Path(__file__).resolve())]
    runs = {
        "a by hand, 1 process": (1, [*this, "--only", "by_hand", "--spec"]),
        "b step, 1 process": (1, ["-m", "ganlib.training"]),
        "a by hand, all cores": (args.workers, [*this, "--only", "by_hand", "--spec"]),
        "b step, all cores": (args.workers, ["-m", "ganlib.training"]),
        "c torchrun": (1, [*torchrun, "-m", "ganlib.training"]),
        "d Ray": (1, [*this, "--workers", str(args.workers), "--only", "ray", "--spec"]),
    }
    measured: dict[str, list[float]] = {name: [] for name in runs}
    shares = []
    with tempfile.TemporaryDirectory() as scratch:
        for round_number in range(args.rounds):
            for name, (threads, command) in runs.items():
                folder = Path(scratch) / f"{round_number}-{name.replace(' ', '-').replace(',', '')}"
                folder.mkdir()
                (folder / "spec.json").write_text(specification(folder, args.data.resolve(), args.images, threads))
                environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
                subprocess.run([sys.executable, *command, str(folder / "spec.json")], cwd=ROOT, env=environment, check=True, capture_output=True)
                measured[name].append(speed(folder))
                if name.startswith("b step, 1"):
                    command = [sys.executable, *this, "--only", "loader", "--spec", str(folder / "spec.json")]
                    shares.append(float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
    middle = {name: statistics.median(values) for name, values in measured.items()}

    def ratio(upper: str, lower: str) -> float:
        """Median over rounds of the ratio inside a round: drift of the machine cancels."""
        return round(statistics.median(x / y for x, y in zip(measured[upper], measured[lower], strict=True)), 3)

    best = max(("a by hand, 1 process", "a by hand, all cores"), key=middle.__getitem__)
    print(
        json.dumps(
            {
                "images_per_second": {name: round(value, 1) for name, value in middle.items()},
                "b/a one thread": ratio("b step, 1 process", "a by hand, 1 process"),
                "b/a all cores": ratio("b step, all cores", "a by hand, all cores"),
                "d/c": ratio("d Ray", "c torchrun"),
                f"d/{best}": ratio("d Ray", best),
                "loader share of a step": round(statistics.median(shares), 4),
                "rounds": args.rounds,
                "images a run": args.images,
            },
            indent=1,
        )
    )
    return None


if __name__ == "__main__":
    main()
