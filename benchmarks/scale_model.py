"""What more workers will bring: a model of a step, predicted from one worker and a link, and held against 1, 2 and 4 measured workers.

A step of V logical workers on w workers takes

    ((fixed + (V / w) * (shard + images per shard * image)) * beside + group + reduction(w)) * max(1, w * threads / cores)
    reduction(w) = 2 (w - 1) / w * gradient bytes / bandwidth + 2 log2(w) * buckets * latency

The second line is recursive halving and doubling (ganlib/dist.py; Thakur, Rabenseifner, Gropp 2005, section 4.5), each network's gradients once an
update. Nothing of it is taken to be hidden behind the backward pass, so it is an upper bound. `fixed` is what does not shrink: optimizers, averages.
Workers that share cores share them for all of it: on one machine the link is these cores too. `beside` is what a worker loses, without a message, to
others at work on the same machine (caches, memory): 1 alone. `group` is what a step costs because its worker is one of several, however many and
however large: DDP's wrapper and hooks, waiting for the slower one; 0 for one worker.

    python benchmarks/scale_model.py --measure      # fit 1 worker, 2 apart, 2 on a half of the step, a link; predict 1, 2, 4 and run them
    python benchmarks/scale_model.py --workers 1 8 64 1024 --logical-workers 1024 --fixed-ms 20 --image-ms 10 --parameters-millions 60 --gigabits 100
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BUCKET_BYTES = 25 * 2**20  # of DDP


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step is made of.

    Attributes:
        fixed_seconds: a step, whatever its images; per worker.
        shard_seconds, image_seconds: a logical worker's forward and backward passes: alone, and for each of its images.
        gradient_bytes: of each update of a step, all networks together (float32).
        bandwidth: bytes a second of one worker's link; latency_seconds: of a message.
        cores: that a machine of these workers shares; threads: of each worker.
        beside: times that a worker's step takes where others are at work on the same machine.
        group_seconds: a step, of a worker that is one of several.
    """

    fixed_seconds: float
    shard_seconds: float
    image_seconds: float
    logical_workers: int
    batch_images: int
    gradient_bytes: float
    bandwidth: float
    latency_seconds: float
    cores: float = math.inf
    threads: int = 1
    beside: float = 1.0
    group_seconds: float = 0.0

    def compute_seconds(self, workers: int) -> float:
        """With cores of their own."""
        shards, images = self.logical_workers / workers, self.batch_images / self.logical_workers
        alone = self.fixed_seconds + shards * (self.shard_seconds + images * self.image_seconds)
        return alone if workers == 1 else alone * self.beside + self.group_seconds

    def reduction_seconds(self, workers: int) -> float:
        if workers == 1:
            return 0.0
        buckets = max(1, math.ceil(self.gradient_bytes / BUCKET_BYTES))
        travels = 2 * (workers - 1) / workers * self.gradient_bytes / self.bandwidth
        return travels + 2 * math.log2(workers) * buckets * self.latency_seconds

    def seconds(self, workers: int) -> float:
        crowding = max(1.0, workers * self.threads / self.cores)
        return (self.compute_seconds(workers) + self.reduction_seconds(workers)) * crowding

    def images_per_second(self, workers: int) -> float:
        """Raises ValueError where the logical workers do not divide over so many."""
        if self.logical_workers % workers:
            raise ValueError(f"workers={workers} is no divisor of logical_workers={self.logical_workers}")
        return self.batch_images / self.seconds(workers)

    def efficiency(self, workers: int) -> float:
        """Against so many times one worker with cores of its own."""
        return self.images_per_second(workers) / (workers * replace(self, cores=math.inf).images_per_second(1))


