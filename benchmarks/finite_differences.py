"""R1 and R2 by finite differences against the exact ones: what a step costs, and how good G is after equal seconds.

R3GAN's recipe on scikit-learn's digits at 16x16, one process, one thread, CPU seconds. The variants take turns step by step for the cost; then
each trains alone until its seconds are spent. Quality is the Frechet distance between the pixels (2x2 means) of 1,000 samples of the averaged
generator and the held-out digits; the same distance between the two halves of the digits is printed as the floor.

    python benchmarks/finite_differences.py --seconds 25 --seeds 0 1

Prints one line a training and a table of medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

VARIANTS: dict[str, tuple[str, ...]] = {"none": (), "exact": ("r1", "r2"), "approximate": ("approximate_r1", "approximate_r2")}
SIDE = 16
COST_STEPS = 12


def digits() -> tuple[np.ndarray, np.ndarray]:
    """(train, held out), [N, 1, SIDE, SIDE] uint8: every second image each."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images).float()[:, None] / 16
    images = F.interpolate(small, size=(SIDE, SIDE), mode="bilinear").mul(255).round().to(torch.uint8).numpy()
    return images[::2], images[1::2]


def spec(variant: str, *, precision: str, gamma: float, seed: int, data: Path, folder: Path) -> Any:
    from ruamel.yaml import YAML

    from ganlib.training.loop import TrainingSpec
    from pipeline import edit, preflight

    values = edit.plain(ROOT / "params.yaml")
    edit.lay(values, YAML(typ="safe", pure=True).load((ROOT / "recipes" / "r3gan.yaml").read_text(encoding="utf-8")))
    values["data"] |= {"source": "digits", "image_size": [SIDE, SIDE]}
    values["task"]["regularizers"] = {name: {"gamma": gamma} for name in VARIANTS[variant]}
    values["train"] |= {"precision": precision, "seed": seed}
    chosen = preflight.parse(values)
    return TrainingSpec(
        data=str(data), folder=str(folder), model=chosen.model, task=chosen.task, optim=chosen.optim, train=chosen.train, threads=1
    )


def distance(left: np.ndarray, right: np.ndarray) -> float:
    from ganlib.metrics.fid import frechet_distance, moments

    return frechet_distance(*(moments(F.avg_pool2d(torch.from_numpy(part).float() / 255, 2).flatten(1)) for part in (left, right)))


def quality(running: Any, chosen: Any, held_out: np.ndarray) -> float:
    from ganlib import sampling

    average = running.state.ema.module.eval()
    inputs = sampling.Prior(latent_dim=chosen.model.latent_dim, distribution=chosen.model.latent_distribution).seeded(0, range(1000))
    return distance(sampling.generate(average, inputs, batch_images=100), held_out)


def main() -> None:
    from ganlib.data.arrow import ArrowWriter
    from ganlib.training.loop import Running

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=25.0, help="of CPU, each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--gamma", type=float, default=0.05, help="of all penalties; the recipe's is the default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, held_out = digits()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.arrow"
        with ArrowWriter(data, shape=(1, SIDE, SIDE), class_names=["digit"]) as writer:
            writer.append(train, np.zeros(len(train), dtype=np.int64))

        def start(variant: str, seed: int, name: str) -> tuple[Any, Any]:
            chosen = spec(variant, precision=args.precision, gamma=args.gamma, seed=seed, data=data, folder=Path(folder) / name)
            return Running.start(chosen), chosen

        trainings = {variant: start(variant, 0, f"cost {variant}")[0] for variant in VARIANTS}
        costs: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for step in range(COST_STEPS + 1):  # the first one allocates
            for variant, running in trainings.items():
                begin = time.process_time()
                running.step()
                if step:
                    costs[variant].append(time.process_time() - begin)
        found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for seed in args.seeds:
            for variant in VARIANTS:
                running, chosen = start(variant, seed, f"{variant} {seed}")
                begin = time.process_time()
                while time.process_time() - begin < args.seconds:
                    running.step()
                found[variant].append(quality(running, chosen, held_out))
                line = {"variant": variant, "seed": seed, "steps": running.state.step, "distance": round(found[variant][-1], 4)}
                print(json.dumps(line), flush=True)
    print(f"floor: {distance(train, held_out):.4f}; {args.precision}, gamma {args.gamma}, {args.seconds:g} CPU seconds each")
    for variant in VARIANTS:
        cost, exact = statistics.median(costs[variant]), statistics.median(costs["exact"])
        print(f"{variant:12} {1000 * cost:7.1f} ms a step ({cost / exact:.2f} of exact)  distance {statistics.median(found[variant]):.4f}")


if __name__ == "__main__":
    main()