def fitted(seconds: dict[tuple[int, int], float]) -> tuple[float, float, float]:
    """(fixed, shard, image) seconds from (logical workers, batch images) -> seconds of a step on one worker, by least squares, none below 0."""
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([[1.0, v, batch] for v, batch in seconds])
    fixed, shard, image = nnls(rows, np.array(list(seconds.values())))[0]
    return float(fixed), float(shard), float(image)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a step took: wall, and CPU of each worker, which others on the same cores do not lengthen."""

    seconds: float
    cpu_seconds: float


def measured(scratch: Path, *, workers: int, logical_workers: int, batch_images: int, steps: int, name: str = "") -> Taken:
    """Of a step of params.yaml's recipe on made-up images: wall as the median between lines of the history, the first left out."""
    import numpy as np

    from ganlib.data.arrow import ArrowWriter
    from ganlib.training.loop import TrainingSpec
    from pipeline import preflight

    config = preflight.load()
    height, width = config.data.image_size
    data = scratch / "train.arrow"
    if not data.exists():
        images = np.random.default_rng(0).integers(0, 256, (4096, config.data.channels, height, width), dtype=np.uint8)
        with ArrowWriter(data, shape=images.shape[1:], class_names=["any"]) as writer:
            writer.append(images, np.zeros(len(images), dtype=np.int64))
    folder = scratch / f"{workers}-{logical_workers}-{batch_images}{name}"
    folder.mkdir(exist_ok=True)
    quiet = {
        "total_images": steps * batch_images,
        "batch_images": batch_images,
        "logical_workers": logical_workers,
        "history_interval_images": max(1, steps // 6) * batch_images,
        **dict.fromkeys(("grid_interval_images", "checkpoint_interval_images", "health_interval_images"), 10**12),
        "select": None,
    }
    train = config.train.model_copy(update=quiet)
    spec = TrainingSpec(
        data=str(data), folder=str(folder), model=config.model, task=config.task, optim=config.optim, train=train, threads=1
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    group = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *group, "-m", "ganlib.training", str(folder / "spec.json")]
    seen: dict[int, float] = {}  # lines of the history -> CPU seconds of the workers when they were there
    training = psutil.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while training.poll() is None:
        lines = (folder / "history.jsonl").read_text().count("\n") if (folder / "history.jsonl").exists() else 0
        if lines not in seen:
            with suppress(psutil.Error):
                at_work = [training, *training.children(recursive=True)]
                seen[lines] = sum(sum(each.cpu_times()[:2]) for each in at_work if "ganlib.training" in each.cmdline())
        time.sleep(0.02)
    if training.returncode:
        raise SystemExit(training.stderr.read().decode()[-2000:])
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    first, last = 1, max(lines for lines in seen if lines < len(history))  # at the last line they end
    steps_between = (history[last - 1]["images_seen"] - history[first - 1]["images_seen"]) / batch_images
    return Taken(
        seconds=batch_images / statistics.median(line["images_per_second"] for line in history[1:]),
        cpu_seconds=(seen[last] - seen[first]) / steps_between / workers,
    )


def exchanging(*, small: int = 256, large: int = 4 << 20, times: int = 60) -> dict[str, float]:
    """In one of two processes that have nothing else to do: bandwidth and latency of their link, from reductions of two sizes of buffer."""
    import torch

    from ganlib import dist

    dist.open_from_environment()
    medians = []
    for num_bytes in (small, large):
        taken = []
        for _ in range(times):
            dist.barrier()
            start = time.perf_counter()
            dist._reduce_over_processes(torch.ones(num_bytes // 4)).wait()
            taken.append(time.perf_counter() - start)
        medians.append(statistics.median(taken))
    dist.close()
    return {"latency_seconds": medians[0] / 2, "bandwidth": (large - small) / max(medians[1] - medians[0], 1e-9)}


def measured_link() -> dict[str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, "--exchange"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(told.splitlines()[-1]))


def measure(*, steps: int) -> dict[str, object]:
    """Fit one worker's steps and the link, predict 1, 2 and 4 workers, and run them.

    One worker is fitted on shards of the same size as it will have in a group: 4, 2 and 1 of 16 images, and on one larger step. What a group
    costs is what two workers of one such shard each take beyond that and their messages.
    """
    from ganlib import models
    from ganlib.models import ImageSpec
    from pipeline import preflight

    config = preflight.load()
    image = ImageSpec(channels=config.data.channels, size=config.data.image_size)
    networks = models.build(config.model, image, seed=0)
    num_bytes = 4 * sum(parameter.numel() for network in networks for parameter in network.parameters())
    with tempfile.TemporaryDirectory() as folder:

        def run(workers: int, v: int, batch: int, name: str = "") -> Taken:
            return measured(Path(folder), workers=workers, logical_workers=v, batch_images=batch, steps=steps, name=name)

        cores = len(os.sched_getaffinity(0))
        alone = {(v, batch): run(1, v, batch) for v, batch in ((4, 64), (2, 32), (1, 16), (4, 128))}
        fixed, shard, each = fitted({key: taken.seconds for key, taken in alone.items()})
        with ThreadPoolExecutor(cores) as pool:
            together = [pool.submit(run, 1, 2, 32, f"-{number}") for number in range(cores)]
        beside = max(1.0, statistics.mean(done.result().seconds for done in together) / alone[2, 32].seconds)
        step = Step(
            fixed_seconds=fixed,
            shard_seconds=shard,
            image_seconds=each,
            logical_workers=4,
            batch_images=64,
            gradient_bytes=num_bytes,
            **measured_link(),
            cores=cores,
            beside=beside,
        )
        pair = replace(step, logical_workers=2, batch_images=32)
        step = replace(step, group_seconds=max(0.0, run(2, 2, 32).seconds - pair.seconds(2)))
        taken = {workers: alone[4, 64] if workers == 1 else run(workers, 4, 64) for workers in (1, 2, 4)}
    predicted = {workers: step.images_per_second(workers) for workers in taken}
    found = {workers: 64 / each.seconds for workers, each in taken.items()}
    return {
        "step": asdict(step),
        "images_per_second": {n: {"predicted": round(predicted[n], 1), "measured": round(found[n], 1)} for n in found},
        "predicted / measured": {n: round(predicted[n] / found[n], 3) for n in found},
        "CPU milliseconds of a worker's step": {
            n: {"predicted": round(1e3 * alone[4 // n, 64 // n].cpu_seconds, 1), "measured": round(1e3 * each.cpu_seconds, 1)}
            for n, each in taken.items()
        },
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)  # one of the two processes of `measured_link`
    parser.add_argument("--steps", type=int, default=240, help="of each measured training")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--logical-workers", type=int, default=4)
    parser.add_argument("--images-per-shard", type=int, default=16)
    parser.add_argument("--fixed-ms", type=float, default=5.0)
    parser.add_argument("--shard-ms", type=float, default=1.0)
    parser.add_argument("--image-ms", type=float, default=1.0)
    parser.add_argument("--group-ms", type=float, default=0.0)
    parser.add_argument("--parameters-millions", type=float, default=1.0, help="of all networks")
    parser.add_argument("--gigabits", type=float, default=10.0, help="a second, of one worker's link")
    parser.add_argument("--latency-us", type=float, default=50.0)
    args = parser.parse_args()
    bandwidth, latency = args.gigabits * 1e9 / 8, args.latency_us * 1e-6
    if args.measure:
        print(json.dumps(measure(steps=args.steps), indent=1))
        return
    if args.exchange:
        print(json.dumps(exchanging()))
        return
    step = Step(
        fixed_seconds=args.fixed_ms / 1e3,
        shard_seconds=args.shard_ms / 1e3,
        image_seconds=args.image_ms / 1e3,
        logical_workers=args.logical_workers,
        batch_images=args.logical_workers * args.images_per_shard,
        group_seconds=args.group_ms / 1e3,
        gradient_bytes=4e6 * args.parameters_millions,
        bandwidth=bandwidth,
        latency_seconds=latency,
    )
    print("workers  images/s  step ms  reduction ms  efficiency")
    for n in args.workers:
        whole = 1e3 * step.batch_images / step.images_per_second(n)
        print(f"{n:7}  {step.images_per_second(n):8.0f}  {whole:7.1f}  {1e3 * step.reduction_seconds(n):12.1f}  {step.efficiency(n):10.2f}")


if __name__ == "__main__":
    main()
